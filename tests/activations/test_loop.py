"""The training loop: what it computes, that it resumes exactly, and what it refuses."""

from __future__ import annotations

import json
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from interp.activations import Callback, Evaluate, FitConfig, FitReport, Run, fit, loop
from interp.activations.runfolder import RunFolder
from interp.core import store
from interp.core.errors import (
    ConfigError,
    CorruptArtefact,
    Interrupted,
    NonFiniteError,
    ShapeError,
    StorageError,
)
from interp.core.randomness import generator
from tests.activations.toys import (
    EVERY_STEP,
    Translators,
    batches,
    checkpoints,
    config,
    metrics,
    no_power_cuts,
    same,
    step,
    tensors_on_disk,
    unchecked,
)

pytestmark = pytest.mark.usefixtures(no_power_cuts.__name__)


class Stop(Exception):
    """Stands for whatever ends a process."""


class StopAt(Callback):
    def __init__(self, t: int) -> None:
        self.t = t

    def after_step(self, module: Any, t: int) -> None:
        if t == self.t:
            raise Stop


def train(run: Path | None = None, **changes: Any) -> Translators:
    module = Translators()
    fit(module, step, batches, config(**changes), out=run)
    return module


# ------------------------------------------------------------------ what it computes


def test_it_learns_the_teacher() -> None:
    module = Translators()
    before = module.distance()
    report = fit(module, step, batches, config(steps=600, lr=0.05, lr_schedule="cosine"))
    assert before > 1.0
    assert module.distance() < 1e-3
    assert report.final_loss < 1e-5
    assert report.series("loss")[0] == list(range(600))
    assert report.resumed_at == 0 and report.skipped == 0


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_it_equals_a_plain_torch_loop(name: str) -> None:
    chosen: dict[str, Any] = {"optimizer": name, "weight_decay": 0.1, "betas": (0.7, 0.9)}
    module, plain = train(lr_schedule="linear", **chosen), Translators()
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    extra = {"momentum": 0.7} if name == "sgd" else {"betas": (0.7, 0.9)}
    optimizer = kinds[name](plain.parameters(), weight_decay=0.1, fused=True, lr=0.0, **extra)
    for t in range(17):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - (t + 1) / 17)
        optimizer.zero_grad()
        step(plain, batches(t), t)[0].backward()
        optimizer.step()
    assert same(module, plain)
    assert not same(module, Translators())


def test_schedules_follow_their_formulas() -> None:
    class Rates(Callback):
        def start(self, run: Run) -> None:
            self.run, self.seen = run, []

        def after_step(self, module: Any, t: int) -> None:
            self.seen.append(self.run.optimizer.param_groups[0]["lr"])

    def rates(**changes: Any) -> list[float]:
        look = Rates()
        fit(Translators(), step, batches, config(steps=10, lr=2.0, **changes), callbacks=[look])
        return look.seen

    approx = pytest.approx
    assert rates() == [2.0] * 10
    assert rates(lr_warmup=4) == approx([0.5, 1.0, 1.5, *[2.0] * 7])
    assert rates(lr_schedule="linear", lr_final=0.5) == approx([2 - 0.1 * t for t in range(1, 11)])
    assert rates(lr_schedule="linear", lr_warmup=2, lr_decay=4) == approx(
        [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0]
    )
    cosine = rates(lr_schedule="cosine", lr_final=0.1)
    assert cosine[4] == approx(2 * (0.1 + 0.9 * 0.5)) and cosine[-1] == approx(0.2)
    assert fit_with_schedule(lambda t: t / 4)[:5] == approx([0.0, 0.5, 1.0, 1.5, 2.0])


def fit_with_schedule(schedule: Any) -> list[float]:
    report = fit(Translators(), step, batches, config(steps=10, lr=2.0), schedule=schedule)
    return report.series("lr")[1]


