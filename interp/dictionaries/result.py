"""What this room observes: evaluation, recovery of known features, absorption, stability."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.randomness import generator
from interp.core.result import Result

CONDITIONS = ("intact", "spliced", "zero", "mean")
"""Rows of the losses: the model as it is, with the reconstruction, with two ablations."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DictionaryReport(Result):
    """How well a dictionary reconstructs, how sparsely, and what the model loses by it.

    Numbers are means over tokens, BOS left out, accumulated in float64. Losses are absent (None)
    for bare rows and for models that predict no next token.
    """

    l0: Float[Tensor, ""]
    """Active latents per token."""
    l1: Float[Tensor, ""]
    """Sum of magnitudes of the latents per token."""
    mse: Float[Tensor, ""]
    """Squared error per token, summed over dimensions."""
    fvu: Float[Tensor, ""]
    """Sum of squared errors over the sum of squares around the mean of all tokens."""
    cosine: Float[Tensor, ""]
    """Mean cosine of reconstruction and target."""
    norm_ratio: Float[Tensor, ""]
    """Mean ratio of norms, reconstruction over target."""
    shrinkage: Float[Tensor, ""]
    """E|reconstruction|² / E(reconstruction · target); 1 = none (arXiv 2404.16014 eq. 10)."""
    density: Float[Tensor, "latent"]
    """Share of tokens on which each latent fires."""
    magnitude: Float[Tensor, "latent"]
    """Mean magnitude of each latent where it fires; 0 for a dead one."""
    ce: Float[Tensor, "condition sequence"] | None
    """Mean next-token loss of each sequence, nats."""
    kl: Float[Tensor, "condition sequence"] | None
    """Mean KL divergence of each sequence from the intact model's predictions, nats."""
    predictions: Int[Tensor, "sequence"] | None
    """Predicted tokens per sequence: the weights of its losses."""
    n_tokens: int
    """Tokens the statistics are taken over."""
    dense_above: float
    """A latent with a density above this is dense."""
    architecture: str
    """Activation of the dictionary, and whether it is a transcoder."""
    site_in: str
    """Where it reads; "" for bare rows."""
    site_out: str
    """What it reconstructs."""
    n_far: int = 0
    """Rows whose norm is more than ten medians (attention sinks), where they hold a hundredth of the
    sum of squares or more."""
    far_share: float = 0.0
    """Share of the sum of squares that far rows hold: FVU, mse and explained variance say no more of
    the others than what is left."""

    @property
    def explained_variance(self) -> float:
        """1 - FVU."""
        return 1 - float(self.fvu)

    @property
    def dead(self) -> int:
        """Latents that never fired."""
        return int((self.density == 0).sum())

    @property
    def dense(self) -> int:
        """Latents that fire on more than `dense_above` of the tokens."""
        return int((self.density > self.dense_above).sum())

    def loss(self, condition: str, measure: str = "ce") -> float | None:
        """Mean over predicted tokens of `ce` or `kl` under a condition; None if not measured."""
        values: Tensor | None = getattr(self, measure)
        if values is None or self.predictions is None:
            return None
        weights = self.predictions.to(values.dtype)
        return float(values[CONDITIONS.index(condition)] @ weights / weights.sum())

    def recovered(self, baseline: str = "mean", measure: str = "ce") -> float | None:
        """(ablated - spliced) / (ablated - intact): 1 = nothing lost, 0 = as bad as the ablation.

        Args:
            baseline: The ablation that counts as nothing: mean or zero.
            measure: ce, or kl (whose intact value is 0).
        """
        values: Tensor | None = getattr(self, measure)
        if values is None or self.predictions is None:
            return None
        return float(_recovered(values, self.predictions, CONDITIONS.index(baseline)))

    def interval(
        self, baseline: str = "mean", measure: str = "ce", draws: int = 1000
    ) -> tuple[float, float] | None:
        """95 % bootstrap interval of `recovered`, sequences drawn with replacement."""
        values: Tensor | None = getattr(self, measure)
        if values is None or self.predictions is None:
            return None
        n = len(self.predictions)
        drawn = torch.randint(n, (draws, n), generator=generator(0, "bootstrap"))
        row = CONDITIONS.index(baseline)
        found = torch.stack([_recovered(values[:, d], self.predictions[d], row) for d in drawn])
        low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
        return low, high

    def summary(self) -> dict[str, float | None]:
        """The figures of a card, by name."""
        return {
            "l0": float(self.l0),
            "l1": float(self.l1),
            "fvu": float(self.fvu),
            "explained_variance": self.explained_variance,
            "mse": float(self.mse),
            "cosine": float(self.cosine),
            "norm_ratio": float(self.norm_ratio),
            "shrinkage": float(self.shrinkage),
            "dead": self.dead,
            "dense": self.dense,
            "n_latents": len(self.density),
            "n_tokens": self.n_tokens,
            "ce": self.loss("intact"),
            "ce_spliced": self.loss("spliced"),
            "ce_zero_ablated": self.loss("zero"),
            "ce_mean_ablated": self.loss("mean"),
            "ce_recovered": self.recovered("mean"),
            "ce_recovered_zero": self.recovered("zero"),
            "kl_spliced": self.loss("spliced", "kl"),
            "kl_recovered": self.recovered("mean", "kl"),
            "kl_recovered_zero": self.recovered("zero", "kl"),
        }

    def check(self) -> Checks:
        """It beats the mean, as a reconstruction and in the model; few latents are dead; no few rows
        are most of what is measured."""
        checks = [
            Check.at_most("fvu", self.fvu, 1.0),
            Check.at_most("dead share", self.dead / len(self.density), 0.1),
        ]
        if self.n_far:
            checks.append(Check.at_most("share of far rows in the squares", self.far_share, 0.5))
        recovered = self.recovered("mean")
        if recovered is not None:
            checks.append(Check.at_least("CE recovered", recovered, 0.0))
        return Checks(checks)


