"""DeepLIFT exact where captum's is silently wrong, and LRP against naive loops."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift as CaptumDeepLift
from torch import Tensor, nn

import interp
from interp.attribution import attribute
from tests.attribution import toys
from tests.models import zoo

MIDDLE = {"t5": "encoder_blocks.1.hook_resid_pre", "t5-gated": "encoder_blocks.1.hook_resid_pre"}
FAMILIES = [name for name in zoo.MAKERS if name != "vit"]


def inputs_of(name: str) -> Any:
    if name in MIDDLE:
        return {"input_ids": toys.IDS[None], "decoder_input_ids": toys.IDS[None, :5]}
    return toys.IDS


CAPTUMS = {toys.gated: 0.17, toys.normed: 0.20}
"""Median gap of captum's DeepLIFT over twenty networks."""


# ---- DeepLIFT: identity -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [toys.gated, toys.normed], ids=["gated", "layer norm"])
def test_exact_where_captums_is_wrong(make: Any) -> None:
    ours, theirs, relative = [], [], []
    for seed in range(20):
        model = make(seed=seed)
        torch.manual_seed(100 + seed)
        x, r = torch.randn(2, 1, 7)
        for method in ("deeplift", "deeplift_reveal_cancel"):
            found = attribute(model, x, toys.first, method=method, baseline=r)
            ours.append(found.gap)
        captum = attribute(model, x, toys.first, method="captum_deeplift", baseline=r)
        theirs.append(captum.gap)
        relative.append(captum.relative_gap)
        assert not captum.check().ok or captum.relative_gap < 0.01  # shown, never silent
    assert max(ours) < 1e-6
    # about as much as there is to explain
    assert statistics.median(theirs) == pytest.approx(CAPTUMS[make], abs=0.01)
    assert statistics.median(relative) > 0.5


@pytest.mark.thin(2)
@pytest.mark.parametrize("baseline", ["mean", "zero"])
@pytest.mark.parametrize("name", FAMILIES)
def test_exact_in_every_family(name: str, baseline: str) -> None:
    model = interp.wrap(zoo.make(name))
    at = MIDDLE.get(name, "blocks.1.hook_resid_pre")
    for method in ("deeplift", "deeplift_reveal_cancel"):
        found = attribute(model, inputs_of(name), (3, 5), method=method, site=at, baseline=baseline)
        assert found.gap < 1e-5 * max(1.0, abs(found.value)), (method, found.gap_sentence)
        assert abs(found.difference) > 1e-3


def test_exact_on_a_real_model_for_every_baseline(shared_data: Any) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    text = "Once upon a time, there was a little girl named Lily. She"
    for baseline in ("zero", "mean", "unk"):
        ours = attribute(model, text, method="deeplift", baseline=baseline)
        theirs = attribute(model, text, method="captum_deeplift", baseline=baseline)
        assert ours.gap < 2e-5
        assert theirs.relative_gap > 0.05
        assert ours.n_forward <= 4


def test_exact_at_heads_neurons_and_patterns() -> None:
    model = interp.wrap(zoo.make("llama"))
    for at in ("blocks.0.attn.hook_z", "blocks.0.mlp.hook_post", "blocks.1.attn.hook_v"):
        found = attribute(model, toys.IDS, (3, 5), method="deeplift", site=at)
        assert found.gap < 1e-5
        assert found.unit_scores is not None


