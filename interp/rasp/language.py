"""The language: s-ops as values (Weiss, Goldberg and Yahav, *Thinking Like Transformers*, 2021).

An s-op is a function of the string: one value at every position. It is *categorical* (one of
finitely many values, or None: nothing) or *numerical* (an exact number). Where an elementwise function
would read None, or an aggregate selects nothing, the value is None, and 0 of a numerical s-op; no
selector selects None.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Rational
from typing import Any, Literal, Self

from interp.core.errors import ConfigError, InterpError
from interp.core.settings import check_choice

Value = Hashable
Dtype = Literal["categorical", "numerical"]


class ProgramError(InterpError, ValueError):
    """A program that means nothing: a number where a category is needed, categories that mix, ..."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SOp:
    """A function of the string with one value at every position; what programs are made of."""

    name: str
    """As directions of the compiled model are called."""
    dtype: Dtype = "categorical"
    """Whether its values are categories or numbers."""

    @property
    def inputs(self) -> tuple[SOp, ...]:
        """The s-ops that it reads."""
        return ()

    def named(self, name: str) -> Self:
        """The same s-op under another name."""
        return replace(self, name=name)

    def map(self, function: Callable[[Any], Value], dtype: Dtype = "categorical") -> Elementwise:
        """The function of its value, position by position; of a category or of a number.

        Raises:
            ConfigError: No function, or no such dtype.
        """
        _check_function(function, dtype)
        return _elementwise(function, (self,), dtype)

    def fill(self, value: Value) -> Fill:
        """The same, with a value where there is none (None).

        Raises:
            ProgramError: It is numerical, and so has a value everywhere.
        """
        _need(self, "categorical", "fill")
        if value is None:
            raise ProgramError("fill takes a value", got=value)
        return Fill(name=f"{self.name}_filled", source=self, value=value)

    def _categorical(self) -> bool:
        return self.dtype == "categorical"

    def __add__(self, other: SOp) -> Linear:
        return _linear(self, other, 1)

    def __sub__(self, other: SOp) -> Linear:
        return _linear(self, other, -1)

    def __mul__(self, factor: int | Fraction) -> Linear:
        if not isinstance(factor, Rational):
            raise ProgramError("a numerical s-op is multiplied by an exact number", got=repr(factor))
        _need(self, "numerical", "a multiple")
        return Linear(name=f"{self.name}_scaled", dtype="numerical", terms=((self, Fraction(factor)),))

    __rmul__ = __mul__


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens(SOp):
    """The string itself."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Indices(SOp):
    """0, 1, 2, ...: the position in the string."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(SOp):
    """A function of one or more s-ops, position by position; None (or 0) where one of them is None."""

    function: Callable[..., Value]
    sources: tuple[SOp, ...]

    @property
    def inputs(self) -> tuple[SOp, ...]:
        """The s-ops that it reads."""
        return self.sources


