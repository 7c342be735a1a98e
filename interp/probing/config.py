"""Settings of this room: frozen dataclasses that import nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from interp.core.settings import Count, Natural, NonNegative, Positive, Settings, Share

ProbeKind = Literal["linear", "logistic", "ridge", "mass_mean", "mlp"]
EraseMethod = Literal["leace", "mean_projection", "inlp", "random"]
Ranking = Literal["mean_diff", "f_stat", "mutual_info", "l1", "svm", "random"]


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Settings):
    """How a probe is fitted, and what it is compared with."""

    kind: ProbeKind = "linear"
    """linear is logistic for classes and ridge for numbers, both with an L2 penalty; logistic and
    mass_mean (no fitted direction) take classes only, ridge both, mlp (one hidden layer) both."""
    penalties: tuple[NonNegative, ...] = (1.0,)
    """L2 strengths in scikit-learn's units (Ridge's alpha, 1/C of LogisticRegression); of several,
    ridge takes the best by leave-one-out error, logistic by held-out accuracy within the training
    rows."""
    standardise: bool = True
    """Scale every feature to unit standard deviation first; a constant feature gets weight 0."""
    balanced: bool = False
    """Weigh classes by 1/frequency (logistic)."""
    test_fraction: Share = 0.3
    """Share of the groups (of the rows, where there are no groups) held out."""
    n_shuffles: Natural = 5
    """Probes fitted on shuffled labels: the null band. 0 leaves it out."""
    confidence: Share = 0.95
    """Coverage of the intervals."""
    max_iter: Count = 200
    """Most iterations of the logistic solver."""
    tolerance: Positive = 1e-3
    """The logistic solver stops where the Newton decrement is at most this."""
    hidden: Count = 64
    """Hidden units of mlp."""
    steps: Count = 300
    """Optimizer steps of mlp."""
    lr: Positive = 3e-3
    """Learning rate of mlp."""
    batch_size: Count = 512
    """Rows per step of mlp."""
    seed: int = 0
    """Splits, shuffles, initial weights and batches derive from it."""


@dataclass(frozen=True, kw_only=True)
class SparseConfig(Settings):
    """How few neurons are chosen, and how many."""

    ks: tuple[Count, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 32, 64, 128, 256)
    """Sizes of the support, ascending; those above the number of features are left out."""
    ranking: Ranking = "mean_diff"
    """What orders the features."""
    telescope: bool = True
    """Start from the `prefilter` best, then refit and drop the smallest weights down to each k."""
    prefilter: Count = 256
    """Features that the telescope starts from."""
    penalty: NonNegative = 1.0
    """L2 strength of the probe on the support, 1/C."""
    max_iter: Count = 200
    """Most iterations of its solver."""
    test_fraction: Share = 0.3
    """Share of the groups held out; nothing is selected on them."""
    n_shuffles: Natural = 3
    """Whole selections repeated on shuffled labels: the null band."""
    seed: int = 0
    """Splits, shuffles and the random ranking derive from it."""


@dataclass(frozen=True, kw_only=True)
class EraseConfig(Settings):
    """How much of a concept's subspace an eraser takes away."""

    method: EraseMethod = "leace"
    """leace moves the rows least; mean_projection removes the span of the class means' differences
    orthogonally; inlp (historical) the directions of one classifier after another."""
    tolerance: NonNegative = 1e-10
    """Directions whose (whitened) covariance with the concept is below this share of the largest
    count as none."""
    iterations: Count = 20
    """Classifiers that inlp removes, at most."""
    max_iter: Count = 200
    """Most iterations of the solver of each of them."""
    seed: int = 0
    """Inlp's splits derive from it."""


@dataclass(frozen=True, kw_only=True)
class AttentionProbeConfig(Settings):
    """How maps of attention become arcs."""

    transposed: bool = True
    """Also read each map backwards (from the key to the query)."""
    steps: Count = 300
    """Optimizer steps."""
    lr: Positive = 0.03
    """Learning rate."""
    weight_decay: NonNegative = 1e-3
    """Decay of the weights of the maps."""
    sentences_per_step: Count = 32
    """Sentences per step."""
    test_fraction: Share = 0.3
    """Share of the sentences' groups held out."""
    word_rank: Natural = 0
    """Above 0, the weights of the maps also depend on the two words, through embeddings projected
    to this width (attention + words)."""
    max_words: Count = 40
    """Longer sentences are left out."""
    max_offset: Count = 10
    """Fixed offsets up to this one are tried for the baseline."""
    skip: tuple[str, ...] = ("punct",)
    """Relations whose arcs are not counted."""
    seed: int = 0
    """Split, initial weights and batches derive from it."""


@dataclass(frozen=True, kw_only=True)
class StructuralConfig(Settings):
    """How distances between words become distances in a tree."""

    rank: Count = 64
    """Dimensions that the words are mapped to."""
    steps: Count = 400
    """Optimizer steps of eight sentences."""
    lr: Positive = 0.01
    """Learning rate."""
    test_fraction: Share = 0.3
    """Share of the sentences' groups held out."""
    max_words: Count = 50
    """Longer sentences are left out."""
    seed: int = 0
    """Split, initial weights and batches derive from it."""


@dataclass(frozen=True, kw_only=True)
class ContextProbeConfig(Settings):
    """How an in-context problem's weights are read from hidden states."""

    hidden: Natural = 64
    """Hidden units of each probe; 0 makes it linear."""
    steps: Count = 600
    """Optimizer steps."""
    lr: Positive = 3e-3
    """Learning rate."""
    weight_decay: NonNegative = 1e-2
    """Decay of the weights."""
    batch_size: Count = 256
    """Problems per step."""
    test_fraction: Share = 0.3
    """Share of the problems held out."""
    seed: int = 0
    """Split, initial weights and batches derive from it."""
