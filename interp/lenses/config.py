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
