"""Agreement, faithfulness, end tasks, low signal, amortised explainers, pruning, with nulls."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from captum.metrics import infidelity
from scipy.stats import kendalltau
from torch import Tensor, nn

import interp
from interp.activations.config import FitConfig
from interp.attribution import (
    attribute,
    attribute_methods,
    compare_methods,
    measure_faithfulness,
    pool_faithfulness,
    prune_curve,
    score_units,
)
from interp.attribution.trust.agreement import kendall_tau, rank_biased_overlap, top_overlap
from interp.attribution.trust.faithfulness import top_masks
from interp.attribution.trust.pruning import keep_masks
from interp.core.errors import ConfigError, ShapeError
from interp.plotting.tokens import TokenStrip
from interp.studies import (
    LowSignalConfig,
    amortize,
    ask_recourse,
    ask_spurious,
    benchmark_end_tasks,
    benchmark_low_signal,
    eliminate_features,
)
from tests.attribution import toys

QUICK = LowSignalConfig(n_noise=20, n_rows=1000, width=48, steps=300, instances=32)


# ---- agreement --------------------------------------------------------------------------------


def test_tau_is_scipys() -> None:
    rows = torch.randn(4, 13)
    rows[1, :4] = 0  # ties
    found = kendall_tau(rows)
    for i in range(4):
        for j in range(4):
            expected = kendalltau(rows[i].numpy(), rows[j].numpy()).statistic
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-6)


def test_overlaps_by_hand() -> None:
    rows = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4], [4, 3, 2, 1]])
    assert top_overlap(rows, 2).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    rbo = rank_biased_overlap(rows, 0.9)
    assert float(rbo[0, 2]) == pytest.approx(1.0)
    overlap = [0, 0, 2 / 3, 1]
    expected = overlap[-1] * 0.9**4 + 0.1 / 0.9 * sum(a * 0.9 ** (d + 1) for d, a in enumerate(overlap))
    assert float(rbo[0, 1]) == pytest.approx(expected, abs=1e-6)


def test_agreement_clusters_equal_methods_and_not_random_ones() -> None:
    drawn = [torch.randn(9) for _ in range(40)]
    found = compare_methods(
        {"a": drawn, "twice a": [2 * s for s in drawn], "random": [torch.randn(9) for _ in drawn]}
    )
    assert ("a", "twice a") in found.clusters
    assert float(found.kendall[0, 1]) == pytest.approx(1.0)
    low, high = float(found.kendall_low[0, 2]), float(found.kendall_high[0, 2])
    assert low < 0 < high
    assert found.check().ok
    with pytest.raises(ShapeError, match="same examples"):
        compare_methods({"a": drawn, "b": drawn[:3]})


def test_the_baseline_moves_scores_more_than_the_method() -> None:
    model = toys.small()
    texts = [torch.randint(0, 61, (9,)) for _ in range(6)]
    found = compare_methods(
        {
            f"{method}/{base}": [attribute(model, t, (3, 5), method=method, baseline=base) for t in texts]
            for method in ("integrated_gradients", "deeplift")
            for base in ("zero", "mean")
        }
    )
    tau = found.kendall
    assert float(tau[0, 2]) > float(tau[0, 1])  # same baseline, other method > the reverse
    assert "zero" in found.labels["method"][0]


# ---- faithfulness -----------------------------------------------------------------------------


def test_top_masks_count_and_order() -> None:
    masks = top_masks(torch.tensor([1.0, 9, 5, 3]), torch.tensor([0.0, 0.05, 0.5, 1.0]))
    assert masks.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]


def test_a_linear_model_is_judged_by_hand_and_the_truth_is_perfect() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    model, x = interp.wrap(layer), torch.ones(1, 4)
    true = attribute(model, x, toys.first)
    found = measure_faithfulness(model, [x], toys.first, {"true": [true]})
    assert found.deletion[0].tolist()[::5] == pytest.approx([1.0, 0.3, 0.0])
    assert found.insertion[0].tolist()[::5] == pytest.approx([0.0, 0.7, 1.0])
    assert float(found.infidelity[0]) < 1e-9
    assert float(found.infidelity[1]) > 0.01  # random scores
    assert float(found.insertion_area[0]) > float(found.insertion_area[1])


def test_a_target_and_its_negative_are_judged_alike() -> None:
    """What made f(x) - f(r) leads, also where that is negative: a sentence's low positivity."""
    model = toys.wrapped(lambda m, x: (x * x).cumsum(-1).tanh().sum(-1, keepdim=True))
    x = torch.linspace(-1, 1, 6)[None]
    judged = []
    for sign in (1.0, -1.0):
        target = lambda out, sign=sign: sign * toys.first(out)  # noqa: E731
        one = attribute(model, x, target, method="shapley")
        judged.append(measure_faithfulness(model, [x], target, {"shapley": [one]}))
    for field in ("deletion", "insertion", "comprehensiveness", "sufficiency", "infidelity"):
        torch.testing.assert_close(getattr(judged[0], field)[0], getattr(judged[1], field)[0])
    assert float(judged[1].insertion_area[0]) > float(judged[1].deletion_area[0])


