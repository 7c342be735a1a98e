"""Integrated gradients: exact where the function is simple, flagged where it does not converge."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

import interp
from interp.attribution import attribute
from interp.attribution.attributing import make_game
from interp.attribution.config import AttributionConfig
from interp.attribution.methods.paths import gauss_legendre, integrate
from interp.attribution.rows import Rows
from interp.models.stream.target import Target
from tests.attribution import toys
from tests.models import zoo

SITES = [
    "hook_embed",
    "blocks.1.hook_resid_pre",
    "blocks.0.attn.hook_z",
    "blocks.0.mlp.hook_post",
    "blocks.1.attn.hook_pattern",
    "blocks.1.attn.hook_q",
    "blocks.1.hook_attn_out",
]


# ---- identity ---------------------------------------------------------------------------------


def test_a_linear_model_is_its_weights_to_the_last_digit() -> None:
    layer = nn.Linear(5, 3, dtype=torch.float64)
    x = torch.randn(1, 5, dtype=torch.float64)
    found = attribute(interp.wrap(layer), x, 1)
    torch.testing.assert_close(found.scores, layer.weight[1] * x[0], rtol=0, atol=1e-12)
    assert found.nodes == 8
    assert found.relative_gap < 1e-12


def test_polynomials_of_degree_15_need_one_panel() -> None:
    x, w = gauss_legendre(8)
    assert float((w * x**15).sum()) == pytest.approx(1 / 16, abs=1e-15)
    assert abs(float((w * x**16).sum()) - 1 / 17) > 1e-12


def test_panels_are_cut_only_where_the_path_is_rough() -> None:
    def steep(at: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(200 * (at - 0.8))

    found = integrate(lambda at: 200 * steep(at) * (1 - steep(at)), steep, lambda part: part, 1e-6, 1024)
    uniform = 8 * 2**6
    assert found.converged
    assert found.error <= 1e-6
    assert float(found.value) == pytest.approx(1.0, abs=1e-6)
    assert found.nodes < uniform


@pytest.mark.parametrize("at", SITES)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_scores_sum_to_the_difference_at_every_site(name: str, at: str) -> None:
    model = interp.wrap(zoo.make(name))
    found = attribute(model, toys.IDS, (3, 5), site=at, baseline="mean")
    assert found.check().ok, found.check()
    assert abs(float(found.scores.sum()) - found.difference) <= max(
        0.01 * abs(found.difference), found.rounding
    )
    assert abs(found.difference) > 1e-4  # or any scores would do


def test_units_sum_to_positions() -> None:
    model = interp.wrap(zoo.make("gpt2"))
    found = attribute(model, toys.IDS, (3, 5), site="blocks.0.attn.hook_z")
    assert found.unit_scores is not None
    assert tuple(found.unit_scores.shape) == (7, zoo.H)
    torch.testing.assert_close(found.unit_scores.sum(1), found.scores)


def test_it_is_captums_integrated_gradients() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 1))
    x, r = torch.randn(1, 7), torch.randn(1, 7)
    ours = attribute(interp.wrap(module), x, toys.first, baseline=r, tolerance=1e-5)
    theirs = IntegratedGradients(lambda v: module(v)[:, 0]).attribute(x, r, n_steps=200)
    torch.testing.assert_close(ours.scores, theirs[0], rtol=0, atol=1e-5)


def test_chunks_change_nothing() -> None:
    model = toys.small()
    one = attribute(model, toys.IDS, (3, 5), rows=1)
    many = attribute(model, toys.IDS, (3, 5), rows=64)
    torch.testing.assert_close(one.scores, many.scores, rtol=1e-4, atol=1e-6)


def test_a_pass_never_holds_more_rows_than_asked_for() -> None:
    model = toys.small()
    sizes: list[int] = []
    handle = model.module.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    attribute(model, toys.IDS, (3, 5), rows=5)
    handle.remove()
    assert max(sizes) == 5


def test_it_costs_its_forward_and_backward_passes_and_little_else() -> None:
    model = toys.small()
    found = attribute(model, toys.IDS, (3, 5), baseline="mean")
    assert found.n_forward <= found.nodes + 2 * found.nodes / 8 + 6


# ---- F23: computed always, met or flagged -----------------------------------------------------


def test_every_gap_is_met_or_flagged(full_count: bool) -> None:
    n, unflagged, worst_linear = (10_000 if full_count else 90), 0, 0.0
    for seed in range(n):
        torch.manual_seed(seed)
        depth = seed % 3
        sizes = (5, *[11] * depth, 1)
        module = toys.mlp(sizes, dtype=torch.float64)
        x, r = torch.randn(2, 1, 5, dtype=torch.float64) * 10 ** float(torch.empty(1).uniform_(-2, 2))
        nodes = int(torch.randint(8, 200, ()))
        found = attribute(interp.wrap(module), x, toys.first, baseline=r, tolerance=1e-3, max_nodes=nodes)
        with torch.no_grad():
            wanted = float(module(x) - module(r))
        true_gap = abs(float(found.scores.sum()) - wanted)
        met = true_gap <= 1e-3 * abs(wanted) + found.rounding
        unflagged += not met and (found.converged or found.check().ok)
        if depth == 0:
            worst_linear = max(worst_linear, true_gap / max(1.0, abs(found.difference)))
    assert unflagged == 0
    assert worst_linear < 1e-12


def test_a_path_that_does_not_converge_is_said() -> None:
    model = toys.wrapped(lambda m, x: torch.sin(300 * x).sum(-1, keepdim=True))
    x = torch.tensor([[1.0, 2.0]])
    found = attribute(model, x, toys.first, max_nodes=16)
    assert not found.converged
    assert not found.check().ok
    assert "NOT converged" in repr(found)
    enough = attribute(model, x, toys.first, max_nodes=4096)
    assert enough.converged
    assert enough.check().ok


# ---- phenomenon and null ----------------------------------------------------------------------


def test_saturation_gradient_sees_nothing_and_the_path_sees_both() -> None:
    model = toys.wrapped(lambda m, x: 1 - torch.relu(1 - x[:, :1] - x[:, 1:]))
    x = torch.ones(1, 2)
    assert attribute(model, x, toys.first, method="gradient_x_input").scores.tolist() == [0, 0]
    path = attribute(model, x, toys.first, max_nodes=4096)
    torch.testing.assert_close(path.scores, torch.tensor([0.5, 0.5]), atol=5e-3, rtol=0)


def test_a_position_that_nothing_reads_gets_nothing() -> None:
    model = toys.small()
    found = attribute(model, toys.IDS, Target("early", lambda out: out[:, 2, 5]))
    assert found.scores[3:].abs().max() == 0 < found.scores[:3].abs().min()


def test_the_game_leaves_the_model_as_it_was() -> None:
    module = zoo.make("gpt2").requires_grad_(True)
    model = interp.wrap(module)
    before = model(toys.IDS)
    attribute(model, toys.IDS, 5)
    attribute(model, toys.IDS, 5, method="deeplift")
    assert torch.equal(model(toys.IDS), before)
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_coalitions_interpolate_between_baseline_and_input() -> None:
    model = toys.small()
    game = make_game(
        model, Rows(model, toys.IDS), Target("t", lambda o: o[:, -1, 5]), None, AttributionConfig()
    )
    value, base = game.ends()
    ends = game.coalition(torch.stack([torch.ones(7), torch.zeros(7)]))
    assert ends.tolist() == pytest.approx([value, base], abs=1e-6)
    assert value != base
