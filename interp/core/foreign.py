"""What came from somebody else: parsed under bounds and shown under bounds. No torch in here.

A file of a few kilobytes can ask for gigabytes or hours: JSON nested a million deep, YAML whose
aliases multiply, a number of a million digits, an archive that unpacks to a thousand times its
size. Every reader in `interp` parses through these functions, so that such a file is one error.

`show` is the one formatter of foreign text for errors, logs and terminals; pages go through
`core.escape`, with the same stand-ins for what is invisible.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

MIB = 1 << 20
JSON_BYTES = 48 * MIB
"""Longest JSON text; the largest tokenizers in use have 35 MB."""
JSON_DEPTH = 100
"""Deepest nesting of lists and objects."""
JSON_NODES = 4_000_000
"""Most values in one JSON text: some 300 MB as Python objects."""
DIGITS = 64
"""Longest whole number; tokenizers write "no limit" with 31 digits."""
YAML_BYTES = 128 << 10
"""Longest YAML text: its parser needs a minute per megabyte or two."""
YAML_NODES = 20_000
"""Most values in one YAML text once every alias is written out."""
TEXT_BYTES = 64 * MIB
"""Longest text file of tasks and labels."""

LINE = 2_000
"""Characters of foreign text that one message shows."""

# Controls (tab and newline excepted), what reorders or hides text or starts a new line where none
# is seen, lone surrogates, noncharacters.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff"
    "\ufeff\ufff9-\uffff\U000e0000-\U000e007f]"
)


class Unparsable(ValueError):
    """Foreign text that breaks a bound; callers say which file it was."""


# ------------------------------------------------------------------ showing


def show(value: object, limit: int = LINE) -> str:
    """Foreign text for a message: at most `limit` characters, and nothing in it acts or hides.

    Controls, escapes, bidirectional marks and lone surrogates become visible stand-ins. A line
    after the first is indented by four, so that no text can pass for another part of the message.
    What is too long loses its middle and says so.
    """
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception as error:  # a number of too many digits, an object that cannot print itself
        text = f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    if len(text) > limit:
        head, tail = limit * 2 // 3, limit // 4
        text = f"{text[:head]} … ({len(text):,} characters) … {text[-tail:]}"
    text = revealed(text)
    if "\n" not in text:
        return text
    first, *rest = text.split("\n")
    return "\n".join([first, *(line if line[:4] == "    " else f"    {line}" for line in rest)])


def revealed(text: str) -> str:
    """Text with a visible picture for every character that acts or hides."""
    return _HIDDEN.sub(lambda found: stand_in(found[0]), text)


def stand_in(letter: str) -> str:
    """A visible picture of an invisible character: `␛`, `\\u202e`, `\\ud800`."""
    code = ord(letter)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(value: object, limit: int = 300) -> str:
    """`show` without line breaks: for the reason another library gives."""
    try:
        text = " ".join(str(value)[: 8 * limit].split())
    except Exception:
        text = f"<{type(value).__name__}>"
    return show(text, limit)


def reason(error: BaseException, limit: int = 300) -> str:
    """What another library said, in one bounded line, with the kind of its error."""
    said = one_line(error, limit)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


# ------------------------------------------------------------------ files


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    The size is asked first, so a file that is too large costs nothing; pipes and devices, which
    have no size or no end, are refused.

    Raises:
        OSError: The system will not read it, or it is no regular file.
        Unparsable: It is larger than `limit`.
    """
    size = regular_size(path)
    if size > limit:
        raise Unparsable(too_large(size, limit))
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # it grew, or lied about its size as files of /proc do
        raise Unparsable(too_large(len(data), limit))
    return data


