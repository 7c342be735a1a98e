"""Pruning by relevance (Yeom et al. 2021), with the random control that tells what it is worth.

The paper's gain belongs to wide networks pruned from few examples without fine-tuning; in narrow
ones relevance can starve a whole layer, which the curve shows as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.attribution.attributing import attribute
from interp.attribution.trust.result import RelevancePruning
from interp.core.errors import ConfigError, ShapeError
from interp.core.randomness import generator
from interp.models.hooked import HookedModel

UnitScores = Mapping[str, Tensor]
"""Site -> one score per unit [unit]; comparable across sites."""


def score_units(
    model: HookedModel,
    inputs: Sequence[Any],
    target: Sequence[Any],
    sites: Sequence[str],
    *,
    method: str = "lrp_alpha_beta",
    **options: Any,
) -> dict[str, Tensor]:
    """Sum over examples (one target for each input) and positions of every unit's score; site -> [unit].

    Scores of a site are divided by the sum of their magnitudes: relevance is conserved from layer
    to layer, so shares are comparable.
    """
    found: dict[str, Tensor] = {}
    for site in sites:
        total: Tensor | None = None
        for one, wanted in zip(inputs, target, strict=True):
            scores = attribute(model, one, wanted, method=method, site=site, **options)
            if scores.units not in ("position", "channel", "entry"):
                raise ConfigError(
                    f"the units of {site!r} are channels: a hidden layer has no {scores.units} to prune",
                    got=f"units={scores.units!r}",
                    fix="units='channel'",
                )
            units = scores.unit_scores.sum(0) if scores.unit_scores is not None else scores.scores
            total = units if total is None else total + units
        if total is not None:
            found[site] = total / total.abs().sum().clamp(min=1e-12)
    return found


def prune_curve(
    model: HookedModel,
    accuracy: Callable[[Callable[[Any], Any]], float],
    criteria: Mapping[str, UnitScores],
    fractions: Sequence[float],
    *,
    n_random: int = 20,
    most: float = 1.0,
    seed: int = 0,
) -> RelevancePruning:
    """Set units to zero from the lowest score up, all sites together, and measure accuracy.

    Args:
        accuracy: Given a function inputs -> output of the pruned model, the accuracy.
        criteria: Name -> site -> scores [unit]; the same sites and sizes in each.
        fractions: Of all units.
        n_random: Random orders for the control's band; their mean is the row "random".
        most: No site loses more than this share of its units (a guard against starving a layer).

    Raises:
        ShapeError: Criteria over different units.
    """
    sizes = [{site: len(s) for site, s in scores.items()} for scores in criteria.values()]
    if not sizes or any(size != sizes[0] for size in sizes):
        raise ShapeError("criteria must score the same units", got=sizes)
    orders = [
        {site: torch.rand(n, generator=generator(seed, f"prune {site}", i)) for site, n in sizes[0].items()}
        for i in range(n_random)
    ]

    def curve(scores: UnitScores) -> list[float]:
        found = []
        for fraction in fractions:
            masks = keep_masks(scores, fraction, most)
            hooks = [(site, _times(mask)) for site, mask in masks.items()]
            found.append(accuracy(lambda x, hooks=hooks: model.run_with_hooks(x, hooks)))
        return found

    control = torch.tensor([curve(order) for order in orders])
    rows = [curve(scores) for scores in criteria.values()]
    return RelevancePruning(
        accuracy=torch.cat([torch.tensor(rows), control.mean(0, keepdim=True)]),
        fractions=torch.tensor(list(fractions)),
        random_low=control.quantile(0.05, 0),
        random_high=control.quantile(0.95, 0),
        labels={"criterion": [*criteria, "random"], "fraction": [f"{f:g}" for f in fractions]},
    )


def keep_masks(scores: UnitScores, fraction: float, most: float = 1.0) -> dict[str, Tensor]:
    """Which units stay when the lowest `fraction` of all goes, at most `most` of each site."""
    flat = torch.cat([s.float().cpu() for s in scores.values()])
    masks = {site: torch.ones(len(s)) for site, s in scores.items()}
    places = [(site, i) for site, s in scores.items() for i in range(len(s))]
    room = {site: int(most * len(s)) for site, s in scores.items()}
    left = round(fraction * len(flat))
    for index in flat.argsort(stable=True).tolist():
        site, unit = places[index]
        if left == 0:
            break
        if room[site]:
            masks[site][unit] = 0.0
            room[site] -= 1
            left -= 1
    return masks


def _times(mask: Tensor) -> Callable[..., Tensor]:
    def edit(value: Tensor, hook: Any) -> Tensor:
        kept = mask.to(value.device, value.dtype)
        return value * (kept[:, None, None] if value.dim() == 4 else kept)

    return edit
