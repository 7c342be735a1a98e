"""What each behaviour draws, what follows from it, what is held out, and what a wrong answer is.

Everything is columns of token ids (one entry per sentence), so a batch costs a few array operations
per template. `base` draws what is free, `derive` computes what follows; corrupting a prompt changes
one free variable and derives again, so clean and corrupted differ in what decides the answer only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from interp.tasks.grammar import words as w

Columns = dict[str, NDArray[Any]]
Source = np.random.Generator
Key = tuple[str, str]
Criterion = Literal["accuracy", "preference"]

HELD_OUT = 10
"""One in this many combinations never occurs in the corpus."""


def held(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pairs of ids are held out, in either order: a fixed hash, one in `HELD_OUT`."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    return (low * 7919 + high * 104729) % 1009 % HELD_OUT == 0


@dataclass(frozen=True)
class Template:
    """One sentence with slots, and the pairs of variables that must not be a held-out combination.

    Attributes:
        text: As in `templates`.
        keys: Pairs of variables; a task asks for prompts whose last pair is held out.
        weight: How often, relative to the behaviour's other templates.
    """

    text: str
    keys: tuple[Key, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Behaviour:
    """One thing that the model learns to do.

    Attributes:
        name: As in the catalogue of tasks.
        share: Sentences per thousand of the corpus.
        train: Templates of the corpus.
        base: (source, n) -> the free variables, n of each.
        derive: What follows from them, added to them.
        corrupt: (source, base, key) -> base with the variable changed that decides the answer of
            a template with that (last) key.
        asked: Splits other than "train" -> templates of the task, ending in the answer.
        criterion: "accuracy": an answer is the most likely of all tokens; "preference": it is more
            likely than every distractor.
        metric: What circuits and patching measure on it.
        answers, distractors: A row of all variables -> ids; None: the answer itself, and that of
            the corrupted prompt.
        rule: Combinations are held out (else: templates).
        sums: The two terms of a sum; `GrammarConfig.withhold_sums` holds out one in ten of those.
        bar: Share of right answers from which the behaviour counts as learned.
    """

    name: str
    share: int
    train: tuple[Template, ...]
    base: Callable[[Source, int], Columns]
    derive: Callable[[Columns], Columns] = lambda base: base
    corrupt: Callable[[Source, Columns, Key], Columns] | None = None
    asked: dict[str, tuple[Template, ...]] | None = None
    criterion: Criterion = "accuracy"
    metric: str = "logit_difference"
    answers: Callable[[dict[str, int]], list[int]] | None = None
    distractors: Callable[[dict[str, int]], list[int]] | None = None
    rule: bool = True
    sums: Key | None = None
    bar: float = 0.95
    description: str = ""

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """All pairs that may be held out."""
        return tuple({key: None for template in self.train for key in template.keys})


@cache
def pool(words: tuple[str, ...]) -> NDArray[np.int64]:
    """Ids of a word class."""
    ids = np.array(w.ids_of(words))
    ids.flags.writeable = False
    return ids


def pick(source: Source, words: tuple[str, ...], n: int) -> NDArray[np.int64]:
    """n words of a class, uniformly."""
    return pool(words)[source.integers(len(words), size=n)]


def distinct(source: Source, words: tuple[str, ...], n: int, k: int) -> list[NDArray[np.int64]]:
    """k columns of n words, different within a row."""
    order = source.random((n, len(words))).argpartition(k - 1, axis=1)[:, :k]
    chosen = pool(words)[source.permuted(order, axis=1)]
    return [chosen[:, i] for i in range(k)]


def another(
    source: Source, words: tuple[str, ...], column: NDArray[np.int64], *besides: NDArray[np.int64]
) -> NDArray[np.int64]:
    """A word of the class for every row, other than the column's and those besides it."""
    taken = np.stack([column, *besides], axis=1)
    score = source.random((len(column), len(words)))
    score[(pool(words)[None, :, None] == taken[:, None, :]).any(-1)] = -1.0
    return pool(words)[score.argmax(axis=1)]


@cache
def table(keys: tuple[str, ...], values: tuple[str, ...]) -> NDArray[np.int64]:
    """An array that maps ids of keys to ids of values (-1 elsewhere)."""
    out = np.full(len(w.vocabulary()), -1)
    out[pool(keys)] = pool(values)
    return out


def plain(texts: tuple[str, ...], *keys: Key) -> tuple[Template, ...]:
    """Templates that share their keys."""
    return tuple(Template(t, keys) for t in texts)
