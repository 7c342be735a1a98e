"""Bootstrap intervals over examples, which every judgement of several carries."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.attribution.config import TrustConfig
from interp.core.randomness import generator


def bootstrap_interval(
    values: Tensor, config: TrustConfig, weights: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Percentile interval of the (weighed) mean over examples, [example ...] -> two of [...].

    None of a single example, whose resamples are all itself.
    """
    n = len(values)
    if n < 2:
        return None, None
    weights = torch.ones(n) if weights is None else weights
    drawn = torch.randint(n, (config.resamples, n), generator=generator(config.seed, "bootstrap"))
    means = torch.stack([weighed_mean(values[index], weights[index]) for index in drawn])
    means = means[means.flatten(1).isfinite().all(1)]  # draws of examples without weight say nothing
    if not len(means):
        return None, None
    tail = (1 - config.confidence) / 2
    return means.quantile(tail, 0), means.quantile(1 - tail, 0)


def weighed_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over examples [example ...], those without weight left out; NaN where all are."""
    weights = weights.to(values).view(-1, *[1] * (values.dim() - 1))
    return torch.where(weights > 0, weights * values, 0.0).sum(0) / weights.sum()
