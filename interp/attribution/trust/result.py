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
class Agreement(Result, headline="Agreement of methods", caption="{about}; no proof of being right"):
    """How far methods agree, mean over examples; baselines are part of a method's name."""

    kendall: Float[Tensor, "method other"] = _alike("Kendall's tau", signed=True)
    """Kendall's tau-b of the rankings; of magnitudes where either method has no sign."""
    kendall_low: Float[Tensor, "method other"] | None = None
    """Lower end of its bootstrap interval over examples; a single example has none."""
    kendall_high: Float[Tensor, "method other"] | None = None
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
    def widest(self) -> float | None:
        """Width of the widest interval of tau; None of a single example."""
        if self.n_examples < 2 or self.kendall_high is None or self.kendall_low is None:
            return None
        return float((self.kendall_high - self.kendall_low).max())

    @property
    def about(self) -> str:
        """What the numbers are means of, and how sure they are."""
        if self.widest is None:
            return "one example, so no interval" if self.n_examples == 1 else f"{self.n_examples} examples"
        return f"mean over {self.n_examples} examples; widest interval of tau {self.widest:.2f}"

    def check(self) -> Checks:
        """Every method agrees with itself, up to positions that it ties."""
        return Checks([Check.at_least("self-agreement", self.top_k.diagonal().min(), 1.0)])


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Faithfulness(Result, headline="Positions in the order of the scores", caption="{about}"):
    """What happens when positions are removed in the order of their scores; over examples.

    Values are shares of f(x) - f(r): 1 is the input, 0 the baseline. The order is that of what made
    this difference: from the highest score down, from the lowest up where the difference is
    negative. Over examples they are ratios of sums, sum of changes over sum of |f(x) - f(r)|, so that
    an example in which nothing is at stake weighs nothing.
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
    area_low: Float[Tensor, " method"] | None = None
    """Bootstrap interval of insertion_area - deletion_area over examples, lower end; a single example
    has none."""
    area_high: Float[Tensor, " method"] | None = None
    """Upper end of the bootstrap interval of insertion_area - deletion_area."""
    comprehensiveness: Float[Tensor, " method"]
    """Share lost when the top 1, 5, 10, 20 and 50 % are removed, mean over these; higher is better."""
    sufficiency: Float[Tensor, " method"]
    """Share lost when only the top 1 to 50 % are kept; lower is better."""
    eraser_comprehensiveness: Float[Tensor, " method"] | None = None
    """DeYoung et al. 2020, section 4.2: f(x) - f(x without the top q %), mean over q = 1, 5, 10, 20, 50
    and over examples, in the target's unit; highest scores first. Higher is better."""
    eraser_sufficiency: Float[Tensor, " method"] | None = None
    """DeYoung's f(x) - f(only the top q %), mean over q = 1, 5, 10, 20, 50; lower is better."""
    infidelity: Float[Tensor, " method"]
    """E[(sum of removed scores - change of f)^2] / E[change^2] at the best scale (Yeh et al. 2019);
    0 is perfect, 1 as good as no explanation."""
    sensitivity: Float[Tensor, " method"]
    """Largest relative change of the scores under tiny noise (Yeh et al. 2019)."""
    n_examples: int
    """Examples averaged over."""
    difference: float | None = None
    """Mean |f(x) - f(r)| over examples, what the shares are shares of; None in files of before."""
    perturbed: float | None = None
    """Mean squared change of f under the perturbations of infidelity, what that is a share of."""
    n_vanishing: int = 0
    """Examples in which f(x) and f(r) are one number in this precision: there is nothing to share,
    and they count in no curve."""

    allow_nonfinite: ClassVar[frozenset[str]] = frozenset(
        """
        insertion deletion insertion_area deletion_area comprehensiveness sufficiency infidelity
        sensitivity
        """.split()
    )
    """NaN: not measured, or a share of nothing."""

    @property
    def about(self) -> str:
        """What the numbers are taken over."""
        n = self.n_examples
        taken = "one example, so no interval" if n == 1 else f"{n} examples"
        if not self.n_vanishing:
            return taken
        return f"{taken}; f(x) is f(baseline) in {self.n_vanishing}, left out of all shares"

    def check(self) -> Checks:
        """Does the best method beat the random control?"""
        names = self.labels.get("method", [])
        if "random" not in names:
            return Checks()
        control = names.index("random")
        spread = self.insertion_area - self.deletion_area
        sure = self.n_examples > 1 and self.area_low is not None
        least = self.area_low if sure and self.area_low is not None else spread
        others = [i for i in range(len(names)) if i != control]
        best = max(float(least[i]) for i in others) if others else -math.inf
        rows = [Check.at_least("best method beats random order", best, float(spread[control]))]
        if self.n_vanishing:
            name = "examples with f(x) unlike f(baseline)"
            rows.append(Check.at_least(name, float(self.n_examples - self.n_vanishing), 1.0))
        return Checks(rows)


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
