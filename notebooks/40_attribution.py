# %% [markdown]
# # Which tokens did it, and how far to believe that
#
# An attribution gives every token a share of one number: here, how much more the model likes *Mary*
# than *John* as the next word. Shares are only worth something if they add up, if removing the
# tokens they point to really changes the answer, and if they vanish in a model that knows nothing.
# All three are looked at here.

# %%
import torch
import interp
from interp.attribution import attribute_methods, compare_methods, measure_faithfulness
from interp.plotting.rooms.attribution import attribution_strip

torch.set_num_threads(1)
model = interp.load_model("tiny-grammar")
text = "When Mary and John went to the park, John gave a book to"
target = (" Mary", " John")  # logit difference at the last position

# %% [markdown]
# ## 1. Shares that add up
#
# Integrated gradients walks from a baseline (every token replaced by the mean embedding) to the
# text and adds up gradients on the way. It refines the walk until the shares sum to the difference
# that the target really makes; the sum is in the subtitle, always.

# %%
path = interp.attribute(model, text, target, baseline="mean")
path.plot()

# %% [markdown]
# ## 2. The same question, other methods
#
# DeepLIFT here is exact through gated MLPs, norms and attention, in one forward and backward pass.
# Captum's has rules for activations only, and says nothing about what it misses: the gap does.

# %%
names = ["integrated_gradients", "deeplift", "captum_deeplift", "gradient_x_input", "shapley"]
found = attribute_methods(model, text, target, names, baseline="mean")
for one in found.values():
    print(f"{one.method:<22} {one.gap_sentence}")
attribution_strip(found["deeplift"])

# %% [markdown]
# ## 3. Do they agree, and who is right?
#
# Agreement is no proof. So tokens are put back into the baseline in the order of their scores: the
# sooner the answer returns, the better the order. A random order is the control.

# %%
compare_methods({name: [one] for name, one in found.items()}).plot()

# %%
judged = measure_faithfulness(model, [text], target, {n: [one] for n, one in found.items()}, baseline="mean")
judged.plot()

# %% [markdown]
# ## 4. Deeper down
#
# The same question at the heads of a layer: which head, at which position, carries the answer?

# %%
heads = interp.attribute(model, text, target, site="blocks.2.attn.hook_z", baseline="mean")
heads.plot()

# %% [markdown]
# ## Try this
#
# * `baseline="zero"` in section 1: which tokens gain? The baseline matters as much as the method.
# * `interp.attribute_generated(model, text, 3).plot()` shows what each generated token rests on.
# * `interp.attribute_pair(encoder, a, b)` does this for pairs of tokens of two texts.
#
# ## The fact at the end
#
# Shares add up where that is promised; the two names carry the answer; and a model with random
# weights shows nothing of the kind.

# %%
tokens = [token.strip() for token in path.tokens]
mary = tokens.index("Mary")
null = interp.attribute(model.randomised(0), text, target, baseline="mean")
print(repr(path))
print(repr(null))
assert path.check().ok and found["deeplift"].gap < 1e-4
assert path.scores[mary] == path.scores.max() > 5 * null.scores.abs().max()
