"""How sure a share is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.special import ndtri


def wilson(share: Tensor | float, n: Tensor | float, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
    """Ends of the score interval of a share of n trials, float64 (Wilson 1927, eq. 7)."""
    p, n = torch.as_tensor(share).double(), torch.as_tensor(n).double()
    z = ndtri(torch.tensor(0.5 + confidence / 2, dtype=torch.float64))
    middle = p + z**2 / (2 * n)
    reach = z * (p * (1 - p) / n + z**2 / (4 * n**2)).sqrt()
    scale = 1 + z**2 / n
    return ((middle - reach) / scale).clamp(0, 1), ((middle + reach) / scale).clamp(0, 1)
