"""What faithfulness measures, by hand; ratios of sums; one example has no interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

import interp
from interp.attribution import attribute, compare_methods, measure_faithfulness, pool_faithfulness
from interp.attribution.config import TrustConfig
from interp.attribution.trust.agreement import top_overlap
from interp.attribution.trust.bootstrap import bootstrap_interval
from interp.attribution.trust.result import Agreement, Faithfulness
from interp.core.errors import ConfigError
from tests.attribution import toys

GOLDEN = Path(__file__).parents[1] / "faults" / "golden" / "results"
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)


def classifier() -> tuple[nn.Module, interp.HookedModel]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 3), nn.Softmax(-1)).double()
    return net, interp.wrap(net)


def second(out: Tensor) -> Tensor:
    return out[:, 1]


def by_hand(net: nn.Module, x: Tensor, scores: Sequence[float]) -> tuple[float, float]:
    """DeYoung et al. 2020, section 4.2, for class 1: mean over bins of differences of probabilities."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    whole = net(x)[0, 1].item()
    lost, short = [], []
    for share in BINS:
        top = order[: max(1, round(share * len(scores)))]
        kept = torch.zeros(len(scores), dtype=torch.float64)
        kept[top] = 1
        lost.append(whole - net(x * (1 - kept))[0, 1].item())
        short.append(whole - net(x * kept)[0, 1].item())
    return float(np.mean(lost)), float(np.mean(short))


def test_comprehensiveness_and_sufficiency_are_the_papers() -> None:
    """Over three inputs, in some of which f(x) < f(baseline): no sign is turned, nothing divided."""
    net, model = classifier()
    inputs = [torch.randn(1, 20, dtype=torch.float64) for _ in range(3)]
    inputs.append(-inputs[0])
    found = [attribute(model, x, second) for x in inputs]
    assert {one.difference > 0 for one in found} == {True, False}
    judged = measure_faithfulness(model, inputs, second, {"ig": found})
    each = [by_hand(net, x, one.scores.tolist()) for x, one in zip(inputs, found, strict=True)]
    expected = np.mean(each, axis=0)
    assert judged.eraser_comprehensiveness is not None and judged.eraser_sufficiency is not None
    assert float(judged.eraser_comprehensiveness[0]) == pytest.approx(expected[0], abs=1e-6)
    assert float(judged.eraser_sufficiency[0]) == pytest.approx(expected[1], abs=1e-6)
    assert float(judged.eraser_comprehensiveness[0]) > float(judged.eraser_comprehensiveness[1])  # random


