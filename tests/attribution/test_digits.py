"""A real data set without a download: scikit-learn's digits, on one small network.

The figures of the method page on this data, good and bad: which methods are one, what deletion by
each costs, what amortising is worth, and where pruning by relevance loses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits, make_moons
from torch import Tensor, nn

import interp
from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.attribution import attribute, compare_methods, prune_curve, score_units
from interp.core.randomness import generator
from interp.models.stream.target import Target
from interp.studies import amortize

HIDDEN = ["1.hook_out", "3.hook_out"]


@dataclass(frozen=True)
class Digits:
    """A trained network with what it was trained on and what it was not."""

    model: interp.HookedModel
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    def accuracy(self, x: Tensor) -> float:
        with torch.no_grad():
            return float((self.model(x).argmax(-1) == self.test_y[: len(x)]).float().mean())


@pytest.fixture(scope="module")
def digits() -> Digits:
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x, order = x.float() / 16, torch.randperm(len(y), generator=generator(0, "digits"))
    x, y = x[order], y[order]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def step(module: nn.Module, batch: Any, t: int) -> Tensor:
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    fit(
        net,
        step,
        lambda t: (x[:1400], y[:1400]),
        FitConfig(steps=300, lr=3e-3, lr_schedule="cosine", log_every=300),
    )
    model = interp.wrap(net.eval().requires_grad_(False))
    return Digits(model, x[:1400], y[:1400], x[1400:], y[1400:])


def scores(digits: Digits, n: int, method: str, prob: bool = False, **options: Any) -> list[Tensor]:
    """Scores of n held-out digits for their own class."""
    found = []
    for x, y in zip(digits.test_x[:n], digits.test_y.tolist(), strict=False):
        aim = Target("p", lambda out, y=y: out.softmax(-1)[:, y]) if prob else y
        found.append(attribute(digits.model, x[None], aim, method=method, **options).scores)
    return found


# ---- which methods are one ----------------------------------------------------------------------


def test_the_baseline_separates_what_the_method_does_not(digits: Digits, full_count: bool) -> None:
    n, mean = (20 if full_count else 10), digits.x.mean(0, keepdim=True)
    found = compare_methods(
        {
            "ig zero": scores(digits, n, "integrated_gradients"),
            "deeplift zero": scores(digits, n, "deeplift"),
            "ig mean": scores(digits, n, "integrated_gradients", baseline=mean),
            "shapley mean": scores(digits, n, "shapley", baseline=mean, samples=64 * 40, rows=512),
            "gradient x input": scores(digits, n, "gradient_x_input"),
            "lrp epsilon": scores(digits, n, "lrp_epsilon"),
            "saliency": scores(digits, n, "saliency"),
        }
    )
    place = {name: i for i, name in enumerate(found.labels["method"])}

    def tau(a: str, b: str) -> float:
        return float(found.kendall[place[a], place[b]])

    # The method page: .99, .98, 1.00; .24; at most .15 (here .32 with the mean as baseline).
    assert tau("ig zero", "deeplift zero") == pytest.approx(0.98 if full_count else 0.97, abs=0.01)
    assert tau("ig mean", "shapley mean") == pytest.approx(0.98, abs=0.01)
    assert tau("gradient x input", "lrp epsilon") == pytest.approx(1.00, abs=0.001)
    assert tau("ig zero", "ig mean") == pytest.approx(0.24 if full_count else 0.28, abs=0.05)
    assert all(tau("saliency", other) < 0.45 for other in place if other != "saliency")
    assert tau("saliency", "ig zero") < 0.3


# ---- deletion -----------------------------------------------------------------------------------


def deleted(digits: Digits, rows: list[Tensor], k: int) -> float:
    """Accuracy once the k leading pixels have their mean value."""
    x = digits.test_x[: len(rows)].clone()
    mean = digits.x.mean(0)
    for i, one in enumerate(rows):
        leaders = one.topk(k).indices
        x[i, leaders] = mean[leaders]
    return digits.accuracy(x)


def test_deletion_by_functional_information_is_bad_and_said_so(digits: Digits, full_count: bool) -> None:
    n, mean = (240 if full_count else 80), digits.x.mean(0, keepdim=True)
    rows = {
        "path": scores(digits, n, "integrated_gradients", baseline=mean),
        "information": scores(digits, n, "functional_information", prob=True, samples=32),
        "saliency": scores(digits, n, "saliency", prob=True),
        "random": [torch.rand(64, generator=generator(i, "random pixels")) for i in range(n)],
    }
    left = {name: deleted(digits, found, 8) for name, found in rows.items()}
    # on the method page, of .98: .21, .71, .75, .96
    assert digits.accuracy(digits.test_x[:n]) > 0.92
    assert left["path"] < 0.45
    assert left["path"] + 0.25 < left["information"] < left["random"] - 0.03
    assert left["information"] < left["saliency"] + 0.05
    assert left["random"] > 0.85


# ---- amortising ---------------------------------------------------------------------------------


def test_one_pass_comes_near_the_path_and_two_gradients_come_nearer(digits: Digits) -> None:
    x, y = digits.x[:700], digits.y[:700]
    exact, few = (gradients_on_path(digits, x, y, nodes) for nodes in (20, 2))
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU())
    config = FitConfig(steps=500, lr=3e-3, lr_schedule="cosine", log_every=500)
    _, report = amortize(encoder, x, exact, cheaper={2: few}, config=config)
    assert report.error < 0.4 * report.error_mean
    assert report.tau > 0.5
    # a method that converges in a few gradients is not worth learning: shown, not hidden
    assert float(report.cheaper_error[0]) < 0.1 * report.error


def gradients_on_path(digits: Digits, x: Tensor, y: Tensor, nodes: int) -> Tensor:
    """x times the mean gradient at the midpoints of `nodes` steps from 0, for all rows at once."""
    total = torch.zeros_like(x)
    for i in range(nodes):
        here = ((i + 0.5) / nodes * x).requires_grad_(True)
        picked = digits.model(here).gather(1, y[:, None]).sum()
        total += torch.autograd.grad(picked, here)[0]
    return x * total / nodes


# ---- pruning by relevance -----------------------------------------------------------------------


def references(digits: Digits, per_class: int) -> tuple[list[Tensor], list[int]]:
    """The first examples of every class."""
    chosen = [i for c in range(10) for i in (digits.y == c).nonzero()[:per_class, 0].tolist()]
    return [digits.x[i : i + 1] for i in chosen], digits.y[chosen].tolist()


def test_relevance_starves_a_narrow_network(digits: Digits) -> None:
    rows, labels = references(digits, 5)
    scored = score_units(digits.model, rows, labels, HIDDEN, method="lrp_alpha_beta", alpha=1.0)
    fractions = [0.0, 0.2, 0.56]
    found = prune_curve(
        digits.model,
        judge(digits.model, digits.test_x, digits.test_y),
        {"relevance": scored},
        fractions,
        n_random=20,
    )
    assert float(found.accuracy[0, 0]) > 0.92
    assert float(found.accuracy[0, 2]) < float(found.accuracy[1, 2])  # worse than a random order


@pytest.mark.full
def test_a_wide_network_bears_it_and_a_random_order_as_well() -> None:
    """The paper's toy regime: three wide layers, ten examples, no fine-tuning, a third pruned."""
    x, y = (torch.tensor(part) for part in make_moons(900, noise=0.1, random_state=0))
    x, width = x.float(), 1000
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(2, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 2),
    )

    def step(module: nn.Module, batch: Any, t: int) -> Tensor:
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    fit(net, step, lambda t: (x[:256], y[:256]), FitConfig(steps=60, lr=1e-3, log_every=60))
    model = interp.wrap(net.eval().requires_grad_(False))
    rows = [x[i : i + 1] for i in range(10)]
    scored = score_units(
        model, rows, y[:10].tolist(), [*HIDDEN, "5.hook_out"], method="lrp_alpha_beta", alpha=1.0
    )
    found = prune_curve(
        model, judge(model, x[256:], y[256:]), {"relevance": scored}, [0.0, 0.33], n_random=10
    )
    assert float(found.accuracy[0, 0] - found.accuracy[0, 1]) < 0.03
    assert float(found.random_high[1]) >= float(found.accuracy[0, 1])  # no better than chance


def judge(model: Any, x: Tensor, y: Tensor) -> Callable[[Callable[[Any], Any]], float]:
    """Accuracy of a run of the pruned model."""

    def accuracy(run: Callable[[Any], Any]) -> float:
        with torch.no_grad():
            return float((run(x).argmax(-1) == y).float().mean())

    return accuracy
