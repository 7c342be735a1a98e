"""Sites before operations that write in place, and sites that the target does not depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import interp
from interp.attribution import attribute
from interp.attribution.methods.table import METHODS
from interp.core.errors import ConfigError, ModelError
from interp.models.stream.target import Target
from tests.attribution import toys

ATTENDING = ("attention", "attention_rollout", "attention_flow")


@pytest.mark.parametrize("act", [nn.ReLU, nn.ELU, nn.SiLU, nn.Hardtanh])
def test_a_site_before_an_operation_in_place_is_like_one_before_its_copy(act: Any) -> None:
    torch.manual_seed(0)
    a, out = nn.Linear(7, 5), nn.Linear(5, 1)
    x, r = torch.randn(1, 7), torch.randn(1, 5)
    models = [
        toys.wrapped(lambda m, z: m.out(m.act(m.a(z))), a=a, act=act(inplace=place), out=out)
        for place in (True, False)
    ]
    methods = [m for m in METHODS if m not in ATTENDING and m != "layer_conductance"]
    for method in methods:
        target = toys.first if method != "functional_information" else lambda o: toys.first(o).exp()
        found, expected = (
            attribute(model, x, target, method=method, site="a.hook_out", baseline=r) for model in models
        )
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6, msg=method)
        assert found.gap == pytest.approx(expected.gap, abs=1e-6)


def test_a_site_between_two_writes_in_place_keeps_its_value() -> None:
    torch.manual_seed(1)

    def twice(m: Any, z: torch.Tensor) -> torch.Tensor:
        h = m.a(z)
        h *= 2
        h[:, :2] = h[:, :2].tanh()
        return m.out(h.add_(1))

    model = toys.wrapped(twice, a=nn.Linear(7, 5), out=nn.Linear(5, 1))
    x = torch.randn(1, 7)
    found = attribute(model, x, toys.first, method="deeplift", site="a.hook_out")
    h, w = model.module.a(x)[0].detach(), model.module.out.weight[0].detach()
    h = torch.where(torch.arange(5) < 2, (2 * h).tanh(), 2 * h)
    torch.testing.assert_close(found.scores, w * h, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def small() -> interp.HookedModel:
    return toys.small()


@pytest.mark.parametrize("method", METHODS)
def test_a_site_behind_the_target_is_one_error_in_every_method(
    small: interp.HookedModel, method: str
) -> None:
    early = Target("early", lambda stream: stream[:, -1, 0], site="blocks.0.hook_resid_pre")
    with pytest.raises(ModelError) as caught:
        attribute(small, toys.IDS, early, method=method, site="blocks.1.hook_resid_pre")
    assert "the target 'early' does not depend on 'blocks.1.hook_resid_pre'" in str(caught.value)
    fixed = attribute(small, toys.IDS, early, method="deeplift", site="blocks.0.hook_resid_pre")
    assert float(fixed.scores[-1]) == pytest.approx(fixed.value, rel=1e-5)  # the advice works


@pytest.mark.parametrize("method", METHODS)
def test_a_branch_beside_the_target_is_one_error_in_every_method(method: str) -> None:
    def branches(m: Any, z: torch.Tensor) -> torch.Tensor:
        m.b(z)
        return m.a(z)

    model = toys.wrapped(branches, a=nn.Linear(7, 3), b=nn.Linear(7, 3))
    refused = (ModelError,) if method != "layer_conductance" else (ModelError, ConfigError)
    with pytest.raises(refused, match=r"the target 'first' does not depend on 'b\.hook_out'"):
        attribute(model, torch.randn(1, 7), toys.first, method=method, site="b.hook_out")


def test_a_target_without_a_gradient_is_measured_by_hiding() -> None:
    model = toys.wrapped(lambda m, z: (z.sum(-1, keepdim=True) > 1).float())
    x = torch.tensor([[2.0, 0.5, 0.0]])
    found = attribute(model, x, toys.first, method="feature_ablation")
    assert found.scores.tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(ModelError, match="does not depend on"):
        attribute(model, x, toys.first)


def test_steps_that_cancel_are_measured_by_hiding() -> None:
    """f(x) = f(r) and no gradient, yet each of the two steps is of the site: some noise moves it."""
    model = toys.wrapped(lambda m, z: (z[:, :1] > 1).float() - (z[:, 1:2] > 1).float())
    x = torch.tensor([[2.0, 2.0, 0.5]])
    for method in ("feature_ablation", "shapley", "kernel_shap"):
        assert attribute(model, x, toys.first, method=method).scores.tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("method", ["deeplift", "lrp_gamma", "attn_lrp"])
def test_what_was_computed_before_from_something_that_learns_is_refused(method: str) -> None:
    """Such a weight looks as if it came from the site: half of the product would be given to it."""
    model, scale = toys.wrapped(lambda m, z: m.a(z), a=nn.Linear(7, 3)), nn.Parameter(torch.ones(3))
    weight = 2 * scale
    with pytest.raises(ModelError, match="requires a gradient of its own"):
        attribute(model, torch.randn(1, 7), lambda out: (out * weight).sum(-1), method=method)
    attribute(model, torch.randn(1, 7), lambda out: (out * weight.detach()).sum(-1), method=method)


def test_a_target_with_weights_of_its_own_is_a_function_of_the_site_alone() -> None:
    torch.manual_seed(2)
    model, probe = toys.gated(), nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    x, r = torch.randn(2, 1, 7)
    for method in ("deeplift", "lrp_gamma", "attn_lrp"):
        both = []
        for learns in (True, False):
            probe.requires_grad_(learns)
            both.append(attribute(model, x, lambda out: probe(out)[:, 0], method=method, baseline=r))
        assert torch.equal(both[0].scores, both[1].scores)
