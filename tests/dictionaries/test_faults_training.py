"""Rows F5, F6, F7, F12, F34 of the fault matrix for the training of dictionaries."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.activations import Callback
from interp.core import store
from interp.core.errors import NonFiniteError, StorageError
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.training import run_training
from tests.activations.toys import checkpoints, forked, metrics, no_power_cuts, one_thread, tensors_on_disk
from tests.dictionaries.small import (
    every_step,
    everything,
    identical,
    last_state,
    planted,
    same_module,
    small,
)
from tests.support.children import Instants, exit_code, hold, wait_for

pytestmark = pytest.mark.usefixtures(no_power_cuts.__name__, every_step.__name__, one_thread.__name__)

ROWS = planted(700)


@pytest.fixture(autouse=True)
def nothing_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format of the final artefact is tested elsewhere; here the run's folder counts."""
    monkeypatch.setattr(Dictionary, "save", lambda self, folder, overwrite=False: folder)


def train(run: Path | None, steps: int = 40, **options: Any) -> dict[str, Dictionary]:
    return run_training(everything(steps), ROWS, out=run, **options).dictionaries


# --- F6: kill -9 ----------------------------------------------------------------------------


def finished(pid: int) -> bool:
    _, status = os.waitpid(pid, 0)
    assert not (os.WIFEXITED(status) and os.WEXITSTATUS(status)), "a resumed run failed by itself"
    return os.WIFEXITED(status)


def test_killed_at_random_instants_weights_and_moments_end_equal(tmp_path: Path, full_count: bool) -> None:
    whole = train(tmp_path / "whole")
    reference = last_state(tmp_path / "whole")
    said = {key for line in metrics(tmp_path / "whole") for key in line}
    assert {"batch/resampled", "topk/auxk", "jump/sparsity"} <= said, "all mechanisms are at work"
    instants, kills, runs = Instants(random.Random(4), most=12), 0, 0
    while kills < (200 if full_count else 8):
        run = tmp_path / f"run{runs}"
        runs += 1
        for _ in range(500):
            pid = forked(lambda run=run: train(run) and None)
            instants.wait(pid, lambda run=run: max(checkpoints(run), default=0))
            os.kill(pid, signal.SIGKILL)
            if finished(pid):
                break
            kills += 1
        else:
            raise AssertionError("the run makes no progress under kills")
        made = train(run)
        assert identical(last_state(run), reference)
        assert all(same_module(made[name], whole[name]) for name in whole)
        assert metrics(run) == metrics(tmp_path / "whole")


@pytest.mark.thin(2)
@pytest.mark.parametrize("lost", ["idle", "coefficient", "active", "exp_avg_sq"], ids=str)
def test_each_piece_of_state_matters_to_a_resumed_run(tmp_path: Path, lost: str) -> None:
    """The comparison above can fail: without any one of these a resumed run ends elsewhere."""

    class Stop(Callback):
        def after_step(self, module: Any, t: int) -> None:
            if t == 19:
                raise KeyboardInterrupt

    train(tmp_path / "whole")
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(run, callbacks=[Stop()])
    folder = max((run / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))
    stored = store.open_artefact(folder)
    files: dict[str, Any] = {"state.json": stored.json("state.json")}
    for name in ("weights.safetensors", "moments.safetensors"):
        tensors = stored.tensors(name)
        for key in tensors:
            if lost in key:
                tensors[key] = torch.zeros_like(tensors[key])
        files[name] = tensors
    store.commit(folder, files, overwrite=True, schema="fit-checkpoint/1", metadata=stored.metadata)
    train(run)
    assert not identical(last_state(run), last_state(tmp_path / "whole"))


# --- F5: numbers that are not finite -----------------------------------------------------------

VALUES = (float("nan"), float("inf"), float("-inf"), 1e38)
PLACES = ("batch", "weight", "gradient", "buffer", "moment")


class Injection(Callback):
    """One value put into one place at one step."""

    def __init__(self, at: int, place: str, value: float, index: int) -> None:
        self.at, self.place, self.value, self.index = at, place, value, index

    def start(self, run: Any) -> None:
        self.run = run
        plain = run.batches

        def spoiled(t: int) -> dict[str, torch.Tensor]:
            batch = {name: x.clone() for name, x in plain(t).items()}
            if (t, self.place) == (self.at, "batch"):
                self.spoil(next(iter(batch.values())))
            return batch

        run.batches = spoiled

    def spoil(self, t: torch.Tensor) -> None:
        with torch.no_grad():
            t.view(-1)[self.index % t.numel()] = self.value

    def after_backward(self, module: Any, t: int) -> None:
        if (t, self.place) == (self.at, "gradient"):
            chosen = random.Random(self.index).choice(list(module.parameters()))
            self.spoil(chosen.grad)

    def after_step(self, module: Any, t: int) -> None:
        if t != self.at:
            return
        chance = random.Random(self.index)
        parameters = list(module.parameters())
        if self.place == "weight":
            self.spoil(chance.choice(parameters).data)
        elif self.place == "buffer":
            floating = [b for b in module.buffers() if b.is_floating_point()]
            self.spoil(chance.choice(floating))
        elif self.place == "moment":
            state = self.run.optimizer.state[chance.choice(parameters)]
            self.spoil(state[chance.choice(["exp_avg", "exp_avg_sq"])])


