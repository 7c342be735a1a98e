"""Row 56: scores that are far worse than no probe at all fail the check, whatever the result type."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor

from interp.core.checks import Check
from interp.probing import (
    ContextProbeConfig,
    EraseConfig,
    ProbeConfig,
    SparseConfig,
    audit_erasure,
    probe_sweep,
    sparse_sweep,
    split_rows,
)
from interp.probing.context_weights import probe_context
from interp.probing.scores import not_wild

N = 240
CUT = split_rows(N, 0.3, 0)
RAW = ProbeConfig(n_shuffles=0, standardise=False, penalties=(1e-6,), steps=5, hidden=3)


def rows(seed: int = 0, d: int = 7) -> Tensor:
    return torch.randn(N, d, generator=torch.Generator().manual_seed(seed)).double()


def failed(checks: object) -> set[str]:
    assert isinstance(checks, tuple)
    return {check.name for check in checks if isinstance(check, Check) and not check.ok}


LOW = {"lowest R2, 0 is the mean"}


def test_a_nearly_constant_unit_fails_the_check() -> None:
    """A unit that fires in training and hardly in the test rows: R2 of hundreds below 0 passed."""
    x, y = rows(), rows(1)[:, 0]
    y[CUT.test] *= 1e-2
    found = probe_sweep({"s": x}, {"unit": y}, RAW)
    seen, held = (side.numpy() for side in (CUT.train, CUT.test))
    oracle = Ridge(alpha=1e-6).fit(x.numpy()[seen], y.numpy()[seen])
    expected = r2_score(y.numpy()[held], oracle.predict(x.numpy()[held]))
    assert float(found.score) == pytest.approx(expected, rel=1e-5) and expected < -50
    assert failed(found.check()) == LOW and "FAILED" in repr(found)


def test_too_many_features_for_the_rows_fail_the_check() -> None:
    found = probe_sweep({"s": rows(d=150)}, {"noise": rows(1)[:, 0]}, RAW)
    assert float(found.score) < -2 and failed(found.check()) == LOW


def test_one_wild_target_of_several_is_enough() -> None:
    x = rows()
    wild = rows(1)[:, 0]
    wild[CUT.test] *= 1e-2
    targets = {"good": x[:, 0] + 0.1 * rows(2)[:, 0], "wild": wild, "side": x[:, 1] > 0}
    assert failed(probe_sweep({"s": x, "t": rows(3)}, targets, RAW).check()) == LOW
    del targets["wild"]
    assert probe_sweep({"s": x, "t": rows(3)}, targets, RAW).check().ok


def test_classes_that_turn_round_fail_every_check() -> None:
    """What tells the class in training tells the contrary in the test rows."""
    x, y = rows(), torch.arange(N) % 2
    x[:, 0] += 4 * (2 * y - 1)
    x[CUT.test, 0] *= -1
    swept = probe_sweep({"s": x}, y, ProbeConfig(n_shuffles=0))
    assert float(swept.score) < 0.1
    assert failed(swept.check()) == {"lowest accuracy above the majority class"}
    few = sparse_sweep({"s": x}, y, SparseConfig(ks=(1,), n_shuffles=0))
    assert failed(few.check()) == {"lowest Matthews correlation"}
    audit = audit_erasure(x, {"y": y}, "y", probe=RAW)
    assert "lowest accuracy above the majority class" in failed(audit.check())


def test_an_audit_of_a_wild_target_fails() -> None:
    """After erasure R2 was far below 0, which is not above the mean: the check passed."""
    x, y = rows(), rows(1)[:, 0]
    y[CUT.test] *= 1e-2
    assert failed(audit_erasure(x, {"unit": y}, "unit", probe=RAW).check()) >= LOW
    calm = audit_erasure(x, {"unit": x[:, 0] + rows(2)[:, 1]}, "unit", EraseConfig(), probe=RAW)
    assert not LOW & failed(calm.check())


def test_context_probes_that_know_less_than_the_mean_fail() -> None:
    states = rows(d=12).float()[None, :, None]
    w = rows(1)[:, :2]
    w[CUT.test] *= 1e-2
    found = probe_context(states, {"w": w}, ContextProbeConfig(steps=60, hidden=0, lr=0.05))
    assert failed(found.check()) >= LOW


@pytest.mark.thin(3)
@pytest.mark.parametrize("n", [12, 60, 1000])
def test_chance_alone_passes(n: int) -> None:
    """The mean of the training rows, and a majority, on test rows of the same kind: 3,000 draws."""
    draw, kinds = np.random.default_rng(n), ("real", "binary")
    n_train, n_test, bad = n - n // 3, n // 3, 0
    for _ in range(3000):
        train, test = draw.normal(size=n_train), draw.normal(size=n_test)
        hits = float((draw.random(n_test) < 0.5).mean())
        most = float((draw.random(n_test) < 0.5).mean())
        score = torch.tensor([r2_score(test, np.full(n_test, train.mean())), (hits + most) / 2])
        floor = torch.tensor([0.0, most]).double()
        bad += not not_wild(score.double(), floor, kinds, n_train, n_test).ok
    assert bad <= 6, bad
