"""Synthetic rows with a known answer, and a tiny model with words."""

from __future__ import annotations

import os
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor

from interp.core.randomness import generator
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer

F16 = settings(max_examples=2_000 if os.environ.get("INTERP_FULL") == "1" else 50)
"""Row F16 of the fault matrix: 2,000 degenerate inputs, none of them non-finite, none raw."""


def planted(
    n: int = 997, d: int = 13, *, shift: float = 3.0, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Correlated Gaussian rows [n, d] whose direction 0 carries a balanced binary label [n]."""
    draw = generator(seed, "planted")
    y = torch.arange(n) % 2
    mix = torch.eye(d) + 0.3 * torch.randn(d, d, generator=draw)
    x = torch.randn(n, d, generator=draw) @ mix + 2.0
    x[:, 0] += shift * y
    return x.to(dtype), y


def small(**more: Any) -> SmallTransformer:
    """A random two-layer transformer."""
    sizes = {"n_layers": 2, "d_model": 24, "n_heads": 3, "d_head": 8, "d_mlp": 37, "n_ctx": 64}
    return SmallTransformer(SmallConfig(**{**sizes, **more}), seed=1)
