"""Dictionaries beside each other: one size with several seeds, a narrow and a wide one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from interp.core.errors import ConfigError, MemoryBudgetError, ShapeError
from interp.core.protocols import Coder
from interp.core.settings import check_flags
from interp.dictionaries.result import Splitting, Stability
from interp.dictionaries.scores.config import SplittingConfig
from interp.dictionaries.scores.matching import MOST_PAIRS, best_pairs, cosines
from interp.dictionaries.scores.recovery import random_directions

BLOCK = 4096
NONE = -1


@torch.no_grad()
def score_stability(
    dictionaries: Sequence[Coder],
    *,
    threshold: float = 0.7,
    signed: bool = True,
    names: Sequence[str] | None = None,
) -> Stability:
    """One-to-one agreement of the decoder rows of dictionaries trained alike.

    Each two are matched by the Hungarian method on decoder cosines; beside it the same for random
    unit rows. Paulo & Belrose 2025 (arXiv 2501.16615); the threshold .7 is theirs.

    Args:
        dictionaries: Two or more of one shape (other seeds, other orders of the data).
        threshold: Cosine from which a latent counts as found again.
        signed: False matches by |cosine|, for latents that may be negative (AbsTopK).
        names: Names of the runs; by default their numbers.

    Raises:
        ConfigError: Fewer than two dictionaries.
        ShapeError: Different shapes.
        MemoryBudgetError: Too many latents for an exact matching.
    """
    check_flags(signed=signed)
    rows = [d.W_dec.detach().float().cpu() for d in dictionaries]
    if len(rows) < 2:
        raise ConfigError("stability compares dictionaries", got=len(rows), expected="2 or more")
    shapes = {tuple(r.shape) for r in rows}
    if len(shapes) > 1:
        raise ShapeError("the dictionaries differ in shape", got=sorted(shapes))

    def similar(a: Tensor, b: Tensor) -> Tensor:
        return cosines(a, b) if signed else cosines(a, b).abs()

    n, (n_latents, d) = len(rows), rows[0].shape
    agreement, shared = torch.eye(n), torch.eye(n)
    latent = torch.zeros(n, n_latents)
    for i in range(n):
        for j in range(i + 1, n):
            matrix = similar(rows[i], rows[j])
            partner = best_pairs(matrix)
            found = matrix.gather(1, partner[:, None])[:, 0]
            agreement[i, j] = agreement[j, i] = found.mean()
            shared[i, j] = shared[j, i] = (found >= threshold).float().mean()
            latent[i] += found / (n - 1)
            latent[j, partner] += found / (n - 1)
    null = similar(random_directions(n_latents, d, 0), random_directions(n_latents, d, 1))
    chance = null.gather(1, best_pairs(null)[:, None]).mean()
    ticks = [str(i) for i in range(n)] if names is None else list(names)
    return Stability(
        agreement=agreement,
        shared=shared,
        latent=latent,
        null=chance,
        threshold=threshold,
        labels={"run": ticks, "other": ticks},
    )


@torch.no_grad()
def score_splitting(
    narrow: Coder, wide: Coder, rows: Float[Tensor, "row d_in"], config: SplittingConfig | None = None
) -> Splitting:
    """Which latents of `wide` are parts of which latent of `narrow`.

    A wide latent belongs to the narrow one with the largest decoder cosine among those that point
    its way (`min_cosine`) and fire on most of its firings (`min_given`). Bricken et al. 2023.

    Args:
        narrow: The dictionary with fewer latents.
        wide: Another one of the same site; sizes need not differ.
        rows: Activations to count firings on.
        config: Thresholds.

    Raises:
        ConfigError, ShapeError: Thresholds or rows that do not fit.
        MemoryBudgetError: More than 2^28 pairs of latents.
    """
    config = config or SplittingConfig()
    n_narrow, n_wide = len(narrow.W_dec), len(wide.W_dec)
    if n_narrow * n_wide > MOST_PAIRS:
        raise MemoryBudgetError("too many pairs of latents", got=f"{n_narrow} x {n_wide}")
    if rows.ndim != 2 or not len(rows):
        raise ShapeError("rows must be [row d_in]", got=list(rows.shape))
    together = torch.zeros(n_narrow, n_wide)
    n_fired, w_fired = torch.zeros(n_narrow), torch.zeros(n_wide)
    for block in rows.split(BLOCK):
        on_narrow, on_wide = _fires(narrow, block).float(), _fires(wide, block).float()
        together += on_narrow.T @ on_wide
        n_fired += on_narrow.sum(0)
        w_fired += on_wide.sum(0)
    cosine = cosines(narrow.W_dec.detach().float().cpu(), wide.W_dec.detach().float().cpu())
    given = together / w_fired.clamp_min(1)
    fits = (cosine >= config.min_cosine) & (given >= config.min_given)
    fits &= (w_fired >= config.min_firings) & (n_fired >= config.min_firings)[:, None]
    parent = cosine.masked_fill(~fits, -torch.inf).argmax(0)
    parent = torch.where(fits.any(0), parent, NONE)
    is_child = F.one_hot(parent.clamp_min(0), n_narrow).float() * (parent >= 0)[:, None]
    covered = torch.zeros(n_narrow)
    for block in rows.split(BLOCK):
        with_child = _fires(wide, block).float() @ is_child > 0
        covered += (with_child & _fires(narrow, block)).sum(0)
    return Splitting(
        n_children=is_child.sum(0).long(),
        coverage=covered / n_fired.clamp_min(1),
        best=cosine.amax(1),
        parent=parent,
        given=given.gather(0, parent.clamp_min(0)[None])[0] * (parent >= 0),
        is_measured=n_fired >= config.min_firings,
        n_rows=len(rows),
    )


def _fires(dictionary: Coder, rows: Tensor) -> Bool[Tensor, "row latent"]:
    weight = dictionary.W_dec
    return (dictionary.encode(rows.to(weight)) != 0).cpu()
