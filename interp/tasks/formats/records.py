"""Files of one record after another: how they are cut, what tells a format, what its fields mean.

A format is then a row: a layout, the field names that tell it, and which field becomes what.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.tasks.formats.source import File, Record

Field = Callable[[Record], Any]
"""What is read of a record; raises ConfigError naming place, field, value and what was expected."""
Fields = Mapping[str, Field]


@dataclass(frozen=True)
class Layout:
    """How a file holds its records."""

    first: Callable[[File], Mapping[str, Any]]
    """The first record, unchecked; empty where the file is not laid out like this."""
    records: Callable[[File], list[Record]]
    """All records, each with its line or its place in the file."""

    def has(self, *signs: Collection[str]) -> Callable[[File], bool]:
        """Whether the first record of a file has all fields of one of these sets."""
        return lambda file: any(set(sign) <= self.first(file).keys() for sign in signs)

    def is_like(self, test: Callable[..., bool]) -> Callable[[File], bool]:
        """Whether a file has a first record, and its values (by position) pass the test."""
        return lambda file: bool(values := self.first(file).values()) and test(*values)


LINES = Layout(
    lambda file: file.jsonl[0][1] if file.jsonl else {},
    lambda file: [Record(file, number, value) for number, value in file.jsonl or []],
)
"""JSON lines."""
TABLE = Layout(lambda file: dict.fromkeys(map(str.strip, file.header())), lambda file: file.records())
"""CSV with a header."""


def listed(key: str = "", columns: Sequence[str] = ()) -> Layout:
    """A JSON list, or the one under a key of a JSON object.

    Args:
        key: Where the list stands; "" is the whole file.
        columns: Names for the entries of a record that is itself a list; () where it is an object.
    """

    def rows(file: File) -> list[Any]:
        value = file.json
        if key:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, list) else []

    def values(row: Any) -> Mapping[str, Any] | None:
        if not columns:
            return row if isinstance(row, dict) else None
        fits = isinstance(row, list) and len(row) == len(columns)
        return dict(zip(columns, row, strict=True)) if fits else None

    def first(file: File) -> Mapping[str, Any]:
        return next(map(values, rows(file)), None) or {}

    def records(file: File) -> list[Record]:
        found = []
        for index, row in enumerate(rows(file)):
            place, named = f"{key}[{index}]", values(row)
            if named is None:
                what = f"{len(columns)} entries" if columns else "an object"
                raise file.fault(f"{place}: {what} expected", got=repr(row)[:80])
            found.append(Record(file, place, named))
        return found

    return Layout(first, records)


def unnamed(*columns: str, delimiter: str = ",", quoting: bool = True) -> Layout:
    """A table without a header, whose columns are called so."""

    def first(file: File) -> Mapping[str, str]:
        row = file.header(delimiter) if quoting else file.lines[0].split(delimiter)
        return dict(zip(columns, row, strict=True)) if len(row) == len(columns) else {}

    def records(file: File) -> list[Record]:
        rows = file.table(delimiter, header=False, quoting=quoting)
        return [Record(file, n, dict(zip(columns, row, strict=True))) for n, row in rows]

    return Layout(first, records)


def text(field: str) -> Field:
    """The field as a text that is not empty."""
    return lambda record: record.text(field)


def one(field: str) -> Field:
    """The field as the only text of several that might be."""
    return lambda record: (record.text(field),)


def label(field: str, missing: str = "") -> Field:
    """The field as text, whatever it is; may be missing."""
    return lambda record: str(record.values.get(field, missing))


def whole(field: str, low: int, high: int) -> Field:
    """The field as a whole number within bounds."""
    return lambda record: record.integer(field, low, high)


def number(field: str, low: int | float = -math.inf, high: int | float = math.inf) -> Field:
    """The field as a finite number within bounds, both allowed."""
    return lambda record: record.number(field, low, high)
