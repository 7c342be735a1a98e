"""A text file: decoded, cut into records, with errors that point (`archives` opens it)."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from interp.core.errors import ConfigError
from interp.core.foreign import TEXT_BYTES, Unparsable, one_line, parse_json, too_large
from interp.core.names import did_you_mean

ENDINGS = (".gz", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".test", ".conllu", ".pos", ".dp", ".mrg")
_NO_NUMBER = re.compile(r"(?<![\w\"])-?(?:NaN|Infinity|\d+(?:\.\d*)?[eE]\+?\d{3,}|\d{65,})")
HEADER = 1 << 20
"""Longest line that may be a header, in characters."""
_HEADS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"PK\x03\x04": "a zip archive"}


LINES = 600_000
"""Most lines, and words with tags, of one file: each costs some six hundred bytes once it is read."""
FIELDS = 3_000_000
"""Most fields of one table."""


class File:
    """One text file; whatever is wrong in it is reported with its name, line and column.

    Args:
        name: What the user calls it, for errors (`blimp.tar.gz: npi.jsonl`).
        data: Its bytes, decompressed.
        encoding: How to decode them; a byte order mark is dropped.
        max_bytes: Most memory that the text may take: one emoji makes four bytes of every character.
    """

    def __init__(self, name: str, data: bytes, encoding: str = "utf-8", max_bytes: int = TEXT_BYTES) -> None:
        self.name = name
        self.data = data
        self.encoding = encoding
        self.max_bytes = max_bytes

    @property
    def stem(self) -> str:
        """The file's own name without folders, archive and endings."""
        return stem_of(self.name.rpartition(": ")[2])

    def fault(
        self,
        what: str,
        *,
        line: int | None = None,
        column: str | int | None = None,
        got: object = None,
        expected: object = None,
        fix: object = None,
    ) -> ConfigError:
        """The error for something wrong in this file: raise what this returns."""
        where = self.name
        where += f", line {line}" if line is not None else ""
        where += f", column {column!r}" if column is not None else ""
        return ConfigError(f"{where}: {what}", got=got, expected=expected, fix=fix)

    @cached_property
    def text(self) -> str:
        """The decoded text, without byte order mark.

        Raises:
            ConfigError: Empty, NUL bytes, not in this encoding (names line and byte), or too much.
        """
        if not self.data.strip():
            raise self.fault("the file is empty")
        try:
            text = self.data.decode(self.encoding)
        except (UnicodeDecodeError, LookupError) as error:
            raise self._undecodable(error) from error
        taken = sys.getsizeof(text)
        if taken > self.max_bytes + 100:
            raise self.fault(
                "too much text",
                got=f"{too_large(taken, self.max_bytes)}, {taken // len(text)} to a character",
                fix="cut it into parts, or max_bytes= takes more",
            )
        text = text.removeprefix("\ufeff")
        if "\0" in text:
            line = text[: text.index("\0")].count("\n") + 1
            raise self.fault("a NUL character: this is not a text file", line=line)
        return text

    def _undecodable(self, error: UnicodeDecodeError | LookupError) -> ConfigError:
        if isinstance(error, LookupError):
            return self.fault("unknown encoding", got=self.encoding)
        kind = next((kind for head, kind in _HEADS.items() if self.data.startswith(head)), None)
        line = self.data[: error.start].count(b"\n") + 1
        return self.fault(
            f"not {self.encoding}" + (f", but {kind}" if kind else ""),
            line=line,
            got=f"byte 0x{self.data[error.start]:02x} at offset {error.start}",
            fix=f"encoding={'utf-16' if kind == 'utf-16' else 'latin-1'!r}, or save it as UTF-8",
        )

    @cached_property
    def lines(self) -> list[str]:
        """Lines without their ends, whatever the system that wrote them; the last may be open."""
        text = self.text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
        if text.count("\n") > LINES:
            raise self.fault(f"more than {LINES:,} lines", expected="a file cut into parts")
        return text.split("\n")

    @cached_property
    def json(self) -> Any:
        """The file as one JSON value, or `None` if it is none (as JSON lines are)."""
        if self.text.lstrip()[:1] not in ("{", "["):
            return None
        try:
            return parse_json(self.text, limit=TEXT_BYTES)
        except ValueError:
            return None

    def bad_json(self) -> ConfigError | None:
        """Why this is no JSON although it begins like it; None where it is."""
        if self.text.lstrip()[:1] not in ("{", "["):
            return None
        try:
            parse_json(self.text, limit=TEXT_BYTES)
        except json.JSONDecodeError as error:
            where = {"line": error.lineno, "column": error.colno}
            return self.fault(f"not JSON: {error.msg}", **where)
        except ValueError as error:
            return self.fault(f"not JSON: {error}", line=self._line_of(error))
        return None

    def _line_of(self, error: ValueError) -> int | None:
        """Where the number stands that is refused: the parser knows what it met, not where."""
        found = _NO_NUMBER.search(self.text) if "number" in str(error) else None
        return None if found is None else self.text[: found.start()].count("\n") + 1

    @cached_property
    def jsonl(self) -> list[tuple[int, dict[str, Any]]] | None:
        """(line number, object) of JSON lines; None if the first line is no JSON object."""
        first = next((line for line in self.lines if line.strip()), "")
        if not first.startswith("{") or not isinstance(_parsed(first), dict | Unparsable):
            return None
        found = []
        for number, line in enumerate(self.lines, 1):
            if line.strip():
                value = _parsed(line)
                if isinstance(value, Unparsable):
                    raise self.fault(f"not JSON: {value}", line=number, got=line[:80])
                if not isinstance(value, dict):
                    got = line[:80] + ("..." if len(line) > 80 else "")
                    raise self.fault("not a JSON object", line=number, got=got)
                found.append((number, value))
        return found

    def header(self, delimiter: str = ",") -> list[str]:
        """The fields of the first line; [] if it cannot be read as a table."""
        if len(self.lines[0]) > HEADER:
            return []
        try:
            return next(csv.reader(io.StringIO(self.text, newline=""), delimiter=delimiter), [])
        except csv.Error:
            return []

    def table(
        self, delimiter: str = ",", *, header: bool = True, quoting: bool = True
    ) -> list[tuple[int, list[str]]]:
        """(line number, fields) of each row, the header row included; all as wide as the first.

        Raises:
            ConfigError: A ragged row, a repeated column name, or quotes that do not close.
        """
        if self.text.count(delimiter) > FIELDS:
            raise self.fault(f"more than {FIELDS:,} fields")
        style: Any = csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
        # QUOTE_NONE keeps newlines as they are: give it lines
        text = self.text if quoting else "\n".join(self.lines) + "\n"
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=style, strict=True)
        rows: list[tuple[int, list[str]]] = []
        start = 1
        try:
            for row in reader:
                if row:
                    rows.append((start, row))
                start = reader.line_num + 1
        except csv.Error as error:
            raise self.fault(f"not a table: {error}", line=start) from error
        names = rows[0][1]
        if header and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise self.fault("two columns of one name", line=rows[0][0], column=twice)
        for line, row in rows:
            if len(row) != len(names):
                raise self.fault(
                    "a row of another width",
                    line=line,
                    got=f"{len(row)} fields: {row[:6]}",
                    expected=f"{len(names)} fields"
                    + (f": {', '.join(map(repr, names[:12]))}" if header else ""),
                    fix="quote fields that contain the separator",
                )
        return rows

    def records(self, delimiter: str = ",") -> list[Record]:
        """Rows of a table with a header, by column name.

        Raises:
            ConfigError: As `table`; or there is a header and nothing else.
        """
        rows = self.table(delimiter)[::-1]
        keys = [name.strip() for name in rows.pop()[1]]
        if not rows:
            raise self.fault("a header, but no rows")
        records = []
        while rows:  # each row is let go once it is a record
            line, row = rows.pop()
            records.append(Record(self, line, dict(zip(keys, row, strict=True))))
        return records

    def __repr__(self) -> str:
        return f"File({one_line(self.name)}, {len(self.data):,} bytes)"


