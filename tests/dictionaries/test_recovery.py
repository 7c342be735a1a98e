"""Synthetic worlds and the comparison with their truth: exact, phenomenon, null, and sae-lens."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from interp.core.errors import ConfigError, MemoryBudgetError, ShapeError
from interp.core.result import Result
from interp.dictionaries import (
    Dictionary,
    DictionaryConfig,
    Recovery,
    SyntheticConfig,
    SyntheticWorld,
    score_ceilings,
    score_recovery,
)
from interp.dictionaries.scores import matching
from interp.dictionaries.scores.recovery import random_directions

SMALL = SyntheticConfig(d=23, n_features=47, p_first=0.08, p_last=0.02, seed=3)


def pursuit(rows: torch.Tensor, residual_threshold: float = 0.6) -> Dictionary:
    """Matching pursuit with given directions."""
    config = DictionaryConfig(
        d_in=rows.shape[1],
        d_sae=len(rows),
        activation="matching_pursuit",
        max_iterations=20,
        residual_threshold=residual_threshold,
    )
    return Dictionary.from_state(config, {"W_dec": rows, "b_dec": torch.zeros(rows.shape[1])})


def test_a_world_is_what_its_config_says() -> None:
    world = SyntheticWorld()
    x, truth = world.sample(50_000)
    assert world.l0 == pytest.approx(5.632, abs=1e-3)
    assert float((truth > 0).sum(1).float().mean()) == pytest.approx(world.l0, rel=0.01)
    rate = (truth > 0).float().mean(0)
    assert float((rate - world.probability).abs().max()) < 0.005
    on = truth[truth > 0]
    assert float(on.mean()) == pytest.approx(1, abs=0.01)
    assert float(on.std()) == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(world.features.norm(dim=1), torch.ones(256))
    torch.testing.assert_close(x, truth @ world.features)


def test_batches_depend_on_seed_step_and_purpose_alone() -> None:
    world = SyntheticWorld(SMALL)
    again = SyntheticWorld(SMALL)
    torch.testing.assert_close(world.batch(7, 101), again.batch(7, 101), rtol=0, atol=0)
    stranger = SyntheticWorld(SyntheticConfig(d=23, n_features=47, seed=4))
    held_out = world.sample(101, 7, "held out").x
    for other in (world.batch(8, 101), held_out, stranger.batch(7, 101)):
        assert not torch.equal(world.batch(7, 101), other)


def test_children_fire_only_with_their_root_and_one_at_a_time() -> None:
    config = SyntheticConfig(n_features=120, children=3, p_first=0.2, p_last=0.1, p_child=0.5)
    world = SyntheticWorld(config)
    on = world.sample(40_000).truth > 0
    roots, children = on[:, :30], on[:, 30:].reshape(-1, 30, 3)
    assert world.parent.tolist() == [-1] * 30 + [i for i in range(30) for _ in range(3)]
    assert not bool((children & ~roots[..., None]).any())
    assert int(children.sum(2).max()) == 1
    share = float((children.any(2) & roots).sum() / roots.sum())
    assert share == pytest.approx(0.5, abs=0.01)
    assert float(on.float().sum(1).mean()) == pytest.approx(world.l0, rel=0.02)


def test_impossible_worlds_are_refused() -> None:
    for bad in ({"p_first": 1.5}, {"n_features": 10, "children": 2}, {"d": 0}):
        with pytest.raises(ConfigError):
            SyntheticWorld(SyntheticConfig(**bad))


def test_the_truth_in_any_order_is_recovered_exactly() -> None:
    """Identity: the true directions, permuted, score 1 and pair with themselves."""
    world = SyntheticWorld()
    order = torch.randperm(256)
    found = score_recovery(pursuit(world.features[order]), world, 4000, with_ceiling=False)
    assert found.mcc == pytest.approx(1, abs=1e-6) and found.rec90 == 1 and found.mmcs > 0.999
    assert torch.equal(order[found.partner], torch.arange(256))
    assert float(found.uniqueness) == 1
    assert float(found.f1.mean()) > 0.88
    assert float(found.latent_f1) == pytest.approx(float(found.f1.mean()))


def test_signs_do_not_matter_and_duplicates_are_not_unique() -> None:
    world = SyntheticWorld(SMALL)
    flipped = score_recovery(pursuit(-world.features), world, 500, with_ceiling=False)
    assert flipped.mcc == pytest.approx(1, abs=1e-6)
    doubled = torch.cat([world.features[:20], world.features[:20]])
    twice = score_recovery(pursuit(doubled), world, 500, with_ceiling=False)
    assert float(twice.uniqueness) == 0.5
    assert twice.rec90 == pytest.approx(20 / 47, abs=0.05)
    assert int((twice.partner < 0).sum()) == 7 and float(twice.cosine[twice.partner < 0].sum()) == 0
    assert float(twice.f1[twice.partner < 0].sum()) == 0


def test_random_directions_recover_nothing() -> None:
    """Null: chance level of the matching, far below any dictionary that learned."""
    world = SyntheticWorld()
    found = score_recovery(pursuit(random_directions(256, 64)), world, 2000, with_ceiling=False)
    assert found.mcc < 0.4 and found.rec90 == 0 and float(found.f1.mean()) < 0.15


def test_the_matching_is_the_best_of_all() -> None:
    matrix = torch.rand(6, 6)
    partner = matching.best_pairs(matrix)
    best = max(
        sum(float(matrix[i, p]) for i, p in enumerate(order)) for order in itertools.permutations(range(6))
    )
    assert float(matrix.gather(1, partner[:, None]).sum()) == pytest.approx(best)
    assert sorted(partner.tolist()) == list(range(6))


def test_the_ceiling_is_what_the_truth_reaches() -> None:
    world = SyntheticWorld(SMALL)
    found = score_ceilings(world, 4000)
    assert found["matching pursuit"]["f1"] > found["one pass"]["f1"] > 0.6
    for scores in found.values():
        assert scores["l0"] == pytest.approx(world.l0, rel=0.25)
    score = score_recovery(pursuit(world.features), world, 4000)
    assert score.ceiling == score_ceilings(world)
    assert float(score.f1.mean()) == pytest.approx(found["matching pursuit"]["f1"], abs=0.05)


def test_in_the_default_world_a_stop_by_the_residual_beats_a_count(full_count: bool) -> None:
    """docs/dictionaries.md: F1 of the true directions, stopped in either way, and of one pass."""
    world = SyntheticWorld()
    residual, fixed = pursuit(world.features, 0.7), pursuit(world.features, 0.0)
    fixed = Dictionary.from_state(replace(fixed.config, max_iterations=5), fixed.state_dict())
    rows = 4000 if full_count else 800
    f1 = [float(score_recovery(one, world, rows, with_ceiling=False).f1.mean()) for one in (residual, fixed)]
    assert f1 == pytest.approx([0.92, 0.84], abs=0.01)
    if full_count:
        assert score_ceilings(world)["one pass"]["f1"] == pytest.approx(0.80, abs=0.01)


def test_scores_are_those_of_sae_lens(tmp_path: Any) -> None:
    """Oracle: MCC, uniqueness, F1, precision, recall, L0, explained variance, dead latents."""
    from sae_lens.synthetic import evals

    world = SyntheticWorld(SMALL)
    rows = torch.nn.functional.normalize(world.features + 0.2 * torch.randn(47, 23), dim=1)
    dictionary = pursuit(torch.cat([rows, random_directions(6, 23)]))
    found = score_recovery(dictionary, world, 4096, with_ceiling=False)
    x, truth = world.sample(4096, 0, "held out")
    z = dictionary.encode(x)
    theirs = evals.compute_classification_metrics(z, truth, dictionary.W_dec, world.features)
    assert found.mcc == pytest.approx(
        evals.mean_correlation_coefficient(dictionary.W_dec.detach(), world.features), abs=1e-6
    )
    assert float(found.uniqueness) == pytest.approx(
        evals.feature_uniqueness(dictionary.W_dec.detach(), world.features)
    )
    assert float(found.latent_f1) == pytest.approx(theirs.f1_score, abs=1e-6)
    variance = evals.ExplainedVarianceCalculator()
    with torch.no_grad():
        variance.add_batch(dictionary.decode(z), x)
    assert 1 - float(found.fvu) == pytest.approx(variance.compute(), abs=1e-5)
    l0 = evals.L0Calculator()
    l0.add_batch(z)
    assert float(found.l0) == pytest.approx(l0.compute())
    np.testing.assert_allclose(found.probability, world.probability)
    found.save(tmp_path / "recovery")
    again: Any = Result.load(tmp_path / "recovery")
    assert isinstance(again, Recovery) and again.summary() == found.summary()


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShapeError):
        score_recovery(pursuit(random_directions(5, 13)), SyntheticWorld())
    with pytest.raises(ShapeError):
        matching.cosines(torch.zeros(3, 5), torch.zeros(3, 7))
    monkeypatch.setattr(matching, "MOST_PAIRS", 20)
    with pytest.raises(MemoryBudgetError):
        matching.best_pairs(torch.zeros(5, 5))
