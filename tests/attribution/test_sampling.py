"""Methods that draw: who plays, what counting gives, and whether standard errors are true."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import KernelShap, Lime
from sklearn.linear_model import Lasso
from torch import Tensor, nn

import interp
from interp.attribution import attribute
from interp.attribution.result import Attribution
from interp.core.errors import ConfigError
from tests.attribution import toys

COALITIONS = ("shapley", "kernel_shap", "lime")
NOISY = ("smoothgrad", "gradient_shap", "functional_information")


class Quadratic(nn.Module):
    """x A x / 2 + b x: Shapley values against 0 are b_i x_i + sum_j A_ij x_i x_j / 2."""

    def __init__(self, n: int, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(seed)
        a = torch.randn(n, n, generator=drawn, dtype=torch.float64)
        self.a = (a + a.T).fill_diagonal_(0.0)
        self.b = torch.randn(n, generator=drawn, dtype=torch.float64)
        self.x = torch.randn(1, n, generator=drawn, dtype=torch.float64)
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))  # so that it has a dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * ((x @ self.a * x).sum(-1, keepdim=True) / 2 + (x @ self.b)[:, None])

    def shapley(self, moving: Tensor | None = None, rest: Tensor | None = None) -> Tensor:
        """By the formula, where those that do not move hold `rest` and are part of the field."""
        x = self.x[0]
        moving = torch.ones(len(x), dtype=torch.bool) if moving is None else moving
        rest = torch.zeros_like(x) if rest is None else rest
        pairs = (self.a[:, moving] @ x[moving]) / 2 + self.a[:, ~moving] @ rest[~moving]
        return torch.where(moving, x * (self.b + pairs), 0.0)


def of(net: Quadratic, method: str, **options: Any) -> Attribution:
    return attribute(interp.wrap(net), net.x, toys.first, method=method, **options)


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_few_players_are_counted_and_not_sampled(method: str, n: int) -> None:
    net = Quadratic(n)
    found = of(net, method)
    torch.testing.assert_close(found.scores, net.shapley(), rtol=0, atol=1e-9)
    assert found.standard_errors is not None and not found.standard_errors.any()
    assert "sampled" not in repr(found) and "±" not in repr(found)


def test_counting_is_the_mean_over_all_orders() -> None:
    """By the other definition: the mean gain over n! orders, of a function without a formula."""
    torch.manual_seed(0)
    net = toys.mlp((4, 7, 1)).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    worth = {
        kept: net(x * torch.tensor([float(i in kept) for i in range(4)])).item()
        for size in range(5)
        for kept in map(frozenset, itertools.combinations(range(4), size))
    }
    expected = np.zeros(4)
    for order in itertools.permutations(range(4)):
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            expected[player] += (worth[before | {player}] - worth[before]) / math.factorial(4)
    found = attribute(interp.wrap(net), x, toys.first, method="shapley")
    assert found.scores.tolist() == pytest.approx(expected.tolist(), abs=1e-9)


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_many_players_are_sampled_within_their_standard_errors(method: str) -> None:
    net = Quadratic(13)
    found = of(net, method)
    assert found.standard_errors is not None and bool((found.standard_errors > 0).all())
    away = (found.scores - net.shapley()) / found.standard_errors
    assert float(away.abs().max()) < 5
    assert float(away.abs().max()) > 0.1  # an error that is too large is no error
    assert "sampled: ±" in found.gap_sentence and "±" in repr(found)
    drawn = found.plot().data[0]
    assert list(drawn.error_x.array) == found.standard_errors.tolist()
    assert of(Quadratic(5), method).plot().data[0].error_x.array is None


@pytest.mark.parametrize("samples", [None, 40])
@pytest.mark.parametrize("method", [*COALITIONS, "feature_ablation"])
def test_who_equals_the_baseline_is_no_player(method: str, samples: int | None) -> None:
    """With 13 positions of which 6 move: exactly 0 for the rest, the game of six for the six."""
    net = Quadratic(13, seed=3)
    moving = torch.arange(13) % 2 == 1
    options: dict[str, Any] = {"baseline": torch.where(moving, 0.0, net.x)}
    if samples is not None and method != "feature_ablation":
        options["samples"] = samples
    found = of(net, method, **options)
    assert not found.scores[~moving].any()
    assert int(found.scores[moving].count_nonzero()) >= (4 if method == "lime" else 6)  # lime is sparse
    if method in ("shapley", "kernel_shap"):
        expected = net.shapley(moving, net.x[0])
        tolerance = 1e-9 if samples is None else 5 * float(found.widest_error)
        torch.testing.assert_close(found.scores, expected, rtol=0, atol=tolerance)
    if found.standard_errors is not None:
        assert not found.standard_errors[~moving].any()
        assert bool(found.standard_errors.any()) == (samples is not None)


@pytest.mark.parametrize("method", [*COALITIONS, "feature_ablation", "gradient_shap"])
def test_an_input_that_is_its_baseline_scores_nothing(method: str) -> None:
    net = Quadratic(14)
    assert not of(net, method, baseline=net.x).scores.any()


def test_a_kept_token_of_a_language_model_is_no_player() -> None:
    model = toys.small()
    for method in COALITIONS:
        found = attribute(model, toys.IDS, (3, 5), method=method, keep=[0, 3], samples=40, baseline="mean")
        assert found.scores[[0, 3]].tolist() == [0.0, 0.0], method
        assert bool((found.scores[[1, 2, 4, 5, 6]] != 0).any()), method


def test_players_that_do_nothing_get_nothing_however_they_are_drawn() -> None:
    model = toys.wrapped(lambda m, x: (x[:, :1] * x[:, 1:2]).tanh())
    found = attribute(model, torch.ones(1, 15), toys.first, method="shapley", samples=150)
    assert not found.scores[2:].any() and found.standard_errors is not None
    assert not found.standard_errors[2:].any() and bool((found.standard_errors[:2] > 0).all())


@pytest.mark.parametrize("method", [*COALITIONS, *NOISY])
def test_standard_errors_are_how_far_seeds_move_the_scores(method: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(14, 9), nn.Tanh(), nn.Linear(9, 1), nn.Sigmoid()).double()
    x = torch.randn(1, 14, dtype=torch.float64)
    model = interp.wrap(net)
    samples = 60 if method in NOISY else 140
    runs = [
        attribute(model, x, toys.first, method=method, samples=samples, seed=seed, rows=64)
        for seed in range(16)
    ]
    spread = torch.stack([one.scores for one in runs]).std(0).square().mean().sqrt()
    told = torch.stack([one.standard_errors for one in runs if one.standard_errors is not None])
    assert len(told) == len(runs)
    ratio = float(told.square().mean().sqrt() / spread)
    assert 0.65 < ratio < 1.5, ratio


def test_a_single_draw_has_no_standard_error() -> None:
    for method in ("gradient_shap", "smoothgrad"):
        assert of(Quadratic(5), method, samples=1).standard_errors is None


def test_lime_is_the_weighed_lasso_by_hand_and_captums() -> None:
    net = Quadratic(5, seed=2)
    model, x = interp.wrap(net), net.x
    found = attribute(model, x, toys.first, method="lime")
    z = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    value = net(torch.tensor(z) * x).detach().numpy()[:, 0]
    unit = abs(float(net(x)))
    weights = np.exp(-((1 - np.sqrt(z.sum(1) / 5)) ** 2) / 2)
    fitted = Lasso(alpha=0.01).fit(z, value / unit, sample_weight=weights)
    assert found.scores.tolist() == pytest.approx((fitted.coef_ * unit).tolist(), abs=1e-3 * unit)
    torch.manual_seed(0)
    theirs = Lime(lambda z: (net(z.double() * x) / unit)[:, 0].float()).attribute(
        torch.ones(1, 5), n_samples=1500, perturbations_per_eval=50
    )
    near = (found.scores - theirs[0].double() * unit).abs().max()
    assert float(near) < 0.06 * float(found.scores.abs().max())


def test_kernel_shap_is_captums_up_to_its_draws() -> None:
    net = Quadratic(13, seed=1)
    ours = of(net, "kernel_shap", samples=600)
    torch.manual_seed(0)
    theirs = KernelShap(lambda z: net(z.double() * net.x)[:, 0].float()).attribute(
        torch.ones(1, 13), n_samples=600, perturbations_per_eval=50
    )
    true, size = net.shapley(), float(net.shapley().norm())
    assert float((ours.scores - true).norm()) < 0.1 * size
    assert float((theirs[0] - true).norm()) < 0.3 * size  # without complements


def test_a_regression_over_too_few_coalitions_is_refused_before_it_runs() -> None:
    net = Quadratic(30)
    with pytest.raises(ConfigError, match="cannot tell 30 players apart"):
        of(net, "kernel_shap", samples=40)
    assert of(net, "kernel_shap").standard_errors is not None


def test_a_number_of_samples_is_obeyed() -> None:
    few, many = (of(Quadratic(5), "shapley", samples=n) for n in (40, 400))
    assert 0 < many.widest_error < few.widest_error
    assert many.n_forward > 5 * few.n_forward
    counted = of(Quadratic(5), "shapley")
    assert counted.n_forward == 2**5 + 2  # all coalitions, f(x) and f(r)


def test_heads_play_and_their_positions_have_standard_errors() -> None:
    model = toys.small()
    found = attribute(model, toys.IDS[:5], (3, 5), method="shapley", site="blocks.1.attn.hook_z", samples=150)
    assert found.unit_scores is not None and tuple(found.unit_scores.shape) == (5, 3)
    assert found.standard_errors is not None and tuple(found.standard_errors.shape) == (5,)
    # only the last position is read behind the last attention
    # (equal up to the rounding of rows that run beside others)
    assert float(found.scores[:4].abs().max()) < 1e-6 <= float(found.scores[4].abs())
    assert float(found.standard_errors[4]) >= 0
    whole = attribute(model, toys.IDS[:5], (3, 5), method="shapley", site="blocks.0.attn.hook_z", samples=150)
    assert float(whole.widest_error) > 0
