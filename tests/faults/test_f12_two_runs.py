"""F12: two runs in one folder: one wins, the other is told who holds it; nothing gets mixed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from interp.activations import fit
from interp.core import store
from interp.core.errors import StorageError
from tests.activations.toys import (
    EVERY_STEP,
    Translators,
    batches,
    checkpoints,
    config,
    forked,
    metrics,
    no_power_cuts,
    one_thread,
    same,
    step,
)
from tests.support.children import hold, wait_for

pytestmark = pytest.mark.usefixtures(no_power_cuts.__name__, one_thread.__name__)

SETTINGS = config(steps=12, **EVERY_STEP)
REFUSED = 5


def train(run: Path | None, pause: float = 0.0, until: Path | None = None) -> Translators:
    """The run; its steps give way to other processes, and the ninth waits for a file."""

    def slow(module: Translators, batch: torch.Tensor, t: int) -> object:
        time.sleep(pause)
        if until is not None and t == 8:
            hold(until)
        return step(module, batch, t)

    module = Translators()
    fit(module, slow, batches, SETTINGS, out=run)
    return module


def compete(run: Path, start: Path, pause: float = 0.005) -> None:
    hold(start)
    try:
        train(run, pause)
    except StorageError:
        raise SystemExit(REFUSED) from None


def race(run: Path, start: Path, n: int) -> list[int]:
    """Exit codes of n processes that start at one moment."""
    pids = [forked(lambda: compete(run, start)) for _ in range(n)]
    start.touch()
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_a_live_run_is_named_with_its_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    pid = forked(lambda: train(run, until=tmp_path / "never") and None)
    try:
        assert wait_for((run / "metrics.jsonl").exists, pid)
        with pytest.raises(StorageError) as caught:
            train(run)
        assert re.search(rf"process {pid}\b", str(caught.value)), str(caught.value)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert same(train(run), train(None)), "the lock of a dead process is taken over"


def test_of_many_processes_one_wins_and_nothing_is_mixed(tmp_path: Path, full_count: bool) -> None:
    whole = train(tmp_path / "whole")
    for number in range(100 if full_count else 5):
        run = tmp_path / str(number)
        codes = race(run, tmp_path / f"go{number}", 20 if full_count else 5)
        # Whoever comes after the winner has finished finds a finished run: also 0.
        assert set(codes) <= {0, REFUSED} and codes.count(0) >= 1, codes
        assert checkpoints(run) == [11, 12]
        assert metrics(run) == metrics(tmp_path / "whole"), "each step is there once"
        assert same(train(run), whole)


def test_what_is_saved_does_not_depend_on_the_lock(
    tmp_path: Path, full_count: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks are no-ops, checkpoints still verify and hold one run's numbers."""

    @contextmanager
    def no_lock(directory: Path) -> Iterator[Path]:
        yield directory

    monkeypatch.setattr(store, "lock", no_lock)
    whole = train(None)
    for number in range(20 if full_count else 2):
        run = tmp_path / str(number)
        codes = race(run, tmp_path / f"go{number}", 4)
        assert set(codes) <= {0, REFUSED, 3}, codes
        for folder in (run / "checkpoints").glob("step_*"):
            stored = store.open_artefact(folder, schema="fit-checkpoint/1")
            assert stored.json("state.json")["step"] == int(folder.name.removeprefix("step_"))
        assert same(train(run), whole)