def test_the_shares_of_a_linear_model_by_hand() -> None:
    """f = sum of w, ten positions, 0.1 of which lead: each share is a sum of the largest weights."""
    weight = torch.tensor([0.19, 0.17, 0.15, 0.13, 0.11, 0.09, 0.07, 0.05, 0.03, 0.01])
    layer = nn.Linear(10, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    model, x = interp.wrap(layer), torch.ones(1, 10)
    found = measure_faithfulness(model, [x], toys.first, {"true": [attribute(model, x, toys.first)]})
    top = [float(weight[:n].sum()) for n in (1, 1, 1, 2, 5)]
    assert float(found.comprehensiveness[0]) == pytest.approx(np.mean(top), abs=1e-6)
    assert float(found.sufficiency[0]) == pytest.approx(1 - np.mean(top), abs=1e-6)
    curve = [float(weight[:n].sum()) for n in range(11)]
    assert float(found.insertion_area[0]) == pytest.approx(np.mean(curve), abs=1e-6)
    assert float(found.deletion_area[0]) == pytest.approx(1 - np.mean(curve), abs=1e-6)


def test_examples_weigh_what_is_at_stake_in_them() -> None:
    """Sum of changes over sum of differences: an example with f(x) - f(r) of 1e-4 cannot make +11.9."""
    model = toys.wrapped(lambda m, x: (x * torch.arange(1.0, 7)).sum(-1, keepdim=True).sin())
    inputs = [torch.rand(1, 6, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    scales = [1.0, 2.0, 1e-4, -1.0, 0.5]
    targets = [lambda out, s=s: s * toys.first(out) for s in scales]
    found = [attribute(model, x, t, method="occlusion") for x, t in zip(inputs, targets, strict=True)]
    each = [
        measure_faithfulness(model, [x], t, {"a": [one]})
        for x, t, one in zip(inputs, targets, found, strict=True)
    ]
    every = measure_faithfulness(model, inputs, targets, {"a": found})
    stake = np.array([abs(one.difference) for one in found])
    for field in ("deletion_area", "insertion_area", "comprehensiveness", "sufficiency"):
        own = np.array([float(getattr(one, field)[0]) for one in each])
        assert float(getattr(every, field)[0]) == pytest.approx(float((own * stake).sum() / stake.sum()))
    area = torch.stack([one.insertion_area - one.deletion_area for one in each])
    low, high = bootstrap_interval(area, TrustConfig(), torch.tensor(stake))
    assert low is not None and high is not None and every.area_low is not None and every.area_high is not None
    torch.testing.assert_close(every.area_low[0], low[0])  # the random order is each example's own
    middle = float(every.insertion_area[0] - every.deletion_area[0])
    assert float(every.area_low[0]) <= middle <= float(every.area_high[0])  # an interval of +area
    assert float(every.area_low[0]) < float(every.area_high[0])


def test_an_interval_is_that_of_numpys_resamples() -> None:
    values, weights = torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([1.0, 0.0, 3.0])
    low, high = bootstrap_interval(values, TrustConfig(resamples=400), weights)
    drawn = np.random.default_rng(0).integers(0, 3, (40_000, 3))
    stake, total = weights.numpy()[drawn], values[:, 0].numpy()[drawn] * weights.numpy()[drawn]
    means = total.sum(1)[stake.sum(1) > 0] / stake.sum(1)[stake.sum(1) > 0]
    assert low is not None and high is not None
    assert float(low) == pytest.approx(np.quantile(means, 0.025), abs=0.3)
    assert float(high) == pytest.approx(np.quantile(means, 0.975), abs=0.3)
    assert bootstrap_interval(values, TrustConfig(), torch.zeros(3)) == (None, None)
    # an example brings its weight along: (3 * 1 + 1 * 5) / 4 = 2, where the plain mean is 3
    values, weights = torch.tensor([[1.0], [5.0]]).repeat(20, 1), torch.tensor([3.0, 1.0]).repeat(20)
    low, high = bootstrap_interval(values, TrustConfig(), weights)
    assert low is not None and high is not None and 1.3 < float(low) < 2 < float(high) < 2.7


def test_a_difference_that_vanishes_is_said_and_shares_nothing() -> None:
    model = toys.wrapped(lambda m, x: (x[:, :1] - x[:, 1:2]) * x[:, 2:3])
    flat, steep = torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([[3.0, 1.0, 2.0]])
    found = {name: attribute(model, x, toys.first) for name, x in (("flat", flat), ("steep", steep))}
    alone = measure_faithfulness(model, [flat], toys.first, {"a": [found["flat"]]})
    assert alone.n_vanishing == 1 and alone.difference == 0
    assert bool(alone.deletion.isnan().all()) and bool(alone.comprehensiveness.isnan().all())
    assert not alone.check().ok and "f(x) is f(baseline) in 1" in alone.about
    assert alone.eraser_comprehensiveness is not None and alone.eraser_comprehensiveness.isfinite().all()
    both = measure_faithfulness(
        model, [flat, steep], toys.first, {"a": [found["flat"], found["steep"]]}, config=TrustConfig(seed=3)
    )
    one = measure_faithfulness(model, [steep], toys.first, {"a": [found["steep"]]})
    assert both.n_vanishing == 1 and "left out" in both.about
    torch.testing.assert_close(both.deletion[0], one.deletion[0])  # the flat one counts in nothing
    constant = toys.wrapped(lambda m, x: 0 * x.sum(-1, keepdim=True) + 2)
    none = measure_faithfulness(constant, [flat], toys.first, {"a": [attribute(constant, flat, toys.first)]})
    assert bool(none.infidelity.isnan().all())


def test_random_scores_are_the_null_and_the_reverse_is_worse() -> None:
    _, model = classifier()
    inputs = [torch.randn(1, 20, dtype=torch.float64) for _ in range(12)]
    found = [attribute(model, x, second, method="shapley") for x in inputs]
    worst = [replace(one, scores=-one.scores) for one in found]
    judged = measure_faithfulness(model, inputs, second, {"shapley": found, "reversed": worst})
    area = judged.insertion_area - judged.deletion_area
    assert float(area[0]) > float(area[2]) > float(area[1])  # random lies between
    assert judged.check().ok


def test_a_small_change_of_a_large_value_has_its_infidelity() -> None:
    """f = 1 + 1e-4 w x: changes of 5e-4 are far above what float32 tells of 1, their squares are not."""
    model = toys.wrapped(lambda m, x: 1 + 1e-4 * (x * torch.arange(1.0, 7)).sum(-1, keepdim=True))
    x = torch.ones(1, 6)
    one = attribute(model, x, toys.first, method="feature_ablation")
    judged = measure_faithfulness(model, [x], toys.first, {"true": [one]})
    assert judged.n_vanishing == 0
    assert float(judged.infidelity[0]) < 1e-4 < 1e-2 < float(judged.infidelity[1])


def test_an_example_without_scores_has_no_say_in_the_sensitivity() -> None:
    """Its sensitivity is 0 / 0: the mean is over those that have one."""
    model = toys.wrapped(lambda m, x: (x[:, :1] * x[:, 1:2]).sin())
    flat, steep = torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]])
    found = [attribute(model, x, toys.first, method="gradient_x_input") for x in (flat, steep)]
    assert not found[0].scores.any()
    config = TrustConfig(samples=3)
    both, alone = (
        measure_faithfulness(model, inputs, toys.first, {"a": rows}, sensitivity=True, config=config)
        for inputs, rows in (([steep, flat], found[::-1]), ([steep], found[1:]))
    )
    assert float(alone.sensitivity[0]) > 1e-3
    assert float(both.sensitivity[0]) == float(alone.sensitivity[0])


