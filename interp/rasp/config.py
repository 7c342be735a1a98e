"""Settings of this room: frozen dataclasses that import nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from interp.core.settings import Count, Natural, Settings, within

Ablation = Literal["zero", "mean", "resample"]
"""What stands for the value that is taken off an edge: nothing, a mean over strings, another string's."""

Compared = Literal["all", "last"]
"""Where the output of a program is compared: at every token, or at the last one."""


@dataclass(frozen=True, kw_only=True)
class CompileConfig(Settings):
    """How a program becomes a transformer."""

    max_length: Count = 6
    """Longest string in tokens; the model's context is one more, for the beginning-of-sequence token."""
    distractors: Natural = 0
    """Heads to add, in random layers, that compute something which nobody reads."""
    rotate: bool = False
    """Turn the residual stream by a random orthogonal matrix, so that no direction is an axis."""
    score_scale: Annotated[float, within(50, 1000)] = 100.0
    """Attention score of a selected key; one not selected has 0, the start token half of it or all."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating type of the weights."""
    seed: int = 0
    """Distractors, the order of heads and the rotation follow from it."""


@dataclass(frozen=True, kw_only=True)
class RandomPrograms(Settings):
    """What random programs are made of."""

    max_length: Count = 6
    """Longest string that the programs are for."""
    operations: Count = 6
    """Random operations that are drawn, one on top of the others; those that end unread are dropped."""
    categories: Count = 4
    """Most values of an elementwise operation that gives categories."""
