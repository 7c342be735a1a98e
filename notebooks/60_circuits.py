# %% [markdown]
# # Which edges carry the answer
#
# `tiny-grammar` completes *When Mary and John went to the park, John gave a book to* with *Mary*. Its
# parts write to one stream and read from it; an edge is what one part adds to what another one reads.
# Which edges carry the name, do they do it alone, and what would random ones do?

# %%
import torch
import interp
from interp import circuits

torch.set_num_threads(1)
model = interp.load_model("tiny-grammar")
task = interp.load_task("indirect-object")
prompts, others = task.sample(8, seed=1), task.sample(8, seed=2)
print(prompts[0])

# %% [markdown]
# ## 1. Where the difference enters
#
# Clean and corrupted prompt differ in one name. Patching puts one clean activation into the corrupted
# run: 1 restores the answer.

# %%
heads = circuits.patch_activations(model, prompts, what="heads")
heads.plot()

# %% [markdown]
# ## 2. Every edge at once
#
# EAP-IG asks for the gradient while the embeddings go from the corrupted to the clean prompt, and
# multiplies it with what each writer changes: all 479 edges from a handful of passes. Measuring them
# one by one says how far to believe that.

# %%
guessed = circuits.score_edges(model, prompts[:4])
exact = circuits.score_edges(model, prompts[:4], method="exact")
both = torch.stack([scores.scores[scores.possible] for scores in (guessed, exact)])
print("correlation with measured edges", round(float(torch.corrcoef(both)[0, 1]), 3))
print(exact.ranked()[:6])

# %% [markdown]
# ## 3. Circuits, measured on other prompts
#
# Every edge outside the circuit carries the corrupted prompt's value. Random circuits of the same
# number of edges, each with a path from input to output, are the null.

# %%
curve = circuits.faithfulness_curve(
    model, others, guessed, shares=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), n_random=10
)
curve.plot()

# %%
circuit = circuits.select_edges(guessed, 48)
circuit.plot()

# %% [markdown]
# ## 4. What is known
#
# The first layer's head 2 carries the names, a tenth of the edges does what the model does, and random
# circuits do not.

# %%
assert heads.effects.flatten().argmax() == 2
assert float(curve.faithfulness[3]) > 0.85 > 0.15 > float(curve.random[3])
assert "embed->a0.h2<v>" in circuit.edges
