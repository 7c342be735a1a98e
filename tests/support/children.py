"""Child processes of tests: wait for what they have done, never for a time that suits a machine."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

HANG = 900.0
"""Seconds after which a test is taken to hang. A guard only: no verdict depends on the pace."""


def fork() -> int:
    """As `os.fork`; the child computes with one thread, since the pool's others were left behind.

    Torch in a child that counts on them crashes or waits for ever, which depends on how many
    threads the machine has.
    """
    pid = os.fork()
    if pid == 0 and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return pid


def alive(pid: int) -> bool:
    """Whether the child still runs; it is left to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def wait_for(happened: Callable[[], bool], pid: int | None = None) -> bool:
    """Wait until something has happened: True; False if the child `pid` ended before it did."""
    end = time.monotonic() + HANG
    while True:
        running = pid is None or alive(pid)
        if happened():
            return True
        if not running:
            return False
        assert time.monotonic() < end, "nothing happened for a quarter of an hour: it hangs"
        time.sleep(0.001)


def exit_code(pid: int) -> int:
    """The child's exit code, negative for a signal."""
    assert not wait_for(lambda: False, pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hold(path: Path) -> None:
    """In a child: go no further until the parent has made this file."""
    wait_for(path.exists)


class Instants:
    """Random instants in the life of a child, counted in what it has done.

    A delay in seconds hits a child in its start on a slow machine and after its end on a fast one.
    Here the child's own progress is the clock: so many further events, and then a random part of
    the time that the last of them took (of the start-up, where none is waited for).

    Args:
        chance: Where the instants are drawn from.
        most: The largest number of events waited for; 0 to `most` are equally likely.
    """

    def __init__(self, chance: random.Random, most: int) -> None:
        self.chance, self.most = chance, most
        self.start_up = 0.0

    def wait(self, pid: int, progress: Callable[[], int]) -> None:
        """Return at such an instant of the child that was just started, or when it has ended.

        Args:
            progress: A number that the child's work changes: each change is an event.
        """
        last, pace, seen = time.monotonic(), self.start_up, progress()
        for event in range(self.chance.randint(0, self.most)):
            if not wait_for(lambda seen=seen: progress() != seen, pid):
                return
            now = time.monotonic()
            last, pace, seen = now, now - last, progress()
            if event == 0:
                self.start_up = pace
        time.sleep(self.chance.uniform(0.0, pace))
