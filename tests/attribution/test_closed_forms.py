"""Methods where the answer is a formula, a regression by another library, or captum's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from captum.attr import LRP, DeepLift, LayerIntegratedGradients
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from sklearn.linear_model import Lasso, LinearRegression
from torch import Tensor, nn

import interp
from interp.attribution import attribute
from interp.attribution.game import SiteGame
from tests.attribution import toys
from tests.models import zoo

X = torch.tensor([[0.9, -0.4, 1.3, 0.2, -0.7]])


def cubes() -> interp.HookedModel:
    return toys.wrapped(lambda m, x: (x**3).sum(-1, keepdim=True))


# ---- formulas ---------------------------------------------------------------------------------


def test_the_path_integral_of_a_polynomial() -> None:
    model = toys.wrapped(lambda m, x: x[:, :1] * x[:, 1:2] ** 2 + x[:, 2:3] ** 3)
    a, b, c = 1.7, -0.6, 1.1
    x = torch.tensor([[a, b, c]], dtype=torch.float64)
    found = attribute(model, x, toys.first)
    expected = [a * b**2 / 3, 2 * a * b**2 / 3, c**3]
    assert found.scores.tolist() == pytest.approx(expected, abs=1e-12)


def test_smoothgrad_is_the_mean_slope_under_noise() -> None:
    found = attribute(cubes(), X, toys.first, method="smoothgrad", noise=1.0, samples=20_000, rows=5_000)
    variance = float(X.std()) ** 2
    torch.testing.assert_close(found.scores, 3 * (X[0] ** 2 + variance), rtol=0.05, atol=0)
    plain = 3 * X[0] ** 2
    assert float((found.scores - plain).min()) > 0.8 * 3 * variance


def test_gradient_shap_is_the_path_integral_in_expectation() -> None:
    found = attribute(cubes(), X, toys.first, method="gradient_shap", noise=0.0, samples=40_000, rows=10_000)
    torch.testing.assert_close(found.scores, X[0] ** 3, rtol=0.02, atol=0)


def test_functional_information_of_an_exponential() -> None:
    w = torch.tensor([0.5, -1.0, 0.3, 0.0, 0.8])
    model = toys.wrapped(lambda m, x: (x @ w).exp()[:, None])
    found = attribute(
        model, X, toys.first, method="functional_information", noise=0.6, samples=40_000, rows=10_000
    )
    variance = (0.6 * float(X.std())) ** 2
    mean = float((X[0] @ w + variance * w @ w / 2).exp())
    torch.testing.assert_close(found.scores, variance * w**2 * mean, rtol=0.02, atol=1e-7)


def test_conductance_of_a_hidden_unit_is_its_share_of_the_output() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    with torch.no_grad():
        hidden, rest = module[:2](X)[0], module[:2](torch.zeros(1, 5))[0]
    expected = module[2].weight[0].detach() * (hidden - rest)
    found = attribute(interp.wrap(module), X, toys.first, method="layer_conductance", site="1.hook_out")
    # captum sums over 64 differences of the path: that is its accuracy
    torch.testing.assert_close(found.scores, expected, rtol=2e-3, atol=1e-5)


def test_repeated_tokens_keep_their_own_scores() -> None:
    ids = torch.tensor([11, 7, 11, 7, 11])
    found = attribute(toys.small(), ids, (3, 5), method="feature_ablation")
    assert len(found.scores) == 5  # captum's dictionary keyed by token text would hold 2
    assert len({round(v, 6) for v in found.scores.tolist()}) == 5


# ---- the regressions of captum's sampling methods, by scikit-learn ------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Coalitions that a method asked about, with their values."""
    seen: list[tuple[Tensor, Tensor]] = []
    original = SiteGame.coalition

    def coalition(self: SiteGame, z: Tensor) -> Tensor:
        values = original(self, z)
        seen.append((z.clone(), values))
        return values

    monkeypatch.setattr(SiteGame, "coalition", coalition)
    yield seen


def rows_of(asked: list[tuple[Tensor, Tensor]]) -> tuple[Any, Any]:
    return (torch.cat([z for z, _ in asked]).double().numpy(), torch.cat([v for _, v in asked]).numpy())


