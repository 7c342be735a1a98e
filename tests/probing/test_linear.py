"""Linear probes: scikit-learn's optimum, all targets and penalties from one decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import StandardScaler
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.neighbors import NearestCentroid

from interp.core.frames.intervals import wilson
from interp.probing import probe_sweep, split_rows
from interp.probing.config import ProbeConfig
from interp.probing.rows import encode
from interp.probing.scores import accuracy, binary_scores, r2
from interp.probing.solvers.linear import scores_of, solve
from interp.probing.solvers.logistic import fit_logistic
from interp.probing.solvers.ridge import leave_one_out, ridge_path
from interp.probing.solvers.spectrum import Moments, spectrum
from tests.probing.rows import planted

EXACT = ProbeConfig(tolerance=1e-9, max_iter=1000, standardise=False)


def noisy_targets(n: int = 499, d: int = 17, m: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal scales and m binary labels of unequal frequency, none separable."""
    x = torch.randn(n, d).double() @ torch.randn(d, d).double() + 3
    logits = x @ torch.randn(d, m).double() / 4 + torch.arange(m) - 1
    return x, (logits + 2 * torch.randn(n, m) > 0).long()


# --- identity: scikit-learn is the oracle ------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("balanced", [False, True])
def test_logistic_is_scikit_learns_optimum(penalty: float, balanced: bool) -> None:
    x, y = noisy_targets()
    base = spectrum(x, standardise=False)
    found = fit_logistic(base, y, torch.full((5,), penalty), balanced=balanced, tolerance=1e-9, max_iter=1000)
    weight, bias = base.to_raw(found.weight[:, :, 0], found.bias[:, 0])
    for j in range(5):
        oracle = LogisticRegression(
            C=1 / penalty,
            class_weight="balanced" if balanced else None,
            solver="newton-cholesky",
            tol=1e-12,
            max_iter=1000,
        ).fit(x.numpy(), y[:, j].numpy())
        np.testing.assert_allclose(weight[:, j], oracle.coef_[0], atol=1e-6)
        np.testing.assert_allclose(bias[j], oracle.intercept_[0], atol=1e-5)


def test_multinomial_is_scikit_learns_optimum() -> None:
    x, _ = noisy_targets()
    y = (x[:, :3] + 8 * torch.randn(len(x), 3)).argmax(1)
    (solved,) = solve(x, [encode("y", y)], EXACT)
    oracle = LogisticRegression(tol=1e-10, solver="newton-cg").fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(solved.weight.T, oracle.coef_, atol=1e-5)


def test_each_problem_has_its_own_penalty() -> None:
    x, y = noisy_targets()
    base = spectrum(x)
    both = torch.tensor([0.1, 50.0])
    twice = fit_logistic(base, y[:, [0, 0]], both, tolerance=1e-9)
    for j in range(2):
        alone = fit_logistic(base, y[:, :1], both[j : j + 1], tolerance=1e-9)
        torch.testing.assert_close(twice.weight[:, j], alone.weight[:, 0], atol=1e-6, rtol=1e-6)
    assert float(twice.weight[:, 1].norm()) < 0.9 * float(twice.weight[:, 0].norm())


@pytest.mark.parametrize("penalties", [(0.1, 10.0, 1.0), (10.0, 0.1)])
def test_of_penalties_that_do_equally_well_the_largest_is_taken(penalties: tuple[float, ...]) -> None:
    y = torch.arange(200) % 2
    x = torch.randn(200, 3).double() + 20 * y[:, None]
    (told,) = solve(x, [encode("y", y)], ProbeConfig(kind="logistic", penalties=penalties))
    assert told.penalty == 10.0


@pytest.mark.parametrize("n, d", [(307, 19), (19, 307)])
def test_ridge_path_is_scikit_learns(n: int, d: int) -> None:
    x, y = torch.randn(n, d).double() + 1, torch.randn(n, 3).double()
    base = spectrum(x, standardise=False)
    penalties = [0.1, 3.0, 1e3]
    weights, bias = ridge_path(base, y, penalties)
    for weight, penalty in zip(weights, penalties, strict=True):
        raw, free = base.to_raw(weight, bias)
        oracle = Ridge(alpha=penalty).fit(x.numpy(), y.numpy())
        np.testing.assert_allclose(raw.T, oracle.coef_, atol=1e-9)
        np.testing.assert_allclose(free, oracle.intercept_, atol=1e-9)


