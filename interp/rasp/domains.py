"""Which values an s-op can have: what one-hot directions and steps are made for.

The sets follow from the operations, not from strings, so they may hold values that no string gives;
an elementwise function must have an answer for those, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import product
from math import prod

from interp.core.settings import read_count
from interp.rasp.interpreter import called, number
from interp.rasp.language import (
    Aggregate,
    Elementwise,
    Fill,
    Indices,
    InverseWidth,
    Linear,
    ProgramError,
    SOp,
    Tokens,
    Value,
    ancestors,
)

MOST = 4096
"""Most values, or combinations of values, of one s-op."""
Domain = tuple[Value, ...]


def domains(program: SOp, vocabulary: Sequence[Value], max_length: int) -> dict[SOp, Domain]:
    """The values of every s-op of a program, without None; numbers in ascending order.

    Args:
        program: An s-op.
        vocabulary: The tokens.
        max_length: Longest string.

    Raises:
        ProgramError: An empty or repeated vocabulary, more than `MOST` values, a function that fails.
    """
    words = read_vocabulary(vocabulary)
    max_length = read_count("max_length", max_length)
    found: dict[SOp, Domain] = {}
    absent: set[SOp] = set()
    for sop in ancestors(program):
        found[sop] = _domain(sop, found, absent, words, max_length)
        if len(found[sop]) > MOST:
            raise _too_many(sop, len(found[sop]))
    return found


def read_vocabulary(vocabulary: Sequence[Value]) -> Domain:
    """The tokens, each once.

    Raises:
        ProgramError: None at all, one twice, or None among them.
    """
    words = tuple(vocabulary)
    if not words or len(set(words)) < len(words) or None in words:
        raise ProgramError(
            "a vocabulary is one or more different tokens",
            got=repr(vocabulary)[:80],
            fix='"abc" or ["yes", "no"]',
        )
    return words


def _domain(sop: SOp, found: dict[SOp, Domain], absent: set[SOp], words: Domain, longest: int) -> Domain:
    """The values of one s-op; `absent` gathers those that can be None."""
    if isinstance(sop, Tokens):
        return words
    if isinstance(sop, Indices):
        return tuple(range(longest))
    if isinstance(sop, Elementwise):
        return _images(sop, found, absent)
    if isinstance(sop, Fill):
        return tuple(dict.fromkeys((*found[sop.source], sop.value)))
    if isinstance(sop, Linear):
        sums = {Fraction(0)}
        for source, weight in sop.terms:
            terms = [number(value, sop) * weight for value in found[source]]
            sums = _sums(sop, sums, terms)
        return _ascending(sums)
    if isinstance(sop, InverseWidth):
        return _ascending(Fraction(1, 1 + width) for width in range(longest + 1))
    if isinstance(sop, Aggregate) and sop.dtype == "categorical":
        absent.add(sop)
        return found[sop.values]
    if isinstance(sop, Aggregate):
        return _means(sop, [number(value, sop) for value in found[sop.values]], longest)
    raise ProgramError("unknown kind of s-op", got=type(sop).__name__)


def _images(sop: Elementwise, found: dict[SOp, Domain], absent: set[SOp]) -> Domain:
    sets = [found[source] for source in sop.sources]
    if (n := prod(map(len, sets))) > MOST:
        raise _too_many(sop, n)
    values = [called(sop, row) for row in product(*sets)]
    if None in values or not absent.isdisjoint(sop.sources):
        absent.add(sop)
    if sop.dtype == "numerical":
        return _ascending([*values, Fraction(0)] if sop in absent else values)
    return tuple(dict.fromkeys(value for value in values if value is not None))


def _means(sop: SOp, values: list[Fraction], longest: int) -> Domain:
    """Every mean of 1 to `longest` values, and 0."""
    means, sums = {Fraction(0)}, {Fraction(0)}
    for n in range(1, longest + 1):
        sums = _sums(sop, sums, values)
        means |= {total / n for total in sums}
    return _ascending(means)


def _sums(sop: SOp, sums: set[Fraction], terms: list[Fraction]) -> set[Fraction]:
    if len(sums) > MOST or len(terms) > MOST:
        raise _too_many(sop, max(len(sums), len(terms)))
    return {total + term for total in sums for term in terms}


def _ascending(values: Iterable[Value]) -> Domain:
    return tuple(sorted(set(values)))  # type: ignore[type-var]


def _too_many(sop: SOp, n: int) -> ProgramError:
    return ProgramError(
        f"{sop.name} has too many values",
        got=n,
        expected=f"at most {MOST}",
        fix="fewer tokens, shorter strings",
    )
