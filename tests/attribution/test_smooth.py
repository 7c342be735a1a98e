"""Rules chosen on a probe: right where the path is smooth, none where it is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from interp.attribution.methods.paths import gauss_legendre
from interp.attribution.methods.smooth import Slope, bunched, fitted, rules

CENTRE, WIDTH = 0.4, 0.1
BOUND = (lambda sums: sums / 1e-3, lambda missed: float(missed.norm()), 1e-3)
"""One thousandth may be missed."""


def bump(at: Tensor) -> Tensor:
    """A path that runs fast past CENTRE, as one does where a norm is small, [point 2]."""
    return torch.stack([((at - CENTRE) / WIDTH).atan(), (3 * at).sin()], 1)


def speed(at: Tensor) -> Tensor:
    return torch.stack([WIDTH / ((at - CENTRE) ** 2 + WIDTH**2), 3 * (3 * at).cos()], 1)


def missed(sums: Tensor) -> float:
    ends = bump(torch.tensor([0.0, 1.0], dtype=torch.float64))
    return float((sums - (ends[1] - ends[0])).norm())


def test_a_wide_rule_is_gauss_legendre() -> None:
    rule = bunched(8, 0.3, 1e6)
    assert float((rule.weights * rule.at**15).sum()) == pytest.approx(1 / 16, abs=1e-8)
    assert float(rule.weights.sum()) == pytest.approx(1.0, abs=1e-8)


def test_crowding_nodes_at_the_bump_is_worth_a_thousandfold() -> None:
    errors = [missed((r := bunched(14, CENTRE, w)).weights @ speed(r.at)) for w in (WIDTH, 1e6)]
    assert errors[0] < 1e-3 * errors[1]
    assert errors[0] < 1e-5


def test_the_slope_of_a_known_path() -> None:
    at = (1 - (torch.arange(129, dtype=torch.float64) * math.pi / 128).cos()) / 2
    slope, where = Slope(bump(at)), torch.rand(17, dtype=torch.float64)
    torch.testing.assert_close(slope(where), speed(where), rtol=0, atol=2e-4)
    assert slope.steepest() == pytest.approx(CENTRE, abs=0.01)
    assert slope.tail < 1e-3


def test_rules_have_few_nodes_and_meet_the_bound() -> None:
    asked: list[int] = []

    def values(at: Tensor) -> Tensor:
        asked.append(len(at))
        return bump(at)

    found = list(rules(values, *BOUND, 64))
    assert len(found) == 3  # a first try and stricter ones
    assert [len(r.at) for r in found] == sorted({len(r.at) for r in found})
    assert all(missed(r.weights @ speed(r.at)) < 1e-3 for r in found)
    assert len(found[0].at) <= 14
    assert sum(asked) == max(2**k + 1 for k in range(4, 8) if 2**k + 1 <= sum(asked))  # reused


def test_weights_fitted_to_some_functions_integrate_others_of_their_kind() -> None:
    """Components of a path are samples of a space of functions: bumps of one place and width."""
    rule = bunched(5, CENTRE, 1e6)
    x, w = (torch.from_numpy(v) for v in gauss_legendre(200))

    def kind(at: Tensor, seed: int, n: int) -> Tensor:
        mix = torch.randn(6, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        pole = 1 / ((at - CENTRE) ** 2 + 0.3**2)
        return torch.stack([pole**p * at**q for p in (0, 1, 2) for q in (0, 1)], 1) @ mix

    better = fitted(rule, kind(rule.at, 0, 40), w @ kind(x, 0, 40))
    exact = w @ kind(x, 1, 40)  # functions that the fit has not seen
    errors = [float((r.weights @ kind(r.at, 1, 40) - exact).norm()) for r in (rule, better)]
    assert errors[1] < 0.2 * errors[0]
    assert float((better.weights - rule.weights).norm()) < 0.5 * float(rule.weights.norm())


def test_a_path_with_a_kink_gets_no_rule() -> None:
    def kink(at: Tensor) -> Tensor:
        return (at - 0.37).abs()[:, None]

    assert not list(rules(kink, *BOUND, 64))


def test_no_rule_exceeds_what_is_allowed() -> None:
    assert not list(rules(bump, *BOUND, 5))
