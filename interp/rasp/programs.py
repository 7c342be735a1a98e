"""The programs of the papers, and two more, written in the language."""

from __future__ import annotations

from fractions import Fraction
from operator import eq, le, lt
from typing import Any, NamedTuple

from interp.rasp.language import (
    SOp,
    Value,
    aggregate,
    indices,
    length,
    select,
    selector_width,
    sequence_map,
    tokens,
)


class Example(NamedTuple):
    """A program with a vocabulary that suits it."""

    program: SOp
    vocabulary: str


def library() -> dict[str, Example]:
    """Every program here by name, with three tokens each (the brackets of two kinds need four)."""
    return {
        "fraction-previous": Example(fraction_previous("x"), "xyz"),
        "reverse": Example(reverse(), "abc"),
        "sort": Example(sort(), "abc"),
        "histogram": Example(histogram(), "abc"),
        "double-histogram": Example(double_histogram(), "abc"),
        "most-frequent": Example(most_frequent(), "abc"),
        "dyck-1": Example(dyck1(), "()a"),
        "dyck-2": Example(dyck2(), "()[]"),
        "induction": Example(induction(), "abc"),
        "induction-share": Example(induction_share("a"), "abc"),
    }


def fraction_previous(token: Value) -> SOp:
    """The share of a token among all up to and including each position."""

    def is_token(found: Value) -> bool:
        return found == token

    here = tokens.map(is_token, dtype="numerical").named("is_token")
    return aggregate(select(indices, indices, le), here).named("fraction_previous")


def reverse() -> SOp:
    """The string from its end."""
    opposite = sequence_map(_opposite, length(), indices).named("opposite")
    return aggregate(select(indices, opposite, eq), tokens).named("reverse")


def sort() -> SOp:
    """The tokens in ascending order; equal ones stay in theirs."""
    smaller = select(tokens, tokens, lt) | (select(tokens, tokens, eq) & select(indices, indices, lt))
    place = selector_width(smaller).named("place")
    return aggregate(select(place, indices, eq), tokens).named("sort")


def histogram() -> SOp:
    """How often the token at each position stands in the string."""
    return selector_width(select(tokens, tokens, eq)).named("histogram")


def double_histogram() -> SOp:
    """How many different tokens stand in the string as often as the one at each position.

    A token that stands h times has h positions, so those of its count are divided by h.
    """
    count = histogram()
    equal = selector_width(select(count, count, eq)).named("positions_of_count")
    return sequence_map(_share_of, equal, count).named("double_histogram")


def most_frequent() -> SOp:
    """The different tokens, the most frequent first, the earlier first among equals; then None."""
    repeated = _earlier(tokens).map(bool).named("repeated")
    key = sequence_map(_rank, repeated, histogram(), indices).named("rank")
    place = selector_width(select(key, key, lt)).named("place")
    once = sequence_map(_unless, repeated, tokens).named("first_of_kind")
    return aggregate(select(place, indices, eq), once).named("most_frequent")


def dyck1() -> SOp:
    """Of each prefix: T balanced, P can be continued to balance, F neither; other tokens count as nothing."""
    balance = aggregate(select(indices, indices, le), tokens.map(_bracket, "numerical").named("bracket"))
    balance = balance.named("balance")
    negative = balance.map(_negative, "numerical").named("negative")
    failed = aggregate(select(indices, indices, le), negative).map(_positive).named("failed")
    return sequence_map(_verdict, failed, balance.map(_zero).named("balanced")).named("dyck1")


def dyck2() -> SOp:
    """Of each prefix of round and square brackets: T balanced, P can be continued to balance, F neither.

    A bracket closes the one before it at its level. The share of opening brackets gives the level, the
    number of earlier brackets at it gives the one before.
    """
    before = select(indices, indices, le)
    share = aggregate(before, tokens.map(_bracket, "numerical").named("bracket")).named("balance")
    depth = sequence_map(_times_place, share.map(_itself).named("share"), indices).named("depth")
    level = sequence_map(_level, depth, tokens).named("level")
    earlier = selector_width(select(level, level, eq) & select(indices, indices, lt)).named("earlier")
    here = sequence_map(_pair, level, earlier).named("here")
    there = sequence_map(_one_before, level, earlier).named("there")
    opened = aggregate(select(here, there, eq), tokens, default="none").named("opened")
    bad = sequence_map(_bad, depth, tokens, opened, dtype="numerical").named("bad")
    failed = aggregate(before, bad).map(_positive).named("failed")
    return sequence_map(_verdict, failed, depth.map(_zero).named("balanced")).named("dyck2")


def induction() -> SOp:
    """What followed the latest earlier token like the one at each position; None for a new one."""
    earlier = _earlier(tokens).named("earlier")
    seen = sequence_map(_pair, tokens, earlier).named("occurrence")
    before = indices.map(_minus_one).named("before")
    previous = aggregate(select(indices, before, eq), seen).named("previous")
    wanted = sequence_map(_latest, tokens, earlier).named("wanted")
    return aggregate(select(previous, wanted, eq), tokens).named("induction")


def induction_share(token: Value) -> SOp:
    """Of what followed the earlier tokens like the one at each position, the share of a token.

    Two layers: a previous-token head, then a head whose keys it wrote, as in Olsson et al. 2022.
    """

    def is_token(found: Value) -> bool:
        return found == token

    before = indices.map(_minus_one).named("before")
    previous = aggregate(select(indices, before, eq), tokens).named("previous")
    found = select(previous, tokens, eq) & select(indices, indices, le)
    here = tokens.map(is_token, dtype="numerical").named("is_token")
    return aggregate(found, here).named("induction_share")


def _earlier(sop: SOp) -> SOp:
    """How many equal values stand before each position."""
    return selector_width(select(sop, sop, eq) & select(indices, indices, lt))


def _opposite(n: int, index: int) -> int:
    return n - 1 - index


def _share_of(positions: int, count: int) -> int:
    return positions // max(count, 1)


def _rank(repeated: bool, count: int, index: int) -> Value:
    return repeated, -count, index


def _unless(repeated: bool, token: Value) -> Value:
    return None if repeated else token


def _bracket(token: Value) -> int:
    return {"(": 1, "[": 1, ")": -1, "]": -1}.get(str(token), 0)


def _negative(balance: Fraction) -> bool:
    return balance < 0


def _positive(share: Fraction) -> bool:
    return share > 0


def _zero(balance: Any) -> bool:
    return balance == 0


def _verdict(failed: bool, balanced: bool) -> str:
    return "F" if failed else "T" if balanced else "P"


def _itself(value: Value) -> Value:
    return value


def _times_place(share: Fraction, index: int) -> int | None:
    """The balance from its share of the prefix; shares that no prefix of that length has mean nothing."""
    total = share * (index + 1)
    return int(total) if total.denominator == 1 else None


def _level(depth: int, token: Value) -> int:
    """A bracket's own: after an opening one, before a closing one."""
    return depth + 1 if _bracket(token) < 0 else depth


def _pair(one: Value, two: Value) -> Value:
    return one, two


def _one_before(level: int, earlier: int) -> Value:
    return (level, earlier - 1) if earlier else None


def _bad(depth: int, token: Value, opened: Value) -> bool:
    """Below the ground, or a closing bracket whose opening one is of the other kind."""
    return depth < 0 or (_bracket(token) < 0 and {")": "(", "]": "["}[str(token)] != opened)


def _minus_one(index: int) -> int | None:
    return index - 1 if index else None


def _latest(token: Value, earlier: int) -> Value:
    return (token, earlier - 1) if earlier else None
