"""The gate for tokenizers and chat templates of strangers: bounded in time and in size.

A tokenizer's rules can double a text thirty times, or match it for hours; a template is a program.
Rules are judged by reading them, which costs nothing; templates whose loops or recursion nobody can
bound by reading run in a process of their own, under a clock and a limit of memory.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError, TokenError
from interp.core.foreign import JSON_BYTES, MIB, one_line, parse_json, read_bytes, show

GROWTH = 64
"""Most characters that a tokenizer's rules may make of one; Unicode's own widest needs 18."""
PAD = 1 << 20
"""Longest padding that settings may ask for, in tokens."""
SECONDS, MEMORY, RENDERED = 10.0, 256 * MIB, 16 * MIB
"""Bounds of a template: time, memory beyond what the process has, characters."""
TEMPLATE = 1 << 18
"""Longest chat template, in characters."""


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


# ------------------------------------------------------------------ templates


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


def needs_guard(template: str) -> bool:
    """Whether reading a template leaves open how long it runs or how much it writes.

    Loops over the conversation end with it. Loops over `range`, macros, texts that are multiplied,
    padded or put together and kept may not. It is parsed only: compiling would already compute
    what is constant in it, such as a text times a billion.

    Raises:
        TokenError: It is no template.
    """
    from jinja2 import TemplateError, nodes

    if len(template) > TEMPLATE:
        raise TokenError(
            "the chat template is too long",
            got=f"{len(template):,} characters",
            expected=f"at most {TEMPLATE:,}",
        )
    try:
        tree = _reader().parse(template)
    except (TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
        raise TokenError("the chat template cannot be read", got=one_line(error)) from error
    risky = (
        nodes.Mul,
        nodes.Pow,
        nodes.Mod,
        nodes.Macro,
        nodes.CallBlock,
        nodes.AssignBlock,
        nodes.FilterBlock,
    )
    if next(tree.find_all(risky), None) is not None:
        return True
    for filtered in tree.find_all(nodes.Filter):
        told = filtered.args or (filtered.kwargs and filtered.name != "map")
        if filtered.name not in SAFE or (told and filtered.name in PLAIN):
            return True
    if not all(_calls_short(call) for call in tree.find_all(nodes.Call)):
        return True
    loops = list(tree.find_all(nodes.For))
    if any(loop.recursive or sum(1 for _ in loop.find_all(nodes.For)) > 3 for loop in loops):
        return True
    for made in tree.find_all(nodes.Assign):
        for part in made.node.find_all((nodes.Concat, nodes.Add, nodes.Call, nodes.Filter)):
            if not isinstance(part, nodes.Filter) or part.name not in SHORT:
                return True
        if isinstance(made.node, nodes.Concat | nodes.Add):
            return True
    return False


@lru_cache(maxsize=1)
def _reader() -> Any:
    """An environment that parses what transformers' own does."""
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            """Its body, as if it stood there without the mark."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return ImmutableSandboxedEnvironment(extensions=[Generation, "jinja2.ext.loopcontrols"])


SHORT = ("trim", "length", "first", "last", "lower", "upper", "selectattr", "list", "default")
"""Filters whose result is not longer than what they are given."""
PLAIN = ("tojson", "map")
"""Filters that are safe as long as nobody tells them how wide to write, or what to apply."""
SAFE = (
    *(SHORT + PLAIN),
    *"""
    string int float abs count capitalize title escape e safe items dictsort sort reverse unique
    rejectattr select reject attr random min max sum round d striptags forceescape
""".split(),
)
"""Filters whose result is about as long as what they are given."""
CALLED = tuple(
    """
    strip lstrip rstrip split rsplit splitlines startswith endswith lower upper title capitalize
    items keys values get index find count isdigit isalpha isspace partition rpartition removeprefix
    removesuffix raise_exception strftime_now namespace append pop
    """.split()
)
"""Functions and methods of which the same is true."""


def _calls_short(call: Any) -> bool:
    """Whether a call makes nothing longer than what it is given: not `'x'.ljust(10**9)`."""
    name = getattr(call.node, "attr", None) or getattr(call.node, "name", None)
    return name in CALLED


def guarded(render: Callable[[], str]) -> str:
    """What `render` returns, computed in a forked process under a clock and a limit of memory.

    Raises:
        TokenError: It took too long, wanted too much, or wrote too much.
        Exception: What `render` itself raised, as a TokenError with its cause.
    """
    if not hasattr(os, "fork"):
        return render()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of threads; the child only renders
        child = os.fork()
    if child == 0:
        os.close(reader)
        _child(render, writer)
    os.close(writer)
    data = b""
    try:
        data = _collect(reader, time.monotonic() + SECONDS)
    finally:
        os.close(reader)
        with suppress(OSError):
            os.kill(child, 9)
        os.waitpid(child, 0)
    if not data:
        raise TokenError("the chat template died while it was rendered", expected="a short text")
    kind, text = json.loads(data)
    if kind != "text":
        raise TokenError("the chat template refuses this conversation", got=text)
    return text


def _child(render: Callable[[], str], writer: int) -> None:
    """The forked half: render, answer, leave without a trace."""
    with suppress(ImportError, OSError, ValueError):  # not Linux: the clock still holds
        import resource

        with open("/proc/self/statm", encoding="ascii") as pages:
            used = int(pages.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    try:
        text = render()
        answer = ["text", text] if len(text) <= RENDERED else ["error", "it writes without end"]
    except MemoryError:
        answer = ["error", f"it wants more than {MEMORY:,} bytes"]
    except InterpError as error:
        answer = ["error", error.got or error.what]
    except BaseException as error:  # whatever it is, it must not leave the child
        answer = ["error", one_line(error)]
    try:
        data = memoryview(json.dumps(answer).encode())
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def _collect(reader: int, deadline: float) -> bytes:
    """Everything the child writes until it is done.

    Raises:
        TokenError: The time is over.
    """
    import select

    pieces = []
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TokenError(
                f"the chat template did not end within {SECONDS:g} s",
                fix="set tokenizer.chat_template to one that you trust",
            )
        piece = os.read(reader, MIB)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