def test_clipping_equals_torchs() -> None:
    module, plain = train(grad_clip=0.3, optimizer="sgd", betas=(0.0, 0.0), steps=5), Translators()
    for t in range(5):
        plain.zero_grad()
        step(plain, batches(t), t)[0].backward()
        assert nn.utils.clip_grad_norm_(plain.parameters(), 0.3) > 0.3  # it does clip
        with torch.no_grad():
            for p in plain.parameters():
                p -= 0.01 * p.grad
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_several_modules_train_in_one_pass_as_each_alone() -> None:
    def both(m: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        return step(m["a"], batch, t)[0] + step(m["b"], 2 * batch, t)[0]

    def doubled(m: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        return step(m, 2 * batch, t)[0]

    pair, alone = nn.ModuleDict({"a": Translators(), "b": Translators()}), Translators()
    fit(pair, both, batches, config())
    fit(alone, doubled, batches, config())
    assert same(pair["a"], train())
    assert same(pair["b"], alone)
    assert not same(pair["a"], pair["b"])


def test_a_step_function_may_fill_the_gradients_itself() -> None:
    def by_hand(module: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        with torch.enable_grad():
            loss = step(module, batch, t)[0]
            grads = torch.autograd.grad(loss, list(module.parameters()))
        for p, g in zip(module.parameters(), grads, strict=True):
            p.grad = g
        return loss.detach()

    module = Translators()
    fit(module, by_hand, batches, config())
    assert same(module, train())


def test_groups_of_a_given_optimizer_keep_their_own_peaks() -> None:
    module = Translators()
    maps = list(module.maps)
    optimizer = torch.optim.SGD(
        [{"params": maps[0].parameters(), "lr": 0.5}, {"params": maps[1].parameters(), "lr": 0.0}]
    )
    before = Translators()
    fit(module, step, batches, config(), optimizer=optimizer)
    assert not torch.equal(maps[0].weight, before.maps[0].weight)
    for untouched in (1, 2):  # lr 0, and not in the optimizer at all
        assert torch.equal(maps[untouched].weight, before.maps[untouched].weight)


def test_callbacks_see_gradients_before_and_weights_after_the_step() -> None:
    class UnitRows(Callback):
        def after_backward(self, module: Any, t: int) -> None:
            module.maps[0].bias.grad.zero_()

        def after_step(self, module: Any, t: int) -> dict[str, float]:
            with torch.no_grad():
                weight = module.maps[0].weight
                weight /= weight.norm(dim=1, keepdim=True)
            return {"rows": 7.0}

    module = Translators()
    report = fit(module, step, batches, config(log_every=5), callbacks=[UnitRows()])
    torch.testing.assert_close(module.maps[0].weight.norm(dim=1), torch.ones(7))
    assert torch.equal(module.maps[0].bias, Translators().maps[0].bias)
    assert report.series("rows")[0] == list(range(17))
    assert report.series("loss")[0] == [4, 9, 14, 16]
    assert [r["step"] for r in report.records] == list(range(17)), "each step once"


def test_evaluations_come_at_their_interval_and_at_the_end(tmp_path: Path) -> None:
    seen: list[int] = []

    def measure(module: Any, t: int) -> dict[str, torch.Tensor]:
        assert not torch.is_grad_enabled()
        seen.append(t)
        return {"distance": torch.tensor(module.distance())}

    report = fit(
        Translators(),
        step,
        batches,
        config(log_every=4),
        out=tmp_path / "run",
        callbacks=[Evaluate(measure, every=7)],
    )
    assert seen == [6, 13, 16] == report.series("distance")[0]
    assert [r["step"] for r in metrics(tmp_path / "run")] == [3, 6, 7, 11, 13, 15, 16]


def test_autocast_reaches_the_step_function() -> None:
    seen = set()

    def look(module: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        seen.add(module(batch).dtype)
        return step(module, batch, t)[0]

    fit(Translators(), look, batches, config(autocast="bfloat16"))
    assert seen == {torch.bfloat16}


def test_dropout_differs_by_step_and_the_callers_randomness_is_left_alone() -> None:
    drawn = []

    def draw(module: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        drawn.append(float(torch.rand(())))
        return step(module, batch, t)[0]

    module = Translators()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(module, draw, batches, config())
    assert torch.equal(torch.rand(3), expected)
    assert len(set(drawn)) == 17


def test_training_mode_comes_and_goes_per_submodule() -> None:
    module = Translators(dropout=0.5).eval()
    module.maps[1].train()

    def check(m: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        assert all(part.training for part in m.modules())
        return step(m, batch, t)[0]

    fit(module, check, batches, config())
    assert [part.training for part in (module, *module.maps)] == [False, False, True, False]


# ------------------------------------------------------------------ exact resume


@pytest.mark.parametrize("stop", [0, 1, 8, 15])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_resumed_equals_uninterrupted(tmp_path: Path, name: str, stop: int) -> None:
    chosen = {"optimizer": name, "lr_schedule": "cosine", "log_every": 3, **EVERY_STEP}
    whole, broken = Translators(dropout=0.4), Translators(dropout=0.4)
    fit(whole, step, batches, config(**chosen), out=tmp_path / "whole")
    with pytest.raises(Stop):
        fit(broken, step, batches, config(**chosen), out=tmp_path / "broken", callbacks=[StopAt(stop)])
    resumed = Translators(dropout=0.4)
    report = fit(resumed, step, batches, config(**chosen), out=tmp_path / "broken")
    assert report.resumed_at == stop, "the step that did not end is done again"
    assert same(resumed, whole)
    assert int(resumed.rows_seen) == 17 * 11, "buffers are part of the state"
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")
    one, other = (
        tensors_on_disk(tmp_path / name / "checkpoints" / "step_17") for name in ("whole", "broken")
    )
    assert all(map(torch.equal, one.values(), other.values())) and len(one) == len(other) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_tied_and_low_precision_weights_resume_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    def make() -> nn.Module:
        torch.manual_seed(3)
        first, second = nn.Linear(5, 5), nn.Linear(5, 5)
        second.weight = first.weight
        return nn.Sequential(first, second).to(dtype)

    def loss(m: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        return (m(batch) - 1).pow(2).mean()

    def data(t: int) -> torch.Tensor:
        return torch.randn(3, 5, generator=generator(0, "x", t)).to(dtype)

    whole, broken, resumed = make(), make(), make()
    fit(whole, loss, data, config())
    with pytest.raises(Stop):
        fit(broken, loss, data, config(**EVERY_STEP), out=tmp_path / "r", callbacks=[StopAt(9)])
    fit(resumed, loss, data, config(**EVERY_STEP), out=tmp_path / "r")
    assert same(resumed, whole)
    assert resumed[0].weight is resumed[1].weight


def test_lines_written_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        fit(Translators(), step, batches, config(), out=run, callbacks=[StopAt(9)])
    assert len(metrics(run)) == 9 and checkpoints(run) == [], "no checkpoint was due"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # torn by a kill
    module = train(run)
    assert [line["step"] for line in metrics(run)] == list(range(17))
    assert same(module, train())


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    done = train(tmp_path / "run")

    def refuse(*_: Any) -> torch.Tensor:
        raise AssertionError("trained again")

    module = Translators()
    report = fit(module, refuse, refuse, config(), out=tmp_path / "run")
    assert same(module, done)
    assert report.resumed_at == 17 and len(report.records) == 17


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        fit(Translators(), step, batches, config(**EVERY_STEP), out=run, callbacks=[StopAt(12)])
    assert checkpoints(run) == [11, 12]
    weights = run / "checkpoints" / "step_12" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    module = Translators()
    assert fit(module, step, batches, config(**EVERY_STEP), out=run).resumed_at == 11
    assert same(module, train())


@pytest.mark.parametrize("victim", ["weights.safetensors", "manifest.json"])
def test_with_every_checkpoint_damaged_it_says_so(tmp_path: Path, victim: str) -> None:
    run = tmp_path / "run"
    train(run)
    for folder in (run / "checkpoints").iterdir():
        (folder / victim).write_bytes(b"{")
    with pytest.raises(CorruptArtefact, match="step_17"):
        train(run)


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    run = tmp_path / "run"
    module = Translators()
    fit(module, step, batches, config(), out=run, record={"d_dict": 64, "k": [1, 2]})
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError) as caught:
        fit(module, step, batches, config(lr=0.5), out=run, record={"d_dict": 128, "k": [1, 2]})
    assert caught.value.got == "d_dict=128, fit.lr=0.5"
    assert caught.value.expected == "d_dict=64, fit.lr=0.01"
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    neutral = config(checkpoint_seconds=1.0, keep_last=5)
    fit(module, step, batches, neutral, out=run, record={"d_dict": 64, "k": (1, 2)})


def test_another_module_is_refused(tmp_path: Path) -> None:
    def loss(m: nn.Module, batch: torch.Tensor, t: int) -> torch.Tensor:
        return m(batch).pow(2).mean()

    fit(nn.Linear(7, 3), loss, batches, config(), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="another shape"):
        fit(nn.Linear(7, 5), loss, batches, config(), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="only in one"):
        fit(nn.Linear(7, 3, bias=False), loss, batches, config(), out=tmp_path / "run")


def test_resume_never_and_must(tmp_path: Path) -> None:
    run, module = tmp_path / "run", Translators()
    with pytest.raises(StorageError, match="no checkpoint"):
        fit(module, step, batches, config(), out=tmp_path / "none", resume="must")
    with pytest.raises(ConfigError, match="folder"):
        fit(module, step, batches, config(), resume="must")
    fit(module, step, batches, config(), out=run, resume="never")
    with pytest.raises(StorageError, match="already holds a run") as caught:
        fit(module, step, batches, config(), out=run, resume="never")
    assert "--overwrite" in str(caught.value)
    fit(module, step, batches, config(), out=run, resume="must")


def test_overwrite_keeps_the_old_run_until_the_new_one_has_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, steps=5, **EVERY_STEP)
    assert checkpoints(run) == [4, 5]
    with pytest.raises(Stop):
        fit(Translators(), step, batches, config(overwrite=True), out=run, callbacks=[StopAt(3)])
    assert checkpoints(run) == [4, 5]
    module = train(run, steps=17)
    assert same(module, train()), "what the old run left is not taken for the new one's"
    assert checkpoints(run) == [17]
    assert [line["step"] for line in metrics(run)] == list(range(17))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StorageError, match="holds no run"):
        train(tmp_path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CorruptArtefact, match=r"names no run|not what a run wrote"):
        train(tmp_path)


# ------------------------------------------------------------------ checkpoints on a budget


def test_checkpoints_keep_to_interval_and_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(loop, "time", type("Clock", (), {"monotonic": lambda: clock[0]}))

    def one_second(module: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        clock[0] += 1.0
        return step(module, batch, t)[0]

    def saved_at(cost: float, **changes: Any) -> list[int]:
        steps: list[int] = []

        def slow(run: Any) -> float:
            steps.append(run.progress.step)
            clock[0] += cost
            return cost

        monkeypatch.setattr(loop.Run, "checkpoint", slow)
        fit(Translators(), one_second, batches, config(steps=40, **changes))
        return steps

    assert saved_at(0.0, checkpoint_seconds=10.0) == [10, 20, 30, 40]
    assert saved_at(2.0, checkpoint_seconds=3.0, checkpoint_fraction=0.125) == [3, 19, 35, 40]


def test_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    train(tmp_path / "run", keep_last=3, **EVERY_STEP)
    assert checkpoints(tmp_path / "run") == [15, 16, 17]
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.json",
        "env.json",
        "metrics.jsonl",
        "checkpoints",
    }
    files = {p.name for p in (tmp_path / "run" / "checkpoints" / "step_17").iterdir()}
    assert files == {"weights.safetensors", "moments.safetensors", "state.json", "manifest.json"}


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    save = RunFolder.save

    def full(self: RunFolder, module: Any, optimizer: Any, progress: Any) -> Path:
        if progress.step == 6:
            monkeypatch.setattr(store, "_fault", no_space)
        return save(self, module, optimizer, progress)

    def no_space(operation: str, path: Path) -> None:
        if operation == "write":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "save", full)
    with pytest.raises(StorageError):
        train(run, **EVERY_STEP)
    monkeypatch.undo()
    assert checkpoints(run) == [4, 5]
    assert same(train(run, **EVERY_STEP), train())


# ------------------------------------------------------------------ the finite guard


def poisoned(at: set[int], value: float = float("nan")) -> Any:
    def poisoned_step(module: Any, batch: torch.Tensor, t: int) -> Any:
        loss, extra = step(module, batch, t)
        return (loss * value if t in at else loss), extra

    return poisoned_step


@pytest.fixture(params=["host", "deferred"])
def guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to decide; the deferred one runs on the CPU here, with torch's fused optimizers."""
    monkeypatch.setattr(loop, "_may_defer", lambda *_: request.param == "deferred")
    return request.param


@pytest.mark.parametrize("log_every", [1, 4, 17])
def test_it_stops_before_the_update(tmp_path: Path, guard: str, log_every: int) -> None:
    module, run = Translators(), tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"step 6: first affected: maps\.0\.weight") as caught:
        fit(module, poisoned({6}), batches, config(log_every=log_every), out=run)
    assert "loss nan" in str(caught.value)
    reference = train(steps=6)
    for ours, theirs in zip(module.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs), "the weights are those before the bad step"
    crash = json.loads((run / "crash.json").read_text())
    assert crash["batch"] == 6 and crash["resolved"] is False and crash["last_checkpoint"] is None
    assert checkpoints(run) == []


def test_a_crash_keeps_the_last_good_checkpoint_and_can_be_repaired(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError):
        fit(Translators(), poisoned({6}), batches, config(**EVERY_STEP), out=run)
    assert checkpoints(run) == [5, 6]
    assert json.loads((run / "crash.json").read_text())["last_checkpoint"] == "step_6"
    module = Translators()
    fit(module, step, batches, config(**EVERY_STEP), out=run)
    assert same(module, train())
    assert json.loads((run / "crash.json").read_text())["resolved"] is True


def test_only_the_affected_parameter_is_named(guard: str) -> None:
    class Spoil(Callback):
        def after_backward(self, module: Any, t: int) -> None:
            if t == 3:
                module.maps[1].bias.grad[2] = float("inf")

    with pytest.raises(NonFiniteError, match=r"step 3: first affected: maps\.1\.bias"):
        fit(Translators(), step, batches, config(), callbacks=[Spoil()])


def test_a_gradient_too_large_for_adam_to_square_counts_as_not_finite(guard: str) -> None:
    with pytest.raises(NonFiniteError, match="step 2"):
        fit(Translators(), poisoned({2}, 1e25), batches, config())


def test_skipping_equals_a_run_without_those_steps(guard: str, tmp_path: Path) -> None:
    bad = {2, 3, 9}
    module, plain = Translators(), Translators()
    report = fit(
        module, poisoned(bad), batches, config(on_nonfinite="skip", log_every=17), out=tmp_path / "run"
    )
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, fused=True)
    for t in sorted(set(range(17)) - bad):
        optimizer.zero_grad()
        step(plain, batches(t), t)[0].backward()
        optimizer.step()
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert report.skipped == 3 and report.records[-1]["skipped"] == 3


def test_skipping_gives_up_after_ten_in_a_row_also_across_a_resume(guard: str, tmp_path: Path) -> None:
    nine = poisoned(set(range(3, 12)))
    chosen = config(on_nonfinite="skip", steps=20, **EVERY_STEP)
    assert fit(Translators(), nine, batches, chosen).skipped == 9
    with pytest.raises(NonFiniteError, match="step 12, 10 in a row"):
        fit(Translators(), poisoned(set(range(3, 20))), batches, chosen)
    run = tmp_path / "run"
    with pytest.raises(Stop):
        fit(Translators(), poisoned(set(range(3, 20))), batches, chosen, out=run, callbacks=[StopAt(8)])
    with pytest.raises(NonFiniteError, match="step 12, 10 in a row"):
        fit(Translators(), poisoned(set(range(3, 20))), batches, chosen, out=run)


def test_the_report_is_a_result(tmp_path: Path) -> None:
    report = fit(
        Translators(),
        poisoned({4}),
        batches,
        config(on_nonfinite="skip", log_every=2),
        out=tmp_path / "run",
        callbacks=[Evaluate(lambda m, t: {"x": 1.0}, every=5)],
    )
    assert report.step.tolist() == [1, 3, 4, 5, 7, 9, 11, 13, 14, 15, 16]
    assert [not x for x in report.loss.isfinite().tolist()] == [False] * 2 + [True] + [False] * 5 + [
        True,
        False,
        False,
    ]
    assert not report.check().ok, "more than one step in a hundred was skipped"
    assert fit(Translators(), step, batches, config()).check().ok
    saved = FitReport.load(report.save(tmp_path / "report"))
    assert saved.records == report.records and torch.equal(saved.step, report.step)
    assert saved.out == str(tmp_path / "run")
    assert list(report.to_frame().columns) == ["record", "step", "loss"]


def test_a_skipped_step_is_null_in_the_metrics(tmp_path: Path) -> None:
    fit(Translators(), poisoned({4}), batches, config(on_nonfinite="skip"), out=tmp_path / "run")
    line = metrics(tmp_path / "run")[4]
    assert line["loss"] is None and line["grad_norm"] is None and line["skipped"] == 1


def test_a_deferred_guard_leaves_the_optimizer_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_may_defer", lambda *_: True)
    module = Translators()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01, fused=True)
    with pytest.raises(NonFiniteError):
        fit(module, poisoned({1}), batches, config(), optimizer=optimizer)
    before = module.maps[0].weight.clone()
    step(module, batches(0), 0)[0].backward()
    optimizer.step()
    assert not torch.equal(module.maps[0].weight, before)


