# %% [markdown]
# # Weights and heads: what a model knows before it reads anything
#
# Weights are numbers between tokens: multiply a head's matrices by the embeddings and they say
# which token asks for which, and which token makes which more likely. No text is needed. What the
# weights say is then checked against what the model does.
#
# The model is trained here in seconds: two attention layers that learn to continue a random block
# of tokens that they see for the second time.

# %%
import torch
import interp
from interp.lenses import (
    TokenTableConfig,
    find_heads,
    head_atlas,
    read_directions,
    read_pairs,
    record_attention,
)
from interp.plotting import attention_page
from interp.tasks import InductionConfig, held_out_blocks, train_induction

torch.set_num_threads(1)
config = InductionConfig()
module, _ = train_induction(None, config)
model = interp.wrap(module, name="two attention layers")
ids = held_out_blocks(config)

# %% [markdown]
# ## 1. Heads from weights alone
#
# Theory names two heads. One in layer 0 recalls the *position before*: among all position vectors,
# the key that fits position t best is that of t - 1. One in layer 1 *matches* what that head wrote,
# and its output *copies*. Each is an argmax over matrices; the picture shows the share that hits.

# %%
weights = find_heads(model)
weights.plot()

# %%
weights.plot(statistic="matching")

# %% [markdown]
# ## 2. The OV circuits, pair by pair
#
# All pairs of tokens would be a table of vocabulary squared. The strongest are found without it. A
# head whose pairs are tokens with themselves copies what it looks at.

# %%
pairs = read_pairs(model, "OV", config=TokenTableConfig(k=8))
pairs.plot()

# %% [markdown]
# ## 3. What the heads do
#
# The same heads on data: attention to the token before, and to what followed the current token when
# it last occurred. `uniform` is what a head that looks everywhere would get.

# %%
atlas = head_atlas(model, ids[:8])
print(atlas.kinds())
atlas.plot(statistic="induction")

# %% [markdown]
# ## 4. Three views of one text
#
# Lines between tokens, thumbnails of every head, and query times key entry by entry, in one page
# that works offline: `view.save("attention.html")`.

# %%
view = attention_page(record_attention(model, ids[0]), "A block, twice")
view

# %% [markdown]
# ## 5. Any direction as tokens
#
# A direction of the residual stream is read by its dot product with every token's unembedding. The
# unembedding of a token itself must say that token first, and noise says nothing that stands out.

# %%
own = model.W_U[:, [3, 5, 7]].T.detach()
noise = torch.randn(3, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
names = ["token 3", "token 5", "token 7", "noise 0", "noise 1", "noise 2"]
table = read_directions(model, torch.cat([own, noise]), names, TokenTableConfig(k=5))
table.plot(rows=names)

# %% [markdown]
# Weights and data name the same heads.

# %%
by_weights = int(weights.previous[0].argmax()), int(weights.copying[1].argmax())
on_data = int(atlas.previous[0].argmax()), atlas.induction[1]
assert by_weights[0] == on_data[0]  # the previous-token head
assert on_data[1][by_weights[1]] > 10 * atlas.uniform["induction"]  # the head that copies
assert [table.tokens(name)[0] for name in names[:3]] == ["3", "5", "7"]