def test_nothing_non_finite_reaches_the_disk(tmp_path: Path, full_count: bool) -> None:
    chance = random.Random(5)
    n = 500 if full_count else 25
    stopped, seen = 0, set()
    for number in range(n):
        run = tmp_path / str(number)
        injection = Injection(
            chance.randrange(9), chance.choice(PLACES), chance.choice(VALUES), chance.randrange(999)
        )
        try:
            train(run, 9, callbacks=[injection])
        except NonFiniteError as error:
            stopped += 1
            assert str(error)
        seen.add((injection.place, str(injection.value)))
        for name, tensor in tensors_on_disk(run).items():
            finite = torch.isfinite(tensor.double()).all()
            assert finite, f"{name} after {injection.place} {injection.value}"
    assert n / 4 < stopped <= n and len(seen) >= 10


def test_rows_that_are_not_finite_are_refused_before_any_step(tmp_path: Path) -> None:
    rows = ROWS.clone()
    rows[411, 7] = float("nan")
    with pytest.raises(NonFiniteError, match="training rows"):
        run_training(small(), rows, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- F7: signals -------------------------------------------------------------------------------


class HeldAt(Callback):
    """A run that is not over, however fast the machine: it waits at a step for a file."""

    def __init__(self, at: int, until: Path) -> None:
        self.at, self.until = at, until

    def after_step(self, module: Any, t: int) -> None:
        if t == self.at:
            hold(self.until)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_the_run_goes_on_later(tmp_path: Path, number: int, code: int) -> None:
    run = tmp_path / "run"

    def work() -> None:
        from interp.core.errors import Interrupted

        try:
            train(run, callbacks=[HeldAt(30, tmp_path / "sent")])
        except Interrupted as stop:
            raise SystemExit(stop.code) from None

    pid = forked(work)
    assert wait_for((run / "metrics.jsonl").exists, pid)
    os.kill(pid, number)
    (tmp_path / "sent").touch()
    assert exit_code(pid) == code
    assert list((run / "checkpoints").glob("step_*"))


# --- F12: two runs in one folder ---------------------------------------------------------------


def test_a_live_run_is_named_and_its_folder_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    held = HeldAt(30, tmp_path / "never")
    pid = forked(lambda: train(run, callbacks=[held]) and None)
    try:
        assert wait_for((run / "metrics.jsonl").exists, pid)
        with pytest.raises(StorageError) as caught:
            train(run)
        assert re.search(rf"process {pid}\b", str(caught.value))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_of_many_processes_one_wins_and_nothing_is_mixed(tmp_path: Path, full_count: bool) -> None:
    train(tmp_path / "whole", 9)
    for number in range(100 if full_count else 2):
        run = tmp_path / str(number)

        def work(run: Path = run) -> None:
            try:
                train(run, 9)
            except StorageError:
                raise SystemExit(5) from None

        pids = [forked(work) for _ in range(20 if full_count else 4)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert set(codes) <= {0, 5} and 0 in codes, codes
        assert metrics(run) == metrics(tmp_path / "whole"), "each step is there once"
        assert identical(last_state(run), last_state(tmp_path / "whole"))


# --- F34: the same seed, the same bytes ----------------------------------------------------------


def test_same_seed_same_bytes_and_threads_differ_by_rounding_only(tmp_path: Path) -> None:
    one, two = train(tmp_path / "a"), train(tmp_path / "b")
    assert identical(last_state(tmp_path / "a"), last_state(tmp_path / "b"))
    assert all(same_module(one[name], two[name]) for name in one)
    config = [c for c in everything(4) if c.name != "jump"]
    single = run_training(config, ROWS).dictionaries
    torch.set_num_threads(2)
    try:
        double = run_training(config, ROWS).dictionaries
    finally:
        torch.set_num_threads(1)
    for name, made in single.items():
        for key, tensor in made.state_dict().items():
            torch.testing.assert_close(double[name].state_dict()[key], tensor, atol=1e-5, rtol=1e-5)


def test_another_seed_gives_another_dictionary() -> None:
    first = run_training(small(seed=1), ROWS).dictionaries["0"]
    second = run_training(small(seed=2), ROWS).dictionaries["0"]
    assert not same_module(first, second)


def test_metrics_hold_no_words_that_json_lacks(tmp_path: Path) -> None:
    train(tmp_path / "run", 9)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(word))
