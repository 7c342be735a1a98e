"""The library's programs written as anybody would write them in Python: the interpreter's oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

CLOSES = {")": "(", "]": "["}


def fraction_previous(s: Sequence[str]) -> list[Any]:
    return [Fraction(s[: i + 1].count("x"), i + 1) for i in range(len(s))]


def histogram(s: Sequence[str]) -> list[Any]:
    return [s.count(c) for c in s]


def double_histogram(s: Sequence[str]) -> list[Any]:
    counts = Counter(s)
    return [sum(n == counts[c] for n in counts.values()) for c in s]


def most_frequent(s: Sequence[str]) -> list[Any]:
    counts = Counter(s)
    ranked = sorted(counts, key=lambda c: (-counts[c], s.index(c)))
    return [*ranked, *[None] * (len(s) - len(ranked))]


def dyck(s: Sequence[str]) -> list[Any]:
    verdicts, stack, failed = [], [], False
    for c in s:
        if c in "([":
            stack.append(c)
        elif c in CLOSES:
            failed = failed or not stack or stack.pop() != CLOSES[c]
        verdicts.append("F" if failed else "P" if stack else "T")
    return verdicts


def induction(s: Sequence[str]) -> list[Any]:
    latest = [max((j for j in range(i) if s[j] == s[i]), default=None) for i in range(len(s))]
    return [None if j is None else s[j + 1] for j in latest]


def induction_share(s: Sequence[str]) -> list[Any]:
    followed = [[s[j + 1] for j in range(i) if s[j] == s[i]] for i in range(len(s))]
    return [Fraction(f.count("a"), len(f)) if f else Fraction(0) for f in followed]


PLAINLY: dict[str, Callable[[Sequence[str]], list[Any]]] = {
    "fraction-previous": fraction_previous,
    "reverse": lambda s: list(reversed(s)),
    "sort": lambda s: sorted(s),
    "histogram": histogram,
    "double-histogram": double_histogram,
    "most-frequent": most_frequent,
    "dyck-1": dyck,
    "dyck-2": dyck,
    "induction": induction,
    "induction-share": induction_share,
}
