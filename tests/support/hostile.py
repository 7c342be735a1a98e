"""A reader against one hostile file, in a process of its own: how it ended, how long, how much.

Standard input answers "y" to everything, so that a door which asks whether to run code is found.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.children import fork

LIMIT_MB, LIMIT_SECONDS = 512.0, 10.0
"""No reader may need more for any file; a hostile file is refused within them."""


class Verdict(NamedTuple):
    """What became of a call."""

    outcome: str
    """`accepted`, `refused`, or what went wrong."""
    message: str
    """Of the error."""
    mb: float
    """Peak memory beyond what the process had."""
    seconds: float
    """Of processor time; the machine may be busy with others."""


def judged(call: Callable[[], Any], folder: Path, limit: float = 60.0) -> Verdict:
    """Run `call` in a fork. `folder` gets the file that standard input reads from."""
    yes = folder / "yes"
    yes.write_text("y\n" * 1000)
    reader, writer = os.pipe()
    child = fork()
    if child == 0:
        os.close(reader)
        _judge(call, yes, writer)
    os.close(writer)
    data, deadline = b"", time.monotonic() + limit
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            break
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        data += piece
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if not data:
        return Verdict(f"no answer, status {os.waitstatus_to_exitcode(status)}", "", 0.0, limit)
    return Verdict(*json.loads(data))


def _judge(call: Callable[[], Any], yes: Path, writer: int) -> None:
    from interp.core.errors import InterpError

    os.dup2(os.open(yes, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    before, start = _peak(), time.process_time()
    message = ""
    try:
        call()
        outcome = "accepted"
    except InterpError as error:
        outcome, message = "refused", str(error)
    except BaseException as error:
        outcome = f"raw {type(error).__name__}: {error}"[:500]
    answer = [outcome, message, _peak() - before, time.process_time() - start]
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def require_refused(verdict: Verdict) -> None:
    """The hostile file was one clear error, in bounded time and memory."""
    assert verdict.outcome == "refused", verdict
    assert verdict.mb < LIMIT_MB and verdict.seconds < LIMIT_SECONDS, verdict
    assert len(verdict.message) < 10_000
    assert all(ch in "\n\t" or ch >= " " for ch in verdict.message), verdict