COMPOSITES = {
    "functional relu": lambda m, x: F.relu(m.a(x)).sum(-1, keepdim=True),
    "relu module used twice": lambda m, x: m.out(m.act(m.act(m.a(x)) - 0.1)),
    "division": lambda m, x: m.a(x)[:, :1] / (1 + m.a(x)[:, 1:2].square()),
    "one over": lambda m, x: 1 / (2 + m.a(x)[:, :1].tanh()),
    "softmax": lambda m, x: (m.a(x).softmax(-1) * m.a(x)).sum(-1, keepdim=True),
    "log softmax": lambda m, x: F.log_softmax(m.a(x), -1)[:, :1],
    "normalize": lambda m, x: F.normalize(m.a(x), dim=-1)[:, :1],
    "rms norm": lambda m, x: F.rms_norm(m.a(x), (13,))[:, :1],
    "variance": lambda m, x: m.a(x).var(-1, keepdim=True),
    "standard normal": lambda m, x: torch.einsum("bi,bi->b", m.a(x), m.a(x).sigmoid())[:, None],
    "power": lambda m, x: m.a(x).pow(3).mean(-1, keepdim=True),
    "operators": lambda m, x: (m.a(x) * m.a(x).exp() / 7 - m.a(x) ** 2).sum(-1, keepdim=True),
}


@pytest.mark.parametrize("kind", COMPOSITES)
def test_exact_on_whatever_is_composed(kind: str) -> None:
    torch.manual_seed(2)
    model = toys.wrapped(COMPOSITES[kind], a=nn.Linear(7, 13), act=nn.ReLU(), out=nn.Linear(13, 1))
    x, r = torch.randn(2, 1, 7)
    found = attribute(model, x, toys.first, method="deeplift", baseline=r)
    assert found.gap < 1e-5
    assert abs(found.difference) > 1e-3


def test_it_is_captums_where_captum_is_right() -> None:
    torch.manual_seed(0)
    module = toys.mlp((7, 13, 11, 1))
    x, r = torch.randn(2, 1, 7)
    ours = attribute(interp.wrap(module), x, toys.first, method="deeplift", baseline=r)
    theirs = CaptumDeepLift(module).attribute(x, r)
    torch.testing.assert_close(ours.scores, theirs[0].detach(), rtol=0, atol=1e-5)


# ---- DeepLIFT: phenomenon ---------------------------------------------------------------------


def test_saturation() -> None:
    model = toys.wrapped(lambda m, x: 1 - torch.relu(1 - x[:, :1] - x[:, 1:]))
    found = attribute(model, torch.ones(1, 2), toys.first, method="deeplift")
    assert found.scores.tolist() == [0.5, 0.5]
    gradient = attribute(model, torch.ones(1, 2), toys.first, method="gradient_x_input")
    assert gradient.scores.tolist() == [0, 0]


def test_an_and_gate_is_shared_only_by_reveal_cancel() -> None:
    linear = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -1.0]]))
    model = toys.wrapped(lambda m, x: x[:, :1] - torch.relu(m.gap(x)), gap=linear)
    x = torch.tensor([[10.0, 6.0]])  # min = 6
    rescale = attribute(model, x, toys.first, method="deeplift")
    apart = attribute(model, x, toys.first, method="deeplift_reveal_cancel")
    assert rescale.scores.tolist() == [0.0, 6.0]
    assert apart.scores.tolist() == [3.0, 3.0]


def test_reveal_cancel_is_shapley_for_one_hidden_unit_of_two_inputs() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        linear = nn.Linear(2, 1)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor([[1.5, -0.7]]))
        model = toys.wrapped(lambda m, x: torch.relu(m.one(x)), one=linear)
        x = torch.rand(1, 2) * 3
        found = attribute(model, x, toys.first, method="deeplift_reveal_cancel")

        def f(a: float, b: float, layer: nn.Linear = linear) -> float:
            return float(torch.relu(layer(torch.tensor([[a, b]]))).detach())

        a, b = x[0].tolist()
        expected = (f(a, 0.0) - f(0.0, 0.0) + f(a, b) - f(0.0, b)) / 2
        assert float(found.scores[0]) == pytest.approx(expected, abs=1e-5)


# ---- LRP --------------------------------------------------------------------------------------


