"""What the tests of attributions observe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.frames.quantity import called, measured, places
from interp.core.result import Result


def _alike(name: str, signed: bool = False) -> Any:
    """A field of agreements of each two methods."""
    return measured(name, "", "the methods rank alike", signed=signed)


def _left(when: str, higher: str) -> Any:
    """A field of curves over the positions removed or inserted."""
    return measured(f"share of f(x) - f(baseline) {when}", "", higher, along="step")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Agreement(
    Result,
    headline="Agreement of methods",
    caption="mean over {n_examples} examples; widest interval of tau {widest:.2f}; no proof of being right",
):
    """How far methods agree, mean over examples; baselines are part of a method's name."""

    kendall: Float[Tensor, "method other"] = _alike("Kendall's tau", signed=True)
    """Kendall's tau-b of the rankings; of magnitudes where either method has no sign."""
    kendall_low: Float[Tensor, "method other"]
    """Lower end of its bootstrap interval over examples."""
    kendall_high: Float[Tensor, "method other"]
    """Upper end of its bootstrap interval over examples."""
    top_k: Float[Tensor, "method other"] = _alike("overlap of the leading positions")
    """Jaccard overlap of the k positions of largest magnitude."""
    sign: Float[Tensor, "method other"] = _alike("share of equal signs")
    """Share of positions with the same sign, where both are signed; else NaN."""
    rbo: Float[Tensor, "method other"] = _alike("rank-biased overlap")
    """Rank-biased overlap of magnitudes (Webber et al. 2010), extrapolated."""
    k: int
    """Positions in `top_k`."""
    n_examples: int
    """Examples averaged over."""
    clusters: tuple[tuple[str, ...], ...]
    """Methods that are one: average linkage at tau of at least 0.9."""

    allow_nonfinite: ClassVar[frozenset[str]] = frozenset({"sign"})

    @property
    def widest(self) -> float:
        """Width of the widest interval of tau."""
        return float((self.kendall_high - self.kendall_low).max())

    def check(self) -> Checks:
        """Every method agrees with itself, up to positions that it ties."""
        return Checks([Check.at_least("self-agreement", self.top_k.diagonal().min(), 1.0)])


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Faithfulness(Result, headline="Positions in the order of the scores"):
    """What happens when positions are removed in the order of their scores; mean over examples.

    Values are shares of f(x) - f(r): 1 is the input, 0 the baseline. The order is that of what made
    this difference: from the highest score down, from the lowest up where the difference is
    negative.
    """

    insertion: Float[Tensor, "method step"] = _left("after insertion", "the scores are better")
    """After inserting the top fraction into the baseline; higher is better."""
    deletion: Float[Tensor, "method step"] = _left("after deletion", "the scores are worse")
    """After removing the top fraction; lower is better."""
    fractions: Float[Tensor, " step"] = places("step", "fraction of positions")
    """Fractions removed or inserted."""
    deletion_area: Float[Tensor, " method"]
    """Mean of the deletion curve."""
    insertion_area: Float[Tensor, " method"]
    """Mean of the insertion curve."""
    area_low: Float[Tensor, " method"]
    """Bootstrap interval of insertion_area - deletion_area over examples, lower end."""
    area_high: Float[Tensor, " method"]
    """Upper end of the bootstrap interval of insertion_area - deletion_area."""
    comprehensiveness: Float[Tensor, " method"]
    """Mean loss when the top 5 to 50 % are removed (DeYoung et al. 2020); higher is better."""
    sufficiency: Float[Tensor, " method"]
    """Mean loss when only they are kept; lower is better."""
    infidelity: Float[Tensor, " method"]
    """E[(sum of removed scores - change of f)^2] / E[change^2] at the best scale (Yeh et al. 2019);
    0 is perfect, 1 as good as no explanation."""
    sensitivity: Float[Tensor, " method"]
    """Largest relative change of the scores under tiny noise (Yeh et al. 2019)."""
    n_examples: int
    """Examples averaged over."""

    allow_nonfinite: ClassVar[frozenset[str]] = frozenset({"sensitivity"})

    def check(self) -> Checks:
        """Does the best method beat the random control?"""
        names = self.labels.get("method", [])
        if "random" not in names:
            return Checks()
        control = names.index("random")
        spread = self.insertion_area - self.deletion_area
        others = [i for i in range(len(names)) if i != control]
        best = max(float(self.area_low[i]) for i in others) if others else -math.inf
        return Checks([Check.at_least("best method beats random order", best, float(spread[control]))])


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RelevancePruning(Result, headline="Pruning the least relevant units"):
    """Accuracy while units are removed from the least to the most relevant."""

    accuracy: Float[Tensor, "criterion fraction"] = measured(
        "accuracy", "", "less was lost", along="fraction", null=("random_low", "random_high")
    )
    """Accuracy after removing the fraction of units."""
    fractions: Float[Tensor, " fraction"] = places("fraction", "fraction of units removed")
    """Fractions of all units removed."""
    random_low: Float[Tensor, " fraction"] = called("random, 5th percentile")
    """5th percentile of random orders."""
    random_high: Float[Tensor, " fraction"] = called("random, 95th percentile")
    """95th percentile of random orders."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GroundTruth(
    Result, headline="Do the tokens that decide lead the ranking?", caption="{n_prompts} prompts"
):
    """Where the tokens that decide stand in a method's ranking, on tasks where they are known."""

    hits: Float[Tensor, "method task"] = measured(
        "share of prompts whose leading token decides", "", "the scores find them", null="chance"
    )
    """Share of prompts whose largest |score| lies on a deciding token."""
    area: Float[Tensor, "method task"] = measured(
        "chance that a deciding token outranks another", "a random order: 0.5", "the scores find them"
    )
    """Chance that a deciding token outranks another one (area under the ROC curve)."""
    chance: Float[Tensor, " task"] = called("a random order")
    """Share of tokens that decide: hits of a random ranking."""
    n_prompts: int
    """Prompts over all tasks."""

    def check(self) -> Checks:
        """The best method must lead the random control in every task."""
        spread = (self.hits[:-1].max(0).values - self.hits[-1]).min()
        return Checks([Check.at_least("least lead over the random order", spread, 0.0)])
