"""The gate for tokenizers of strangers: bounded in time and in size.

A tokenizer's rules can double a text thirty times, or match it for hours. They are judged by
reading them, which costs nothing.
"""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.core.errors import TokenError
from interp.core.foreign import JSON_BYTES, JSON_NODES, Unparsable, one_line, parse_json, read_bytes, show

GROWTH = 64
"""Most characters that a tokenizer's rules may make of one; Unicode's own widest needs 18."""
PAD = 1 << 20
"""Longest padding that settings may ask for, in tokens."""
ADDED = 4096
"""Most tokens that a tokenizer may add to each text, or make up by number; T5 makes up 100."""
WORDS = 1_000_000
"""Longest vocabulary in a text or sentencepiece file; the largest in use have 900,000 entries."""
SETTINGS = 500_000
"""Most values in a file of settings: names of 200,000 classes and their numbers."""
PARTS = ("normalizer", "pre_tokenizer", "decoder")
_MADE_UP = ("extra_ids", "offset", "num_madeup_words")


def check_rules(rules: Any, where: Path) -> None:
    """Refuse a tokenizer.json whose rules have no bound.

    The library reads rules with and without a `type`, and looks for their parts under several
    names; so every object in them is judged by what it holds, wherever it lies.

    Raises:
        TokenError: Rules that make too much of a character, patterns that can match for hours,
            padding without end, a character map that lies about its size.
    """
    if not isinstance(rules, Mapping):
        raise TokenError(f"{where} holds no tokenizer", got=type(rules).__name__)
    for part in PARTS:
        growth = 1
        for step in _objects(rules.get(part)):
            growth *= _growth(step, part, where)
            if growth > GROWTH:
                raise TokenError(
                    f"the {part} in {where} makes more than {GROWTH} characters of one",
                    got=show(json.dumps(step)[:2000], 160),
                    expected="rules under which text does not grow",
                )
            text = step.get("Regex")
            if isinstance(text, str) and has_nested_repeat(text):
                raise TokenError(
                    f"a pattern of the {part} in {where} can match a short text for hours",
                    got=show(text, 160),
                    expected="no repeat of a repeat, as in (a+)+",
                )
    _check_added(rules.get("post_processor"), where)
    padding = rules.get("padding")
    if isinstance(padding, Mapping):
        strategy = padding.get("strategy")
        fixed = strategy.get("Fixed") if isinstance(strategy, Mapping) else 0
        for value in (fixed, padding.get("pad_to_multiple_of")):
            if isinstance(value, int) and value > PAD:
                raise TokenError(f"{where} pads to {show(value, 80)} tokens", expected=f"at most {PAD:,}")


def _check_added(part: Any, where: Path) -> None:
    """Refuse a template that adds thousands of tokens to every text.

    Raises:
        TokenError: Naming how many.
    """
    for step in _objects(part):
        special = step.get("special_tokens")
        lengths = {
            name: len(entry.get("ids", ())) if isinstance(entry, Mapping) else 0
            for name, entry in (special.items() if isinstance(special, Mapping) else ())
            if not isinstance(entry, Mapping) or isinstance(entry.get("ids", ()), list)
        }
        for which in ("single", "pair"):
            pieces = step.get(which)
            named = [
                piece["SpecialToken"].get("id")
                for piece in (pieces if isinstance(pieces, list) else ())
                if isinstance(piece, Mapping) and isinstance(piece.get("SpecialToken"), Mapping)
            ]
            added = sum(max(lengths.get(name, 1), 1) for name in named if isinstance(name, str))
            if added > ADDED:
                raise TokenError(
                    f"the post_processor in {where} adds {added:,} tokens to every text",
                    expected=f"at most {ADDED:,}",
                )


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in a rule, itself included."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _objects(each)