def test_leave_one_out_is_what_leaving_one_out_gives() -> None:
    x, y = torch.randn(29, 7).double(), torch.randn(29, 2).double()
    errors = leave_one_out(spectrum(x, standardise=False), y, [0.5, 20.0])
    for p, penalty in enumerate([0.5, 20.0]):
        off = []
        for i in range(29):
            rest = np.delete(np.arange(29), i)
            oracle = Ridge(alpha=penalty).fit(x.numpy()[rest], y.numpy()[rest])
            off.append((oracle.predict(x.numpy()[i : i + 1])[0] - y.numpy()[i]) ** 2)
        np.testing.assert_allclose(errors[p], np.mean(off, axis=0), rtol=1e-8)


def test_streamed_sums_give_the_same_ridge() -> None:
    x, y = torch.randn(211, 11).double() + 5, torch.randn(211, 2).double()
    sums = Moments(11, 2)
    for a, b in zip(x.split(37), y.split(37), strict=True):
        sums.update(a, b)
    weight = torch.linalg.solve(sums.xx + 2.0 * torch.eye(11, dtype=torch.float64), sums.xz)
    bias = sums.mean_z - sums.mean_x @ weight
    oracle = Ridge(alpha=2.0).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(weight.T, oracle.coef_, atol=1e-10)
    np.testing.assert_allclose(bias, oracle.intercept_, atol=1e-9)
    np.testing.assert_allclose(sums.xx, np.cov(x.numpy().T, bias=True) * 211, atol=1e-8)


def test_mass_mean_is_the_nearest_class_mean() -> None:
    x, y = planted(dtype=torch.float64)
    z = (x[:, 1] > 2).long() + y
    config = ProbeConfig(kind="mass_mean", standardise=False)
    two, three = solve(x, [encode("two", y), encode("three", z)], config)
    oracle = NearestCentroid().fit(x.numpy(), z.numpy()).predict(x.numpy())
    assert np.array_equal(scores_of([three], x)[0].argmax(1).numpy(), oracle)
    direction = x[y == 1].mean(0) - x[y == 0].mean(0)
    torch.testing.assert_close(two.weight[:, 0], direction)


@pytest.mark.parametrize("standardise", [False, True])
def test_the_threshold_of_mass_mean_is_halfway_whatever_the_class_sizes(standardise: bool) -> None:
    """One row in ten is positive, and the means lie far from 0; numpy, in the units of the fit."""
    x, _ = planted(500, dtype=torch.float64)
    y = (torch.arange(500) % 10 == 0).long()
    x = x + 7.0
    x[y == 1, 1] += 3.0
    config = ProbeConfig(kind="mass_mean", standardise=standardise)
    (found,) = solve(x, [encode("y", y)], config)
    unit = x.numpy().std(0) if standardise else np.ones(x.shape[1])
    low, high = ((x[y == c].numpy().mean(0) / unit) for c in (0, 1))
    weight = (high - low) / unit
    np.testing.assert_allclose(found.weight[:, 0], weight, atol=1e-9)
    np.testing.assert_allclose(found.bias[0], -(low + high) / 2 @ (high - low), atol=1e-9)
    middle = torch.tensor((low + high) / 2 * unit)[None]
    assert abs(float(scores_of([found], middle)[0])) < 1e-9


def test_the_majority_is_that_of_the_training_rows() -> None:
    """A split whose majorities differ: "b" is most frequent among the test rows, "a" in training."""
    cut = split_rows(100, 0.3, 0)
    y = ["a"] * 100
    for i, row in enumerate(cut.train.tolist()):
        y[row] = "b" if i < 20 else "a"
    for i, row in enumerate(cut.test.tolist()):
        y[row] = "a" if i < 9 else "b"
    sweep = probe_sweep({"s": torch.randn(100, 3)}, y, ProbeConfig(n_shuffles=0))
    assert float(sweep.majority[0]) == pytest.approx(9 / 30)
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((70, 1)), np.array(y)[cut.train])
    assert float(sweep.majority[0]) == dummy.score(np.zeros((30, 1)), np.array(y)[cut.test])


