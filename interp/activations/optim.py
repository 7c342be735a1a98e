"""What `fit` derives from its config: the optimizer, the learning rate of step t."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from interp.activations.config import USUAL_RATE, FitConfig
from interp.core.errors import ConfigError


def lr_factor(config: FitConfig, t: int) -> float:
    """Learning rate of step t as a fraction of its peak: warm-up, plateau, decay to lr_final.

    The last step (t = steps - 1) runs at exactly `lr_final` unless the schedule is constant.
    """
    warmup = config.lr_warmup or 0
    if t < warmup:
        return (t + 1) / warmup
    after_warmup = config.steps - warmup
    decay = after_warmup if config.lr_decay is None else min(config.lr_decay, after_warmup)
    if config.lr_schedule in (None, "constant") or decay == 0:
        return 1.0
    done = min(1.0, max(0.0, (t + 1 - (config.steps - decay)) / decay))
    if config.lr_schedule == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return 1.0 + (config.lr_final - 1.0) * done


def make_optimizer(
    parameters: Iterable[nn.Parameter | dict[str, Any]], config: FitConfig
) -> torch.optim.Optimizer:
    """The config's optimizer over every parameter that wants a gradient.

    Args:
        parameters: Parameters, or groups of them with a rate of their own, as torch has them.
        config: The optimizer, its rates and decay.

    Raises:
        ConfigError: Nothing is trainable.
    """
    wanted: list[Any] = [p for p in parameters if isinstance(p, dict) or p.requires_grad]
    if not wanted:
        raise ConfigError(
            "the module has no trainable parameters",
            expected="at least one parameter with requires_grad=True",
        )
    single = [p for one in wanted for p in (one["params"] if isinstance(one, dict) else [one])]
    fused = all(p.is_floating_point() and not p.is_complex() for p in single)
    decay, lr = config.weight_decay, USUAL_RATE if config.lr is None else config.lr
    if config.optimizer == "sgd":
        return torch.optim.SGD(wanted, lr, momentum=config.betas[0], weight_decay=decay, fused=fused)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(wanted, lr, betas=config.betas, weight_decay=decay, fused=fused)