def test_infidelity_is_captums_at_its_best_scale() -> None:
    model = toys.small()
    one = attribute(model, toys.IDS, (3, 5), method="feature_ablation")
    from interp.attribution.attributing import make_game
    from interp.attribution.config import AttributionConfig, TrustConfig
    from interp.attribution.rows import Rows
    from interp.core.randomness import generator
    from interp.models.stream.target import contrast

    game = make_game(model, Rows(model, toys.IDS), contrast(model, 3, 5), None, AttributionConfig())
    config = TrustConfig(samples=64)
    removed = (torch.rand(64, 7, generator=generator(0, "infidelity", 0)) < 0.3).float()
    theirs = infidelity(
        lambda z: game.coalition(z).float(),
        lambda z: (removed, z.expand(64, -1) - removed),
        torch.ones(1, 7),
        one.scores[None].float(),
        n_perturb_samples=64,
        normalize=True,
    )
    change = game.values(game.x) - game.coalition(1 - removed)
    ours = measure_faithfulness(model, [toys.IDS], (3, 5), {"a": [one]}, config=config)
    expected = float(theirs[0] / change.pow(2).mean())
    assert float(ours.infidelity[0]) == pytest.approx(expected, rel=0.02)


def test_sensitivity_is_small_for_paths_and_huge_for_kinks() -> None:
    model = toys.wrapped(lambda m, x: torch.sin(60 * x).sum(-1, keepdim=True))
    x = torch.rand(1, 6)
    found = {
        "integrated_gradients": [attribute(model, x, toys.first, max_nodes=4096)],
        "gradient_x_input": [attribute(model, x, toys.first, method="gradient_x_input")],
    }
    judged = measure_faithfulness(model, [x], toys.first, found, sensitivity=True)
    assert float(judged.sensitivity[0]) < float(judged.sensitivity[1])
    assert math.isnan(float(judged.sensitivity[2]))


def test_judgements_one_by_one_pool_to_the_judgement_of_all() -> None:
    model = toys.wrapped(lambda m, x: (x * x).cumsum(-1).tanh().sum(-1, keepdim=True))
    inputs = [torch.linspace(-1, 1, 6)[None], torch.linspace(0, 2, 6)[None], torch.linspace(1, 3, 6)[None]]
    found = [attribute(model, x, toys.first, method="shapley") for x in inputs]
    every = measure_faithfulness(model, inputs, toys.first, {"shapley": found})
    each = [
        measure_faithfulness(model, [x], toys.first, {"shapley": [one]})
        for x, one in zip(inputs, found, strict=True)
    ]
    pooled = pool_faithfulness(each)
    assert pooled.n_examples == every.n_examples == 3
    for field in ("insertion", "deletion", "insertion_area", "comprehensiveness", "sufficiency"):
        torch.testing.assert_close(getattr(pooled, field)[0], getattr(every, field)[0])
    torch.testing.assert_close(pooled.area_low[0], every.area_low[0])
    assert float(pooled.area_low[0]) < float(pooled.insertion_area[0] - pooled.deletion_area[0])
    for wrong in (
        [],
        [every, each[0]],
        [each[0], measure_faithfulness(model, inputs[:1], toys.first, {"b": found[:1]})],
    ):
        with pytest.raises(ShapeError, match="single examples"):
            pool_faithfulness(wrong)


def test_an_attribution_draws_as_bars_or_as_a_coloured_text() -> None:
    one = attribute(toys.small(), toys.IDS, (3, 5), method="feature_ablation")
    strip = one.plot(strip=True)
    assert isinstance(strip, TokenStrip)
    assert list(strip.values) == pytest.approx(one.scores.tolist()) and one.gap_sentence in strip.note
    assert one.plot().data[0].type == "bar"
    assert list(one.to_frame()["pos"]) == [f"{i} {piece}" for i, piece in enumerate(one.tokens)]
    with pytest.raises(ConfigError, match="no units"):
        one.plot(strip=True, units=True)


