"""One-to-one matching of directions by cosine."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.core.errors import MemoryBudgetError, MissingDependency, ShapeError

MOST_PAIRS = 2**28
"""Largest cost matrix; scipy's solver copies it to float64 (2 GiB here)."""


def cosines(a: Tensor, b: Tensor) -> Float[Tensor, "row column"]:
    """Cosine of every row of `a` [row d] with every row of `b` [column d]; that of zeros is 0.

    Raises:
        ShapeError: Rows of different widths.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError("directions do not fit", got=f"{list(a.shape)} and {list(b.shape)}")
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def best_pairs(similarity: Float[Tensor, "row column"]) -> Int[Tensor, " row"]:
    """Column matched to each row so that the sum of similarities is largest; -1: none is left.

    The Hungarian method (scipy's `linear_sum_assignment`), exact.

    Raises:
        MemoryBudgetError: More than 2^28 pairs.
        MissingDependency: scipy is not installed.
    """
    if similarity.numel() > MOST_PAIRS:
        raise MemoryBudgetError(
            "too many pairs for an exact matching",
            got=list(similarity.shape),
            expected=f"at most {MOST_PAIRS:,} pairs",
            fix="match the latents that fire, or fewer",
        )
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingDependency("matching needs scipy", fix="pip install scipy") from error
    rows, columns = linear_sum_assignment(similarity.detach().cpu().numpy(), maximize=True)
    found = torch.full((len(similarity),), -1, dtype=torch.int64)
    found[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return found