class Record:
    """One row or object of a file; asks for fields by name and type.

    Args:
        file: Where it stands.
        place: Line number, or a path in a JSON value (`prompts[3]`).
        values: Field name -> value.
    """

    __slots__ = ("file", "place", "values")

    def __init__(self, file: File, place: int | str, values: Mapping[str, Any]) -> None:
        self.file = file
        self.place = place
        self.values = values

    def fault(self, field: str, what: str, **more: Any) -> ConfigError:
        """The error for one of its fields."""
        if isinstance(self.place, int):
            return self.file.fault(what, line=self.place, column=field, **more)
        return self.file.fault(f"{self.place}.{field}: {what}", **more)

    def get(self, field: str) -> Any:
        """A field.

        Raises:
            ConfigError: It is missing.
        """
        if field not in self.values:
            known = ", ".join(map(repr, self.values))
            near = did_you_mean(field, self.values) or None
            raise self.fault(field, "missing", expected=f"among {known}", fix=near)
        return self.values[field]

    def text(self, field: str) -> str:
        """A text that is not empty."""
        value = self.get(field)
        if not isinstance(value, str) or not value:
            got = f"{value!r} ({type(value).__name__})"
            raise self.fault(field, "text expected", got=got)
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts, perhaps a single text."""
        value = self.get(field)
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self.fault(field, "a list of texts expected", got=repr(value)[:120])
        return tuple(items)

    def integer(self, field: str, low: int = 0, high: int = 2**62) -> int:
        """A whole number from `low` to `high`."""
        value = self._digits(field, "a whole number expected")
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise self.fault(field, "a whole number expected", got=repr(value)) from error
        if isinstance(value, bool) or not low <= number <= high or number != float(value):
            limits = f"{low} to {high}" if high < 2**62 else f"{low} or more"
            raise self.fault(field, "not such a number", got=repr(value), expected=limits)
        return number

    def number(self, field: str, low: int | float = -math.inf, high: int | float = math.inf) -> float:
        """A finite number from `low` to `high`."""
        value = self._digits(field, "a number expected")
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise self.fault(field, "a number expected", got=repr(value)) from error
        if number - number != 0:
            raise self.fault(field, "a finite number expected", got=repr(value))
        if not low <= number <= high:
            raise self.fault(field, "out of range", got=number, expected=f"{low:g} to {high:g}")
        return number

    def _digits(self, field: str, what: str) -> Any:
        value = self.get(field)
        if isinstance(value, str) and "_" in value:  # 1_000 is a number to Python only
            raise self.fault(field, what, got=repr(value))
        return value


def stem_of(name: str) -> str:
    """`folder/pythia-2.8b.json.gz` -> `pythia-2.8b`."""
    base = name.rpartition("/")[2]
    while base.endswith(ENDINGS) and base.rpartition(".")[0]:
        base = base.rpartition(".")[0]
    return base


def _parsed(line: str) -> Any:
    """The value of a line, None if it is no JSON, or the bound it breaks."""
    try:
        return parse_json(line, limit=TEXT_BYTES)
    except Unparsable as error:
        return error
    except ValueError:
        return None
