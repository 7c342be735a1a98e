"""A file on disk, or one inside an archive: decoded, cut into records, with errors that point."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.core.errors import ConfigError, StorageError
from interp.core.names import did_you_mean

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
_UNREADABLE = (
    OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
ENDINGS = (
    ".gz", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".test", ".conllu", ".pos", ".dp", ".mrg",
)  # fmt: skip
_HEADS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"PK\x03\x04": "a zip archive"}


class File:
    """One text file; whatever is wrong in it is reported with its name, line and column.

    Args:
        name: What the user calls it, for errors (`blimp.tar.gz: npi.jsonl`).
        data: Its bytes, decompressed.
        encoding: How to decode them; a byte order mark is dropped.
    """

    def __init__(self, name: str, data: bytes, encoding: str = "utf-8") -> None:
        self.name = name
        self.data = data
        self.encoding = encoding

    @property
    def stem(self) -> str:
        """The file's own name without folders, archive and endings."""
        return _stem(self.name.rpartition(": ")[2])

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
            ConfigError: Empty, NUL bytes, or not in this encoding; names line and byte.
        """
        if not self.data.strip():
            raise self.fault("the file is empty")
        try:
            text = self.data.decode(self.encoding)
        except (UnicodeDecodeError, LookupError) as error:
            raise self._undecodable(error) from error
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
        return self.text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")

    @cached_property
    def json(self) -> Any:
        """The file as one JSON value, or `None` if it is none (as JSON lines are)."""
        if self.text.lstrip()[:1] not in ("{", "["):
            return None
        try:
            return json.loads(self.text)
        except (json.JSONDecodeError, RecursionError):
            return None

    def bad_json(self) -> ConfigError | None:
        """Why this is no JSON although it begins like it; None where it is."""
        if self.text.lstrip()[:1] not in ("{", "["):
            return None
        try:
            json.loads(self.text)
        except json.JSONDecodeError as error:
            where = {"line": error.lineno, "column": error.colno}
            return self.fault(f"not JSON: {error.msg}", **where)
        except RecursionError:
            return self.fault("JSON nested too deeply")
        return None

    @cached_property
    def jsonl(self) -> list[tuple[int, dict[str, Any]]] | None:
        """(line number, object) of JSON lines; None if the first line is no JSON object."""
        first = next((line for line in self.lines if line.strip()), "")
        if not first.startswith("{") or not isinstance(_parsed(first), dict):
            return None
        found = []
        for number, line in enumerate(self.lines, 1):
            if line.strip():
                value = _parsed(line)
                if not isinstance(value, dict):
                    got = line[:80] + ("..." if len(line) > 80 else "")
                    raise self.fault("not a JSON object", line=number, got=got)
                found.append((number, value))
        return found

    def header(self, delimiter: str = ",") -> list[str]:
        """The fields of the first line; [] if it cannot be read as a table."""
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
        style: Any = csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
        # QUOTE_NONE keeps newlines as they are: give it lines
        text = self.text if quoting else "\n".join(self.lines) + "\n"
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, quoting=style, strict=True
        )
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
        (_, names), *rows = self.table(delimiter)
        if not rows:
            raise self.fault("a header, but no rows")
        keys = [name.strip() for name in names]
        return [Record(self, line, dict(zip(keys, row, strict=True))) for line, row in rows]

    def __repr__(self) -> str:
        return f"File({self.name}, {len(self.data):,} bytes)"


class Record:
    """One row or object of a file; asks for fields by name and type.

    Args:
        file: Where it stands.
        place: Line number, or a path in a JSON value (`prompts[3]`).
        values: Field name -> value.
    """

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
        except (TypeError, ValueError) as error:
            raise self.fault(field, "a whole number expected", got=repr(value)) from error
        if isinstance(value, bool) or not low <= number <= high or number != float(value):
            limits = f"{low} to {high}" if high < 2**62 else f"{low} or more"
            raise self.fault(field, "not such a number", got=repr(value), expected=limits)
        return number

    def number(self, field: str) -> float:
        """A finite number."""
        value = self._digits(field, "a number expected")
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise self.fault(field, "a number expected", got=repr(value)) from error
        if number - number != 0:
            raise self.fault(field, "a finite number expected", got=repr(value))
        return number

    def _digits(self, field: str, what: str) -> Any:
        value = self.get(field)
        if isinstance(value, str) and "_" in value:  # 1_000 is a number to Python only
            raise self.fault(field, what, got=repr(value))
        return value


def open_files(path: str | Path, member: str | None = None, encoding: str = "utf-8") -> list[File]:
    """The file at `path`, gunzipped; or the files of an archive, or the one of them named.

    Args:
        path: A file, a `.gz`, or a tar or zip archive.
        member: A file of the archive: its path, its name, or its name without ending.
        encoding: Of the text.

    Raises:
        StorageError: No such file (the nearest names are suggested), a folder, a damaged archive.
        ConfigError: No such member.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise _no_file(path)
        if path.name.endswith(ARCHIVES):
            return _members(path, member, encoding)
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except _UNREADABLE as error:
        if isinstance(error, StorageError | ConfigError):
            raise
        raise StorageError("this file cannot be read", got=f"{path}: {error}") from error
    if member is not None:
        raise ConfigError(f"{path.name} is no archive, so it has no members", got=member)
    return [File(path.name, data, encoding)]


def _no_file(path: Path) -> StorageError:
    if path.is_dir():
        return StorageError("this is a folder, not a file", got=path, fix="name a file in it")
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, cutoff=0.7)
    fix = f"did you mean {' or '.join(map(repr, near))}?" if near else None
    return StorageError("no such file", got=path, fix=fix)


def _members(path: Path, member: str | None, encoding: str) -> list[File]:
    contents: dict[str, bytes] = {}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            contents = {i.filename: archive.read(i) for i in archive.infolist() if not i.is_dir()}
    else:
        with tarfile.open(name=path) as archive:
            for info in archive:
                stream = archive.extractfile(info) if info.isfile() else None
                if stream is not None:
                    contents[info.name] = stream.read()
    chosen = sorted(contents)
    if member is not None:
        chosen = [name for name in chosen if member in _names_of(name)]
        if not chosen:
            raise ConfigError(
                f"{path.name} has no such member",
                got=member,
                expected=", ".join(_stems(sorted(contents))),
                fix=did_you_mean(member, _stems(sorted(contents))) or None,
            )
    return [File(f"{path.name}: {name}", contents[name], encoding) for name in chosen]


def _names_of(name: str) -> tuple[str, str, str]:
    return name, name.rpartition("/")[2], _stem(name)


def _stem(name: str) -> str:
    """`folder/pythia-2.8b.json.gz` -> `pythia-2.8b`."""
    base = name.rpartition("/")[2]
    while base.endswith(ENDINGS) and base.rpartition(".")[0]:
        base = base.rpartition(".")[0]
    return base


def _stems(names: Sequence[str]) -> list[str]:
    return [_names_of(name)[2] for name in names]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
