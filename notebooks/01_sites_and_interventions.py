# %% [markdown]
# # Sites and interventions
#
# Everything in `interp` stands on one idea: an activation has a **name**. With a name you can look
# at it (`capture`), change it (`run_with_hooks`, `hooks`), or ask what would have happened with
# another value in its place. The names are TransformerLens's, and they are the same for every
# architecture in which the thing is the same.
#
# The models here are tiny and random, so there is nothing to discover; this page is about the
# handles. It ends with a fact that holds for any transformer.

# %%
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import interp

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=61,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=40,
    max_position_embeddings=32,
    initializer_range=0.3,
    eos_token_id=None,
)
llama = LlamaForCausalLM(config).eval().requires_grad_(False)

# %% [markdown]
# ## A model and its map
#
# `wrap` takes any model in memory (`load_model` opens a folder). Printing shows what there is to
# name, with the shape of each: 6 query heads share 2 key-value heads here, and the map says so.
# The model itself is not changed; `model.module` is the very object you passed.

# %%
model = interp.wrap(llama, name="tiny llama")
model

# %% [markdown]
# ## Looking: `capture` and `run_with_cache`
#
# Names, globs, or a predicate choose the sites. What comes back is a mapping that also answers
# TransformerLens's short keys; a negative layer counts from the end.

# %%
ids = torch.tensor([[5, 17, 42, 8, 23, 11]])
acts = model.capture(ids, ["blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern"])
for site, value in acts.items():
    print(f"{site:28} {tuple(value.shape)}")
print("rows of a pattern sum to", round(acts["pattern", 1].sum(-1).mean().item(), 4))
print("last layer:", acts["resid_post", -1].shape)

# %% [markdown]
# `capture` ends the forward pass after the last site you asked for, so a middle layer costs half a
# model. When you want the output too:

# %%
logits, acts = model.run_with_cache(ids, "blocks.*.hook_resid_*")
print(logits.shape, len(acts), "sites")

# %% [markdown]
# A name that does not exist is an error *before* anything runs, with what you may have meant. In
# many tools the same typo runs through, and your ablation "has no effect".

# %%
try:
    model.run_with_hooks(ids, [interp.zero("blocks.1.attn.hook_zz")])
except interp.InterpError as error:
    print(error)

# %% [markdown]
# ## Changing: interventions are values
#
# `zero, mean, resample, patch, add (steer), project_out, clamp`: each says where and what, with
# `head=`, `positions=` or `index=` to narrow it down. They compose in order, and are gone after the
# run, also after an exception.

# %%
plain = model(ids)
silenced = model.run_with_hooks(ids, [interp.zero("blocks.1.attn.hook_z", head=4)])
steered = model.run_with_hooks(
    ids, [interp.add("blocks.0.hook_resid_post", torch.ones(24), scale=2.0, positions=-1)]
)
for name, output in (("head 1.4 silenced", silenced), ("steered at the last token", steered)):
    change = (output - plain).abs().amax(-1)[0]
    print(f"{name:26}", [round(float(c), 2) for c in change])
print("and afterwards the model is itself:", torch.equal(model(ids), plain))

# %% [markdown]
# The steered run changed the last position only: the model is causal, so what is added there can
# reach nothing earlier. The silenced head changed every position, even the first, where there is
# nothing to look back at: a head whose only key is its own position still writes.
#
# Your own function works as well. It gets the activation and a `hook` that knows its name, layer
# and step; it returns the new value, writes into the one it got, or leaves it alone. `hooks` keeps
# several in place for a block of code:

# %%
norms = {}


def note(value, hook):
    norms[hook.name] = round(float(value.norm(dim=-1).mean()), 2)


with model.hooks([("blocks.*.hook_resid_post", note), interp.zero("blocks.0.hook_mlp_out")]):
    model(ids)
norms

# %% [markdown]
# What a hook returns must be able to stand for the activation. A wrong shape would make the rest of
# the computation quietly mean something else, so it is refused:

# %%
try:
    model.run_with_hooks(ids, [("blocks.1.hook_resid_post", lambda value, hook: value[:, :3])])
except interp.InterpError as error:
    print(error)

