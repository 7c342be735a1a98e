"""Random programs: s-ops over s-ops, by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import torch

from interp.core.randomness import generator
from interp.rasp.config import RandomPrograms
from interp.rasp.domains import domains, read_vocabulary
from interp.rasp.language import SOp, Value, aggregate, indices, select, selector_width, sequence_map, tokens

PREDICATES = (eq, ne, lt, le, gt, ge)
MOST = 64
"""Most combinations that a random elementwise operation looks up."""


@dataclass(frozen=True)
class Table:
    """A function given by its values."""

    values: tuple[tuple[tuple[Value, ...], Value], ...]

    def __call__(self, *arguments: Value) -> Value:
        return dict(self.values)[arguments]


@dataclass(frozen=True)
class _Ordered:
    """A comparison of places in two lists of values, so that any two sets of values compare."""

    compare: Any
    keys: tuple[Value, ...]
    queries: tuple[Value, ...]

    def __call__(self, key: Value, query: Value) -> bool:
        return bool(self.compare(self.keys.index(key), self.queries.index(query)))


def random_program(
    vocabulary: Sequence[Value] = "abc", config: RandomPrograms | None = None, *, seed: int = 0
) -> SOp:
    """A program of random operations: lookups, selectors, widths, means and moves of categories.

    Categories move only along selectors that find one position at most, so no aggregate mixes them.

    Args:
        vocabulary: The tokens.
        config: Longest string, how many operations, how many categories.
        seed: The program follows from it.

    Raises:
        ProgramError: A vocabulary that is none.
        ConfigError: A setting out of bounds, a seed that is no whole number.
    """
    config = config or RandomPrograms()
    words = read_vocabulary(vocabulary)
    draw = _Draw(words, config, seed)
    for _ in range(config.operations):
        draw.add()
    return draw.made[-1]


class _Draw:
    """What has been made so far, and what comes next."""

    def __init__(self, words: tuple[Value, ...], config: RandomPrograms, seed: int) -> None:
        self.words, self.config = words, config
        self.source = generator(seed, "random program")
        self.made: list[SOp] = [tokens, indices]

    def below(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self.source))

    def values(self, sop: SOp) -> tuple[Value, ...]:
        return domains(sop, self.words, self.config.max_length)[sop]

    def pick(self, dtype: str) -> SOp | None:
        """One of that dtype, the latest twice as likely as the one before."""
        fit = [sop for sop in self.made if sop.dtype == dtype]
        while len(fit) > 1 and self.below(2) == 0:
            fit.pop()
        return fit[-1] if fit else None

    def add(self) -> None:
        """One operation more."""
        kinds = (
            self.looked_up,
            self.looked_up,
            self.counted,
            self.averaged,
            self.moved,
            self.stepped,
            self.summed,
        )
        made = None
        while made is None:
            made = kinds[self.below(len(kinds))]()
        self.made.append(made)

    def category(self) -> SOp:
        return self.pick("categorical") or tokens

    def selector(self) -> Any:
        keys, queries = self.category(), self.category()
        compare = PREDICATES[self.below(len(PREDICATES))]
        return select(keys, queries, _Ordered(compare, self.values(keys), self.values(queries)))

    def table(self, sources: Sequence[SOp], numerical: bool) -> Table:
        rows: list[tuple[Value, ...]] = [()]
        for source in sources:
            rows = [(*row, value) for row in rows for value in self.values(source)]
        answers: list[Any] = [self.below(self.config.categories) for _ in rows]
        if not numerical:
            answers = [None if answer == 0 and self.below(4) == 0 else answer for answer in answers]
            answers[0] = 0  # one category at least
        return Table(tuple(zip(rows, answers, strict=True)))

    def looked_up(self) -> SOp | None:
        """A random function of one or two categories."""
        sources = [self.category() for _ in range(1 + self.below(2))]
        if prod(len(self.values(source)) for source in sources) > MOST:
            return None
        numerical = self.below(3) == 0
        table = self.table(sources, numerical)
        return sequence_map(table, *sources, dtype="numerical" if numerical else "categorical")

    def stepped(self) -> SOp | None:
        """A random function of a number."""
        source = self.pick("numerical")
        if source is None or len(self.values(source)) > MOST:
            return None
        return source.map(self.table([source], False))

    def counted(self) -> SOp:
        return selector_width(self.selector())

    def averaged(self) -> SOp | None:
        """The mean of a number over what a random selector finds."""
        values = self.pick("numerical")
        if values is None or len(self.values(values)) > self.config.categories:
            return None
        return aggregate(self.selector(), values)

    def moved(self) -> SOp:
        """A category from one position, found by its index."""
        goal = self.category()
        places = {value: self.below(self.config.max_length) for value in self.values(goal)}
        target = goal.map(Table(tuple(((value,), place) for value, place in places.items())))
        taken = aggregate(select(indices, target, eq), self.category())
        return taken.fill(self.below(2)) if self.below(3) == 0 else taken

    def summed(self) -> SOp | None:
        """The sum or difference of two numbers."""
        one, two = self.pick("numerical"), self.pick("numerical")
        if one is None or two is None or len(self.values(one)) * len(self.values(two)) > MOST:
            return None
        return one + two if self.below(2) else one - two
