"""Positions, from one source: the mask says which tokens are real, and real tokens are counted.

The same count serves the model's position ids and everybody who asks for "position -1".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIDES = ("left", "right", "holes")


def position_ids(mask: Tensor, cached: int = 0) -> Tensor:
    """Positions of the tokens after the cached ones, [batch, pos], from the mask of all of them.

    Each row's real tokens count 0, 1, 2, ...; padding gets any number from 0 up.
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, cached:]


def shifted(mask: Tensor) -> bool:
    """Whether padding stands before a real token, so that columns are no positions."""
    return bool((mask & (mask.long().cumsum(-1) - 1 != _columns(mask))).any())


def sides(mask: Tensor) -> set[str]:
    """Where a mask has padding: "left", "right", "holes" between real tokens."""
    seen = mask.long().cumsum(-1)
    total = seen[:, -1:]
    where = {
        "left": ~mask & (seen == 0),
        "right": ~mask & (seen == total) & (total > 0),
        "holes": ~mask & (seen > 0) & (seen < total),
    }
    told = torch.stack([padded.any() for padded in where.values()]).tolist()
    return {side for side, there in zip(where, told, strict=True) if there}


def keys_in_use(mask: Tensor, causal: bool, batch: int) -> Tensor:
    """Which keys a mask [batch, head or 1, query, key] shows to anybody, as [batch, key].

    Args:
        mask: Boolean (True = seen) or additive (0 = seen, very negative = not).
        causal: A row that sees the future is then no query but a filled row of padding, by which
            transformers keeps the softmax finite; it is left out.
    """
    allowed = mask if mask.dtype == torch.bool else mask > -1.0
    rows, keys = allowed.shape[-2:]
    allowed = allowed.any(1)
    if causal:
        last = torch.arange(keys - rows, keys, device=mask.device)
        future = torch.arange(keys, device=mask.device) > last[:, None]
        allowed = allowed & ~(allowed & future).any(-1, keepdim=True)
    return allowed.any(-2).expand(batch, -1)


def position_offset(module: nn.Module) -> int:
    """What a model adds to every position: RoBERTa's family counts from its padding index.

    Read from the position table itself, which leaves the rows up to its padding index unused.
    """
    for name, part in module.named_modules():
        if not isinstance(part, nn.Embedding) or "position" not in name.rpartition(".")[2]:
            continue
        if part.padding_idx is not None:
            return int(part.padding_idx) + 1
    return 0


def _columns(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[-1], device=mask.device)