# %% [markdown]
# ## Padding
#
# Texts of different lengths need padding, and padding is where silent mistakes live. A `TokenBatch`
# carries a mask beside the ids, never guessed from them. Positions count each row's *real* tokens:
# `positions=-1` is the last real token of every row, wherever the padding is.

# %%
from interp.models import TokenBatch

mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
batch = TokenBatch(torch.tensor([[5, 17, 42, 8, 23, 11], [9, 31, 6, 0, 0, 0]]), mask)
last = model.capture(batch, "blocks.2.hook_resid_post", positions=-1)["resid_post", 2]
alone = model.capture(torch.tensor([[9, 31, 6]]), "blocks.2.hook_resid_post")["resid_post", 2]
print("same as the short text alone:", torch.allclose(last[1, 0], alone[0, -1], atol=1e-5))

# %% [markdown]
# ## Generation
#
# `generate` gives what the plain loop would: run, take a token, append it, run again with the same
# interventions. One with `positions=` acts on those tokens of the prompt, others on every token.

# %%
print("plain   ", model.generate(ids, 8)[0].tolist())
edits = [interp.add("blocks.1.hook_resid_post", torch.ones(24), scale=3.0)]
print("steered ", model.generate(ids, 8, fwd_hooks=edits)[0].tolist())

# %% [markdown]
# ## Not a transformer?
#
# Any `nn.Module` has sites: the input and output of each of its parts, by their own path. A
# convolutional network:

# %%
cnn = nn.Sequential(
    nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 7)
)
vision = interp.wrap(cnn.eval().requires_grad_(False), name="tiny cnn")
image = torch.randn(2, 3, 8, 8)
print(list(vision.sites)[:4], "...")
output, maps = vision.run_with_cache(image, "1.hook_out")
print("feature maps", tuple(maps["1.hook_out"].shape))
kept = (torch.arange(5) != 2).view(5, 1, 1)
channel_off = vision.run_with_hooks(image, [("1.hook_out", lambda value, hook: value * kept)])
print("without channel 2 the output moves by", round(float((channel_off - output).abs().max()), 3))

# %% [markdown]
# A recurrent network runs the same cell once per step. `#3` names one of the calls, `#*` is an edit
# of all of them.


# %%
class Reader(nn.Module):
    """An LSTM cell, step by step, and a read-out."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = c = torch.zeros(len(x), 6)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
        return self.head(h)


reader = interp.wrap(Reader().eval().requires_grad_(False))
series = torch.randn(2, 5, 4)
states = reader.capture(series, ["cell.hook_out#0", "cell.hook_out#4", "cell.hook_c#4"])
print({site: tuple(value.shape) for site, value in states.items()})
forgetful = reader.run_with_hooks(series, [interp.zero("cell.hook_c#3")])
moved = float((forgetful - reader(series)).abs().max())
print("forgetting at step 3 moves the output by", round(moved, 3))
try:
    reader.capture(series, "cell.hook_out")
except interp.InterpError as error:
    print(error)

# %% [markdown]
# ## Try this
#
# * `model.capture(ids, "blocks.1.hook_resid_post", grad=True)` keeps the graph: differentiate the
#   norm of one position with respect to the embedding. Which positions have a gradient?
# * `interp.resample("blocks.1.hook_attn_out")` gives every row of a batch another row's attention
#   output. Is the mean effect larger than that of `interp.zero`?
# * Patch a *single* position of a single layer from one text into another, for every layer and
#   position, and draw the effects with `interp.plotting.heatmap`. That is activation patching.
#
# ## The fact at the end
#
# In a transformer everything that later layers know passes through the residual stream. So if we
# run one text, but replace the whole residual stream after layer 1 by that of another text, the
# output must be exactly the other text's. If only one position is replaced, it must not be.

# %%
source = torch.tensor([[9, 31, 6, 50, 12, 44]])
site = "blocks.1.hook_resid_post"
stream = model.capture(source, site)
patched = model.run_with_hooks(ids, [interp.patch(site, stream)])
partly = model.run_with_hooks(ids, [interp.patch(site, stream, positions=2)])

assert torch.allclose(patched, model(source), atol=1e-5)
assert not torch.allclose(partly, model(source), atol=1e-2)
assert torch.equal(partly[:, :2], plain[:, :2])  # causal: nothing before the patch can know
