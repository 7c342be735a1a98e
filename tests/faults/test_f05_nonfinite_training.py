"""F5: whatever turns non-finite, wherever and whenever, no such number reaches the disk."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.activations import Callback, fit, loop
from interp.core.errors import NonFiniteError
from tests.activations.toys import (
    EVERY_STEP,
    Translators,
    batches,
    checkpoints,
    config,
    no_power_cuts,
    step,
    tensors_on_disk,
)

pytestmark = pytest.mark.usefixtures(no_power_cuts.__name__)

VALUES = (float("nan"), float("inf"), float("-inf"), 1e38)
PLACES = ("batch", "weight", "loss", "gradient", "buffer", "moment", "metric")
STEPS = 9


class Statistics(Translators):
    """A running mean of the batches, updated in the step function like a dead-latent counter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(7))


class Injection(Callback):
    """One value put into one place at one step."""

    def __init__(self, at: int, place: str, value: float, index: int) -> None:
        self.at, self.place, self.value, self.index = at, place, value, index

    def spoil(self, t: Tensor) -> None:
        with torch.no_grad():
            t.view(-1)[self.index % t.numel()] = self.value

    def start(self, run: Any) -> None:
        self.run = run

    def batches(self, t: int) -> Tensor:
        batch = batches(t)
        if (t, self.place) == (self.at, "batch"):
            self.spoil(batch)
        return batch

    def step(self, module: Any, batch: Tensor, t: int) -> tuple[Tensor, dict[str, Any]]:
        module.mean.lerp_(batch.mean((0, 1)), 0.1)
        loss, metrics = step(module, batch, t)
        if t == self.at and self.place == "loss":
            loss = loss * self.value
        if t == self.at and self.place == "metric":
            metrics["worst"] = torch.tensor(self.value)
        return loss, metrics

    def after_backward(self, module: Any, t: int) -> None:
        if (t, self.place) == (self.at, "gradient"):
            self.spoil(random.Random(self.index).choice(list(module.parameters())).grad)

    def after_step(self, module: Any, t: int) -> None:
        if t != self.at:
            return
        chance = random.Random(self.index)
        if self.place == "weight":
            self.spoil(chance.choice(list(module.parameters())).data)
        elif self.place == "buffer":
            self.spoil(module.mean)
        elif self.place == "moment":
            state = self.run.optimizer.state[chance.choice(list(module.parameters()))]
            self.spoil(state[chance.choice(["exp_avg", "exp_avg_sq"])])


def inject(run: Path, chance: random.Random) -> tuple[Injection, bool]:
    """Train once with a random injection; whether the training was stopped."""
    injection = Injection(
        chance.randrange(STEPS), chance.choice(PLACES), chance.choice(VALUES), chance.randrange(999)
    )
    # Checkpoints after every step or only at the end; both policies; dense and sparse logs.
    budget = EVERY_STEP if chance.random() < 0.7 else {}
    settings = config(
        steps=STEPS,
        log_every=chance.choice([1, 4]),
        on_nonfinite=chance.choice(["stop", "skip"]),
        grad_clip=chance.choice([None, 1.0]),
        optimizer=chance.choice(["adam", "adamw"]),
        **budget,
    )
    module = Statistics()
    try:
        fit(module, injection.step, injection.batches, settings, out=run, callbacks=[injection])
    except NonFiniteError:
        return injection, True
    return injection, False


@pytest.mark.parametrize("deferred", [False, True], ids=["host", "deferred"])
def test_nothing_non_finite_reaches_the_disk(
    tmp_path: Path, full_count: bool, deferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_may_defer", lambda *_: deferred)
    chance = random.Random(5 + deferred)
    n = 250 if full_count else 25  # each of the two ways: 500 or 50 in all
    stopped, seen = 0, set()
    for number in range(n):
        run = tmp_path / str(number)
        injection, stop = inject(run, chance)
        stopped += stop
        seen.add((injection.place, str(injection.value)))
        for name, tensor in tensors_on_disk(run).items():
            assert torch.isfinite(tensor).all(), f"{name} after {vars(injection)}"
        for line in (run / "metrics.jsonl").read_text().splitlines() if stop is False else ():
            json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} in metrics.jsonl"))
        crash = run / "crash.json"
        assert crash.exists() == stop
        if stop:
            last = json.loads(crash.read_text())["last_checkpoint"]
            steps = checkpoints(run)
            assert last == (f"step_{steps[-1]}" if steps else None)
            assert not steps or steps[-1] <= injection.at + (injection.value == 1e38) * STEPS + 1
        shutil.rmtree(run)
    assert n / 4 < stopped < n, "injections stop the run, but not those that are skipped or unused"
    assert len(seen) >= (28 if full_count else 12), "places and values are all tried"


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("place", ["batch", "loss", "gradient"])
def test_it_stops_before_the_step_that_would_spread_it(tmp_path: Path, place: str, value: float) -> None:
    injection = Injection(4, place, value, index=3)
    module, reference = Statistics(), Statistics()
    fit(reference, step, batches, config(steps=4))
    with pytest.raises(NonFiniteError, match="before the update of step 4") as caught:
        fit(
            module,
            injection.step,
            injection.batches,
            config(**EVERY_STEP),
            out=tmp_path / "run",
            callbacks=[injection],
        )
    assert "maps." in caught.value.what, "the first affected parameter is named"
    for ours, theirs in zip(module.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert checkpoints(tmp_path / "run") == [3, 4]


def test_an_unguarded_loop_would_have_written_it(tmp_path: Path) -> None:
    """The same injection without the guard does poison the weights (the test above can fail)."""
    injection = Injection(4, "batch", float("nan"), index=3)
    module = Statistics()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for t in range(6):
        optimizer.zero_grad()
        injection.step(module, injection.batches(t), t)[0].backward()
        optimizer.step()
    assert not all(torch.isfinite(p).all() for p in module.parameters())
