"""Settings of this room: what the command line may say about an attribution. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

Pooling = Literal["mean", "first", "none"]
Similarity = Literal["cosine", "dot"]


@dataclass(frozen=True, kw_only=True)
class AttributionConfig:
    """How an attribution is computed."""

    tolerance: float = 0.01
    """Largest gap between the sum of scores and f(x) - f(baseline), relative to the latter."""
    max_nodes: int = 512
    """Gradients that integrated gradients may take before it gives up and says so."""
    rows: int = 32
    """Copies of the input per forward pass; bounds the memory."""
    samples: int = 200
    """Draws of the sampling methods: permutations x positions, coalitions, noisy inputs."""
    noise: float = 0.15
    """Standard deviation of noisy inputs, relative to that of the activation."""
    window: int = 3
    """Positions that occlusion hides at once."""
    epsilon: float = 1e-6
    """Stabiliser of LRP's epsilon rule, relative to the largest output of a layer."""
    gamma: float = 0.25
    """How much LRP's gamma rule favours positive contributions."""
    alpha: float = 2.0
    """Weight of positive contributions in LRP's alpha-beta rule; beta = alpha - 1."""
    seed: int = 0
    """What the sampling methods draw follows from it."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How a pair of texts is attributed."""

    tolerance: float = 1e-3
    """Bound on the gap between the sum over pairs and its four terms, relative to the latter."""
    max_nodes: int = 512
    """Nodes per tower before it gives up and says so."""
    rows: int = 96
    """Tangents per forward-mode pass, rows per pass of the probe; bounds the memory."""
    pooling: Pooling = "mean"
    """From hidden states to an embedding: the mean of real tokens, the first, or already one."""
    similarity: Similarity = "cosine"
    """dot: e(a) e(b); cosine: the same divided by the constant |e(a)| |e(b)|."""


@dataclass(frozen=True, kw_only=True)
class TrustConfig:
    """How far to trust scores: perturbation curves and resampling."""

    steps: int = 10
    """Points of a deletion or insertion curve."""
    top_k: int = 3
    """How many leading positions the top-k overlap compares."""
    persistence: float = 0.9
    """p of rank-biased overlap: the weight of depth d is p^(d-1)."""
    resamples: int = 1_000
    """Bootstrap resamples over examples."""
    confidence: float = 0.95
    """Coverage of the bootstrap intervals."""
    samples: int = 32
    """Random perturbations of infidelity and sensitivity."""
    radius: float = 0.02
    """Largest relative perturbation of sensitivity."""
    seed: int = 0
    """Of every draw."""