# ------------------------------------------------------------------ signals in this process


def test_a_signal_ends_the_step_and_commits(tmp_path: Path) -> None:
    run = tmp_path / "run"
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]

    def hit(module: Any, batch: torch.Tensor, t: int) -> Any:
        if t == 5:
            signal.raise_signal(signal.SIGINT)
        return step(module, batch, t)

    with pytest.raises(Interrupted) as caught:
        fit(Translators(), hit, batches, config(), out=run)
    assert caught.value.code == 130
    assert checkpoints(run) == [6]
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert same(train(run), train())


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    reached = []

    def hit(module: Any, batch: torch.Tensor, t: int) -> Any:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        reached.append(t)
        return step(module, batch, t)

    with pytest.raises(Interrupted, match="at once") as caught:
        fit(Translators(), hit, batches, config(), out=tmp_path / "run")
    assert caught.value.code == 143 and reached == []
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_it_trains_in_a_thread_without_touching_handlers() -> None:
    module, seen = Translators(), []

    def look(m: Any, batch: torch.Tensor, t: int) -> Any:
        seen.append(signal.getsignal(signal.SIGTERM))
        return step(m, batch, t)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=fit, args=(module, look, batches, config()))
    thread.start()
    thread.join()
    assert set(seen) == {before} and same(module, train())