@dataclass(frozen=True, eq=False, kw_only=True)
class Fill(SOp):
    """A categorical s-op with a value in place of None."""

    source: SOp
    value: Value

    @property
    def inputs(self) -> tuple[SOp, ...]:
        """The s-op that it reads."""
        return (self.source,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(SOp):
    """A weighted sum of numerical s-ops."""

    terms: tuple[tuple[SOp, Fraction], ...]

    @property
    def inputs(self) -> tuple[SOp, ...]:
        """The s-ops that it reads."""
        return tuple(sop for sop, _ in self.terms)


@dataclass(frozen=True)
class _Combined:
    """The predicate of two selectors joined, over pairs of keys and pairs of queries."""

    first: Callable[[Any, Any], bool]
    second: Callable[[Any, Any], bool]
    both: bool
    paired: bool

    def __call__(self, key: Any, query: Any) -> bool:
        keys, queries = (key, query) if self.paired else ((key, key), (query, query))
        one = bool(self.first(keys[0], queries[0]))
        two = bool(self.second(keys[1], queries[1]))
        return one and two if self.both else one or two


@dataclass(frozen=True)
class _Negated:
    """The predicate of a selector turned round; what is None stays unselected."""

    predicate: Callable[[Any, Any], bool]

    def __call__(self, key: Any, query: Any) -> bool:
        return not self.predicate(key, query)


@dataclass(frozen=True, eq=False)
class Selector:
    """Which positions each position looks at: those whose key meets its query; `&`, `|`, `~` combine."""

    keys: SOp
    queries: SOp
    predicate: Callable[[Any, Any], bool]

    def __and__(self, other: Selector) -> Selector:
        return _joined(self, other, both=True)

    def __or__(self, other: Selector) -> Selector:
        return _joined(self, other, both=False)

    def __invert__(self) -> Selector:
        return replace(self, predicate=_Negated(self.predicate))


@dataclass(frozen=True, eq=False, kw_only=True)
class Aggregate(SOp):
    """The mean of the selected values: of numbers, or of one category; nothing selected: None or 0."""

    selector: Selector
    values: SOp

    @property
    def inputs(self) -> tuple[SOp, ...]:
        """Keys, queries and values."""
        return (self.selector.keys, self.selector.queries, self.values)


@dataclass(frozen=True, eq=False, kw_only=True)
class InverseWidth(SOp):
    """1 / (1 + how many are selected): what a head reads off when it attends to them and to the start."""

    selector: Selector

    @property
    def inputs(self) -> tuple[SOp, ...]:
        """Keys and queries."""
        return (self.selector.keys, self.selector.queries)


tokens = Tokens(name="tokens")
"""The string itself."""
indices = Indices(name="indices")
"""The position in the string, from 0."""


def select(keys: SOp, queries: SOp, predicate: Callable[[Any, Any], bool]) -> Selector:
    """Let each position look at those whose key meets its query.

    Args:
        keys: Categorical; what a position is found by.
        queries: Categorical; what a position looks for.
        predicate: `(key, query) -> bool`, as `operator.eq`; never called with None.

    Raises:
        ProgramError: One of them is numerical, or no s-op.
    """
    _need(keys, "categorical", "select's keys")
    _need(queries, "categorical", "select's queries")
    _callable(predicate, "a predicate")
    return Selector(keys, queries, predicate)


def aggregate(selector: Selector, values: SOp, default: Value = None) -> SOp:
    """The mean of the values that each position selects.

    Args:
        selector: From `select`.
        values: Numerical, or categorical where all that is selected at once has one value.
        default: In place of None where nothing is selected, of a categorical s-op. A numerical one
            is 0 there.

    Raises:
        ProgramError: No selector, no s-op, or another default than 0 for numbers.
    """
    if not isinstance(selector, Selector):
        raise ProgramError(
            "aggregate takes a selector", got=repr(selector)[:80], fix="select(keys, queries, p)"
        )
    read_sop(values, "aggregate's values")
    taken = Aggregate(name=f"{values.name}_there", dtype=values.dtype, selector=selector, values=values)
    if default is None:
        return taken
    if values._categorical():
        return taken.fill(default)
    if default != 0:
        raise ProgramError("numbers are 0 where nothing is selected", got=default, expected="default=0")
    return taken


def selector_width(selector: Selector) -> SOp:
    """How many positions each position selects, as a category 0, 1, 2, ...

    Raises:
        ProgramError: No selector.
    """
    if not isinstance(selector, Selector):
        raise ProgramError("selector_width takes a selector", got=repr(selector)[:80], fix="select(...)")
    inverse = InverseWidth(name="inverse_width", dtype="numerical", selector=selector)
    return inverse.map(_width).named("width")


def length() -> SOp:
    """How long the string is, at every position: the width of a selector of everything."""
    return selector_width(select(tokens, tokens, _always)).named("length")


def sequence_map(function: Callable[..., Value], *sources: SOp, dtype: Dtype = "categorical") -> Elementwise:
    """A function of the values of several categorical s-ops, position by position.

    Args:
        function: Of one value per s-op; it must have a value for all combinations of theirs.
        sources: Categorical s-ops.
        dtype: What it gives: categories, or exact numbers (int, bool, Fraction).

    Raises:
        ProgramError: A source is numerical, or no s-op, or there is none.
        ConfigError: No function, or no such dtype.
    """
    if not sources:
        raise ProgramError("sequence_map takes at least one s-op", got="none")
    for source in sources:
        _need(source, "categorical", "sequence_map")
    _check_function(function, dtype)
    return _elementwise(function, sources, dtype)


def ancestors(program: SOp) -> list[SOp]:
    """Every s-op that a program computes, each once, what is read before what reads it."""
    found: list[SOp] = []
    seen: set[int] = set()

    def visit(sop: SOp) -> None:
        if id(sop) not in seen:
            seen.add(id(sop))
            for source in sop.inputs:
                visit(source)
            found.append(sop)

    visit(program)
    return found


def _always(_key: Value, _query: Value) -> bool:
    return True


def _width(inverse: Fraction) -> int:
    return round(1 / inverse) - 1


def _pair(*values: Value) -> Value:
    return values


def _joined(one: Selector, two: Selector, both: bool) -> Selector:
    if not isinstance(two, Selector):
        raise ProgramError("a selector is joined with a selector", got=repr(two)[:80], fix="select(...)")
    paired = not (one.keys is two.keys and one.queries is two.queries)
    predicate = _Combined(one.predicate, two.predicate, both, paired)
    if not paired:
        return Selector(one.keys, one.queries, predicate)
    keys = sequence_map(_pair, one.keys, two.keys).named(f"{one.keys.name}_{two.keys.name}")
    if one.keys is one.queries and two.keys is two.queries:
        return Selector(keys, keys, predicate)
    queries = sequence_map(_pair, one.queries, two.queries).named(f"{one.queries.name}_{two.queries.name}")
    return Selector(keys, queries, predicate)


def _check_function(function: object, dtype: object) -> None:
    _callable(function, "an elementwise function")
    check_choice("dtype", dtype, Dtype)


def _elementwise(function: Callable[..., Value], sources: tuple[SOp, ...], dtype: Dtype) -> Elementwise:
    return Elementwise(name="map", dtype=dtype, function=function, sources=sources)


def _linear(one: SOp, two: SOp, sign: int) -> Linear:
    for sop in (one, two):
        _need(sop, "numerical", "a sum")
    terms = ((one, Fraction(1)), (two, Fraction(sign)))
    return Linear(name="sum", dtype="numerical", terms=terms)


def read_sop(value: object, what: str) -> SOp:
    """An s-op.

    Raises:
        ProgramError: Something else; names what takes it.
    """
    if not isinstance(value, SOp):
        kind = "the function itself: call it" if callable(value) else type(value).__name__
        raise ProgramError(
            f"{what} must be an s-op", got=kind, expected="tokens, indices, aggregate(...), ..."
        )
    return value


def _need(value: object, dtype: Dtype, what: str) -> None:
    sop = read_sop(value, what)
    if sop.dtype != dtype:
        fixes = {"categorical": "sop.map(function) gives categories", "numerical": "sop.map(f, 'numerical')"}
        raise ProgramError(
            f"{what} needs a {dtype} s-op",
            got=f"{sop.name}, which is {sop.dtype}",
            expected=dtype,
            fix=fixes[dtype],
        )


def _callable(value: object, what: str) -> None:
    if not callable(value):
        raise ConfigError(f"{what} must be a function", got=repr(value)[:80])
