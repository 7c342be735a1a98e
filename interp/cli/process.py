"""The command as a process: its streams, its signals, its last words.

Whatever the terminal, the pipe or the shell does, the command ends in one line or without a word:
never in a traceback, and never with a file written by halves (`core.store` sees to that).
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from interp.core.errors import Interrupted, StorageError
from interp.core.foreign import revealed

STOPS = {"SIGTERM": 143, "SIGHUP": 129}
"""Signals that ask the whole command to stop -> exit code, 128 + the signal's number."""


_HELD: list[Any] = []
"""Files that stand where the parent closed a stream, kept open."""


class Revealing(io.TextIOBase):
    """A stream on which foreign text cannot act: escapes and hidden characters become visible.

    Commands print texts, tokens and names that come from models and files, and libraries warn of
    them; an escape sequence in one could retitle the terminal, hide lines or answer for the user.
    A progress bar is known by the carriage return that it starts with, and keeps it.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, its hidden characters shown.

        Raises:
            StorageError: What it is redirected to is full or failing.
        """
        try:
            bar, line = ("\r", text[1:]) if text[:1] == "\r" else ("", text)
            self._stream.write(bar + revealed(line))
        except BrokenPipeError:
            raise
        except OSError as error:
            wrapped = StorageError("cannot print", got=error.strerror or error)
            wrapped.errno = error.errno  # a bar goes on without its terminal (EIO)
            raise wrapped from error
        return len(text)

    def flush(self) -> None:
        """Flush what is behind."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream behind."""
        return self._stream.encoding

    def fileno(self) -> int:
        """Of the stream behind."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Always."""
        return True


@contextlib.contextmanager
def revealing() -> Iterator[None]:
    """Both standard streams through `Revealing`; a process without one stays without."""
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None:
            stack.enter_context(contextlib.redirect_stdout(Revealing(sys.stdout)))
        if sys.stderr is not None:
            stack.enter_context(contextlib.redirect_stderr(Revealing(sys.stderr)))
        yield


def hold_descriptors() -> None:
    """Fill closed standard streams with /dev/null.

    Otherwise the first file the command opens becomes number 1 or 2, and whatever some library
    prints lands in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                _HELD.append(open(os.devnull, "rb"))  # noqa: SIM115 - the lowest free number


@contextlib.contextmanager
def signals() -> Iterator[None]:
    """Signals end the command in order: what is staged is cleared away, one line is said.

    SIGTERM and SIGHUP raise `Interrupted`. The first SIGINT raises KeyboardInterrupt; the second
    ends the process at once, as it is by the system. A signal that the parent had ignored (nohup)
    stays ignored. Training has its own handlers while it runs (`activations.signals`).
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread have handlers
        return
    before: dict[int, Any] = {}

    def install(number: int, handler: Any) -> None:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)

    install(signal.SIGINT, _first_interrupt)
    for name in STOPS:
        if hasattr(signal, name):
            install(getattr(signal, name), _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _first_interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    name = signal.Signals(number).name
    signal.signal(number, signal.SIG_DFL)  # whoever asks twice does not want to wait
    error = Interrupted(f"stopped by {name}", fix="run it again; nothing is left half written")
    error.code = STOPS[name]
    raise error


def say(line: str) -> None:
    """A last line on standard error, if anybody is left to read it."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):  # closed, full, or gone with its terminal
        print(line, file=sys.stderr, flush=True)


def finished(code: int) -> int:
    """Flush what was printed while an error can still be told; returns the exit code."""
    if sys.stdout is None:
        return code
    try:
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `interp models | head`: nobody reads on
        code = code or 1
    except (OSError, ValueError) as error:
        say(f"interp: cannot print: {getattr(error, 'strerror', None) or error}")
        code = code or 1
    with contextlib.suppress(OSError, ValueError):  # else the interpreter flushes it once more
        sys.stdout.close()
    return code


def leave() -> None:
    """From here on a SIGINT ends the process silently: there is nothing left to interrupt."""
    if threading.current_thread() is threading.main_thread():
        with contextlib.suppress(OSError, ValueError):
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
