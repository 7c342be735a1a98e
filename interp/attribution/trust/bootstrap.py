"""Bootstrap intervals over examples, which every judgement of this room carries."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.attribution.config import TrustConfig
from interp.core.randomness import generator


def bootstrap_interval(values: Tensor, config: TrustConfig) -> tuple[Tensor, Tensor]:
    """Percentile interval of the mean over examples, [example ...] -> two of [...]."""
    n = len(values)
    drawn = torch.randint(n, (config.resamples, n), generator=generator(config.seed, "bootstrap"))
    means = torch.stack([values[index].mean(0) for index in drawn])
    tail = (1 - config.confidence) / 2
    return means.quantile(tail, 0), means.quantile(1 - tail, 0)
