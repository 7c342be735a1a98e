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
# In the first block nobody can know. From the first token of the second block on the top row is
# right, and the row below it knows nothing: the answer is put there by the last layer, all at once.
# That is what a circuit of two heads in a row looks like from the side: the first head's work is
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
# * `interp.logit_lens(model, ids, components="all", target=ids.roll(-1)).plot()` also reads what
#   each attention layer wrote, on its own. Which of them holds the answer?
# * Below, one head of layer 0 matters and the other hardly does. Do the same to the heads of
#   layer 1. Both do induction; what happens if only one is switched off, and what if both are?
# * Train again with `InductionConfig(seed=1)`. Is it the same head?
# * Point the lens at a model of your own: `interp.logit_lens(interp.load_model("folder"), "text")`.
#
# ## The fact at the end
#
# If the story is true, switching off the head that looks one token back must break what the other
# layer does, although it predicts nothing by itself; and its neighbour must hardly be missed.


# %%
tokens = held_out_blocks(InductionConfig())  # 64 sequences of 2 x 24 tokens


def accuracy(*switched_off):
    """Share of the second blocks that is predicted with some heads of layer 0 at zero."""
    edits = [interp.zero("blocks.0.attn.hook_z", head=head) for head in switched_off]
    guess = model.run_with_hooks(tokens, edits)[:, 24:-1].argmax(-1)
    return float((guess == tokens[:, 25:]).float().mean())


looks_back = int(history.previous_token[-1, 0].argmax())
whole, without, control = accuracy(), accuracy(looks_back), accuracy(1 - looks_back)
print(f"all heads {whole:.2f}, without L0H{looks_back} {without:.2f}, ", end="")
print(f"without its neighbour {control:.2f}, chance {1 / 64:.2f}")

assert lens.check().ok and history.check().ok
assert history.induction[-1, 1].max() > 0.7 > 0.2 > history.induction[-1, 0].max()
assert whole > 0.95 and control > 0.9 and without < 0.6