def test_what_has_no_sign_is_compared_by_size() -> None:
    """A saliency that is |s| agrees with s wholly, by scipy's tau of the sizes; its signs say nothing."""
    drawn = [torch.randn(11, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    other = [torch.randn(11, generator=torch.Generator().manual_seed(9 + i)) for i in range(4)]
    found = compare_methods({"saliency": [s.abs() for s in drawn], "deeplift": drawn, "shapley": other})
    assert float(found.kendall[0, 1]) == pytest.approx(1.0)
    sizes = np.mean([kendalltau(s.abs(), o.abs()).statistic for s, o in zip(drawn, other, strict=True)])
    signed = np.mean([kendalltau(s, o).statistic for s, o in zip(drawn, other, strict=True)])
    assert float(found.kendall[0, 2]) == pytest.approx(sizes, abs=1e-6)
    assert float(found.kendall[1, 2]) == pytest.approx(signed, abs=1e-6)
    assert bool(found.sign[0].isnan()[1:].all()) and bool(found.sign[1, 2].isfinite())


# ---- one example ------------------------------------------------------------------------------


def test_one_example_has_no_interval_and_is_not_called_sure(tmp_path: Path) -> None:
    model = toys.small()
    names = ("occlusion", "feature_ablation", "saliency")
    found = {m: [attribute(model, toys.IDS, (3, 5), method=m)] for m in names}
    alike, judged = compare_methods(found), measure_faithfulness(model, [toys.IDS], (3, 5), found)
    assert alike.kendall_low is None and alike.widest is None
    assert judged.area_low is None and judged.area_high is None
    for one in (alike, judged, Agreement.load(alike.save(tmp_path / "a"))):
        assert "one example, so no interval" in str(one.caption)
        said = repr(one) + one.plot().layout.title.subtitle.text
        assert "95 %" not in said and "0.00" not in said
    assert "area_low" not in judged.to_frame("insertion_area").columns
    assert judged.check()[0].name == "best method beats random order"
    twice = compare_methods({m: rows * 2 for m, rows in found.items()})
    assert twice.widest is not None and "widest interval of tau 0.00" in twice.about  # two equal examples


def test_a_file_of_one_example_of_before_says_the_same() -> None:
    """They were saved with both ends at the mean: an interval of no width."""
    old = Faithfulness.load(GOLDEN / "Faithfulness")
    assert old.difference is None and old.area_low is not None
    single = replace(old, n_examples=1)
    assert "no interval" in single.about
    with pytest.raises(ConfigError, match="shares are shares of"):
        pool_faithfulness([single])
    alike = Agreement.load(GOLDEN / "Agreement")
    assert replace(alike, n_examples=1).widest is None


# ---- what a changed line went unnoticed in -----------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_overlap_is_jaccards(k: int) -> None:
    """|A and B| / |A or B| by sets, of overlaps other than none and all."""
    rows = torch.tensor([[9.0, 8, 7, 6, 1, 0], [9.0, 1, 8, 0, 7, 6], [0.0, 9, 1, 8, 7, 6]])
    found = top_overlap(rows, k)
    sets = [set(row.argsort(descending=True)[:k].tolist()) for row in rows]
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            assert float(found[i, j]) == pytest.approx(len(a & b) / len(a | b))
    assert k != 3 or {round(float(v), 2) for v in found.flatten()} == {1.0, 0.2, 0.5}


def test_every_head_at_every_position_has_its_own_score() -> None:
    """All of a (5, 3) grid by hand, not its corner: head and position are not exchanged."""
    model, ids = toys.small(), toys.IDS[:5]
    found = attribute(model, ids, (3, 5), method="feature_ablation", site="blocks.0.attn.hook_z")
    assert found.unit_scores is not None
    with torch.no_grad():
        whole = model(ids)[0, -1]
        for position in range(5):
            for head in range(3):
                edit = interp.zero("blocks.0.attn.hook_z", head=head, positions=position)
                out = model.run_with_hooks(ids, [edit])[0, -1]
                expected = float((whole[3] - whole[5]) - (out[3] - out[5]))
                assert float(found.unit_scores[position, head]) == pytest.approx(expected, abs=1e-5)
    grid = found.unit_scores
    torch.testing.assert_close(found.scores, grid.sum(1))  # a position's heads together
    assert int(grid.abs().gt(1e-6).sum()) == 15 and not math.isclose(float(grid[1, 2]), float(grid[2, 1]))
