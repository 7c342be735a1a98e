"""The gate for tokenizers of strangers: bounded in time and in size.

A tokenizer's rules can double a text thirty times, or match it for hours. They are judged by
reading them, which costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from interp.core.errors import TokenError
from interp.core.foreign import JSON_BYTES, one_line, parse_json, read_bytes, show

GROWTH = 64
"""Most characters that a tokenizer's rules may make of one; Unicode's own widest needs 18."""
PAD = 1 << 20
"""Longest padding that settings may ask for, in tokens."""


def check_rules(rules: Any, where: Path) -> None:
    """Refuse a tokenizer.json whose rules have no bound.

    Raises:
        TokenError: Rules that make too much of a character, patterns that can match for hours,
            padding without end.
    """
    if not isinstance(rules, Mapping):
        raise TokenError(f"{where} holds no tokenizer", got=type(rules).__name__)
    for part in ("normalizer", "decoder"):
        growth = 1
        for step in _steps(rules.get(part), ("normalizers", "decoders")):
            growth *= _growth(step)
            if growth > GROWTH:
                raise TokenError(
                    f"the {part} in {where} makes more than {GROWTH} characters of one",
                    got=show(json.dumps(step), 160),
                    expected="rules under which text does not grow",
                )
    _check_added(rules.get("post_processor"), where)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        for step in _steps(rules.get(part), ("normalizers", "pretokenizers", "decoders")):
            pattern = step.get("pattern")
            text = pattern.get("Regex") if isinstance(pattern, Mapping) else None
            if isinstance(text, str) and has_nested_repeat(text):
                raise TokenError(
                    f"a pattern of the {part} in {where} can match a short text for hours",
                    got=show(text, 160),
                    expected="no repeat of a repeat, as in (a+)+",
                )
    padding = rules.get("padding")
    if isinstance(padding, Mapping):
        strategy = padding.get("strategy")
        fixed = strategy.get("Fixed") if isinstance(strategy, Mapping) else 0
        for value in (fixed, padding.get("pad_to_multiple_of")):
            if isinstance(value, int) and value > PAD:
                raise TokenError(f"{where} pads to {show(value, 80)} tokens", expected=f"at most {PAD:,}")


ADDED = 4096
"""Most tokens that a tokenizer may add to each text."""


def _check_added(part: Any, where: Path) -> None:
    """Refuse a template that adds thousands of tokens to every text.

    Raises:
        TokenError: Naming how many.
    """
    for step in _steps(part, ("processors",)):
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


def _steps(part: Any, inner: tuple[str, ...], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The steps of a rule, sequences taken apart."""
    if not isinstance(part, Mapping) or depth > 50:
        return
    parts = next((part[name] for name in inner if isinstance(part.get(name), list)), None)
    if parts is None:
        yield part
    else:
        for each in parts:
            yield from _steps(each, inner, depth + 1)


def _growth(step: Mapping[str, Any]) -> int:
    """Most characters a step makes of one."""
    kind = step.get("type")
    if kind == "Replace":
        content = step.get("content")
        pattern = step.get("pattern")
        matched = pattern.get("String") if isinstance(pattern, Mapping) else None
        made = len(content) if isinstance(content, str) else 1
        if isinstance(matched, str) and matched:
            return max(1, -(-made // len(matched)))
        return made + 1  # a regular expression may match nothing, between any two characters
    if kind == "Precompiled":
        return _charsmap_growth(step.get("precompiled_charsmap"))
    return 1


def _charsmap_growth(packed: Any) -> int:
    """The longest text that a character map writes for one character, after its index."""
    if not isinstance(packed, str):
        return 1
    try:
        data = base64.b64decode(packed)
    except (binascii.Error, ValueError):
        return 1  # the library will say what is wrong with it
    size = int.from_bytes(data[:4], "little")
    return max(map(len, data[4 + size :].split(b"\0")), default=1) or 1


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


def read_settings(path: Path) -> Any:
    """A JSON file of a tokenizer, within bounds.

    Raises:
        TokenError: Damaged, or beyond a bound; names the file.
    """
    try:
        return parse_json(read_bytes(path, JSON_BYTES), nonfinite=True, long_numbers=True)
    except (OSError, ValueError) as error:
        size = path.stat().st_size if path.exists() else 0
        raise TokenError(
            f"the tokenizer file {path} is damaged",
            got=f"{one_line(error)} ({size:,} bytes)",
            fix="copy or download it again",
        ) from error
