"""What a lens shows; stdlib only, so that the command line needs no torch to know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Components = Literal["resid", "all"]


@dataclass(frozen=True)
class LensConfig:
    """Rows and numbers of a lens."""

    components: Components = "resid"
    """resid: the stream after every layer; all: also every attention and MLP output."""
    top_k: int = 5
    """How many tokens to keep per cell."""
    target: str | None = None
    """Token to follow, the same at every position; the model's own final answer when absent."""


@dataclass(frozen=True, kw_only=True)
class TunedLensConfig:
    """How a tuned lens is trained."""

    steps: int = 500
    """Optimizer steps."""
    batch_tokens: int = 1024
    """Token positions per step."""
    lr: float | None = None
    """Peak learning rate (Adam, linear decay to zero); None takes 0.64 / d_model."""
    weight_decay: float = 0.0
    """L2 penalty: pulls the maps towards the identity, that is towards the logit lens."""
    n_ctx: int | None = None
    """Tokens per training sequence; None takes the model's context length."""
    seed: int = 0
    """Seed of the order of the text."""


Space = Literal["auto", "unembed", "embed"]
Side = Literal["in", "gate", "out", "gate*in"]


@dataclass(frozen=True)
class TokenTableConfig:
    """How directions are read as tokens."""

    k: int = 10
    """Tokens kept per direction and sign."""
    space: Space = "auto"
    """unembed: rows of W_U (logits); embed: rows of W_E; auto: W_U where the model has a head."""
    final_norm: bool = True
    """Read through the final norm's gain and centring, as the logits would (unembed only)."""
    block_mib: int = 128
    """Memory for one block of scores, MiB; never less than one row over the vocabulary."""
    seed: int = 0
    """Seed of the permuted directions that give the threshold."""


@dataclass(frozen=True)
class HeadAtlasConfig:
    """What heads are measured on."""

    max_tokens: int = 128
    """Tokens of each text that are read."""
    block: int = 25
    """Length of the random block that is repeated once; shorter where the context demands it."""
    n_random: int = 8
    """How many random sequences."""
    seed: int = 0
    """Seed of the random tokens."""