def naive_lrp(module: nn.Sequential, x: Tensor, rule: Any) -> Tensor:
    """Relevance layer by layer, input by input, straight from the papers."""
    linears = [layer for layer in module if isinstance(layer, nn.Linear)]
    inputs = []
    for layer in module:
        if isinstance(layer, nn.Linear):
            inputs.append(x)
        x = layer(x)
    relevance = x.detach()
    for layer, a in zip(reversed(linears), reversed(inputs), strict=True):
        lower = torch.zeros_like(a)
        for j in range(layer.out_features):
            parts = (a[0] * layer.weight[j]).detach()
            lower[0] += rule(parts) * relevance[0, j]
        relevance = lower
    return relevance[0].detach()


def share_epsilon(parts: Tensor) -> Tensor:
    return parts / parts.sum()


def share_gamma(parts: Tensor) -> Tensor:
    tilted = parts + 0.25 * parts.clamp(min=0) if parts.sum() >= 0 else (parts + 0.25 * parts.clamp(max=0))
    return tilted / tilted.sum()


def share_alpha_beta(parts: Tensor) -> Tensor:
    up, down = parts.clamp(min=0), parts.clamp(max=0)
    return 2 * up / up.sum().clamp(min=1e-9) - down / down.sum().clamp(max=-1e-9)


@pytest.mark.parametrize(
    "method, rule",
    [("lrp_epsilon", share_epsilon), ("lrp_gamma", share_gamma), ("lrp_alpha_beta", share_alpha_beta)],
)
def test_lrp_is_the_naive_loop(method: str, rule: Any) -> None:
    torch.manual_seed(6)
    module = toys.mlp((5, 11, 7, 1), bias=False)
    x = torch.rand(1, 5)
    found = attribute(interp.wrap(module), x, toys.first, method=method, epsilon=1e-9)
    expected = naive_lrp(module, x, rule)
    torch.testing.assert_close(found.scores, expected, rtol=1e-3, atol=1e-5)


def test_epsilon_lrp_of_a_relu_net_is_gradient_times_input() -> None:
    module = toys.mlp((5, 11, 7, 1))
    x = torch.randn(1, 5)
    model = interp.wrap(module)
    lrp = attribute(model, x, toys.first, method="lrp_epsilon", epsilon=1e-9)
    product = attribute(model, x, toys.first, method="gradient_x_input")
    torch.testing.assert_close(lrp.scores, product.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_gamma", "attn_lrp"])
def test_relevance_is_conserved_without_biases(method: str) -> None:
    torch.manual_seed(1)
    model = toys.wrapped(
        lambda m, x: m.out(F.silu(m.a(m.norm(x))) * m.b(m.norm(x))),
        norm=nn.LayerNorm(7, elementwise_affine=False),
        a=nn.Linear(7, 13, bias=False),
        b=nn.Linear(7, 13, bias=False),
        out=nn.Linear(13, 1, bias=False),
    )
    x = torch.randn(1, 7)
    found = attribute(model, x, toys.first, method=method, epsilon=1e-9)
    product = attribute(model, x, toys.first, method="gradient_x_input")
    assert float(found.scores.sum()) == pytest.approx(found.value, rel=1e-3)
    assert abs(float(product.scores.sum()) - found.value) > 0.1 * abs(found.value)


def test_attention_rule_halves_products_and_keeps_the_softmax_gradient() -> None:
    q, k, v = torch.randn(3, 1, 4, 5).unbind(0)
    model = toys.wrapped(lambda m, x: (x @ k.transpose(-1, -2)).softmax(-1) @ v)
    target = lambda out: out[:, 2, 1]  # noqa: E731
    found = attribute(model, q, target, method="attn_lrp", site="hook_in")
    x = q.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(target(model.module(x)).sum(), x)  # one factor live: no halving
    torch.testing.assert_close(found.scores, (slope * q).flatten().detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "gemma2"])
def test_lrp_runs_through_every_kind_of_block(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    for method in ("lrp_epsilon", "lrp_gamma", "lrp_alpha_beta"):
        found = attribute(model, toys.IDS, (3, 5), method=method)
        assert bool(found.scores.isfinite().all())
        assert found.scores.abs().max() < 1e3
