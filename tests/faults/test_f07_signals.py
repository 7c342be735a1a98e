"""F7: SIGTERM and SIGINT finish the step, commit and end with 143 or 130; a second one is final."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from interp.activations import fit
from interp.core import store
from interp.core.errors import Interrupted
from tests.activations.toys import (
    Translators,
    batches,
    checkpoints,
    config,
    forked,
    no_power_cuts,
    same,
    step,
)

pytestmark = pytest.mark.usefixtures(no_power_cuts.__name__)

SETTINGS = config(steps=150, log_every=10)  # no checkpoint is due by time in such a short run


def train(run: Path | None, pause: float = 0.0) -> Translators:
    def slow(module: Translators, batch: torch.Tensor, t: int) -> object:
        time.sleep(pause)
        return step(module, batch, t)

    module = Translators(dropout=0.2)
    fit(module, slow, batches, SETTINGS, out=run)
    return module


def as_process(run: Path, pause: float) -> None:
    """What a command-line program does: the error's code is the exit status."""
    try:
        train(run, pause)
    except Interrupted as error:
        raise SystemExit(error.code) from error


def wait_for_config(run: Path) -> None:
    """The loop has its handlers soon after; before, Python's default would end the child."""
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def exit_code(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture(scope="module")
def whole() -> Translators:
    torch.set_num_threads(1)
    return train(None)


def test_signals_commit_and_resume_exactly(
    tmp_path: Path, full_count: bool, whole: Translators
) -> None:
    chance = random.Random(7)
    for number in range(50 if full_count else 5):
        run = tmp_path / str(number)
        signum, code = chance.choice([(signal.SIGTERM, 143), (signal.SIGINT, 130)])
        pid = forked(lambda run=run: as_process(run, 0.003))
        wait_for_config(run)
        time.sleep(chance.uniform(0.0, 0.15))
        assert checkpoints(run) == [], "only the signal makes a checkpoint"
        os.kill(pid, signum)
        assert exit_code(pid) == code
        (reached,) = checkpoints(run)
        assert 10 <= reached < 150
        folder = run / "checkpoints" / f"step_{reached}"
        assert store.open_artefact(folder).json("state.json")["step"] == reached
        assert same(train(run), whole)


def test_two_signals_end_it_at_once_and_consistently(
    tmp_path: Path, full_count: bool, whole: Translators
) -> None:
    for number in range(10 if full_count else 1):
        run = tmp_path / str(number)
        pid = forked(lambda run=run: as_process(run, 0.01 if not checkpoints(run) else 0.0))
        wait_for_config(run)
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGINT)
        began = time.monotonic()
        assert exit_code(pid) == 130
        assert time.monotonic() - began < 20
        assert same(train(run), whole)


def test_the_second_signal_does_not_wait_for_the_step(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def stuck() -> None:
        def endless(module: Translators, batch: torch.Tensor, t: int) -> object:
            if t == 20:
                (tmp_path / "stuck").touch()
                time.sleep(600)
            return step(module, batch, t)

        try:
            fit(Translators(), endless, batches, SETTINGS, out=run)
        except Interrupted as error:
            raise SystemExit(error.code) from error

    pid = forked(stuck)
    deadline = time.monotonic() + 60
    while not (tmp_path / "stuck").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.3)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the first signal waits for the step"
    os.kill(pid, signal.SIGTERM)
    assert exit_code(pid) == 143
