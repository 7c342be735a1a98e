"""End tasks asked of the model itself, and what attributions answer to the same questions.

Bilodeau, Jaques, Koh, Kim 2024 (PNAS): a complete and linear attribution cannot tell, in general,
whether increasing a feature increases the output nearby; repeated queries can, with an error that
falls exponentially in their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.attribution.attributing import attribute_methods
from interp.attribution.config import AttributionConfig
from interp.core.errors import ConfigError
from interp.core.frames.quantity import computed, measured, places
from interp.core.randomness import generator
from interp.core.result import Result
from interp.models.wrapping import wrap


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EndTask(
    Result, headline="Does raising the feature raise the output?", caption="0: a coin; {n_models} models"
):
    """Sensitivity and specificity of answers about a model, against brute force with many queries.

    Bilodeau et al. 2024: for a rich class of models, every test built on a complete and linear
    attribution has sensitivity + specificity of at most 1 somewhere; asking the model does not.
    """

    sensitivity: Float[Tensor, "answer delta"]
    """Share of true cases answered yes."""
    specificity: Float[Tensor, "answer delta"]
    """Share of false cases answered no."""
    queries: Int[Tensor, " answer"]
    """Model evaluations that an answer took."""
    deltas: Float[Tensor, " delta"] = places("delta", "size of the change")
    """Sizes of the change asked about."""
    n_models: int
    """Models asked about."""

    @property
    @computed(measured("sensitivity + specificity - 1", "", "the answer is right more often", along="delta"))
    def youden(self) -> Float[Tensor, "answer delta"]:
        """sensitivity + specificity - 1, [answer delta]: 0 is a coin."""
        return self.sensitivity + self.specificity - 1


Function = Callable[[Tensor], Tensor]
"""[n feature] -> [n]."""


class Answer(NamedTuple):
    """An answer that was measured."""

    share: float
    """Share of sampled points at which it holds."""
    low: float
    """Lower end of Hoeffding's interval."""
    high: float
    """Upper end of Hoeffding's interval."""
    queries: int
    """Evaluations of the model."""

    @property
    def yes(self) -> bool:
        """Whether it holds at most points."""
        return self.share > 0.5


def ask_recourse(
    function: Function,
    row: Tensor,
    feature: int,
    delta: float,
    *,
    samples: int = 16,
    scale: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> Answer:
    """Does adding up to `delta` to a feature increase the function? Asked by queries near a row.

    Args:
        row: Where the question is asked, [feature].
        samples: Points; each costs two queries. With `scale` 0 the first is the row itself with the whole
            delta, the others lie on the way.
        scale: Standard deviation of the neighbourhood around the row, all features.
    """
    if samples < 1:
        raise ConfigError("an answer needs at least one sample", got=samples)
    drawn = generator(seed, "recourse")
    near = row + scale * torch.randn(samples, len(row), generator=drawn, dtype=torch.float64).to(row)
    step = delta * torch.linspace(1, 1 / samples, samples).to(row)
    moved = near.clone()
    moved[:, feature] += step
    with torch.no_grad():
        values = function(torch.cat([near, moved]))
    share = float((values[samples:] > values[:samples]).double().mean())
    half = math.sqrt(math.log(2 / (1 - confidence)) / (2 * samples))
    return Answer(share, max(0.0, share - half), min(1.0, share + half), 2 * samples)


def ask_spurious(
    function: Function,
    rows: Tensor,
    feature: int,
    *,
    tolerance: float = 1e-6,
    samples: int = 64,
    confidence: float = 0.95,
    seed: int = 0,
) -> Answer:
    """Does the function use a feature at all? Its value is exchanged between rows [row feature].

    `share` is the share of rows whose output moves by more than `tolerance`.
    """
    drawn = generator(seed, "spurious")
    drawn_rows = torch.randint(len(rows), (samples,), generator=drawn)
    donors = torch.randint(len(rows), (samples,), generator=drawn)
    before, after = rows[drawn_rows], rows[drawn_rows].clone()
    after[:, feature] = rows[donors, feature]
    with torch.no_grad():
        moved = (function(after) - function(before)).abs() > tolerance
    share = float(moved.double().mean())
    half = math.sqrt(math.log(2 / (1 - confidence)) / (2 * samples))
    return Answer(share, max(0.0, share - half), min(1.0, share + half), 2 * samples)


def benchmark_end_tasks(
    methods: Sequence[str] = ("gradient_x_input", "integrated_gradients", "shapley", "lime"),
    *,
    n_models: int = 200,
    deltas: Sequence[float] = (0.05, 0.5, 2.0),
    queries: Sequence[int] = (2, 8, 32),
    n_features: int = 3,
    width: int = 24,
    seed: int = 0,
) -> EndTask:
    """Random ReLU networks: does adding delta to a feature increase f on the way there, mostly?

    The truth comes from 512 queries. An attribution answers by the sign of its score per unit of
    the feature (score x sign of x, baseline 0); the model itself answers with few queries.
    """
    names = [*methods, *(f"ask the model ({q} queries)" for q in queries)]
    truths: list[list[bool]] = [[] for _ in deltas]
    said: list[list[list[bool]]] = [[[] for _ in deltas] for _ in names]
    cost, settings = [0] * len(methods), AttributionConfig(samples=64)
    for index in range(n_models):
        module, x = _random_case(seed, index, n_features, width)
        model = wrap(module)

        def f(rows: Tensor, module: nn.Module = module) -> Tensor:
            return module(rows)[:, 0]

        scores = []
        named = attribute_methods(model, x[None], _first, methods, config=settings)
        for m, one in enumerate(named.values()):
            scores.append(float(one.scores[0]) * math.copysign(1.0, float(x[0])))
            cost[m] += one.n_forward
        for d, delta in enumerate(deltas):
            truths[d].append(ask_recourse(f, x, 0, delta, samples=256).yes)
            answers = [score > 0 for score in scores]
            answers += [ask_recourse(f, x, 0, delta, samples=max(1, q // 2)).yes for q in queries]
            for a, answer in enumerate(answers):
                said[a][d].append(answer)
    sensitivity, specificity = torch.zeros(2, len(names), len(deltas))
    for d in range(len(deltas)):
        truth = torch.tensor(truths[d])
        for a in range(len(names)):
            answer = torch.tensor(said[a][d])
            sensitivity[a, d] = answer[truth].float().mean().nan_to_num(1.0)
            specificity[a, d] = (~answer[~truth]).float().mean().nan_to_num(1.0)
    return EndTask(
        sensitivity=sensitivity,
        specificity=specificity,
        queries=torch.tensor([c // max(1, n_models) for c in cost] + list(queries)),
        deltas=torch.tensor(list(deltas)),
        n_models=n_models,
        labels={"answer": names, "delta": [f"{d:g}" for d in deltas]},
    )


def _random_case(seed: int, index: int, n: int, width: int) -> tuple[nn.Module, Tensor]:
    drawn = generator(seed, "endtask", index)
    module = nn.Sequential(
        nn.Linear(n, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
    )
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter.shape[-1] if parameter.dim() > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=drawn) * (2 / fan) ** 0.5)
    return module.eval(), torch.randn(n, generator=drawn)


def _first(out: Tensor) -> Tensor:
    return out[:, 0]
