"""The gate for chat templates of strangers: a template is a program.

Those that are plainly linear run as they are; all others run in a process of their own, under a
clock and a limit of memory.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

from interp.core.errors import InterpError, TokenError
from interp.core.foreign import MIB, one_line

SECONDS, MEMORY, RENDERED = 10.0, 256 * MIB, 16 * MIB
"""Bounds of a template: time, memory beyond what the process has, characters."""
TEMPLATE = 1 << 18
"""Longest chat template, in characters."""


def needs_guard(template: str, messages: int = 1, characters: int = 1) -> bool:
    """Whether reading a template leaves open how long it runs or how much it writes.

    Without a guard goes only what is plainly linear: loops over the messages that hold no loop,
    values that are shortened or copied and never put together and kept, one widening filter to an
    expression. It writes at most every character for every message and every part of the template;
    where that is too much, a guard it is. It is parsed only: compiling would already compute what
    is constant in it, such as a text times a billion.

    Args:
        template: The template.
        messages: How many messages the conversation has.
        characters: How many characters it and the tokenizer's special tokens have together.

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
    names = list(tree.find_all(nodes.Name))
    if messages * (characters * len(names) + len(template)) > RENDERED // 4:
        return True
    stored = {name.name for name in names if name.ctx == "store"}
    return not all(_is_linear(part, stored) for part in tree.find_all(nodes.Node))


def _is_linear(part: Any, stored: set[str]) -> bool:
    """Whether a part of a template writes about what it is given, and keeps nothing longer than that."""
    from jinja2 import nodes

    if isinstance(part, nodes.For):
        over: Any = part.iter
        if isinstance(over, nodes.Getitem) and isinstance(over.arg, nodes.Slice):
            over = over.node
        plain = isinstance(over, nodes.Name) and over.name == "messages" and over.name not in stored
        return plain and not part.recursive and next(part.find_all(nodes.For), None) is None
    if isinstance(part, nodes.Assign):
        grows = (nodes.Concat, nodes.Add, nodes.List, nodes.Tuple)
        return not any(isinstance(each, grows) for each in _within(part.node)) and not _widenings(part.node)
    if isinstance(part, nodes.Filter):
        named = [word.key for word in part.kwargs]
        told = (
            part.args
            or part.dyn_args
            or part.dyn_kwargs
            or (named and (part.name, *named) != ("map", "attribute"))
        )
        return not told and part.name in (*SHORT, *WIDENING) and _widenings(part) <= 1
    if isinstance(part, nodes.Call):
        told = part.kwargs or part.dyn_args or part.dyn_kwargs
        return not told and _called(part) in (*CALLED, "split") and _widenings(part) <= 1
    return type(part).__name__ in LINEAR


def _within(part: Any) -> Iterator[Any]:
    """A part and all that it holds."""
    from jinja2 import nodes

    yield part
    yield from part.find_all(nodes.Node)


def _called(part: Any) -> str | None:
    """The name of the filter, function or method that a part applies."""
    from jinja2 import nodes

    if isinstance(part, nodes.Filter):
        return part.name
    return (
        getattr(part.node, "attr", None) or getattr(part.node, "name", None)
        if isinstance(part, nodes.Call)
        else None
    )


def _widenings(part: Any) -> int:
    """How many filters and calls in an expression may write several characters for one."""
    return sum(_called(each) in (*WIDENING, "split") for each in _within(part))


LINEAR = tuple(
    """
    Output TemplateData Const Name Getattr Getitem Slice If CondExpr Test Compare Operand And Or Not Neg
    Add Sub Concat List Tuple Keyword Break Continue
    """.split()
)
"""Parts of a template that compute nothing longer than what stands in them."""


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


SHORT = ("trim", "length", "first", "last", "lower", "upper", "default")
"""Filters whose result is not longer than what they are given."""
WIDENING = ("tojson", "string", "map", "escape", "e")
"""Filters whose result may have six characters for each."""
CALLED = tuple(
    """
    strip lstrip rstrip startswith endswith lower upper title capitalize find count isdigit isalpha
    isspace removeprefix removesuffix raise_exception
    """.split()
)
"""Functions and methods that make nothing longer than what they are given."""


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
