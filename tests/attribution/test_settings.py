"""An attribution carries what made it: repeated, saved, judged and compared by its own settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.metrics import sensitivity_max
from torch import Tensor, nn

import interp
from interp.attribution import (
    METHODS,
    attribute,
    attribute_generated,
    attribute_pair,
    compare_methods,
    measure_faithfulness,
)
from interp.attribution.config import TrustConfig
from interp.attribution.result import Attribution, GeneratedAttribution, PairAttribution
from interp.core.errors import ConfigError, ShapeError
from interp.core.randomness import generator
from interp.core.result import Result
from tests.attribution import toys
from tests.models import zoo
from tests.models.tokenizers import word_level

GOLDEN = Path(__file__).parents[1] / "faults" / "golden" / "results"
TOLD: dict[str, dict[str, Any]] = {
    "max_nodes": {"max_nodes": 40},
    "samples": {"samples": 24},
    "noise": {"noise": 0.4},
    "window": {"window": 1},
    "max_forward": {"max_forward": 9_000},
    "epsilon": {"epsilon": 0.1},
    "gamma": {"gamma": 1.0},
    "alpha": {"alpha": 3.0},
}
"""One value per field that some method reads, each unlike the default."""


def options_of(method: str) -> dict[str, Any]:
    """Every field that a method reads, set to something else than it is by default."""
    told = {k: v for field in METHODS[method].reads for k, v in TOLD[field].items()}
    inner = {"site": "blocks.1.hook_resid_pre"} if method == "layer_conductance" else {}
    return {**told, **inner, "baseline": "mean", "keep": [0], "seed": 5}


def probability(out: Tensor) -> Tensor:
    return out[:, -1].softmax(-1)[:, 3]


@pytest.mark.parametrize("method", METHODS)
def test_what_it_carries_repeats_it_and_its_defaults_would_not(method: str, tmp_path: Path) -> None:
    model, ids = toys.small(), toys.IDS[:5]
    one = attribute(model, ids, probability, method=method, **options_of(method))
    loaded = Attribution.load(one.save(tmp_path / "one"))
    assert loaded.settings == one.settings
    again = attribute(model, ids, probability, **loaded.settings)
    assert torch.equal(again.scores, one.scores) and again.baseline == one.baseline
    site = None if method != "layer_conductance" else "blocks.1.hook_resid_pre"
    plain = attribute(model, ids, probability, method=method, site=site)
    if not method.startswith("attention") and method != "saliency":  # those have nothing to set
        assert not torch.equal(plain.scores, one.scores)


@pytest.mark.parametrize(
    "baseline", ["zero", "mean", torch.randn(15), torch.randn(1, 5, 15), torch.tensor(0.3), toys.IDS[1:6]]
)
def test_every_form_of_baseline_comes_back(baseline: Any, tmp_path: Path) -> None:
    model = toys.small()
    one = attribute(model, toys.IDS[:5], (3, 5), baseline=baseline, method="feature_ablation")
    loaded = Attribution.load(one.save(tmp_path / "one"))
    again = attribute(model, toys.IDS[:5], (3, 5), **loaded.settings)
    assert torch.equal(again.scores, one.scores)
    other = attribute(model, toys.IDS[:5], (3, 5), baseline=torch.full((15,), 7.0), method="feature_ablation")
    assert not torch.equal(other.scores, one.scores)


def test_special_tokens_that_nobody_named_are_kept_again(tmp_path: Path) -> None:
    model = interp.wrap(zoo.make("gpt2"), word_level(0))
    ids = torch.tensor([0, 4, 5, 3, 2])  # <s> and four words
    told = {"method": "feature_ablation", "baseline": "mean"}
    one = attribute(model, ids, (3, 5), **told)
    again = attribute(model, ids, (3, 5), **Attribution.load(one.save(tmp_path / "one")).settings)
    assert torch.equal(again.scores, one.scores) and again.baseline == one.baseline
    assert one.scores[0] == 0 and bool((one.scores[1:] != 0).all())
    none_kept = attribute(model, ids, (3, 5), **told, keep=[])
    assert none_kept.scores[0] != 0
    loaded = Attribution.load(none_kept.save(tmp_path / "two")).settings
    assert torch.equal(attribute(model, ids, (3, 5), **loaded).scores, none_kept.scores)


def test_a_generated_attribution_carries_them_too() -> None:
    model = toys.small()
    told = {"method": "occlusion", "window": 1, "baseline": "mean", "site": "blocks.1.hook_resid_pre"}
    one = attribute_generated(model, toys.IDS[:5], 2, **told)
    again = attribute_generated(model, toys.IDS[:5], 2, **one.settings)
    assert torch.equal(one.scores, again.scores)
    assert one.settings["site"] == told["site"] and one.settings["config"].window == 1


def test_files_of_before_load_and_say_that_they_cannot_be_repeated() -> None:
    for kind in (Attribution, GeneratedAttribution):
        old = kind.load(GOLDEN / kind.__name__)
        assert isinstance(old, Result) and old.asked is None
        with pytest.raises(ConfigError, match="before settings were kept"):
            _ = old.settings


@pytest.mark.parametrize("reference", ["zero", "mean", torch.linspace(-1, 1, 15), torch.tensor(0.3)])
def test_a_pair_is_repeated_by_what_it_carries(reference: Any, tmp_path: Path) -> None:
    model, a, b = toys.small(), toys.IDS[:5], toys.IDS[1:5]
    told: dict[str, Any] = {"reference": reference, "similarity": "dot", "pooling": "first", "rows": 7}
    told |= {"max_nodes": 12, "tolerance": 0.05}
    one = attribute_pair(model, a, b, site="blocks.0.hook_resid_post", **told)
    loaded = PairAttribution.load(one.save(tmp_path / "one"))
    again = attribute_pair(model, a, b, **loaded.settings)
    assert torch.equal(again.scores, one.scores) and again.reference == one.reference
    plain = attribute_pair(model, a, b, reference="zero", max_nodes=12)
    assert not torch.allclose(plain.scores, one.scores)


def test_a_pair_made_with_what_no_file_holds_says_so() -> None:
    model, a, b = toys.small(), toys.IDS[:5], toys.IDS[1:5]
    quick: dict[str, Any] = {"reference": "zero", "max_nodes": 12}
    with pytest.raises(ConfigError, match="made with embed, which no file holds"):
        _ = attribute_pair(model, a, b, embed=lambda out: out[:, -1], **quick).settings
    with pytest.raises(ConfigError, match="made with model_b"):
        _ = attribute_pair(model, a, b, model_b=model, **quick).settings
    old = PairAttribution.load(GOLDEN / "PairAttribution")
    with pytest.raises(ConfigError, match="before settings were kept"):
        _ = old.settings


# ---- sensitivity ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in METHODS if not m.startswith("attention")])
def test_sensitivity_runs_the_method_again_by_its_own_settings(method: str) -> None:
    """Captum's, of a function that attributes from the start with the noisy x given as the input."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 1), nn.Sigmoid())
    model, x = interp.wrap(net), torch.rand(1, 6) + 0.5
    told = {**options_of(method), "keep": None, "baseline": torch.linspace(0, 0.4, 6)}
    if method == "layer_conductance":
        told["site"] = "0.hook_out"
    if method.startswith("lrp") or method == "attn_lrp":
        told.pop("baseline")
    config = TrustConfig(samples=3, radius=0.1)

    def explain(value: tuple[Tensor]) -> tuple[Tensor]:
        return (attribute(model, value[0], toys.first, method=method, **told).scores[None].double(),)

    drawn = generator(config.seed, "sensitivity", 0)

    def perturb(value: tuple[Tensor] | Tensor, radius: float) -> tuple[Tensor]:
        return (x + radius * x.std() * (torch.rand(x.shape, generator=drawn) * 2 - 1),)

    each = [sensitivity_max(explain, x, perturb, perturb_radius=0.1, n_perturb_samples=1) for _ in range(3)]
    theirs = max(map(float, each))
    one = attribute(model, x, toys.first, method=method, **told)
    own = {"a": [one]}  # judged by another baseline than it was made with
    ours = measure_faithfulness(model, [x], toys.first, own, baseline="zero", sensitivity=True, config=config)
    assert float(ours.sensitivity[0]) == pytest.approx(theirs, rel=1e-3)
    assert float(ours.sensitivity[0]) > 1e-4