def test_float32_rows_give_the_same_decisions() -> None:
    x, y = noisy_targets(n=1999, d=29)
    held = slice(1000, None)
    rates = []
    for dtype in (torch.float64, torch.float32):
        rows = x.to(dtype)
        targets = [encode(str(j), y[:1000, j]) for j in range(5)]
        scores = scores_of(solve(rows[:1000], targets, ProbeConfig()), rows[held])
        rates.append([float(((s[:, 0] > 0) == y[held, j]).double().mean()) for j, s in enumerate(scores)])
    assert np.abs(np.subtract(*rates)).max() <= 0.002, rates


def test_standardising_is_scikit_learns_scaler() -> None:
    x, y = noisy_targets()
    (solved,) = solve(x, [encode("y", y[:, 0])], ProbeConfig(tolerance=1e-9, max_iter=1000))
    scaler = StandardScaler().fit(x.numpy())
    oracle = LogisticRegression(tol=1e-12, solver="newton-cholesky", max_iter=1000)
    oracle.fit(scaler.transform(x.numpy()), y[:, 0].numpy())
    np.testing.assert_allclose(solved.weight[:, 0].numpy() * scaler.scale_, oracle.coef_[0], atol=1e-6)


# --- scores ------------------------------------------------------------------------------------


def test_scores_are_scikit_learns() -> None:
    score = torch.randn(401).round(decimals=1)  # with ties
    y = score + torch.randn(401) > 0.5
    found = binary_scores(score, y)
    assert found.mcc == pytest.approx(matthews_corrcoef(y, score > 0))
    assert found.kappa == pytest.approx(cohen_kappa_score(y, score > 0))
    both = precision_score(y, score > 0) * recall_score(y, score > 0)
    assert found.fmi == pytest.approx(both**0.5)
    assert found.roc_auc == pytest.approx(roc_auc_score(y, score))
    assert found.pr_auc == pytest.approx(average_precision_score(y, score))
    empty = binary_scores(score, torch.zeros(401, dtype=torch.bool))
    assert empty.f1 == empty.mcc == empty.roc_auc == 0.0


def test_intervals_cover_and_know_about_groups() -> None:
    # Independent rows: 95 % intervals cover the truth about 95 % of the time.
    hits = torch.rand(400, 211) < 0.8
    alone = [accuracy(row, torch.arange(211)) for row in hits]
    covered = np.mean([low <= 0.8 <= high for _, low, high in alone])
    assert 0.92 <= covered <= 0.99
    # Rows that come in identical groups of 7 carry a seventh of the evidence.
    grouped = hits[:, :30].repeat_interleave(7, 1)
    code = torch.arange(30).repeat_interleave(7)
    covered = np.mean([low <= 0.8 <= high for _, low, high in (accuracy(g, code) for g in grouped)])
    naive = np.mean(
        [low <= 0.8 <= high for _, low, high in (accuracy(g, torch.arange(210)) for g in grouped)]
    )
    assert covered >= 0.9 and naive < 0.75
    assert float(wilson(1.0, 10.0)[0]) == pytest.approx(0.7225, abs=1e-3)  # published example
    perfect = accuracy(torch.ones(50, dtype=torch.bool), torch.arange(50) // 5)
    assert perfect.high == pytest.approx(1.0) and perfect.low == pytest.approx(float(wilson(1.0, 10.0)[0]))


def test_the_evidence_of_groups_is_that_of_the_ratio_estimate() -> None:
    """Variance of hits / rows over g groups, with g / (g - 1), by the variance of independent rows."""
    right = torch.tensor([1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 1]).bool()
    code = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 2, 0, 1, 0])
    hits, groups = right.numpy().astype(float), code.numpy()
    p, n, g = hits.mean(), len(hits), 4
    off = [(hits[groups == i] - p).sum() for i in range(g)]
    effect = g / (g - 1) * np.square(off).sum() / (n * p * (1 - p))
    assert effect > 1.5
    low, high = wilson(p, n / effect)
    found = accuracy(right, code)
    assert (found.value, found.low, found.high) == pytest.approx((p, float(low), float(high)), abs=1e-7)


def test_r2_is_scikit_learns_and_0_for_a_constant() -> None:
    from sklearn.metrics import r2_score

    true = torch.randn(97).double()
    guessed = true + 0.5 * torch.randn(97).double()
    found = r2(guessed, true, torch.arange(97))
    assert found.value == pytest.approx(r2_score(true, guessed))
    assert found.low < found.value < found.high
    assert r2(guessed, torch.full((97,), 0.3), torch.arange(97)).value == 0.0
