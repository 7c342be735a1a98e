"""Settings every room shares. Standard library only: the command line is built without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DTypeName = Literal["float32", "float64", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model is held, and in which precision."""

    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, mps."""
    dtype: DTypeName | None = None
    """Precision of weights and activations; by default that of the file."""