def test_lime_is_scikit_learns_lasso(asked: list[tuple[Tensor, Tensor]]) -> None:
    found = attribute(toys.small(), toys.IDS, (3, 5), method="lime", samples=120)
    unit = abs(found.value - found.base_value)
    z, values = rows_of(asked)
    z, values = z[-120:], values[-120:] / unit  # before them: the whole input, for its shape
    norms = (z**2).sum(1) ** 0.5 * z.shape[1] ** 0.5
    cosine = z.sum(1) / norms.clip(min=1e-8)
    weights = torch.tensor(-((1 - cosine) ** 2) / 2).exp().numpy()
    fitted = Lasso(alpha=0.01).fit(z, values, sample_weight=weights)
    torch.testing.assert_close(found.scores, torch.tensor(fitted.coef_ * unit), rtol=0, atol=1e-4)
    assert float(found.scores.abs().max()) > 0.1 * unit


def test_kernel_shap_is_scikit_learns_regression(asked: list[tuple[Tensor, Tensor]]) -> None:
    found = attribute(toys.small(), toys.IDS, (3, 5), method="kernel_shap", samples=80)
    z, values = rows_of(asked)
    z, values = z[-82:], values[-82:]  # nobody, everybody, and 40 coalitions with their complements
    size = z.sum(1)
    assert int(((size > 0) & (size < z.shape[1])).sum()) == 80
    weights = [1.0 if 0 < s < z.shape[1] else 1e6 for s in size]
    fitted = LinearRegression().fit(z, values, sample_weight=weights)
    scale = float(found.scores.abs().max())
    torch.testing.assert_close(found.scores, torch.tensor(fitted.coef_), rtol=0, atol=1e-3 * scale)


# ---- captum's own, where it is right ------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_path_integrals_are_captums_on_transformers(name: str) -> None:
    module = zoo.make(name, dtype=torch.float64)
    ids, other = toys.IDS[None], toys.IDS.flip(0)[None]

    def read(tokens: Tensor) -> Tensor:
        out = module(input_ids=tokens)
        return (out.logits if hasattr(out, "logits") else out.last_hidden_state)[:, -1, 3]

    words = module.get_input_embeddings()
    theirs = LayerIntegratedGradients(read, words).attribute(
        ids, baselines=other, n_steps=200, method="gausslegendre"
    )
    assert isinstance(theirs, Tensor)
    model = interp.wrap(module)
    ours = attribute(model, ids, lambda out: out[:, -1, 3], baseline=other[0], tolerance=1e-7)
    torch.testing.assert_close(ours.scores, theirs[0].sum(-1), rtol=0, atol=1e-5)
    assert ours.n_forward < 200
    assert abs(ours.difference) > 1e-3


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.Softplus, nn.LeakyReLU])
def test_deeplift_is_captums_on_modules_with_one_nonlinearity_each(act: type[nn.Module]) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(7, 13), act(), nn.Linear(13, 11), act(), nn.Linear(11, 1))
        x, r = torch.randn(2, 1, 7)
        ours = attribute(interp.wrap(module), x, toys.first, method="deeplift", baseline=r)
        theirs = DeepLift(module).attribute(x, r)
        torch.testing.assert_close(ours.scores, theirs[0].detach(), rtol=0, atol=1e-5)


def test_deeplift_is_captums_through_convolutions() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 5, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 1),
    )
    x, r = torch.randn(2, 1, 2, 6, 6)
    ours = attribute(interp.wrap(module), x, toys.first, method="deeplift", baseline=r, units="entry")
    theirs = DeepLift(module).attribute(x, r).detach()
    torch.testing.assert_close(ours.scores.flatten(), theirs.flatten(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "method, rule, options",
    [
        ("lrp_epsilon", lambda: EpsilonRule(1e-9), {"epsilon": 1e-9}),
        ("lrp_alpha_beta", lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True), {"alpha": 1.0}),
    ],
    ids=["epsilon", "alpha 1 beta 0"],
)
def test_relevance_is_captums_on_relu_networks(method: str, rule: Any, options: Any) -> None:
    torch.manual_seed(6)
    module = toys.mlp((5, 11, 7, 1), bias=False)
    x = torch.rand(1, 5)
    ours = attribute(interp.wrap(module), x, toys.first, method=method, **options)
    for layer in module:
        if isinstance(layer, nn.Linear):
            layer.rule = rule()
    theirs = LRP(module).attribute(x)
    assert isinstance(theirs, Tensor)
    torch.testing.assert_close(ours.scores, theirs[0].detach(), rtol=0, atol=1e-5)
