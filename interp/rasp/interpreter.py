"""What a program says, value by value and exactly: no model, no floating point."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction
from numbers import Rational
from typing import Any

from interp.core.errors import TokenError
from interp.rasp.language import (
    Aggregate,
    Elementwise,
    Fill,
    Indices,
    InverseWidth,
    Linear,
    ProgramError,
    Selector,
    SOp,
    Tokens,
    Value,
    ancestors,
    read_sop,
)


def interpret(
    program: SOp, inputs: str | Sequence[Value], *, given: Mapping[SOp, Sequence[Value]] | None = None
) -> list[Value]:
    """The value of a program at every position of one string.

    Args:
        program: An s-op.
        inputs: A string, one character a token, or a list of tokens; without the start token.
        given: Values for s-ops of the program in place of their own, one per position: an
            intervention on a variable.

    Returns:
        One value per position: a category, None, or an exact number.

    Raises:
        ProgramError: An aggregate that mixes categories, a function that fails or gives no exact
            number, given values for an s-op that the program lacks, or of another length.
        TokenError: The input is no string and no list of tokens.
    """
    return _Interpreter(read_sop(program, "a program")).values(read_string(inputs), given or {})


def interpret_all(program: SOp, inputs: Sequence[str | Sequence[Value]]) -> list[list[Value]]:
    """The values of a program on many strings, each as by `interpret`; functions are asked once per value.

    Args:
        program: An s-op.
        inputs: Strings, or lists of tokens.

    Raises:
        ProgramError: As for `interpret`.
        TokenError: No list of strings, or one that is none.
    """
    if isinstance(inputs, str):
        raise TokenError("a batch is a list of strings", got=repr(inputs)[:80], fix='["abc", "ba"]')
    run = _Interpreter(read_sop(program, "a program"))
    return [run.values(read_string(string), {}) for string in inputs]


def read_string(inputs: object) -> list[Value]:
    """The tokens of one string; a character each where it is text.

    Raises:
        TokenError: Neither text nor a list of tokens.
    """
    if isinstance(inputs, str):
        return list(inputs)
    if isinstance(inputs, Sequence) and all(
        isinstance(token, Hashable) and token is not None for token in inputs
    ):
        return list(inputs)
    raise TokenError(
        "a program reads text or a list of tokens", got=repr(inputs)[:80], fix='interpret(program, "abc")'
    )


def called(sop: Elementwise, arguments: tuple[Any, ...]) -> Value:
    """An elementwise function of one combination of values.

    Raises:
        ProgramError: It fails, or gives no exact number where it should.
    """
    try:
        value = sop.function(*arguments)
        hash(value)
    except Exception as error:
        raise ProgramError(
            f"the function of {sop.name} fails",
            got=f"{', '.join(map(repr, arguments))}: {type(error).__name__}: {error}",
            expected="a value for every combination of its inputs' values",
            fix="return None where it means nothing",
        ) from error
    return value if sop.dtype == "categorical" else number(value, sop)


def number(value: object, sop: SOp) -> Fraction:
    """An exact number.

    Raises:
        ProgramError: None, a float, anything else.
    """
    if isinstance(value, Rational):
        return Fraction(value)
    raise ProgramError(
        f"{sop.name} is numerical and needs exact numbers", got=repr(value), expected="int, bool or Fraction"
    )


def holds(predicate: Callable[[Any, Any], bool], key: Value, query: Value) -> bool:
    """Whether a predicate selects a key for a query; None is never selected and selects nothing.

    Raises:
        ProgramError: The predicate fails.
    """
    if key is None or query is None:
        return False
    try:
        return bool(predicate(key, query))
    except Exception as error:
        raise ProgramError(
            "the predicate of a selector fails",
            got=f"key {key!r}, query {query!r}: {type(error).__name__}: {error}",
            expected="True or False for every key and query",
        ) from error


class _Interpreter:
    """A program's s-ops in order, and what its functions and predicates have answered."""

    def __init__(self, program: SOp) -> None:
        self.program = program
        self.order = ancestors(program)
        self.answers: dict[SOp, dict[tuple[Value, ...], Value]] = {}
        self.selected: dict[SOp, dict[tuple[Value, Value], bool]] = {}

    def values(self, string: list[Value], given: Mapping[SOp, Sequence[Value]]) -> list[Value]:
        """What the program says of one string."""
        values: dict[SOp, list[Value]] = {}
        for sop, row in given.items():
            if sop not in self.order:
                lacks = "values are given for an s-op that the program lacks"
                raise ProgramError(lacks, got=getattr(sop, "name", sop))
            if len(row) != len(string):
                raise ProgramError(
                    f"values given for {sop.name} have another length than the string",
                    got=len(row),
                    expected=len(string),
                )
            values[sop] = list(row)
        for sop in self.order:
            if sop not in values:
                values[sop] = self._evaluate(sop, string, values)
        return values[self.program]

    def _evaluate(self, sop: SOp, string: list[Value], values: dict[SOp, list[Value]]) -> list[Value]:
        if isinstance(sop, Tokens):
            return list(string)
        if isinstance(sop, Indices):
            return list(range(len(string)))
        if isinstance(sop, Elementwise):
            return self._elementwise(sop, values)
        if isinstance(sop, Fill):
            return [sop.value if value is None else value for value in values[sop.source]]
        if isinstance(sop, Linear):
            rows = zip(*(values[source] for source, _ in sop.terms), strict=True)
            weights = [weight for _, weight in sop.terms]
            return [sum(_exact(v, sop) * w for v, w in zip(row, weights, strict=True)) for row in rows]
        if isinstance(sop, InverseWidth):
            return [Fraction(1, 1 + len(found)) for found in self._found(sop, sop.selector, values)]
        if isinstance(sop, Aggregate):
            mean = _category if sop.dtype == "categorical" else _mean
            row = values[sop.values]
            return [mean(sop, [row[i] for i in found]) for found in self._found(sop, sop.selector, values)]
        raise ProgramError("unknown kind of s-op", got=type(sop).__name__)

    def _elementwise(self, sop: Elementwise, values: dict[SOp, list[Value]]) -> list[Value]:
        nothing = None if sop.dtype == "categorical" else Fraction(0)
        known = self.answers.setdefault(sop, {})
        found: list[Value] = []
        for row in zip(*(values[source] for source in sop.sources), strict=True):
            if row not in known:
                known[row] = nothing if None in row else called(sop, row)
            found.append(known[row])
        return found

    def _found(self, sop: SOp, selector: Selector, values: dict[SOp, list[Value]]) -> list[list[int]]:
        """The positions that each position selects."""
        keys, known = values[selector.keys], self.selected.setdefault(sop, {})
        found: list[list[int]] = []
        for query in values[selector.queries]:
            for key in keys:
                if (key, query) not in known:
                    known[key, query] = holds(selector.predicate, key, query)
            found.append([i for i, key in enumerate(keys) if known[key, query]])
        return found


def _exact(value: Value, sop: SOp) -> Fraction:
    return value if isinstance(value, Fraction) else number(value, sop)


def _mean(sop: SOp, found: list[Value]) -> Value:
    return sum([_exact(value, sop) for value in found], Fraction(0)) / max(len(found), 1)


def _category(sop: SOp, found: list[Value]) -> Value:
    kinds = set(found)
    if len(kinds) > 1:
        raise ProgramError(
            f"{sop.name} mixes categories",
            got=", ".join(sorted(map(repr, kinds))),
            expected="one category among all that a position selects",
            fix="select one position, or make the values numerical",
        )
    return found[0] if found else None