@pytest.mark.parametrize("method", ["attention", "attention_rollout", "attention_flow"])
def test_attention_moves_with_what_it_attends_to(method: str) -> None:
    model = toys.small()
    one = attribute(model, toys.IDS, (3, 5), method=method)
    judged = measure_faithfulness(
        model, [toys.IDS], (3, 5), {"a": [one]}, sensitivity=True, config=TrustConfig(samples=3, radius=0.3)
    )
    assert 1e-4 < float(judged.sensitivity[0]) < 1


def test_sensitivity_is_the_worst_of_its_perturbations() -> None:
    """By hand: f = x^2, whose gradient x input moves as much as the noise does."""
    model = toys.wrapped(lambda m, x: x.pow(2).sum(-1, keepdim=True))
    x = torch.tensor([[1.0, 2.0, 3.0]])
    one = attribute(model, x, toys.first, method="gradient_x_input")
    worst = {}
    for samples in (1, 2, 6):
        config = TrustConfig(samples=samples, radius=0.2, seed=1)
        drawn, moved = generator(config.seed, "sensitivity", 0), []
        for _ in range(samples):
            noisy = x + 0.2 * x.std() * (torch.rand(x.shape, generator=drawn) * 2 - 1)
            moved.append(float((2 * noisy**2 - 2 * x**2).norm() / (2 * x**2).norm()))
        found = measure_faithfulness(model, [x], toys.first, {"a": [one]}, sensitivity=True, config=config)
        assert float(found.sensitivity[0]) == pytest.approx(max(moved), rel=1e-5)
        worst[samples] = moved
    assert max(worst[6]) > worst[6][-1]  # the last is not the worst


