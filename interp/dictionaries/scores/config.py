"""Settings of evaluation and of synthetic ground truth. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from interp.core.settings import Count, Natural, NonNegative, Settings, above, at_least, within


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """How a dictionary is evaluated."""

    n_ctx: Annotated[int, at_least(2)] | None = None
    """Texts are cut off at this many tokens; None takes the model's context length."""
    max_sequences: Count | None = None
    """Use this many texts from the front; None uses all."""
    batch_sequences: Count = 16
    """Sequences per forward pass of the model."""
    exclude_bos: bool = True
    """BOS keeps its own activation in every splice and counts in no statistic."""
    splice: bool = True
    """Measure the model's loss with the reconstruction in place (language models only)."""
    dense_above: float = 0.1
    """A latent that fires on more than this share of the tokens is dense."""
    max_bytes: Count = 256 * 2**20
    """Most memory for one block of latents."""
    strict: bool = True
    """Refuse a model that the dictionary was not trained on."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(Settings):
    """A world of sparse features with known directions.

    The default is 4x superposition: 256 random unit vectors in 64 dimensions, 5.6 of them on.
    """

    d: Count = 64
    """Dimensions of the data."""
    n_features: Count = 256
    """Features in all, children included."""
    p_first: NonNegative = 0.04
    """Firing probability of the first root; the others go down linearly."""
    p_last: NonNegative = 0.004
    """Firing probability of the last root."""
    magnitude: float = 1.0
    """Mean of a feature's magnitude before the absolute value: |N(magnitude, spread)|."""
    spread: NonNegative = 0.25
    """Standard deviation of it."""
    children: Natural = 0
    """Children per root; a child fires only where its root does. 0: all features are roots."""
    p_child: NonNegative = 0.5
    """Probability that one child (uniformly chosen) fires along with an active root."""
    noise: NonNegative = 0.0
    """Standard deviation of Gaussian noise added to every coordinate."""
    seed: int = 0
    """Directions and every batch derive from it."""


@dataclass(frozen=True, kw_only=True)
class AbsorptionConfig(Settings):
    """When a latent counts as absorbing a concept (Chanin et al. 2024; SAEBench's thresholds)."""

    split_gain: NonNegative = 0.03
    """The next latent belongs to the concept while it raises the k-sparse probe's F1 by this."""
    max_latents: Count = 10
    """Most latents a concept is split into."""
    min_cosine: Annotated[float, within(-1, 1)] = 0.025
    """Full absorption: least cosine of the absorbing latent's decoder row with the concept."""
    min_fraction_cosine: Annotated[float, within(-1, 1)] = 0.1
    """Absorption fraction: least cosine of an absorbing latent's decoder row with the concept."""
    min_share: NonNegative = 0.4
    """Least share of an activation's projection on the concept that absorbing latents carry."""
    n_absorbers: Count = 3
    """Absorption fraction: most latents that make up for the main ones together."""
    ridge: NonNegative = 1e-3
    """Penalty of the linear probe that gives the direction, relative to the rows' variance."""


@dataclass(frozen=True, kw_only=True)
class SplittingConfig(Settings):
    """When a latent of a wide dictionary counts as a child of one of a narrow dictionary."""

    min_cosine: Annotated[float, at_least(-1)] = 0.4
    """Least cosine of the two decoder rows."""
    min_given: NonNegative = 0.6
    """Least share of the child's firings on which the parent's firings lie."""
    min_firings: Count = 10
    """Latents that fire less often on the given rows are left out."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Settings):
    """How a trained dictionary is finetuned through its model."""

    steps: Count = 200
    """Optimizer steps (Adam)."""
    lr: NonNegative = 1e-3
    """Peak learning rate: up over the first tenth of the steps, then linearly down to 0."""
    batch_sequences: Count = 8
    """Sequences per step; memory goes with the logits of all of them."""
    n_ctx: Annotated[int, at_least(2)] | None = None
    """Texts are cut off at this many tokens; None takes the model's context length."""
    fvu_weight: NonNegative = 0.3
    """Weight of the FVU beside the KL (nats per token); at 0 the reconstruction may drift."""
    l0: Annotated[int | float, above(0)] | None = None
    """Latents active per token (not topk, abstopk); None keeps as many as there were."""
    log_every: Count = 10
    """One line of metrics per this many steps."""
    seed: int = 0
    """Order of the sequences."""


@dataclass(frozen=True, kw_only=True)
class DistilConfig(Settings):
    """How a one-pass encoder learns from a dictionary that takes many passes."""

    steps: Count = 600
    """Steps of logistic regression, one batch each."""
    lr: NonNegative = 0.03
    """Peak learning rate, going down linearly."""
    seed: Natural = 0
    """Seed of the training loop."""
