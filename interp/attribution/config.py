"""Settings of this room: what the command line may say about an attribution. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from interp.core.settings import Count, NonNegative, Positive, Settings, Share, at_least

Method = Literal[
    "integrated_gradients",
    "gradient_x_input",
    "saliency",
    "smoothgrad",
    "gradient_shap",
    "deeplift",
    "deeplift_reveal_cancel",
    "captum_deeplift",
    "layer_conductance",
    "occlusion",
    "feature_ablation",
    "shapley",
    "kernel_shap",
    "lime",
    "lrp_epsilon",
    "lrp_gamma",
    "lrp_alpha_beta",
    "attn_lrp",
    "functional_information",
    "attention",
    "attention_rollout",
    "attention_flow",
]

Units = Literal["position", "pixel", "channel", "patch", "entry"]
Pooling = Literal["mean", "first", "none"]
Similarity = Literal["cosine", "dot"]


@dataclass(frozen=True, kw_only=True)
class AttributionConfig(Settings):
    """How an attribution is computed."""

    tolerance: NonNegative = 0.01
    """Largest gap between the sum of scores and f(x) - f(baseline), relative to the latter."""
    max_nodes: Count = 512
    """Gradients that integrated gradients may take before it gives up and says so."""
    rows: Count = 32
    """Copies of the input per forward pass; bounds the memory."""
    samples: Count | None = None
    """Draws of the sampling methods: permutations x positions, coalitions, noisy inputs. None: 200,
    and more where a fit needs it; but of at most 12 players all coalitions, which is exact."""
    noise: NonNegative = 0.15
    """Standard deviation of noisy inputs, relative to that of the activation."""
    window: Count = 3
    """Positions that occlusion hides at once; in a picture, the side of the square of its units."""
    units: Units | None = None
    """What one score is of, at a site without positions: "pixel" (a place of [channel, row, column],
    its channels together; what None means there), "channel", "patch" (squares of `patch` pixels), or
    "entry" (every number on its own); "position" reads [1, a, b] as a vectors of b numbers."""
    patch: Count | None = None
    """Side of a patch in pixels, for units="patch"; the last of a row may be smaller."""
    max_forward: Count = 10_000
    """Rows that a method that hides players may send through the model before it is refused; draws
    that `samples` asks for are never too many."""
    epsilon: NonNegative = 1e-6
    """Stabiliser of LRP's epsilon rule, relative to the largest output of a layer."""
    gamma: NonNegative = 0.25
    """How much LRP's gamma rule favours positive contributions."""
    alpha: Annotated[float, at_least(1)] = 2.0
    """Weight of positive contributions in LRP's alpha-beta rule; beta = alpha - 1."""
    seed: int = 0
    """What the sampling methods draw follows from it."""


@dataclass(frozen=True, kw_only=True)
class PairConfig(Settings):
    """How a pair of texts is attributed."""

    tolerance: Positive = 1e-3
    """Bound on the gap between the sum over pairs and its four terms, relative to the latter."""
    max_nodes: Count = 512
    """Nodes per tower before it gives up and says so."""
    rows: Count = 96
    """Tangents per forward-mode pass, rows per pass of the probe; bounds the memory."""
    pooling: Pooling = "mean"
    """From hidden states to an embedding: the mean of real tokens, the first, or already one."""
    similarity: Similarity = "cosine"
    """dot: e(a) e(b); cosine: the same divided by the constant |e(a)| |e(b)|."""


@dataclass(frozen=True, kw_only=True)
class TrustConfig(Settings):
    """How far to trust scores: perturbation curves and resampling."""

    steps: Count = 10
    """Points of a deletion or insertion curve."""
    top_k: Count = 3
    """How many leading positions the top-k overlap compares."""
    persistence: Share = 0.9
    """p of rank-biased overlap: the weight of depth d is p^(d-1)."""
    resamples: Count = 1_000
    """Bootstrap resamples over examples."""
    confidence: Share = 0.95
    """Coverage of the bootstrap intervals."""
    samples: Count = 32
    """Random perturbations of infidelity and sensitivity."""
    radius: Positive = 0.02
    """Largest relative perturbation of sensitivity."""
    seed: int = 0
    """Seed of every draw."""