# ---- end tasks --------------------------------------------------------------------------------


def test_opposite_slopes_with_equal_attributions() -> None:
    def twin(sign: float) -> Any:
        # slope +-3 on (0.9, 1.1), built so that f(0) = 0, f(1) = 1 for both
        def f(x: Tensor) -> Tensor:
            rest = (1 - 0.3 * sign) / (1 - 0.1)
            low = rest * x.clamp(max=0.9)
            return low + 3 * sign * (x.clamp(0.9, 1.1) - 0.9) - 3 * sign * 0 * x

        return f

    x = torch.ones(1, 1)
    scores, answers, slopes = [], [], []
    for sign in (1.0, -1.0):
        f = twin(sign)
        model = toys.wrapped(lambda m, v, f=f: f(v))
        methods = ("integrated_gradients", "shapley")
        found = attribute_methods(model, x, toys.first, methods, max_nodes=2048)
        scores += [float(one.scores[0]) for one in found.values()]
        slopes.append(float(attribute(model, x, toys.first, method="gradient_x_input").scores[0]))
        answers.append(ask_recourse(lambda v, f=f: f(v)[:, 0], x[0], 0, 0.05, samples=1))
    assert scores == pytest.approx([1, 1, 1, 1], abs=0.01)  # indistinguishable
    assert slopes == pytest.approx([3, -3], abs=1e-4)
    assert [a.yes for a in answers] == [True, False]
    assert [a.queries for a in answers] == [2, 2]


def test_asking_beats_attributing(full_count: bool) -> None:
    found = benchmark_end_tasks(
        ("integrated_gradients", "shapley"), n_models=200 if full_count else 8, deltas=(0.5, 2.0)
    )
    by_name = dict(zip(found.labels["answer"], found.youden.mean(1).tolist(), strict=True))
    assert by_name["ask the model (32 queries)"] > 0.9
    for method in ("integrated_gradients", "shapley"):
        assert by_name[method] < by_name["ask the model (32 queries)"]
    assert int(found.queries[0]) > 32  # an attribution also costs more


def test_intervals_shrink_and_cover() -> None:
    def f(v: Tensor) -> Tensor:
        return v[:, 0]

    few, many = (ask_recourse(f, torch.zeros(2), 0, 1.0, samples=n) for n in (2, 200))
    assert few.low <= 1.0 <= few.high
    assert many.high - many.low < few.high - few.low


def test_spurious_features_are_told_from_used_ones() -> None:
    data = torch.randn(100, 3)

    def f(v: Tensor) -> Tensor:
        return v[:, 0] * 2

    assert ask_spurious(f, data, 0).share > 0.9
    assert ask_spurious(f, data, 1).share == 0


# ---- low signal -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients"])
def test_elimination_keeps_exactly_the_true_features(full_count: bool, method: str) -> None:
    if not full_count and method != "saliency":
        pytest.skip("full size only: make test-all")
    config, keep = (LowSignalConfig(), 0.8) if full_count else (QUICK, 0.6)
    found = eliminate_features(method, config, keep=keep)
    assert float(found.error.min()) < 0.4 * float(found.error[0])
    if full_count:
        assert found.features == (0, 1, 2)
    else:
        assert set(found.features) >= {0, 1, 2}
        assert len(found.features) <= 6


def test_random_elimination_does_not() -> None:
    found = eliminate_features("random", QUICK, keep=0.6)
    assert not (set(found.features) >= {0, 1, 2} and len(found.features) <= 6)


def test_gradients_survive_low_signal_better_than_ablation(full_count: bool) -> None:
    names = ["saliency", "integrated_gradients", "deeplift", "feature_ablation"]
    found = benchmark_low_signal(names, LowSignalConfig() if full_count else QUICK)
    precision = dict(zip(found.labels["method"], found.precision.tolist(), strict=True))
    uscore = dict(zip(found.labels["method"], found.uscore.tolist(), strict=True))
    assert precision["saliency"] > precision["feature_ablation"] > 2 * found.chance
    assert precision["saliency"] > precision["integrated_gradients"]
    assert abs(precision["integrated_gradients"] - precision["deeplift"]) < 0.08
    if full_count:  # on the method page .69 .74 .74 .72 and .80 .64 .64 .58
        assert all(0.6 < u < 0.9 for u in uscore.values()), uscore
        assert precision["saliency"] > 0.7
        assert found.chance < 0.06


