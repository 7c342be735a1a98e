"""F6: kill -9 at any instant of training, then resume: nothing published is lost or inexact."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from interp.activations import fit
from interp.activations.config import FitConfig
from interp.core import store
from interp.core.errors import CorruptArtefact, StorageError
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
from tests.support.children import Instants

pytestmark = pytest.mark.usefixtures(no_power_cuts.__name__, one_thread.__name__)

SETTINGS = config(steps=60, log_every=2, lr_schedule="cosine", **EVERY_STEP)


def train(run: Path | None, settings: FitConfig = SETTINGS) -> Translators:
    module = Translators(dropout=0.3)
    fit(module, step, batches, settings, out=run)
    return module


def newest(run: Path) -> int:
    """The newest checkpoint, which must verify; 0 if there is none."""
    folders = list((run / "checkpoints").glob("step_*")) if run.exists() else []
    if not folders:
        return 0
    folder = max(folders, key=lambda p: int(p.name.removeprefix("step_")))
    return store.open_artefact(folder, schema="fit-checkpoint/1").json("state.json")["step"]


def finished(run: Path, pid: int) -> bool:
    _, status = os.waitpid(pid, 0)
    assert not (os.WIFEXITED(status) and os.WEXITSTATUS(status)), "a resumed run failed by itself"
    return os.WIFEXITED(status)


def check(run: Path, whole: Translators, whole_run: Path) -> None:
    assert same(train(run), whole)
    assert metrics(run) == metrics(whole_run)
    left = [p.name for p in run.rglob("*") if p.name.startswith((".tmp-", ".old-"))]
    assert len(left) <= 1, f"staging folders pile up: {left}"


@pytest.fixture(scope="module")
def whole_run(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Translators, Path]:
    run = tmp_path_factory.mktemp("whole") / "run"
    return train(run), run


def test_killed_at_random_instants_it_ends_as_if_never_killed(
    tmp_path: Path, full_count: bool, whole_run: tuple[Translators, Path]
) -> None:
    wanted = 200 if full_count else 10
    whole, reference = whole_run
    instants = Instants(random.Random(6), most=12)
    kills = runs = 0
    while kills < wanted:
        run = tmp_path / f"run{runs}"
        runs += 1
        reached = 0
        for _ in range(500):
            pid = forked(lambda run=run: train(run) and None)
            # It may be hit before it has written anything at all.
            instants.wait(pid, lambda run=run: max(checkpoints(run), default=0))
            os.kill(pid, signal.SIGKILL)
            if finished(run, pid):
                break
            kills += 1
            now = newest(run)
            assert now >= reached, f"a published checkpoint is lost ({reached} -> {now})"
            reached = now
        else:
            raise AssertionError("the run makes no progress under kills")
        check(run, whole, reference)
    assert runs >= 1


def test_killed_before_every_system_call_of_a_commit(
    tmp_path: Path, full_count: bool, whole_run: tuple[Translators, Path]
) -> None:
    """The third checkpoint (its predecessor is pruned in the same breath), call by call."""
    whole, reference = whole_run
    seen: list[str] = []

    def counted(run: Path, kill_at: int | None, log: Path | None = None) -> None:
        calls = 0

        def hook(operation: str, path: Path) -> None:
            nonlocal calls
            if newest_name(run) < 3:
                return
            calls += 1
            if log is not None:
                with log.open("a") as file:
                    file.write(f"{operation}\n")
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if newest_name(run) >= 5:
                os._exit(0)

        store._fault = hook
        train(run)

    def newest_name(run: Path) -> int:
        names = [p.name for p in (run / "checkpoints").glob("step_*")]
        return max((int(n.removeprefix("step_")) for n in names), default=0)

    log = tmp_path / "calls"
    os.waitpid(forked(lambda: counted(tmp_path / "probe", None, log)), 0)
    seen = log.read_text().split()
    assert {"open", "write", "fsync", "rename"} <= set(seen) and len(seen) > 20
    instants = range(1, len(seen) + 1)
    for instant in instants if full_count else random.Random(1).sample(list(instants), 8):
        run = tmp_path / f"at{instant}"
        _, status = os.waitpid(forked(lambda run=run, i=instant: counted(run, i)), 0)
        assert os.WIFSIGNALED(status), "the call was reached and the process killed there"
        assert newest(run) >= 3
        check(run, whole, reference)


def test_the_oracle_notices_an_inexact_resume(tmp_path: Path, whole_run: tuple[Translators, Path]) -> None:
    """What the tests above compare does differ when one moment is lost (they can fail)."""
    run = tmp_path / "run"

    def interrupted() -> None:
        def stop(operation: str, path: Path) -> None:
            if (run / "checkpoints" / "step_20").exists():
                os.kill(os.getpid(), signal.SIGKILL)

        store._fault = stop
        train(run)

    os.waitpid(forked(interrupted), 0)
    folder = max((run / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))
    stored = store.open_artefact(folder)
    moments = stored.tensors("moments.safetensors")
    moments["maps.0.weight:exp_avg"] *= 0.5
    files = {
        "weights.safetensors": stored.tensors("weights.safetensors"),
        "moments.safetensors": moments,
        "state.json": stored.json("state.json"),
    }
    store.commit(folder, files, overwrite=True, schema="fit-checkpoint/1", metadata=stored.metadata)
    assert not same(train(run), whole_run[0])


def test_a_torn_checkpoint_is_never_taken(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, config(steps=5, **EVERY_STEP))
    weights = run / "checkpoints" / "step_5" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises((CorruptArtefact, StorageError)):
        newest(run)