# ---- judged by what made them -----------------------------------------------------------------


def test_faithfulness_removes_what_the_attributions_took_away() -> None:
    model, x = toys.small(), toys.IDS
    site = "blocks.1.hook_resid_pre"
    told = {"method": "feature_ablation", "baseline": "mean", "site": site, "keep": [1]}
    one = attribute(model, x, (3, 5), **told)
    own = measure_faithfulness(model, [x], (3, 5), {"a": [one]})
    r = torch.where(torch.arange(7)[:, None] == 1, 1.0, 0.0)
    held = model.capture(x, [site])[site]
    absent = r * held[0] + (1 - r) * held[0].mean(0)

    def read(kept: Tensor) -> float:
        value = torch.where(kept[:, None] > 0, held[0], absent)[None]
        out = model.run_with_hooks(x, [(site, lambda v, hook: value)])
        return (out[0, -1, 3] - out[0, -1, 5]).item()

    order = (one.scores * (1 if one.difference > 0 else -1)).argsort(descending=True)
    expected = []
    for step in range(11):
        kept = torch.ones(7)
        kept[order[: max(int(step > 0), round(step / 10 * 7))]] = 0
        expected.append((read(kept) - read(torch.zeros(7))) / (read(torch.ones(7)) - read(torch.zeros(7))))
    assert own.deletion[0].tolist() == pytest.approx(expected, abs=1e-3)
    other = measure_faithfulness(model, [x], (3, 5), {"a": [one]}, site=site, baseline="zero")
    assert not torch.allclose(own.deletion, other.deletion)


def test_what_is_not_agreed_is_asked_for() -> None:
    model, x = toys.small(), toys.IDS
    a = attribute(model, x, (3, 5), method="feature_ablation")
    b = attribute(model, x, (3, 5), method="feature_ablation", baseline="mean")
    c = attribute(model, x, (3, 5), method="feature_ablation", site="blocks.1.hook_resid_pre")
    old = replace(a, asked=None)
    with pytest.raises(ConfigError, match="several baselines"):
        measure_faithfulness(model, [x], (3, 5), {"a": [a], "b": [b]})
    with pytest.raises(ConfigError, match="several sites"):
        measure_faithfulness(model, [x], (3, 5), {"a": [a], "c": [c]})
    with pytest.raises(ConfigError, match="before their settings were kept"):
        measure_faithfulness(model, [x], (3, 5), {"old": [old]})
    with pytest.raises(ConfigError, match="before their settings were kept"):
        measure_faithfulness(model, [x], (3, 5), {"old": [old]}, baseline="zero", sensitivity=True)
    assert measure_faithfulness(model, [x], (3, 5), {"a": [a], "b": [b]}, baseline="zero").n_examples == 1
    assert measure_faithfulness(model, [x], (3, 5), {"old": [old]}, baseline="zero").n_examples == 1
    with pytest.raises(ShapeError, match="not of this input"):
        measure_faithfulness(model, [toys.IDS.flip(0)], (3, 5), {"a": [replace(a, tokens=tuple("abcdefg"))]})


def test_one_name_is_one_way_and_one_example() -> None:
    model = toys.small()
    inputs = [toys.IDS, toys.IDS.flip(0)]
    wide, narrow = (
        [attribute(model, x, (3, 5), method="occlusion", window=n) for x in inputs] for n in (3, 1)
    )
    assert compare_methods({"wide": wide, "narrow": narrow}).n_examples == 2
    with pytest.raises(ConfigError, match="window: 3 and 1"):
        compare_methods({"a": [wide[0], narrow[1]], "b": wide})
    seeds = [attribute(model, x, (3, 5), method="occlusion", seed=i) for i, x in enumerate(inputs)]
    assert compare_methods({"a": seeds, "b": wide}).n_examples == 2
    odd = replace(wide[0], tokens=tuple("abcdefg"))
    with pytest.raises(ShapeError, match="example 0 is not the same"):
        compare_methods({"a": [odd, wide[1]], "b": wide})