# ---- functional information, amortised explainers, pruning ------------------------------------


def test_entropy_is_below_the_functional_information() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 1), nn.Sigmoid()).double()
    x = torch.randn(1, 3, dtype=torch.float64)
    found = attribute(
        interp.wrap(net), x, toys.first, method="functional_information", samples=4000, noise=0.5
    )
    spread = 0.5 * float(x.std())
    values = net(x + spread * torch.randn(20_000, 3, dtype=torch.float64))[:, 0]
    mean = values.mean()
    entropy = float((values * (values / mean).log()).mean())
    assert 0 < entropy <= 0.5 * float(found.scores.sum())  # log-Sobolev


def test_amortised_shapley_beats_the_mean_map_and_shuffled_labels_do_not(full_count: bool) -> None:
    torch.manual_seed(0)
    rows, samples = (160, 120) if full_count else (60, 30)
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
    model = interp.wrap(net)
    inputs = torch.randn(rows, 5)

    def scores(n: int) -> Tensor:
        told = {"method": "shapley", "samples": n}
        found = [attribute(model, x[None], toys.first, **told) for x in inputs]
        return torch.stack([one.scores.float() for one in found])

    full, few = scores(samples), scores(5)
    encoder = nn.Sequential(nn.Linear(5, 32), nn.Tanh())
    config = FitConfig(steps=300, lr=5e-3, log_every=300)
    module, report = amortize(encoder, inputs, full, cheaper={5: few}, config=config)
    assert report.check().ok
    assert report.error < 0.3 * report.error_mean
    assert tuple(module(inputs[:3]).shape) == (3, 5)
    null = nn.Sequential(nn.Linear(5, 32), nn.Tanh())
    _, shuffled = amortize(null, inputs, full[torch.randperm(rows)], config=config)
    assert shuffled.error > 0.8 * shuffled.error_mean


def test_masks_take_the_lowest_and_spare_a_layer() -> None:
    scores = {"a": torch.tensor([0.1, 0.2, 0.3]), "b": torch.tensor([0.5, 0.6, 0.7])}
    assert keep_masks(scores, 0.5)["a"].tolist() == [0, 0, 0]
    spared = keep_masks(scores, 0.5, most=0.67)
    assert spared["a"].tolist() == [0, 0, 1]
    assert spared["b"].tolist() == [0, 1, 1]


def test_relevance_of_units_is_a_share_of_their_layers() -> None:
    """Summed over examples, divided by the sum of sizes: layers of any width and scale compare."""
    module = toys.mlp((5, 11, 7, 1))
    model, inputs = interp.wrap(module), [torch.rand(1, 5) + i for i in range(3)]
    sites = ["1.hook_out", "3.hook_out"]
    found = score_units(model, inputs, [toys.first] * 3, sites, method="gradient_x_input")
    for site in sites:
        each = [attribute(model, x, toys.first, method="gradient_x_input", site=site) for x in inputs]
        total = torch.stack([one.scores for one in each]).sum(0)
        torch.testing.assert_close(found[site], total / total.abs().sum())
        assert float(found[site].abs().sum()) == pytest.approx(1, abs=1e-6)


def test_pruning_by_relevance_keeps_what_is_used() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 2))
    with torch.no_grad():  # units 0 to 3 decide, the others whisper
        module[2].weight.mul_(0.01)
        module[0].weight[:4] = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
        module[0].bias[:4] = 0
        module[2].weight[0, :4] = torch.tensor([1.0, -1, 1, -1])
        module[2].weight[1, :4] = torch.tensor([-1.0, 1, -1, 1])
    model, x = interp.wrap(module), torch.randn(200, 2)
    truth = (x[:, 0] < 0).long()

    def accuracy(run: Any) -> float:
        return float((run(x).argmax(-1) == truth).float().mean())

    rows = [x[i : i + 1] for i in range(10)]
    scores = score_units(model, rows, truth[:10].tolist(), ["1.hook_out"])
    fractions = [0.0, 0.5, 0.9]
    found = prune_curve(model, accuracy, {"relevance": scores}, fractions, n_random=20)
    assert float(found.accuracy[0, 2]) > 0.95
    assert float(found.random_low[2]) < 0.8
    assert float(found.accuracy[0, 2]) > float(found.accuracy[1, 2])
