# %% [markdown]
# # Dictionaries: what a layer's activations are made of
#
# A sparse autoencoder (SAE) writes every activation as a sum of a few directions out of many. This
# notebook trains two on a layer of the bundled model, in one pass over it; asks how good they are
# on text they have not seen; and puts one *into* the model, to see what the model loses by it.

# %%
from dataclasses import replace

import torch

import interp
from interp.dictionaries import FinetuneConfig, TrainConfig, evaluate, finetune, run_training
from interp.plotting.rooms.dictionaries_training import dictionary_curves
from interp.tasks.config import GrammarConfig
from interp.tasks.grammar.corpus import batch

torch.set_num_threads(1)  # matrices this small are slower on more
model = interp.load_model("tiny-grammar")
text, held_out = (batch(GrammarConfig(batch=n, seed=5), t)[0] for t, n in enumerate((384, 32)))
SITE = "blocks.2.hook_resid_post"

# %% [markdown]
# ## Train
#
# A config is the table of a paper: where, how wide, how sparse, how long. `batchtopk` keeps the
# strongest latents of a whole batch, 16 per token on average (Bussmann et al. 2024); `jumprelu`
# learns a threshold per latent, and `l0=16` steers its penalty until 16 are active.

# %%
shared = TrainConfig(
    site=SITE,
    d_sae=512,
    steps=300,
    batch_size=512,
    lr=5e-3,
    lr_warmup=20,
    init_rows=4096,
    buffer_sequences=128,
    log_every=5,
)
configs = [
    replace(shared, name="batchtopk", activation="batchtopk", k=16, k_start=48, k_anneal=120),
    replace(shared, name="jumprelu", activation="jumprelu", l0=16, sparsity_warmup=50),
]
run = run_training(configs, text, model=model)
dictionary_curves(run.report.records, {"batchtopk": 16, "jumprelu": 16})

# %% [markdown]
# ## Evaluate
#
# FVU is the share of the variance that the reconstruction leaves. The loss says more: the model
# reads on with the reconstruction in place of the stream. *Recovered* is 1 if it predicts as well
# as before, and 0 if it predicts as badly as with the stream's mean.

# %%
reports = {name: evaluate(found, model, held_out) for name, found in run.dictionaries.items()}
for name, report in reports.items():
    print(
        f"{name:10} L0 {float(report.l0):5.1f}   FVU {float(report.fvu):.3f}   "
        f"recovered {report.recovered():.3f}   dead {report.dead} of 512"
    )

# %%
reports["batchtopk"].plot()

# %% [markdown]
# ## Finetune through the model
#
# Squared error treats all directions alike; the model does not. A few steps on the KL that the
# model loses with the reconstruction in place (Karvonen 2025) win some of it back, at the same L0.

# %%
sae, curve = finetune(
    run.dictionaries["batchtopk"], model, text, FinetuneConfig(steps=30, batch_sequences=16)
)
tuned = evaluate(sae, model, held_out)
cost, cost_tuned = (1 - r.recovered("mean", measure="kl") for r in (reports["batchtopk"], tuned))
print(f"KL, as a share of the mean's: {cost:.4f} before, {cost_tuned:.4f} after")
curve.plot()

# %% [markdown]
# ## Splice
#
# `with_coder` puts a dictionary into a model. Its latents become a site like any other. With the
# error term the model computes exactly what it did before, until a latent is edited: here the ones
# that fire anywhere in a sentence are switched off, one at a time.

# %%
spliced = model.with_coder(sae, error_term=True)
prompt = "When Mary and John went to the park, John gave a book to"
site = f"{SITE}.hook_sae_acts_post"
before = model(prompt)[0, -1]
same = spliced(prompt)[0, -1]
latents = (spliced.capture(prompt, site)[site][0] != 0).any(0)
answer = int(before.argmax())
print(
    "the model answers",
    repr(model.to_string([answer])),
    "and still does, spliced:",
    torch.allclose(before, same, atol=1e-3),
)

effects = {}
for latent in latents.nonzero().flatten().tolist():

    def off(value, hook, latent=latent):
        value = value.clone()  # the reconstruction of the unedited latents sets the error term
        value[..., latent] = 0
        return value

    after = spliced.run_with_hooks(prompt, fwd_hooks=[(site, off)])[0, -1]
    effects[latent] = (before[answer] - after[answer]).item()
strongest = max(effects, key=effects.get)
print(f"latent {strongest} carries most: off, the answer's logit falls by {effects[strongest]:.2f}")

# %% [markdown]
# Known facts, as the last line of every notebook: with the error term nothing changes; what was
# finetuned costs the model less; BatchTopK is as sparse as asked (JumpReLU's penalty needs more
# than 300 steps to settle); all keep what the model does.

# %%
assert torch.allclose(before, same, atol=1e-3)
for report in reports.values():
    assert report.recovered() > 0.9
assert cost_tuned < 0.9 * cost
for report in (reports["batchtopk"], tuned):
    assert abs(float(report.l0) - 16) < 1.6