def regular_size(path: str | Path) -> int:
    """The size of a regular file, asked before it is opened: opening a pipe waits for a writer.

    Raises:
        OSError: It is not there, or a folder, a pipe or a device.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = IsADirectoryError if stat.S_ISDIR(found.st_mode) else OSError
        raise kind(22, "not a regular file", str(path))
    return found.st_size


def too_large(size: int, limit: int) -> str:
    """The sentence for a size beyond its bound."""
    return f"{size:,} bytes, where at most {limit:,} are read"


def zip_directory(file: BinaryIO) -> tuple[int, bool]:
    """Bytes of a zip's directory, as its end tells them, and whether it lies where all look for it.

    The directory is read into memory whole, at ten times its size, by whoever opens the zip. Where
    it does not end at the records of the end, readers differ in what they take for it: one may be
    shown another directory than the other.
    """
    size = file.seek(0, 2)
    at = file.seek(max(size - 22 - 0xFFFF, 0))
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) < found + 22:
        return 0, False
    listed, start = struct.unpack("<2L", tail[found + 12 : found + 20])
    wide = tail[found - 76 : found] if found >= 76 else b""
    if wide[56:60] == b"PK\6\7":  # numbers of eight bytes, as torch always writes them
        found -= 76
        listed, start = struct.unpack("<2Q", wide[40:56])
        if wide[:4] != b"PK\6\6" or struct.unpack("<Q", wide[64:72])[0] != at + found:
            return listed, False
    end = 98 if wide[56:60] == b"PK\6\7" else 22
    return listed, start + listed == at + found and at + found + end == size


# ------------------------------------------------------------------ JSON


def read_json(path: str | Path, **bounds: Any) -> Any:
    """The value in a JSON file of at most `JSON_BYTES`; `bounds` are those of `parse_json`.

    Raises:
        OSError: The system will not read it, or it is no regular file.
        ValueError: As for `parse_json`.
    """
    return parse_json(read_bytes(path, JSON_BYTES), **bounds)


def parse_json(
    text: str | bytes,
    *,
    limit: int = JSON_BYTES,
    nodes: int = JSON_NODES,
    nonfinite: bool = False,
    long_numbers: bool = False,
) -> Any:
    """`json.loads` with bounds on bytes, values, depth and digits; no object names an entry twice.

    Args:
        text: The JSON text; bytes are UTF-8, as the standard has it (RFC 8259, section 8.1).
        limit: Longest text, in bytes (characters for a `str`).
        nodes: Most values.
        nonfinite: Accept NaN and infinities, which are no JSON, and numbers that overflow.
        long_numbers: Leave digits to Python's own bound of 4,300: for large files whose numbers
            a library reads again.

    Raises:
        ValueError: No JSON (`json.JSONDecodeError`), not UTF-8, or beyond a bound (`Unparsable`).
    """
    if len(text) > limit:
        raise Unparsable(too_large(len(text), limit))
    if isinstance(text, bytes):
        text = text.decode().removeprefix("\ufeff")
    opened = text.count("[") + text.count("{")
    if opened + text.count(",") > nodes:
        raise Unparsable(f"more than {nodes:,} values")
    # Hooks cost a call for each number, so they are there only where a number may need them.
    long = not long_numbers and _LONG.search(text) is not None
    large = not nonfinite and (long or _LARGE.search(text) is not None)
    try:
        value = _decoder(long, not nonfinite, large).decode(text)
    except RecursionError:
        raise Unparsable(f"nested more than {JSON_DEPTH} deep") from None
    if opened > JSON_DEPTH and deeper_than(value, JSON_DEPTH):
        raise Unparsable(f"nested more than {JSON_DEPTH} deep")
    return value


_LONG = re.compile(rf"\d{{{DIGITS + 1}}}")
_LARGE = re.compile(r"\d[eE]\+?\d{2}")
"""What a number that is too long, or too large, has in it."""


@cache
def _decoder(long: bool, finite: bool, large: bool) -> json.JSONDecoder:
    """Made once: files of lines are a million texts."""
    hooks: dict[str, Any] = {"parse_int": _whole} if long else {}
    if finite:
        hooks |= {"parse_constant": _no_constant} | ({"parse_float": _finite} if large else {})
    return json.JSONDecoder(object_pairs_hook=_distinct, **hooks)


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Unparsable(f"a number of {len(digits):,} digits, where at most {DIGITS} are read")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Unparsable(f"the number {digits[:40]} is infinite")
    return number


def _no_constant(name: str) -> float:
    raise Unparsable(f"{name} is no number of JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _require_once(key for key, _ in pairs)
    return found


def _require_once(keys: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise Unparsable(f"the entry {show(repr(key), 120)} occurs twice")
        seen.add(key)


_NESTING = frozenset({dict, list})


def deeper_than(value: Any, depth: int) -> bool:
    """Whether lists and dicts nest deeper than this, found without recursion."""
    level: list[Any] = [value]
    for _ in range(depth + 1):
        inner: list[Any] = []
        for item in level:
            if not isinstance(item, dict | list):
                continue
            children = item.values() if isinstance(item, dict) else item
            if not _NESTING.isdisjoint(map(type, children)):
                inner += [child for child in children if isinstance(child, dict | list)]
        if not inner:
            return False
        level = inner
    return True


# ------------------------------------------------------------------ YAML


def parse_yaml(text: str | bytes, loader: Any, *, limit: int = YAML_BYTES) -> Any:
    """Plain values of a YAML text: no tags that make objects, no aliases that multiply.

    Args:
        text: The YAML text.
        loader: `yaml.SafeLoader`, or a subclass.
        limit: Longest text, in bytes.

    Raises:
        ValueError: No YAML of plain values, or beyond a bound (`Unparsable`).
    """
    if len(text) > limit:
        raise Unparsable(too_large(len(text), limit))
    try:
        made = loader(text)
        try:
            node = made.get_single_node()
            if node is None:
                return None
            _check_expansion(node)
            return made.construct_document(node)
        finally:
            made.dispose()
    except RecursionError:
        raise Unparsable("nested too deeply") from None
    except Unparsable:
        raise
    except Exception as error:  # YAML's own, and what constructors of dates and numbers raise
        raise Unparsable(reason(error, 200)) from error


def _check_expansion(root: Any) -> None:
    """Count the values with every alias written out; aliases that hold themselves are refused."""
    sizes: dict[int, int] = {}
    open_now: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if isinstance(node.value, str):
            if len(node.value) > DIGITS and node.tag.endswith((":int", ":float")):
                raise Unparsable(f"a number of {len(node.value):,} digits")
            sizes[id(node)] = 1
            continue
        children = [part for each in node.value for part in (each if isinstance(each, tuple) else (each,))]
        if done:
            open_now.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            if sizes[id(node)] > YAML_NODES:
                raise Unparsable(f"more than {YAML_NODES:,} values once its aliases are followed")
            continue
        if id(node) in open_now:
            raise Unparsable("an alias that holds itself")
        if id(node) in sizes:
            continue
        keys = (
            [key.value for key, _ in node.value if isinstance(key.value, str)]
            if isinstance(next(iter(node.value), None), tuple)
            else []
        )
        _require_once(key for key in keys if key != "<<")
        open_now.add(id(node))
        if len(open_now) > JSON_DEPTH:
            raise Unparsable(f"nested more than {JSON_DEPTH} deep")
        stack.append((node, True))
        stack += [(child, False) for child in children]
