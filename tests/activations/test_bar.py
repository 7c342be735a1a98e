"""Bar bars: silent off the terminal, and no process can stop another's."""

from __future__ import annotations

import io
import os
import signal

from interp.activations.bar import Bar
from tests.support.children import fork


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_sees_it() -> None:
    for stream in (io.StringIO(), Terminal()):
        assert list(Bar(range(3), file=stream)) == [0, 1, 2]
        assert ("3/3" in stream.getvalue()) == stream.isatty()


def test_a_process_killed_with_the_lock_in_hand_stops_nobody() -> None:
    """With tqdm's own lock, which forked processes share, the parent waits forever."""
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        Bar.get_lock().acquire()
        os.write(writing, b"held")
        signal.pause()  # until it is killed
    assert os.read(reading, 4) == b"held"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    signal.alarm(600)  # a deadlock ends the test process instead of the suite's patience
    try:
        assert list(Bar(range(2))) == [0, 1]
    finally:
        signal.alarm(0)
