# %% [markdown]
# # Lenses: which part of a model says the answer, and what a layer knows
#
# A model that does induction is trained here in seconds: it reads a block of random tokens twice
# and continues the second copy. Four questions about one prediction:
#
# 1. *Which parts* add to the answer's logit? (direct logit attribution)
# 2. What does a layer know, whatever basis it writes in? (tuned lens)
# 3. What does a head *look for*, to say this token and not that? (observable propagation)
# 4. Is any of this also found where there is nothing to find?

# %%
import torch
import interp
from interp import lenses
from interp.tasks import InductionConfig, held_out_blocks, train_induction

torch.set_num_threads(1)  # matrices this small are slower on more
module, history = train_induction(None, InductionConfig())
model = interp.wrap(module, name="two attention layers")
ids = held_out_blocks(InductionConfig(n_ctx=16))[0]  # 8 tokens, twice

# %% [markdown]
# ## 1. Which part says it?
#
# With the final norm held as it was in this run, a logit is a sum over everything that wrote to
# the residual stream. Below: the logit of the token that really comes next, read one step before
# the end. Each bar begins where the one above ends; the last is what the model says.

# %%
parts = interp.direct_logit_attribution(model, ids, ids.roll(-1))
parts.plot(kind="waterfall", position=-2)

# %% [markdown]
# A result says how far to trust it: the parts must sum to the model's own logit.

# %%
parts

# %% [markdown]
# The same for all positions. In the first half nobody can know what comes; in the second the two
# heads of layer 1 say it; layer 0, without which nothing works, adds nothing on the direct path.

# %%
parts.plot()

# %% [markdown]
# ## 2. What does a layer know?
#
# The logit lens reads a layer with the head of the last one. A tuned lens first learns, per layer,
# the affine map that makes this fair. It starts as the logit lens and is trained on the model's own
# output, on text that is not the text we look at.

# %%
tokens = held_out_blocks(InductionConfig(held_out=256, seed=1))
lens, report = interp.train_tuned_lens(
    model, tokens, lenses.TunedLensConfig(steps=60, batch_tokens=512, lr=1e-2)
)
scores = lenses.score_lenses(model, held_out_blocks(InductionConfig()), {"tuned": lens})
scores.plot()

# %% [markdown]
# The gap that remains is not a matter of basis: before layer 1 the answer is not there.
#
# ## 3. What does a head look for?
#
# Take two tokens, and ask what in the stream makes the model prefer one. The contrast is a
# direction behind the final norm; the weights of a head carry it back to what that head reads.
# No data. For a head that copies, the token that is read for "say A, not B" is A.

# %%
first, second = ids[1].item(), ids[2].item()
contrast = interp.models.contrast(model, first, second)
paths = [[f"L1H{head}"] for head in range(model.cfg.n_heads)]
features = lenses.path_vectors(model, contrast, paths, name=f"{first} − {second}")
read = features.read(model.W_E.detach())  # the score of every token of the vocabulary
strongest = read.argmax(0).tolist()
print("the token that each head reads for it:", strongest, "the contrast:", first, "−", second)
lenses.score_tokens(model, ids, features).plot()

# %% [markdown]
# ## Try this
#
# * `interp.direct_logit_attribution(model, ids, ids.roll(-1), positions=-2).top(3)` is the table.
# * `lenses.propagate(model, ids, contrast, "blocks.0.hook_resid_pre")` is the exact adjoint at
#   every position instead of a path; its check compares it with the model at half strength.
# * On a model of your own: `interp lens FOLDER "text" --kind tuned --train-on stories.txt`.
#
# ## The fact at the end
#
# The heads of layer 1 hold nearly the whole logit of a repeated token, in the trained model and not
# in the same architecture with fresh weights; every decomposition sums to its logit, also there.

# %%
null = interp.direct_logit_attribution(model.randomised(0), ids, ids.roll(-1))
share = parts.heads()[1, :, 8:-1].sum() / parts.total[8:-1].sum()
learned = parts.heads()[1, :, 8:-1].sum(0).mean()
unlearned = null.heads()[1, :, 8:-1].sum(0).abs().mean() / learned
print(f"layer 1 holds {float(share):.0%} of the answer; ", end="")
print(f"in a random model it says {float(unlearned):.1%} of that")

assert parts.check().ok and null.check().ok and scores.check().ok
assert 0.7 < share < 1.3 and unlearned < 0.1
assert bool((scores.kl[1, :-1] < scores.kl[0, :-1]).all())
assert first in strongest
