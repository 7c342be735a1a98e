# %% [markdown]
# # Models whose every edge is known
#
# A tool that looks inside a model can only be trusted where the truth is known. Here models are not
# trained but **compiled**: a program over sequences becomes a transformer that computes it exactly,
# and the program itself says which edges of that transformer matter.

# %%
import tempfile
from operator import eq
from pathlib import Path

import pandas as pd

import interp
from interp.plotting import attention_patterns
from interp.rasp import (
    CompileConfig,
    aggregate,
    compile_program,
    edge_truth,
    indices,
    interpret,
    length,
    library,
    load_truths,
    program_budget,
    random_program,
    select,
    sequence_map,
    subleq_machine,
    tokens,
)

# %% [markdown]
# ## A program
#
# An s-op has one value at every position. `select` lets positions look at others, `aggregate` brings
# what stands there, `sequence_map` computes position by position. This one reverses a string.

# %%
opposite = sequence_map(lambda n, i: n - 1 - i, length(), indices).named("opposite")
program = aggregate(select(indices, opposite, eq), tokens).named("reverse")
print(interpret(opposite, "stressed"), interpret(program, "stressed"), program_budget(program))

# %% [markdown]
# The programs of the papers are there, with the layers and heads that they need.

# %%
pd.DataFrame({name: program_budget(example.program)._asdict() for name, example in library().items()}).T

# %% [markdown]
# ## The transformer
#
# One direction of the residual stream per category, hard attention, lookup neurons. It opens like any
# other model; position 0 is the start token.

# %%
compiled = compile_program(program, "abc")
strings = compiled.interface.strings()
print(compiled.run(["abc", "cab"]), len(strings), "strings in all")
assert compiled.run(strings) == [interpret(program, string) for string in strings]
compiled.model

# %% [markdown]
# Head 0 of the last layer looks from each position at the one opposite to it.

# %%
ids, _mask = compiled.interface.encode(["abcab"])
pattern = compiled.model.capture(ids, "blocks.2.attn.hook_pattern")["pattern", 2][0]
attention_patterns(pattern, ["start", *"abcab"], "reverse, layer 2")

# %% [markdown]
# ## The truth
#
# The value along one edge is exchanged and the *program* is run on from there: for nothing (`zero`),
# for its mean over all strings of that length (`mean`), for what another string sends (`resample`).
# The truth depends on which: between strings of one length, positions never differ.

# %%
compiled = compile_program(program, "abc", CompileConfig(max_length=4))
truths = {ablation: edge_truth(compiled, ablation) for ablation in ("zero", "mean", "resample")}
edges = truths["zero"].edges
table = pd.DataFrame({name: [e in truth.matters for e in edges] for name, truth in truths.items()}, edges)
table[table.any(axis=1)]

# %% [markdown]
# Heads that compute what nobody reads, and a turned basis in which no direction is an axis, change
# nothing about what is said; they make a tool's task harder. Random programs come by the hundred.

# %%
hard = CompileConfig(max_length=4, distractors=4, rotate=True, seed=1)
found = compile_program(program, "abc", hard)
other = compile_program(random_program(seed=2), "abc", hard)
print("distractors:", found.plan.distractors, "| random program:", other.module.cfg.n_layers, "layers")

# %%
with tempfile.TemporaryDirectory() as folder:
    place = found.save(Path(folder) / "reverse", truths=[edge_truth(found, "resample")])
    model = interp.load_model(place)
    print(model.cfg.n_layers, "layers;", load_truths(place)[0].matters)

# %% [markdown]
# ## As deep as wanted
#
# A block of three layers that runs one SUBLEQ instruction each time it is applied: the sequence is
# memory and program. Here it multiplies; 60 times three layers, and the memory is exact.

# %%
multiply = [(0, 4, 1), (4, 2, 2), (4, 4, 3), (3, 1, 5), (4, 4, 0)]  # r += x, y times; cells x y r 1 t
machine = subleq_machine(multiply, n_cells=5)
[machine.run([11, 11, 0, 1, 0], loops) for loops in (0, 5, 30, 60)]

# %% [markdown]
# ## A fact to end on
#
# Eleven times eleven, and the two edges along which a reversed string's letters travel.

# %%
assert machine.run([11, 11, 0, 1, 0], 60)[2] == 121
assert set(truths["resample"].matters) == {"embed->a2.h0<v>", "a2.h0->logits"}
assert set(truths["resample"].matters) < set(truths["zero"].matters)