def _growth(step: Mapping[str, Any], part: str, where: Path) -> int:
    """Most characters that an object of the rules makes of one.

    Counted as they are once decomposed, so that a later decomposition adds nothing.
    """
    growth = 1
    content, pattern = step.get("content"), step.get("pattern")
    if isinstance(content, str) and isinstance(pattern, Mapping | str):
        made, matched = _length(content), pattern.get("String") if isinstance(pattern, Mapping) else pattern
        if isinstance(matched, str) and matched:
            growth *= max(1, -(-made // len(matched)))
        else:
            growth *= made + _may_match_nothing(
                str(pattern.get("Regex") if isinstance(pattern, Mapping) else "")
            )
    if isinstance(step.get("prepend"), str):
        growth *= 1 + _length(step["prepend"])
    if isinstance(step.get("precompiled_charsmap"), str):
        try:
            growth *= charsmap_growth(base64.b64decode(step["precompiled_charsmap"], validate=True), where)
        except ValueError as error:
            raise TokenError(f"a character map in {where} is damaged", got=one_line(error)) from error
    if step.get("type") == "ByteLevel" and part != "decoder":
        growth *= 8  # four bytes to a character, each written as one that decomposes into two
    if step.get("type") == "BertNormalizer" or "handle_chinese_chars" in step:
        growth *= 3  # spaces around an ideograph
    return max(growth, 1)


def _length(text: str) -> int:
    return len(unicodedata.normalize("NFKD", text))


def _may_match_nothing(pattern: str) -> bool:
    """Whether a regular expression might match between two characters; where in doubt, it might."""
    return (
        not pattern or re.search(r"[*?|^$(\\]|\{0|\{,", re.sub(r"\\[nrtsSdDwWpP]", "x", pattern)) is not None
    )


def charsmap_growth(data: bytes, where: Path) -> int:
    """The longest text that a character map writes for one character, after its index.

    Raises:
        TokenError: An index that is longer than the map: the library would make room for it.
    """
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or 4 + size > len(data):
        raise TokenError(
            f"a character map in {where} is damaged", got=f"an index of {size:,} bytes in {len(data):,}"
        )
    texts = unicodedata.normalize("NFKD", data[4 + size :].decode("utf-8", "replace"))
    return max(map(len, texts.split("\0")))


def has_nested_repeat(pattern: str) -> bool:
    """Whether a regular expression repeats, without bound, a group that repeats without bound.

    `(a+)+` tries every way to cut a run of a's: 2^30 of them for thirty letters.
    """
    stack: list[bool] = [False]  # per open group: whether an unbounded repeat is inside
    last = False  # whether what was just closed holds one
    at, length = 0, len(pattern)
    while at < length:
        letter = pattern[at]
        if letter == "\\":
            at, last = at + 2, False
            continue
        if letter == "[":
            at, last = _class_end(pattern, at), False
            continue
        repeat = re.compile(r"[*+]|\{\d*,\}").match(pattern, at)
        if repeat is not None:
            if last:
                return True
            stack[-1] = True
            at, last = repeat.end(), False
            if pattern[at : at + 1] in ("?", "+"):  # lazy or possessive, no repeat of its own
                at += 1
            continue
        if letter == "(":
            stack.append(False)
            last = False
        elif letter == ")" and len(stack) > 1:
            last = stack.pop()
            stack[-1] = stack[-1] or last
            at += 1
            continue
        else:
            last = False
        at += 1
    return False


def _class_end(pattern: str, at: int) -> int:
    """Behind a character class; classes inside classes are allowed."""
    depth, at = 1, at + 1
    if pattern[at : at + 1] == "^":
        at += 1
    if pattern[at : at + 1] == "]":
        at += 1
    while at < len(pattern) and depth:
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]":
            depth -= 1
        at += 1
    return at


# ------------------------------------------------------------------ files


READ = tuple(
    """
    tokenizer*.json special_tokens_map.json added_tokens.json config.json vocab*.json *vocab*.txt merges.txt
    dict.txt *.model *.spm *.jinja additional_chat_templates/*.jinja
    """.split()
)
"""Files that the library's tokenizers read."""


def check_files(folder: Path) -> None:
    """Look at every file that the library may read for a tokenizer, before it does.

    Raises:
        TokenError: A file that is damaged, no plain file, or beyond a bound; names it.
    """
    for pattern in READ:
        for path in sorted(folder.glob(pattern)):
            _check_file(path)


def _check_file(path: Path) -> None:
    if path.suffix == ".json":
        rules = path.name.startswith("tokenizer") and path.name != "tokenizer_config.json"
        found = read_settings(path, JSON_NODES if rules or path.name.startswith("vocab") else SETTINGS)
        if rules:
            check_rules(found, path)
        if path.name == "tokenizer_config.json" and isinstance(found, Mapping):
            _check_settings(found, path)
        return
    try:
        data = read_bytes(path, JSON_BYTES)
        if path.suffix not in (".model", ".spm"):
            data.decode("utf-8")
            entries = data.count(b"\n")
        else:
            entries = check_sentencepiece(data, path)
        if entries > WORDS:
            raise Unparsable(f"{entries:,} entries, where at most {WORDS:,} are read")
    except TokenError:
        raise
    except (ValueError, OSError) as error:
        raise _damaged(path, error) from error


def _check_settings(settings: Mapping[str, Any], where: Path) -> None:
    """Refuse numbers that tokens are made up by, and files of rules that lie elsewhere.

    Raises:
        TokenError: Naming the setting.
    """
    for name in _MADE_UP:
        value = settings.get(name)
        if isinstance(value, int | float) and value > ADDED:
            raise TokenError(
                f"{where}: {name} makes up tokens", got=show(value, 80), expected=f"at most {ADDED:,}"
            )
    named = settings.get("fast_tokenizer_files") or []
    plain = re.compile(r"tokenizer(\.[\w.-]+)?\.json")
    if not isinstance(named, list) or not all(
        isinstance(each, str) and plain.fullmatch(each) for each in named
    ):
        raise TokenError(
            f"{where} names files of rules elsewhere",
            got=show(repr(named), 160),
            expected="tokenizer.json beside it",
        )


def check_sentencepiece(data: bytes, where: Path) -> int:
    """How many pieces a sentencepiece model has; its character map is judged as one in JSON.

    Raises:
        TokenError: The map grows or lies about its size.
        ValueError: No such model.
    """
    if re.fullmatch(rb"[\w+/= \r\n]*", data):  # tiktoken writes its vocabulary as text
        return data.count(b"\n")
    pieces = 0
    for number, field in _fields(data):
        pieces += number == 1
        if number == 3:
            for inner, charsmap in _fields(field):
                if inner == 2 and charsmap and charsmap_growth(charsmap, where) > GROWTH:
                    raise TokenError(f"the normalizer in {where} makes more than {GROWTH} characters of one")
    return pieces


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field of bytes in a protobuf message.

    Raises:
        ValueError: No protobuf.
    """

    def number() -> int:
        nonlocal at
        value = shift = 0
        while at < len(data):
            byte, at = data[at], at + 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value
        raise ValueError("it ends in the middle of a field")

    at = 0
    while at < len(data):
        key = number()
        if key & 7 == 2:
            size = number()
            yield key >> 3, data[at : at + size]
            at += size
        elif key & 7 == 0:
            number()
        elif key & 7 in (1, 5):
            at += 8 if key & 7 == 1 else 4
        else:
            raise ValueError("a field of an unknown kind")


def read_settings(path: Path, nodes: int = SETTINGS) -> Any:
    """A JSON file of a tokenizer, within bounds.

    Raises:
        TokenError: Damaged, or beyond a bound; names the file.
    """
    try:
        return parse_json(read_bytes(path, JSON_BYTES), nodes=nodes, nonfinite=True, long_numbers=True)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> TokenError:
    size = path.stat().st_size if path.exists() else 0
    return TokenError(
        f"the tokenizer file {path} is damaged",
        got=f"{one_line(error)} ({size:,} bytes)",
        fix="copy or download it again",
    )


@contextmanager
def one_error(what: str, got: str = "", fix: str | None = None) -> Iterator[None]:
    """What a tokenizer's library raises inside becomes a TokenError: Rust panics are no `Exception`.

    Raises:
        TokenError: With the library's own words.
    """
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"
        if not panic and not isinstance(error, Exception):
            raise
        raise TokenError(what, got=f"{got}{one_line(error)}", fix=fix) from error
