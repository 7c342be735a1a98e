# %% [markdown]
# # Probing: what is readable, and what happens when it is gone
#
# A linear probe asks: can a straight line through the activations tell this label? That is easy to
# ask and easy to get wrong, so every answer here stands beside its controls. And being readable is
# not being *used*: for that, the information has to be taken away.
#
# The model learns, on the spot, to continue a block of random tokens that it sees for the second
# time. For that, each position must know **which token came before it**. Does it?

# %%
import torch
import interp
from interp import probing
from interp.tasks import InductionConfig, train_induction

torch.set_num_threads(1)  # matrices this small are slower on more
module, history = train_induction(None, InductionConfig())
model = interp.wrap(module, name="two attention layers")

# %% [markdown]
# Blocks of eight tokens in random order, each repeated once. The label of a position is the token
# before it. Positions of one sequence stay together in training or in test.

# %%
draw = torch.Generator().manual_seed(0)
blocks = torch.stack([torch.randperm(8, generator=draw) for _ in range(200)])
ids = torch.cat([blocks, blocks], 1)
sites = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


def rows(source):
    acts = source.capture(ids, sites)
    return {site: acts[site][:, 1:].flatten(0, 1) for site in sites}


before = ids[:, :-1].flatten().tolist()
sequence = torch.arange(200).repeat_interleave(15)
sweep = probing.probe_sweep(
    rows(model),
    {"token before": before},
    probing.ProbeConfig(n_shuffles=3),
    groups=sequence,
    random_init=rows(model.randomised(0)),
)
sweep.plot()

# %% [markdown]
# Before layer 0 a position knows only itself: the probe can at most exclude its own token. After
# layer 0, the previous-token head has brought the answer. The controls: with **random weights**
# attention spreads over everything before; **shuffled labels** show chance. (For labels of words
# there is a third, `types=`: the control task, random labels per word, measures what a probe learns
# by heart.)

# %%
sweep

# %% [markdown]
# ## Taking it away
#
# LEACE removes exactly what a linear reader can use, and moves the activations as little as
# possible. Afterwards no linear probe beats the majority class; a nonlinear one may, and is run.

# %%
site = "blocks.0.hook_resid_post"
audit = probing.audit_erasure(
    rows(model)[site],
    {"token before": before},
    "token before",
    probe=probing.ProbeConfig(n_shuffles=0, steps=200),
    groups=sequence,
)
audit.plot()

# %% [markdown]
# ## Was it used?
#
# The eraser goes into the model as a hook. If the model used the token before, it must now fail to
# continue blocks; a random projection of the same rank is what losing that many dimensions costs.

# %%
eraser = probing.fit_eraser(rows(model)[site], before, name="token before")


def accuracy(*edits):
    """Share of the second blocks that is predicted."""
    guess = model.run_with_hooks(ids, list(edits))[:, 8:-1].argmax(-1)
    return float((guess == ids[:, 9:]).float().mean())


others = [probing.random_eraser(eraser.rank, eraser.mean, seed=seed) for seed in range(5)]
chance = [accuracy(other.hook(site)) for other in others]
whole, without = accuracy(), accuracy(eraser.hook(site))
print(f"whole {whole:.2f}, erased {without:.2f} (rank {eraser.rank}), random {chance}")

# %% [markdown]
# ## How few neurons?
#
# `tiny-grammar` ships with the package and has MLPs. In "The keys near the cabinet" its next word
# must agree with *keys*. **k-sparse probes** ask how few neurons, at the end of the text, tell that
# the subject is plural. Nouns of the test texts never occur as a subject in training.

# %%
from interp.tasks import grammar_task

grammar = interp.load_model("tiny-grammar")
prompts = grammar_task("agreement").sample(600, seed=1)
batch = prompts.tokenize(grammar)
plural = [" is" in prompt.distractors for prompt in prompts]
subjects = [prompt.variables["s"] for prompt in prompts]


def last_token(source, sites):
    acts = source.capture(batch.clean, sites)
    return {site: acts[site][torch.arange(len(prompts)), batch.last] for site in acts}


few = probing.sparse_sweep(
    last_token(grammar, "blocks.*.mlp.hook_post"),
    plural,
    probing.SparseConfig(ks=(1, 2, 4, 8, 16, 32), n_shuffles=2, prefilter=64),
    name="the subject is plural",
    groups=subjects,
)
few.plot()

# %%
few.best(1), few.best(4)

# %% [markdown]
# ## How many examples?
#
# Accuracy hides how hard a probe had to work. The **online code** counts the bits it takes to send
# the labels to somebody who has the activations, in growing portions, each with the code of a probe
# trained on those before: what needs many examples is paid for (minimum description length).

# %%
code = probing.code_length(
    last_token(grammar, ["blocks.0.hook_resid_pre", "blocks.*.hook_resid_post"]),
    plural,
    probing.ProbeConfig(penalties=(1.0, 100.0, 1e4)),
    name="the subject is plural",
    groups=subjects,
)
code.plot()

# %% [markdown]
# ## Try this
#
# * Erase at `blocks.1.hook_resid_post` instead. Still readable there? Still used?
# * Take the named neurons away: `probing.ablate_neurons(grammar, texts, *few.best(4)[:2])`.
# * On the command line: `interp probe MODEL labels.conllu` for words, or a table for whole texts.
#
# ## The fact at the end

# %%
first, after = sweep.score[0, 0], sweep.score[1, 0]
assert after > first + 0.3, "layer 0 brings the token before"
assert after > sweep.random_init[1, 0] + 0.2 and sweep.check().ok
assert audit.check().ok, "nothing linear is left"
assert whole > 0.9 and without < 0.5 < min(chance), "and the model used it"
assert few.f1[:, -1].max() > 0.9 > few.null_high[:, -1].max(), "32 neurons know the subject"
assert code.compression.max() > 2, "and half of the bits are saved"
