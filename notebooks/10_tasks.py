# %% [markdown]
# # What the bundled model can do, and where in it each answer appears
#
# `tiny-grammar` ships with the package: four layers, about a million parameters, trained on
# generated English-like text. Eleven behaviours are in that text, and each is also a **task**:
# prompts with known answers, each with a corrupted twin that differs in one or two words and has
# another answer. So whatever is found inside the model can be checked.

# %%
import torch

import interp
from interp.plotting import Quantity, lines
from interp.tasks import grammar_task, list_grammar, measure

torch.set_num_threads(1)
model = interp.load_model("tiny-grammar")
model

# %% [markdown]
# ## All of them at once
#
# Held-out prompts: for rules (the indirect object, agreement, later years, arguments, repeated
# lists, brackets) combinations of words that the training text never contains; for facts (weekdays,
# months, pronouns, sentiment, capitals) sentences that it never contains.

# %%
report = measure(model, [grammar_task(name) for name in list_grammar()], n=100)
report.plot()

# %% [markdown]
# ## One picture each
#
# For every behaviour: one prompt as text, then, over sixty prompts, how likely the answer and the
# wrong answer would be if the model stopped after each layer (the logit lens at the last token).
# Where the two lines part, the model has decided.


# %%
@torch.no_grad()
def emergence(name: str, n: int = 60):
    prompts = grammar_task(name).sample(n, seed=1)
    batch = prompts.tokenize(model)
    sites = ["hook_embed", *(f"blocks.{i}.hook_resid_post" for i in range(model.cfg.n_layers))]
    acts = model.capture(batch.clean, sites)
    rows = torch.arange(n)
    curves = {"answer": [], "wrong answer": []}
    for site in sites:
        probs = model.unembed(model.ln_final(acts[site][rows, batch.last])).softmax(-1)
        for curve, ids in (("answer", batch.answers), ("wrong answer", batch.distractors)):
            mass = probs.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, 0.0).sum(1)
            curves[curve].append(float(mass.mean()))
    print(prompts[0])
    axis = ["embedding", *(f"after layer {i}" for i in range(model.cfg.n_layers))]
    return lines(
        range(len(axis)),
        curves,
        f"{name}: where the answer appears",
        Quantity("probability", "mean over prompts"),
        x_axis="0 = embedding, then after each layer",
    )


# %%
emergence("indirect-object")

# %%
emergence("agreement")

# %%
emergence("greater-than")

# %%
emergence("docstring")

# %%
emergence("induction")

# %%
emergence("brackets")

# %%
emergence("weekdays")

# %%
emergence("months")

# %%
emergence("pronouns")

# %%
emergence("sentiment")

# %%
emergence("capitals")

# %% [markdown]
# ## A fact to end on
#
# Every behaviour is above 0.9 on prompts never seen, and the same architecture with fresh weights
# is at zero where one word of the vocabulary is right.

# %%
fresh = measure(model.randomised(0), [grammar_task("indirect-object")], n=100)
assert float(report.right.min()) > 0.9
assert float(fresh.right.max()) < 0.2
