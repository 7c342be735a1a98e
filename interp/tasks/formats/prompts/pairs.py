"""Pairs of input and output, asked by example: the function-vector data sets, and tables of pairs.

Source: Todd et al. 2023, "Function vectors in large language models"
(github.com/ericwtodd/function_vectors): solved examples "Q: input / A: output" before the question.
The corrupted prompt has the same examples with their outputs exchanged among them (section 2.3), so
that it holds the same tokens and no longer says what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.core.randomness import generator, permutation
from interp.tasks.formats.prompts.pools import pooled
from interp.tasks.formats.records import listed
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt
from interp.tasks.task import Sampler, Task

TABLES = (("input", "output"), ("country", "capital"), ("sing", "plur"))
Pair = tuple[str, str]


def read_json(file: File, options: Options) -> Task:
    """The pairs of a function-vector file."""
    return _task(file, listed().records(file), TABLES[0], options)


def reads_csv(file: File) -> bool:
    """Whether the columns are a known pair."""
    return _columns(file) is not None


def read_csv(file: File, options: Options) -> Task:
    """The pairs of a table."""
    return _task(file, file.records(), _columns(file) or TABLES[0], options)


def _columns(file: File) -> Pair | None:
    names = [name.strip() for name in file.header()]
    return next((pair for pair in TABLES if set(pair) <= set(names) and len(names) <= 4), None)


def _task(file: File, records: Sequence[Record], columns: Pair, options: Options) -> Task:
    found = dict.fromkeys((record.text(columns[0]), record.text(columns[1])) for record in records)
    pairs = list(found)
    shots = options.shots
    if shots < 0 or shots >= len(pairs):
        raise file.fault(
            "no such number of examples", got=f"shots={shots}", expected=f"0 to {len(pairs) - 1}"
        )
    about = f"{columns[0]} -> {columns[1]}, {shots} examples before the question"
    if shots == 0:
        return pooled(file, [asked(pair, [], []) for pair in pairs], about)
    sampler = by_example(pairs, shots, file.stem)
    return Task(name=file.stem, description=about, sampler=sampler, source=file.name)


def by_example(pairs: Sequence[Pair], shots: int, name: str) -> Sampler:
    """A sampler of prompts with `shots` solved examples; prompt i depends on (seed, i) only."""

    def sample(n: int, seed: int) -> list[Prompt]:
        order = permutation(len(pairs), seed, f"questions {name}").tolist()
        prompts = []
        for index in range(n):
            question = order[index % len(pairs)]
            source = generator(seed, f"examples {name}", index)
            drawn = torch.randperm(len(pairs), generator=source).tolist()
            chosen = [pairs[i] for i in drawn if i != question][:shots]
            turn = int(torch.randint(1, shots, (1,), generator=source)) if shots > 1 else 0
            outputs = [output for _, output in chosen]
            prompts.append(asked(pairs[question], chosen, outputs[turn:] + outputs[:turn]))
        return prompts

    return sample


def asked(pair: Pair, examples: Sequence[Pair], exchanged: Sequence[str]) -> Prompt:
    """The prompt that asks for `pair` after the examples; corrupted, they have other outputs."""
    question = f"Q: {pair[0]}\nA:"
    head = "".join(f"Q: {one}\nA: {two}\n\n" for one, two in examples)
    inputs = [one for one, _ in examples]
    other = "".join(f"Q: {one}\nA: {two}\n\n" for one, two in zip(inputs, exchanged, strict=True))
    return Prompt(
        clean=head + question,
        corrupted=other + question if len(examples) > 1 else None,
        answers=(f" {pair[1]}",),
        variables={"input": pair[0], "output": pair[1]},
    )


JSON = Format("function-vector JSON", '[{"input": ..., "output": ...}]', listed().has(TABLES[0]), read_json)
CSV = Format("table of pairs", "columns `input` and `output`", reads_csv, read_csv)
