"""SIGTERM, SIGHUP and SIGINT during a training: the first asks to stop, the second stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from interp.core.errors import Interrupted

_EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
if hasattr(signal, "SIGHUP"):  # a closed terminal, a dropped connection
    _EXIT_CODES[signal.SIGHUP] = 129


def interrupted(signum: int, what: str, fix: str) -> Interrupted:
    """The error of a run stopped by `signum`; its `code` is the shell's exit code (130, 143)."""
    error = Interrupted(what, got=signal.Signals(signum).name, fix=fix)
    error.code = _EXIT_CODES[signal.Signals(signum)]
    return error


class GracefulStop:
    """While entered, the first SIGTERM/SIGHUP/SIGINT is only noted and the second raises at once.

    A SIGHUP that the parent had ignored (nohup) stays ignored. Handlers are installed in the main
    thread alone (Python allows no other); the previous ones come back on exit, whatever happened.

    Attributes:
        received: The noted signal number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            for signum in _EXIT_CODES:
                ignored = signal.getsignal(signum) is signal.SIG_IGN
                if ignored and signum not in (signal.SIGTERM, signal.SIGINT):
                    continue
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            # None: the previous handler was not installed from Python and cannot be put back.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None:
            raise interrupted(
                signum,
                "stopped at once by a second signal",
                "run it again: it resumes from the newest checkpoint on disk",
            )
        self.received = signum
