"""Captum's methods against closed forms and naive loops; attention against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.attribution import METHODS, attribute, attribute_methods
from interp.attribution.attributing import make_game
from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame
from interp.attribution.methods.attention import attention_flow, attention_rollout
from interp.attribution.rows import Rows
from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.models.stream.target import Target, token_logit
from tests.attribution import toys

SHORT = toys.IDS[:5]
AIM = (3, 5)


def game_of(model: interp.HookedModel, ids: Tensor, r: Tensor | None = None) -> SiteGame:
    aim = Target("difference", lambda o: o[:, -1, 3] - o[:, -1, 5])
    game = make_game(model, Rows(model, ids), aim, None, AttributionConfig())
    game.r = torch.zeros_like(game.x) if r is None else r
    return game


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    return toys.small()


def without(game: SiteGame, *players: int) -> float:
    """f with these players at the baseline, one forward pass by hand."""
    x = game.x.clone()
    x[:, list(players)] = game.r[:, list(players)]
    return float(game.values(x))


# ---- gradients --------------------------------------------------------------------------------


def test_gradient_methods_are_the_gradient(model: interp.HookedModel) -> None:
    game = game_of(model, SHORT)
    _, slope = game.gradients(game.x)
    product = attribute(model, SHORT, AIM, method="gradient_x_input")
    torch.testing.assert_close(product.scores, (slope * game.x)[0].sum(-1), rtol=1e-5, atol=1e-6)
    size = attribute(model, SHORT, AIM, method="saliency")
    torch.testing.assert_close(size.scores, slope.abs()[0].sum(-1), rtol=1e-5, atol=1e-6)


def test_gradient_times_input_counts_from_the_baseline(model: interp.HookedModel) -> None:
    game = game_of(model, SHORT)
    r = torch.randn_like(game.x)
    _, slope = game.gradients(game.x)
    found = attribute(model, SHORT, AIM, method="gradient_x_input", baseline=r)
    expected = (slope * (game.x - r))[0].sum(-1)
    torch.testing.assert_close(found.scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["smoothgrad", "gradient_shap"])
def test_noise_does_nothing_to_a_linear_model(method: Any) -> None:
    layer = nn.Linear(5, 1)
    x = torch.randn(1, 5)
    found = attribute(interp.wrap(layer), x, toys.first, method=method, samples=64)
    weight = layer.weight[0].detach()
    # captum's GradientShap multiplies the weights by a noisy x: equal up to that noise
    expected, atol = (weight.abs(), 1e-5) if method == "smoothgrad" else (weight * x[0], 0.05)
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=atol)


def test_gradient_shap_approaches_integrated_gradients(model: interp.HookedModel) -> None:
    path = attribute(model, SHORT, AIM, baseline="mean")
    few, many = (
        attribute(model, SHORT, AIM, method="gradient_shap", baseline="mean", samples=n, noise=0.0)
        for n in (4, 800)
    )
    far, near = ((one.scores - path.scores).norm() for one in (few, many))
    assert near < 0.15 * path.scores.norm()
    assert near < far


# ---- perturbation -----------------------------------------------------------------------------


def test_ablation_is_the_naive_loop(model: interp.HookedModel) -> None:
    game = game_of(model, SHORT)
    whole = float(game.values(game.x))
    expected = [whole - without(game, i) for i in range(5)]
    found = attribute(model, SHORT, AIM, method="feature_ablation")
    assert found.scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_occlusion_is_the_naive_loop_over_windows(model: interp.HookedModel) -> None:
    game = game_of(model, SHORT)
    whole = float(game.values(game.x))
    total, count = torch.zeros(5), torch.zeros(5)
    for start in range(4):
        window = [start, start + 1]
        total[window] += whole - without(game, *window)
        count[window] += 1
    found = attribute(model, SHORT, AIM, method="occlusion", window=2)
    torch.testing.assert_close(found.scores.float(), total / count, rtol=1e-4, atol=1e-5)


def test_a_window_hides_neighbours_of_one_head(model: interp.HookedModel) -> None:
    """Positions have neighbours, heads have none: three positions of a head are hidden, and of no other."""
    site = "blocks.0.attn.hook_z"
    total, count = torch.zeros(5, 3), torch.zeros(5, 3)
    with torch.no_grad():
        whole = model(SHORT)[0, -1]
        for head in range(3):
            for start in range(3):
                window = list(range(start, start + 3))
                edit = interp.zero(site, head=head, positions=window)
                out = model.run_with_hooks(SHORT, [edit])[0, -1]
                total[window, head] += (whole[3] - whole[5]) - (out[3] - out[5])
                count[window, head] += 1
    found = attribute(model, SHORT, AIM, method="occlusion", site=site, window=3)
    assert found.unit_scores is not None
    torch.testing.assert_close(found.unit_scores.float(), total / count, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.scores, found.unit_scores.sum(1))


def test_shapley_methods_approach_the_definition(model: interp.HookedModel) -> None:
    exact = toys.exact_shapley(game_of(model, SHORT))
    sampled = attribute(model, SHORT, AIM, method="shapley", samples=1500)
    fitted = attribute(model, SHORT, AIM, method="kernel_shap", samples=600)
    for found in (sampled, fitted):
        assert float((found.scores - exact).norm()) < 0.1 * float(exact.norm())
        assert found.relative_gap < 1e-3


def test_shapley_axioms_on_a_game_with_known_values() -> None:
    model = toys.wrapped(lambda m, x: x[:, :1] * x[:, 1:2] + x[:, 2:3])
    x = torch.tensor([[2.0, 3.0, 5.0, 7.0]])
    game = make_game(model, Rows(model, x), Target("t", toys.first), None, AttributionConfig())
    assert toys.exact_shapley(game).tolist() == pytest.approx([3, 3, 5, 0])  # symmetry, dummy
    found = attribute(model, x, toys.first, method="shapley", samples=800)
    assert found.scores.tolist() == pytest.approx([3, 3, 5, 0], abs=0.6)
    assert float(found.scores[3]) == 0
    assert float(found.scores.sum()) == pytest.approx(11, abs=1e-4)  # efficiency


def test_a_linear_model_is_the_same_for_every_complete_method() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(6, 1)
    x, r = torch.randn(2, 1, 6)
    expected = (layer.weight[0] * (x - r)[0]).detach()
    for method in (
        "integrated_gradients",
        "deeplift",
        "deeplift_reveal_cancel",
        "captum_deeplift",
        "gradient_x_input",
        "feature_ablation",
        "shapley",
        "kernel_shap",
    ):
        found = attribute(interp.wrap(layer), x, toys.first, method=method, baseline=r)
        torch.testing.assert_close(found.scores.float(), expected, rtol=0, atol=2e-3)


def test_lime_orders_a_linear_model_by_its_weights() -> None:
    layer = nn.Linear(5, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[5.0, -4.0, 3.0, 0.0, 1.0]]))
    found = attribute(interp.wrap(layer), torch.ones(1, 5), toys.first, method="lime", samples=500)
    assert found.scores.abs().argsort(descending=True).tolist()[:3] == [0, 1, 2]
    assert found.scores[1] < 0 < found.scores[0]


def test_heads_are_players_of_their_own(model: interp.HookedModel) -> None:
    found = attribute(model, SHORT, AIM, method="feature_ablation", site="blocks.1.attn.hook_z")
    assert found.unit_scores is not None
    assert tuple(found.unit_scores.shape) == (5, 3)
    with torch.no_grad():
        edit = interp.zero("blocks.1.attn.hook_z", head=2, positions=4)
        out = model.run_with_hooks(SHORT, [edit])[0, -1]
        whole = model(SHORT)[0, -1]
    expected = float((whole[3] - whole[5]) - (out[3] - out[5]))
    assert float(found.unit_scores[4, 2]) == pytest.approx(expected, abs=1e-5)


# ---- conductance ------------------------------------------------------------------------------


def test_conductance_sums_where_everything_passes(model: interp.HookedModel) -> None:
    at = "blocks.1.hook_resid_pre"
    found = attribute(model, SHORT, AIM, method="layer_conductance", site=at, baseline="mean")
    path = attribute(model, SHORT, AIM, baseline="mean")
    assert found.difference == pytest.approx(path.difference, abs=1e-6)
    assert found.relative_gap < 0.02
    bypassed = attribute(
        model, SHORT, AIM, method="layer_conductance", site="blocks.0.mlp.hook_post", baseline="mean"
    )
    assert bypassed.relative_gap > 0.05


def test_conductance_of_the_input_is_refused(model: interp.HookedModel) -> None:
    with pytest.raises(ConfigError, match="inner site"):
        attribute(model, SHORT, AIM, method="layer_conductance")


# ---- attention --------------------------------------------------------------------------------


def test_rollout_is_the_product_by_hand() -> None:
    patterns = torch.rand(3, 2, 5, 5).softmax(-1)
    expected = torch.eye(5)
    for layer in range(3):
        mixed = torch.zeros(5, 5)
        for i in range(5):
            for j in range(5):
                mixed[i, j] = 0.5 * patterns[layer, :, i, j].mean() + 0.5 * (i == j)
        expected = mixed @ expected
    torch.testing.assert_close(attention_rollout(patterns), expected)
    torch.testing.assert_close(attention_rollout(patterns).sum(-1), torch.ones(5))


def test_flow_through_one_layer_is_the_capacity() -> None:
    patterns = torch.rand(1, 3, 5, 5).softmax(-1)
    expected = (patterns[0].mean(0)[-1] + torch.eye(5)[-1]) / 2
    torch.testing.assert_close(attention_flow(patterns).float(), expected, atol=1e-5, rtol=0)


def test_flow_is_bounded_by_the_narrowest_cut() -> None:
    # position 0 reaches the top only through position 1: 1 -> 1 (.5) -> 0 (.5 * 1)
    layers = torch.zeros(2, 1, 3, 3)
    layers[0, 0] = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    layers[1, 0] = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0.2, 0.8]])
    flow = attention_flow(layers)
    assert float(flow[0]) == pytest.approx(0.1, abs=1e-5)
    assert float(attention_rollout(layers)[-1, 0]) == pytest.approx(0.05, abs=1e-6)


def test_attention_ignores_the_target_and_says_so(model: interp.HookedModel) -> None:
    one, other = (attribute(model, SHORT, t, method="attention_rollout") for t in (3, 7))
    assert torch.equal(one.scores, other.scores)
    assert not one.complete
    assert "promises no sum" in repr(one)
    with pytest.raises(ConfigError, match="positions of tokens, or of the patches"):
        attribute(interp.wrap(nn.Linear(3, 1)), torch.ones(1, 3), toys.first, method="attention")


# ---- the table --------------------------------------------------------------------------------


def test_every_method_runs_and_is_reproducible(model: interp.HookedModel) -> None:
    def positive(out: Tensor) -> Tensor:
        return out[:, -1].softmax(-1)[:, 3]

    sampled = AttributionConfig(samples=40)
    for method in METHODS:
        at = "blocks.1.hook_resid_pre" if method == "layer_conductance" else None
        twice = [
            attribute(model, SHORT, positive, method=method, site=at, baseline="mean", config=sampled)
            for _ in range(2)
        ]
        assert torch.equal(twice[0].scores, twice[1].scores), method
        assert len(twice[0].scores) == len(twice[0].tokens) == 5
        assert bool(twice[0].scores.abs().sum() > 0), method


def test_global_randomness_is_put_back(model: interp.HookedModel) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    attribute_methods(model, SHORT, AIM, ["shapley", "lime", "smoothgrad"], samples=20)
    assert torch.equal(torch.rand(3), expected)


def test_unknown_methods_and_options_are_helped(model: interp.HookedModel) -> None:
    with pytest.raises(ConfigError, match="did you mean 'deeplift'"):
        attribute(model, SHORT, AIM, method="deeplifft")
    with pytest.raises(ConfigError, match="did you mean 'samples'"):
        attribute(model, SHORT, AIM, sampels=3)


def test_places_that_are_not_there_are_named(model: interp.HookedModel) -> None:
    n = len(attribute(model, SHORT, AIM, method="gradient_x_input").tokens)
    with pytest.raises(ConfigError, match="no such position to keep"):
        attribute(model, SHORT, AIM, method="gradient_x_input", keep=[n])
    beyond = token_logit(model, 3, position=n)
    with pytest.raises(ShapeError, match=f"reads a place .* at {n}|at {n}' reads a place"):
        attribute(model, SHORT, beyond, method="gradient_x_input")


def test_functional_information_needs_a_positive_target(model: interp.HookedModel) -> None:
    with pytest.raises(ModelError, match="positive target"):
        attribute(model, SHORT, lambda o: -o[:, -1, 3].exp(), method="functional_information")
