"""A small network on a small image, and captum's scores read player by player.

Captum gets the bare function and its own arguments (`feature_mask`, `sliding_window_shapes`); ours gets
the wrapped model. Captum gives every member its player's score, ours gives the score once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import interp
from interp.attribution import Attribution, attribute

C, H, W = 3, 5, 7
NEAR: dict[str, float] = {"rtol": 1e-5, "atol": 1e-6}  # captum sums in float32


def convolution(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(2)
    return (
        nn.Sequential(nn.Conv2d(C, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 5, 2)).to(dtype).eval()
    )


def image(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(1, C, H, W, generator=torch.Generator().manual_seed(3), dtype=dtype) + 0.1


def scattered(n: int = 5) -> Tensor:
    """Groups across channels, rows and columns, in no order; numbers with gaps."""
    drawn = torch.Generator().manual_seed(4)
    return torch.randint(n, (1, C, H, W), generator=drawn) * 3 - 2


def once(found: Tensor, mask: Tensor) -> Tensor:
    """Captum's score of each player, in the order of their numbers."""
    flat, where = found.flatten(), mask.expand(found.shape).flatten()
    values = [flat[where == i] for i in where.unique()]
    assert all(bool((v == v[0]).all()) for v in values)
    return torch.stack([v[0] for v in values]).detach().double()


def summed(found: Tensor, mask: Tensor) -> Tensor:
    flat, where = found.flatten(), mask.expand(found.shape).flatten()
    return torch.stack([flat[where == i].sum() for i in where.unique()])


def of(net: nn.Module, x: Tensor, method: str, **options: Any) -> Attribution:
    return attribute(interp.wrap(net), x, 1, method=method, **options)