def _recovered(values: Tensor, weights: Tensor, row: int) -> Tensor:
    """Weighted (ablated - spliced) / (ablated - intact) of values [condition sequence]."""
    intact, spliced = values[0], values[1]
    w = weights.to(values.dtype)
    return ((values[row] - spliced) @ w) / ((values[row] - intact) @ w)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recovery(Result):
    """How much of a synthetic world's features a dictionary has found.

    One-to-one pairs are those of the Hungarian matching by |cosine| of decoder rows.
    """

    cosine: Float[Tensor, "feature"]
    """|cosine| of each true feature with its partner; 0 where there are fewer latents."""
    best: Float[Tensor, "feature"]
    """Largest |cosine| of each true feature with any latent."""
    f1: Float[Tensor, "feature"]
    """F1 of the partner's firing as a detector of the feature."""
    precision: Float[Tensor, "feature"]
    """Share of the partner's firings on which the feature is on."""
    recall: Float[Tensor, "feature"]
    """Share of the feature's firings on which the partner fires."""
    partner: Int[Tensor, "feature"]
    """The matched latent; -1 where there is none."""
    probability: Float[Tensor, "feature"]
    """How often each feature fires."""
    uniqueness: Float[Tensor, ""]
    """Different features that are some latent's nearest, per latent."""
    latent_f1: Float[Tensor, ""]
    """Mean over latents of F1 for the nearest feature (SAELens's definition)."""
    l0: Float[Tensor, ""]
    """Active latents per row."""
    fvu: Float[Tensor, ""]
    """Sum of squared errors over the sum of squares around the mean."""
    dead: int
    """Latents that never fired."""
    true_l0: float
    """Active features per row."""
    ceiling: dict[str, dict[str, float]]
    """Scores of the true directions, per way of encoding with them."""

    @property
    def mcc(self) -> float:
        """Mean correlation coefficient: mean |cosine| of the pairs (arXiv 2505.20254)."""
        return float(self.cosine.mean())

    @property
    def mmcs(self) -> float:
        """Mean maximum cosine similarity (Sharkey et al. 2022)."""
        return float(self.best.mean())

    @property
    def rec90(self) -> float:
        """Share of features with some latent at |cosine| above .9."""
        return float((self.best > 0.9).float().mean())

    def summary(self) -> dict[str, float]:
        """All scores by name."""
        return {
            "mcc": self.mcc,
            "mmcs": self.mmcs,
            "rec90": self.rec90,
            "f1": float(self.f1.mean()),
            "latent_f1": float(self.latent_f1),
            "uniqueness": float(self.uniqueness),
            "fvu": float(self.fvu),
            "l0": float(self.l0),
            "true_l0": self.true_l0,
            "dead": self.dead,
        }

    def check(self) -> Checks:
        """As sparse as the truth, with no dead latent."""
        gap = abs(float(self.l0) / self.true_l0 - 1)
        return Checks(
            [
                Check.at_most("L0 off the truth", gap, 0.1),
                Check.at_most("dead latents", float(self.dead), 0.0),
            ]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Absorption(Result):
    """Concepts whose latent stays silent where a more special latent carries them along.

    Chanin et al. 2024, "A is for absorption" (arXiv 2409.14507), §3 and appendix; thresholds of
    SAEBench.
    """

    rate: Float[Tensor, "concept"]
    """Full absorption: share of true positives on which no main latent fires and one other latent
    with a decoder row along the concept carries the activation's projection on it."""
    fraction: Float[Tensor, "concept"]
    """Mean over true positives of the share of the projection that up to three absorbing latents
    make up where the main latents leave some of it (SAEBench's absorption fraction)."""
    probe_f1: Float[Tensor, "concept"]
    """F1 of the linear probe: how readable the concept is at all."""
    latent_f1: Float[Tensor, "concept"]
    """F1 of the main latents together."""
    n_main: Int[Tensor, "concept"]
    """Latents the concept is split into (k of the k-sparse probe)."""
    main: tuple[tuple[int, ...], ...]
    """Main latents per concept."""
    absorbers: tuple[tuple[tuple[int, float], ...], ...]
    """Per concept, absorbing latents and the share of true positives that each took, largest
    first."""
    n_rows: int
    """Rows it was measured on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Splitting(Result):
    """Which latents of a wide dictionary are children of which latent of a narrow one.

    Bricken et al. 2023 ("Towards monosemanticity"), feature splitting: a child points where its
    parent points and fires where it fires.
    """

    n_children: Int[Tensor, "latent"]
    """Children of each narrow latent."""
    coverage: Float[Tensor, "latent"]
    """Share of its firings on which one of its children fires."""
    best: Float[Tensor, "latent"]
    """Largest decoder cosine with any wide latent."""
    parent: Int[Tensor, "wide"]
    """Narrow latent that each wide latent belongs to; -1: none."""
    given: Float[Tensor, "wide"]
    """Share of its firings on which that parent fires; 0 without one."""
    is_measured: Bool[Tensor, "latent"]
    """Whether the narrow latent fired often enough to be looked at."""
    n_rows: int
    """Rows the firings were counted on."""

    @property
    def split_share(self) -> float:
        """Share of the measured narrow latents with two children or more."""
        return float((self.n_children[self.is_measured] > 1).float().mean())

    @property
    def novel_share(self) -> float:
        """Share of the wide latents that belong to no narrow latent."""
        return float((self.parent < 0).float().mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Stability(Result):
    """How far dictionaries trained alike agree: one-to-one matching of decoder rows.

    Hungarian matching as in arXiv 2501.16615 (Paulo & Belrose, "SAEs trained on the same data
    learn different features") and arXiv 2505.20254.
    """

    agreement: Float[Tensor, "run other"]
    """Mean cosine of the matched rows of each two runs; 1 on the diagonal."""
    shared: Float[Tensor, "run other"]
    """Share of latents whose partner lies above `threshold`."""
    latent: Float[Tensor, "run latent"]
    """Mean over the other runs of each latent's cosine with its partner."""
    null: Float[Tensor, ""]
    """Agreement of random unit rows of the same shape: what chance gives."""
    threshold: float
    """Cosine from which a latent counts as found again."""

    @property
    def mean_agreement(self) -> float:
        """Mean over pairs of different runs."""
        return _off_diagonal(self.agreement)

    @property
    def mean_shared(self) -> float:
        """Mean share of latents found again, over pairs of different runs."""
        return _off_diagonal(self.shared)

    def check(self) -> Checks:
        """Above chance."""
        excess = self.mean_agreement - float(self.null)
        return Checks([Check.at_least("agreement above chance", excess, 0.0)])


def _off_diagonal(matrix: Tensor) -> float:
    n = len(matrix)
    return float((matrix.sum() - matrix.diagonal().sum()) / (n * (n - 1)))
