"""F7: SIGTERM and SIGINT finish the step, commit and end with 143 or 130; a second one is final."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from interp.activations import fit, loop
from interp.core import store
from interp.core.errors import Interrupted
from tests.activations.toys import (
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
from tests.support.children import Instants, alive, exit_code, hold, wait_for

pytestmark = pytest.mark.usefixtures(no_power_cuts.__name__, one_thread.__name__)

SETTINGS = config(steps=150, log_every=10)  # no checkpoint is due by time in such a short run


def train(run: Path | None, sent: Path | None = None) -> Translators:
    """The run; where `sent` is given, it is not over before that file is there."""

    def held(module: Translators, batch: torch.Tensor, t: int) -> object:
        if sent is not None and t == 140:
            hold(sent)
        return step(module, batch, t)

    module = Translators(dropout=0.2)
    fit(module, held, batches, SETTINGS, out=run)
    return module


def as_process(run: Path, sent: Path) -> None:
    """What a command-line program does: the error's code is the exit status."""
    try:
        train(run, sent)
    except Interrupted as error:
        raise SystemExit(error.code) from error


def lines(run: Path) -> int:
    """How many lines the run has logged, one in ten steps."""
    return len(metrics(run)) if (run / "metrics.jsonl").exists() else 0


@pytest.fixture(scope="module")
def whole(one_thread: None) -> Translators:
    return train(None)


def test_signals_commit_and_resume_exactly(tmp_path: Path, full_count: bool, whole: Translators) -> None:
    chance = random.Random(7)
    instants = Instants(chance, most=13)
    for number in range(50 if full_count else 5):
        run, sent = tmp_path / str(number), tmp_path / f"sent{number}"
        signum, code = chance.choice([(signal.SIGTERM, 143), (signal.SIGINT, 130)])
        pid = forked(lambda run=run, sent=sent: as_process(run, sent))
        # The loop has its handlers by its first line; before, Python's default ends the child.
        assert wait_for(lambda run=run: lines(run) > 0, pid)
        instants.wait(pid, lambda run=run: lines(run))
        assert checkpoints(run) == [], "only the signal makes a checkpoint"
        os.kill(pid, signum)
        sent.touch()
        assert exit_code(pid) == code
        (reached,) = checkpoints(run)
        assert 10 <= reached < 150
        folder = run / "checkpoints" / f"step_{reached}"
        assert store.open_artefact(folder).json("state.json")["step"] == reached
        assert same(train(run), whole)


@pytest.mark.parametrize("step", [70, 149])
def test_a_signal_between_a_step_and_its_bar_loses_nothing(
    step: int, tmp_path: Path, whole: Translators, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the step has decided whether to save: the next one saves, or all was saved."""
    update, steps = loop.Bar.update, iter(range(150))

    def signalled(bar: loop.Bar, *given: int) -> bool | None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(bar, *given)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Bar, "update", signalled)
        with pytest.raises(Interrupted) as caught:
            train(tmp_path / "run")
    assert caught.value.code == 143
    reached = min(step + 2, 150)
    assert checkpoints(tmp_path / "run") == [reached] and f"after {reached} " in str(caught.value)
    assert same(train(tmp_path / "run"), whole)


def test_two_signals_end_it_at_once_and_consistently(
    tmp_path: Path, full_count: bool, whole: Translators
) -> None:
    for number in range(10 if full_count else 1):
        run, sent = tmp_path / str(number), tmp_path / f"sent{number}"
        pid = forked(lambda run=run, sent=sent: as_process(run, sent))
        assert wait_for(lambda run=run: lines(run) > 0, pid)
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGINT)
        sent.touch()
        assert exit_code(pid) == 130
        assert same(train(run), whole)


def test_the_second_signal_does_not_wait_for_the_step(tmp_path: Path) -> None:
    run, beats = tmp_path / "run", tmp_path / "beats"

    def stuck() -> None:
        def endless(module: Translators, batch: torch.Tensor, t: int) -> object:
            while t == 20:
                with beats.open("a") as file:
                    file.write(".")
                time.sleep(0.01)
            return step(module, batch, t)

        try:
            fit(Translators(), endless, batches, SETTINGS, out=run)
        except Interrupted as error:
            raise SystemExit(error.code) from error

    pid = forked(stuck)
    assert wait_for(beats.exists, pid)
    os.kill(pid, signal.SIGTERM)
    # The signal is met between two beats: after some more, the step was not cut short by it.
    heard = beats.stat().st_size
    assert wait_for(lambda: beats.stat().st_size > heard + 10, pid)
    assert alive(pid), "the first signal waits for the step"
    os.kill(pid, signal.SIGTERM)
    assert exit_code(pid) == 143
