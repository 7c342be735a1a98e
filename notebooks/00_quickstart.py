# %% [markdown]
# # Quickstart: ten lines, three pictures
#
# A model is trained here, on the spot, in seconds: no download, no GPU. It reads a block of random
# tokens twice, as in `7 3 9 5 7 3 9 5`. Nothing predicts a random token, except that it was there
# before; so in the second block a model can be right only by **induction**: find where the current
# token stood last time, and copy what followed.
#
# Three questions, one picture each: *where* in the model does the answer appear, *which part* of
# the model does it, and *when* in training did it learn to?

# %%
import torch
import interp
from interp.plotting import Quantity, head_heatmap, lines
from interp.tasks import InductionConfig, held_out_blocks, train_induction

torch.set_num_threads(1)  # matrices this small are slower on more
module, history = train_induction(None, InductionConfig())
model = interp.wrap(module, name="two attention layers")
ids = held_out_blocks(InductionConfig(n_ctx=16))[0]  # 8 tokens it never saw in this order, twice

# %% [markdown]
# ## 1. Where does the answer appear?
#
# The logit lens reads the residual stream after every layer as if the model ended there. Columns
# are positions, and the text in a cell is the token that the row predicts to come *next*. We follow
# the token that really comes next; its probability is the colour.
#
# In the first block nobody can know (the cells are pale). In the second block the top row is right,
# and the row below it knows nothing: the answer is put there by the last layer, all at once. That
# is what a circuit of two heads in a row looks like from the side: the first head's work is
# invisible to the lens, because it is a message to the second head and not a prediction.

# %%
lens = interp.logit_lens(model, ids, target=ids.roll(-1))
lens.plot()

# %% [markdown]
# Every result can say how far to trust it. Here: the top row must be the model's own output.

# %%
lens

# %% [markdown]
# ## 2. Which heads do it?
#
# A head does induction if, at a repeated token, it looks at the token that *followed* last time.
# The score is how much of its attention goes there, averaged over held-out sequences. No head of
# layer 0 can do this: at that depth a position does not know yet what stood before it.

# %%
head_heatmap(
    history.induction[-1],
    "Induction heads",
    Quantity("attention to what followed last time", "0 to 1", "the head does induction", False),
)

# %% [markdown]
# ## 3. When did it learn this?
#
# Nothing happens for a while, and then everything at once: a head in layer 0 begins to look at the
# token before, the induction heads in layer 1 begin to use it, and accuracy jumps. The parts are
# useless without each other, so they appear together (Olsson et al. 2022).

# %%
lines(
    history.measured_at.tolist(),
    {
        "accuracy": history.held_out_accuracy,
        "best previous-token head, layer 0": history.previous_token[:, 0].amax(-1),
        "best induction head, layer 1": history.induction[:, 1].amax(-1),
    },
    "The phase change",
    Quantity("share of tokens, or of attention", "0 to 1"),
    x_axis="step",
)

# %% [markdown]
# ## One page to send to a colleague
#
# `interp.report([lens], "page.html", title="Induction")` writes these pictures, with the numbers
# behind them, to a single file that opens without a network.
#
# ## Try this
#
# * `interp.logit_lens(model, ids, components="all", target=ids.roll(-1)).plot()` also reads what each attention layer
#   wrote, on its own. Which of the two holds the answer?
# * Switch off the head that looks one token back, with
#   `model.run_with_hooks(ids, [interp.zero("blocks.0.attn.hook_z", head=...)])`. It predicts
#   nothing by itself. What happens to the second block?
# * Point the lens at a model of your own: `interp.logit_lens(interp.load_model("folder"), "a text")`.
#
# The last cell holds this page to what it said: in the second block the trained model is right, it
# is so through the heads that the theory names, and without the previous-token head it is lost.


# %%
def accuracy(logits: torch.Tensor) -> float:
    """Share of the second block that is predicted."""
    return float((logits[0, 8:-1].argmax(-1) == ids[9:]).float().mean())


previous = int(history.previous_token[-1, 0].argmax())
broken = model.run_with_hooks(ids, [interp.zero("blocks.0.attn.hook_z", head=previous)])

assert lens.check().ok and history.check().ok
assert accuracy(model(ids)) >= 0.8 and accuracy(broken) <= 0.4
assert history.induction[-1, 1].max() > 0.7 > 0.2 > history.induction[-1, 0].max()