# ------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", True),
        ("steps", 3.0),
        ("lr", float("nan")),
        ("lr", -1.0),
        ("lr", float("inf")),
        ("lr", "fast"),
        ("lr_schedule", "cosin"),
        ("lr_warmup", 100),
        ("lr_decay", 0),
        ("betas", (0.9,)),
        ("betas", (0.9, 1.0)),
        ("optimizer", "Adam"),
        ("keep_last", 1),
        ("log_every", 0),
        ("checkpoint_fraction", 0.0),
        ("seed", None),
        ("autocast", "float16"),
        ("overwrite", 1),
        ("grad_clip", float("nan")),
        ("on_nonfinite", "ignore"),
    ],
)
def test_impossible_settings_name_the_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        unchecked(config)(**{field: value})


def test_a_misspelt_choice_is_suggested() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        unchecked(config)(lr_schedule="cosin")


def test_default_settings_are_possible() -> None:
    fit(Translators(), step, lambda t: batches(0), FitConfig(steps=1))


def test_step_functions_that_cannot_train_are_refused(tmp_path: Path) -> None:
    def vector(m: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        return m(batch).pow(2).mean((1, 2))

    def detached(m: Any, batch: torch.Tensor, t: int) -> torch.Tensor:
        return m(batch).pow(2).mean().detach()

    def unscalar(m: Any, batch: torch.Tensor, t: int) -> Any:
        return m(batch).pow(2).mean(), {"per_layer": torch.ones(3)}

    with pytest.raises(ShapeError, match="scalar loss"):
        fit(Translators(), vector, batches, config())
    with pytest.raises(ConfigError, match="no gradient"):
        fit(Translators(), detached, batches, config())
    with pytest.raises(ShapeError, match="per_layer"):
        fit(Translators(), unscalar, batches, config())
    frozen = Translators().requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable"):
        fit(frozen, step, batches, config())
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="not in the module"):
        fit(Translators(), step, batches, config(), optimizer=stranger)


