"""A training step: loss and exact gradients of one batch, written out instead of autograd.

```python
step = make_step(dictionary, TrainLoss(coefficient=weight, dead=dead, auxk_alpha=1 / 32))
loss, metrics = step(x, y)      # .grad of the dictionary's parameters is filled
```

The loss is |y' - y|^2 summed over dimensions, mean over rows (with groups: mean over the groups'
reconstructions), plus `coefficient` times the penalty of the activation, plus AuxK.

The encoder's product is dense and goes into a buffer that is reused; everything after it happens
at active entries only (`steps.sparse`), until they are too many for that to pay.
"""

from __future__ import annotations

import torch

from interp.core.errors import ConfigError
from interp.dictionaries.config import Activation
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.steps.penalised import GatedStep, JumpReLUStep, ReLUStep
from interp.dictionaries.steps.pursuit import PursuitStep
from interp.dictionaries.steps.shared import Step, TrainLoss
from interp.dictionaries.steps.topk import BatchTopKStep, TopKStep

__all__ = ["Step", "TrainLoss", "make_step"]

_KINDS: dict[Activation, type[Step]] = {
    "topk": TopKStep,
    "abstopk": TopKStep,
    "batchtopk": BatchTopKStep,
    "relu": ReLUStep,
    "jumprelu": JumpReLUStep,
    "gated": GatedStep,
    "matching_pursuit": PursuitStep,
}


def make_step(dictionary: Dictionary, losses: TrainLoss) -> Step:
    """The step of a dictionary's activation.

    Raises:
        ConfigError: A mask or coefficient that does not fit the dictionary.
    """
    d_sae = dictionary.config.d_sae
    if losses.dead.shape != (d_sae,) or losses.dead.dtype != torch.bool:
        raise ConfigError(
            "dead must mark latents",
            got=f"{losses.dead.dtype} {list(losses.dead.shape)}",
            expected=f"bool [{d_sae}]",
        )
    return _KINDS[dictionary.config.activation](dictionary, losses)
