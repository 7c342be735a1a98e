"""What a lens shows; stdlib only, so that the command line needs no torch to know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from interp.core.settings import Count, NonNegative, Positive, Settings, at_least

Components = Literal["resid", "all"]


@dataclass(frozen=True)
class LensConfig(Settings):
    """Rows and numbers of a lens."""

    components: Components = "resid"
    """resid: the stream after every layer; all: also every attention and MLP output."""
    k: Count = 5
    """How many tokens to keep per cell."""
    target: str | None = None
    """Token to follow, the same at every position; the model's own final answer when absent."""


@dataclass(frozen=True, kw_only=True)
class TunedLensConfig(Settings):
    """How a tuned lens is trained."""

    steps: Count = 500
    """Optimizer steps."""
    batch_tokens: Count = 1024
    """Token positions per step."""
    lr: Positive | None = None
    """Peak learning rate (Adam, linear decay to zero); None takes 0.64 / d_model."""
    weight_decay: NonNegative = 0.0
    """L2 penalty: pulls the maps towards the identity, that is towards the logit lens."""
    n_ctx: Annotated[int, at_least(2)] | None = None
    """Tokens per training sequence; None takes the model's context length."""
    seed: int = 0
    """Seed of the order of the text."""


Space = Literal["auto", "unembed", "embed"]
Side = Literal["in", "gate", "out", "gate*in"]


@dataclass(frozen=True)
class TokenTableConfig(Settings):
    """How directions are read as tokens."""

    k: Count = 10
    """Tokens kept per direction and sign."""
    space: Space = "auto"
    """unembed: rows of W_U (logits); embed: rows of W_E; auto: W_U where the model has a head."""
    final_norm: bool = True
    """Read through the final norm's gain and centring, as the logits would (unembed only)."""
    block_mib: Count = 128
    """Memory for one block of scores, MiB; never less than one row over the vocabulary."""
    seed: int = 0
    """Seed of the permuted directions that give the threshold."""


@dataclass(frozen=True)
class HeadAtlasConfig(Settings):
    """What heads are measured on."""

    max_tokens: Count = 128
    """Tokens of each text that are read."""
    block: Count = 25
    """Length of the random block that is repeated once; shorter where the context demands it."""
    n_random: Count = 8
    """How many random sequences."""
    seed: int = 0
    """Seed of the random tokens."""