def test_moments_can_be_reset_by_a_callback() -> None:
    class Reset(Callback):
        def start(self, run: Run) -> None:
            self.run = run

        def after_step(self, module: Any, t: int) -> None:
            for state in self.run.optimizer.state.values():
                state["exp_avg"].zero_()

    module = Translators()
    fit(module, step, batches, config(), callbacks=[Reset()])
    assert not same(module, train())


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5, nesterov=True),
        lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
        lambda p: torch.optim.NAdam(p, lr=0.01),
        lambda p: torch.optim.Adagrad(p, lr=0.01),
    ],
    ids=["amsgrad", "nesterov", "rmsprop", "nadam", "adagrad"],
)
def test_any_torch_optimizer_resumes_exactly(tmp_path: Path, make: Any) -> None:
    whole, broken, resumed = Translators(), Translators(), Translators()
    fit(whole, step, batches, config(), optimizer=make(whole.parameters()))
    stop = random.Random(0).randrange(2, 15)
    with pytest.raises(Stop):
        fit(
            broken,
            step,
            batches,
            config(**EVERY_STEP),
            out=tmp_path / "run",
            optimizer=make(broken.parameters()),
            callbacks=[StopAt(stop)],
        )
    fit(
        resumed,
        step,
        batches,
        config(**EVERY_STEP),
        out=tmp_path / "run",
        optimizer=make(resumed.parameters()),
    )
    assert same(whole, resumed)
