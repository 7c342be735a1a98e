"""Ground truth on the bundled model: deciding tokens lead in every task, and not in the null."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

import interp
from interp.attribution import score_ground_truth
from interp.attribution.trust.ground_truth import area_under_curve
from interp.attribution.trust.result import GroundTruth
from interp.core.errors import ConfigError
from interp.tasks import Prompt, Prompts, grammar_task, list_grammar

METHODS = ["deeplift", "attn_lrp", "integrated_gradients", "attention_rollout"]


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    return interp.load_model("tiny-grammar")


def tasks(n: int, every: int = 1) -> dict[str, Prompts]:
    """Behaviours of the bundled model, n held-out prompts each."""
    return {name: grammar_task(name).sample(n, seed=3) for name in list_grammar()[::every]}


@pytest.fixture(scope="module")
def found(model: interp.HookedModel, full_count: bool) -> GroundTruth:
    if full_count:
        return score_ground_truth(model, tasks(6), [*METHODS, "gradient_x_input"])
    return score_ground_truth(model, tasks(3, every=2), METHODS)


def test_the_area_is_scikit_learns() -> None:
    scores, decides = torch.randn(13).round(decimals=1), torch.arange(13) % 3 == 0
    expected = roc_auc_score(decides.numpy(), scores.numpy())
    assert area_under_curve(scores, decides) == pytest.approx(expected)
    assert area_under_curve(torch.ones(13), decides) == 0.5


def test_deciding_tokens_lead(found: GroundTruth) -> None:
    area = dict(zip(found.labels["method"], found.area, strict=True))
    for method in ("deeplift", "attn_lrp"):
        assert float(area[method].mean()) > 0.8
        low = dict(zip(found.labels["task"], area[method].tolist(), strict=True))
        assert sum(a > 0.7 for a in low.values()) >= 0.8 * len(low), low
        assert min(low.values()) > 0.5, low
    assert float(area["integrated_gradients"].mean()) > 0.7
    hits = dict(zip(found.labels["method"], found.hits, strict=True))
    assert float(hits["deeplift"].mean()) > 4 * float(found.chance.mean())


@pytest.mark.full
def test_the_figures_of_six_prompts(found: GroundTruth, model: interp.HookedModel) -> None:
    area = dict(zip(found.labels["method"], found.area.mean(1).tolist(), strict=True))
    told = {"deeplift": 0.95, "attn_lrp": 0.94, "integrated_gradients": 0.87, "gradient_x_input": 0.88}
    told |= {"attention_rollout": 0.75, "random": 0.51}
    assert area == pytest.approx(told, abs=0.01)
    of_paths = dict(zip(found.labels["task"], found.area[METHODS.index("integrated_gradients")], strict=True))
    assert float(of_paths["greater-than"]) == pytest.approx(0.50, abs=0.01)
    null = score_ground_truth(model.randomised(0), tasks(6), ["deeplift"])
    assert float(null.area[0].mean()) == pytest.approx(0.50, abs=0.01)


def test_attention_disagrees_and_is_the_one_that_is_wrong(found: GroundTruth) -> None:
    area = dict(zip(found.labels["method"], found.area.mean(1).tolist(), strict=True))
    hits = dict(zip(found.labels["method"], found.hits.mean(1).tolist(), strict=True))
    assert area["attention_rollout"] < area["deeplift"] - 0.08
    assert hits["attention_rollout"] < 0.5 * hits["deeplift"]


def test_a_random_order_finds_nothing(found: GroundTruth) -> None:
    assert 0.35 < float(found.area[-1].mean()) < 0.65
    assert float(found.hits[-1].mean()) < 0.25


def test_a_model_that_knows_nothing_finds_nothing(model: interp.HookedModel) -> None:
    null = score_ground_truth(model.randomised(0), tasks(3, every=2), ["deeplift"])
    assert float(null.area[0].mean()) < 0.68
    assert float(null.hits[0].mean()) < 0.35


def test_prompts_without_a_truth_are_refused(model: interp.HookedModel) -> None:
    text = "When Mary and John went to the park, John gave a book to"
    bare = Prompts([Prompt(text, answers=(" Mary",), distractors=(" John",))])
    with pytest.raises(ConfigError, match="corrupted twins"):
        score_ground_truth(model, {"bare": bare}, ["saliency"])
    same = Prompts([Prompt(text, text, answers=(" Mary",), distractors=(" John",))])
    with pytest.raises(ConfigError, match="decides nothing"):
        score_ground_truth(model, {"same": same}, ["saliency"])
