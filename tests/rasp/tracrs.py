"""The five compiled programs of tracr in shared data, written in our language."""

from __future__ import annotations

from operator import eq

from interp.rasp import (
    SOp,
    aggregate,
    fraction_previous,
    histogram,
    indices,
    length,
    select,
    selector_width,
    sequence_map,
    tokens,
)


def is_a(key: str, query: str) -> bool:
    return key == "a"


def reverse_in_two_steps() -> SOp:
    """As in tracr's library, where length - index and the 1 less are two operations."""
    opposite = sequence_map(lambda n, i: n - i, length(), indices).map(lambda v: v - 1)
    return aggregate(select(indices, opposite, eq), tokens)


PROGRAMS: dict[str, tuple[SOp, str]] = {
    "count_a": (selector_width(select(tokens, tokens, is_a)), "abc"),
    "frac_prevs": (fraction_previous("x"), "wxyz"),
    "hist": (histogram(), "abc"),
    "length": (length(), "ab"),
    "reverse": (reverse_in_two_steps(), "123"),
}
