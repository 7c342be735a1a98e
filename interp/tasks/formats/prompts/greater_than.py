"""Greater-than sentences from a list of nouns: one a line, in a file whose name says so.

Source: Hanna et al. 2023, "How does GPT-2 compute greater-than?": "The war lasted from the year
1732 to the year 17" continues with any two digits above 32. The corrupted year ends in 01, after
which all but two are right. Years are 11-17 hundred, 02 to 98, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.core.randomness import generator
from interp.tasks.formats.source import File
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt
from interp.tasks.task import Task

CENTURIES = range(11, 18)
YEARS = range(2, 99)


def reads(file: File) -> bool:
    """Whether the name has `nouns` in it and every line is one word."""
    return "nouns" in file.stem and all(line.strip().isalpha() for line in file.lines)


def read(file: File, options: Options) -> Task:
    """The task, a sampler over noun, century and year."""
    nouns = [line.strip() for line in file.lines]
    return Task(
        name="greater-than",
        description="any two digits above",
        sampler=lambda n, seed: _sample(nouns, n, seed),
        metric="mass_difference",
        source=f"EAP-IG, {file.name}",
    )


def _sample(nouns: Sequence[str], n: int, seed: int) -> list[Prompt]:
    source = generator(seed, "greater-than")

    def draw(size: int) -> list[int]:
        return torch.randint(size, (n,), generator=source).tolist()

    rows = zip(draw(len(nouns)), draw(len(CENTURIES)), draw(len(YEARS)), strict=True)
    return [sentence(nouns[i], CENTURIES[j], YEARS[k]) for i, j, k in rows]


def sentence(noun: str, century: int, year: int) -> Prompt:
    """The prompt for one noun, century (two digits) and year (two digits)."""
    return Prompt(
        clean=f"The {noun} lasted from the year {century}{year:02d} to the year {century}",
        corrupted=f"The {noun} lasted from the year {century}01 to the year {century}",
        answers=tuple(f"{other:02d}" for other in range(year + 1, 100)),
        distractors=tuple(f"{other:02d}" for other in range(year + 1)),
        variables={"noun": noun, "year": f"{year:02d}"},
    )


FORMAT = Format("list of nouns", "one word a line, `nouns` in the file's name", reads, read)
