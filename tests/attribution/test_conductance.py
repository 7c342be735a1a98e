"""Layer conductance: by its integral, by captum, and refined where the path bends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerConductance
from scipy.integrate import quad_vec
from torch import Tensor, nn

import interp
from interp.attribution import attribute
from interp.attribution.methods.conductance import POINTS, _lobatto
from interp.attribution.methods.paths import integrate_by_halves
from interp.core.errors import ConfigError, ModelError
from tests.attribution import toys

SHORT, AIM = toys.IDS[:5], (3, 5)
X = torch.tensor([[1.0, -2.0, 1.5]], dtype=torch.float64)


class Two(nn.Module):
    """y = inner(x), then a square of everything, and a bypass of `share` of x."""

    def __init__(self, sharpness: float = 1.0, share: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 4).double()
        with torch.no_grad():  # every unit turns somewhere on the way to X
            self.first.bias.copy_(-(self.first.weight @ X[0]) * torch.tensor([0.31, 0.43, 0.6, 0.87]))
        self.inner = nn.Tanh()
        self.sharpness, self.share = sharpness, share

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.sharpness * self.first(x))
        return (y.sin() * y.roll(1, -1)).sum(-1, keepdim=True) + self.share * x.prod(-1, keepdim=True)


def by_quadrature(net: Two) -> np.ndarray[Any, Any]:
    """The integral of its definition on [0, 1], derivatives written out."""
    weight, bias = (p.detach().numpy() for p in net.first.parameters())
    there = X[0].numpy()

    def slope(a: float) -> np.ndarray[Any, Any]:
        y = np.tanh(net.sharpness * (weight @ (a * there) + bias))
        outer = np.cos(y) * np.roll(y, 1) + np.sin(np.roll(y, -1))
        return outer * (1 - y**2) * net.sharpness * (weight @ there)

    return quad_vec(slope, 0, 1, epsabs=1e-10, points=(0.31, 0.43, 0.6, 0.87))[0]


@pytest.mark.parametrize("sharpness", [1.0, 20.0])
@pytest.mark.parametrize("share", [0.0, 2.0])
def test_it_is_the_integral_of_its_definition(sharpness: float, share: float) -> None:
    """Also where a bypass leaves the scores short of f(x) - f(r), and where the path bends sharply."""
    net = Two(sharpness, share)
    told = {"site": "inner.hook_out", "method": "layer_conductance", "max_nodes": 4096, "tolerance": 1e-6}
    found = attribute(interp.wrap(net), X, toys.first, **told)
    expected = by_quadrature(net)
    assert found.converged
    assert found.scores.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert (found.relative_gap > 1e-3) == (share != 0)
    if sharpness == 1:
        theirs = LayerConductance(net, net.inner).attribute(X, n_steps=100)
        assert isinstance(theirs, Tensor)
        assert found.scores.tolist() == pytest.approx(theirs[0].tolist(), abs=2e-2)


def test_two_sites_that_cancel_are_each_right() -> None:
    """f = h(y0) - h(y1) + y2 with y0 = y1: their errors cancel in any sum, and each score is known."""
    inner = toys.Call(lambda m, x: (40 * (x - x.new_tensor([0.3, 0.3, 0.0]))).tanh())
    model = toys.wrapped(
        lambda m, x: (lambda y: (3 * y[:, :1]).sin() - (3 * y[:, 1:2]).sin() + y[:, 2:])(m.inner(x)),
        inner=inner,
    )
    x = torch.ones(1, 3, dtype=torch.float64)
    told = {"site": "inner.hook_out", "method": "layer_conductance", "max_nodes": 4096, "tolerance": 1e-6}
    found = attribute(model, x, toys.first, **told)
    ends = np.tanh(40 * 0.7), np.tanh(-40 * 0.3)
    rise = np.sin(3 * ends[0]) - np.sin(3 * ends[1])
    assert found.converged
    assert found.scores.tolist() == pytest.approx([rise, -rise, np.tanh(40.0)], abs=1e-4)


def test_it_takes_the_nodes_that_it_needs_and_says_when_they_are_too_few() -> None:
    told: dict[str, Any] = {"site": "inner.hook_out", "method": "layer_conductance"}
    smooth, sharp = (attribute(interp.wrap(Two(s)), X, toys.first, **told) for s in (1.0, 40.0))
    assert smooth.converged and smooth.nodes == 3 * POINTS  # a whole and two halves
    assert sharp.converged and smooth.nodes < sharp.nodes <= 512
    short = attribute(interp.wrap(Two(40.0)), X, toys.first, max_nodes=30, **told)
    assert short.nodes <= 30 and not short.converged and not short.check().ok
    for most in (30, 50, 70, 110, 150):  # a split is two halves, each of them done twice
        bounded = attribute(interp.wrap(Two(40.0)), X, toys.first, max_nodes=most, **told)
        assert bounded.nodes <= most and not bounded.converged
    assert "NOT converged" in short.gap_sentence and "FAILED" in str(short.check())


def test_a_bypass_is_no_failure_to_converge() -> None:
    model = toys.small()
    found = attribute(
        model, SHORT, AIM, method="layer_conductance", site="blocks.0.mlp.hook_post", baseline="mean"
    )
    assert found.relative_gap > 0.05 and found.converged and found.check().ok


@pytest.mark.parametrize(
    "site", ["blocks.0.mlp.hook_post", "blocks.1.attn.hook_z", "blocks.1.hook_resid_pre"]
)
def test_sites_of_a_transformer_are_the_sum_over_many_steps(site: str) -> None:
    model = toys.small(dtype=torch.float64)
    from interp.attribution.attributing import make_game
    from interp.attribution.config import AttributionConfig
    from interp.attribution.rows import Rows
    from interp.models.stream.target import contrast

    found = attribute(
        model, SHORT, AIM, method="layer_conductance", site=site, baseline="mean", tolerance=1e-4
    )
    path = make_game(model, Rows(model, SHORT), contrast(model, *AIM), None, AttributionConfig())
    # the sum over many steps of slope times change, as captum adds it up
    r = path.x.mean(1, keepdim=True).expand_as(path.x)
    at = torch.linspace(0, 1, 401, dtype=torch.float64).view(-1, 1, 1)
    held, slopes = path.behind(site, r + at * (path.x - r))
    middle = (slopes[1:] + slopes[:-1]) / 2
    expected = (middle * (held[1:] - held[:-1])).sum(0).flatten(1).sum(1)
    assert found.converged
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-3 * abs(found.difference))


def test_a_site_that_the_path_does_not_reach_is_refused() -> None:
    module = toys.Call(lambda m, x: m.a(x) + m.b(torch.ones_like(x)), a=nn.Linear(3, 1), b=nn.Linear(3, 1))
    with pytest.raises(ModelError, match="depends on"):
        attribute(
            interp.wrap(module), torch.ones(1, 3), toys.first, method="layer_conductance", site="b.hook_out"
        )
    with pytest.raises(ConfigError, match="site='blocks"):
        attribute(toys.small(), SHORT, AIM, method="layer_conductance")


def test_a_flat_function_conducts_nothing() -> None:
    module = toys.Call(lambda m, x: 0 * m.a(x) + 1, a=nn.Linear(3, 1))
    found = attribute(
        interp.wrap(module), torch.ones(1, 3), toys.first, method="layer_conductance", site="a.hook_out"
    )
    assert not found.scores.any() and found.converged


def test_halving_integrates_a_kink_to_its_bound_and_counts_its_points() -> None:
    at, weights, derivative = _lobatto(POINTS)
    calls: list[tuple[float, float]] = []

    def stretch(start: float, end: float) -> Tensor:
        calls.append((start, end))
        return torch.tensor([(end - start) * weights @ np.abs(start + (end - start) * at - 0.3)])

    found = integrate_by_halves(stretch, lambda part: part, POINTS, 1e-6, 4096)
    assert found.converged and abs(float(found.value) - (0.3**2 + 0.7**2) / 2) < 1e-6
    assert found.nodes == POINTS * len(calls)
    assert len(set(calls)) == len(calls)  # nothing is done twice
    powers = at[:, None] ** np.arange(POINTS)
    slopes = np.arange(POINTS) * at[:, None] ** np.maximum(np.arange(POINTS) - 1, 0)
    np.testing.assert_allclose(derivative @ powers, slopes, atol=1e-11)
    np.testing.assert_allclose(weights @ at[:, None] ** np.arange(16), 1 / np.arange(1, 17), atol=1e-12)
