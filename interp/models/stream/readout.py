"""The unembedding as the linear map it is: weights over the logits as a direction behind the norm."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.core.errors import ModelError
from interp.models.hooked import HookedModel
from interp.models.hooks.plan import refuse_inference
from interp.models.stream.frozen import wide


def linear_reading(model: HookedModel, weights: Tensor, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Σ_t weights_t · logit_t as (direction behind the final norm [n d_model], constant [n]).

    Taken from the head itself at zero; before its soft cap, whose slope is one only where the bias
    is zero too. `weights` is [n d_vocab] or [d_vocab].

    Raises:
        ModelError: The head cannot be differentiated.
    """
    refuse_inference("linear readings of the head")
    first = next(model.module.parameters())
    with torch.enable_grad():
        zero = torch.zeros(n, model.cfg.d_model, dtype=first.dtype, device=first.device, requires_grad=True)
        logits = uncapped(model, zero) if model.cfg.final_softcap else wide(model.unembed(zero))
        read = (logits * weights).sum(-1)
        (direction,) = torch.autograd.grad(read.sum(), zero, allow_unused=True)
        if direction is None:
            raise ModelError(
                f"the head of {model.cfg.model_name} cannot be differentiated",
                got=type(model.head or model.unembed).__name__,
                expected="an unembedding with floating-point weights",
                fix="load the model unquantised; the logit lens reads it as it is",
            )
    return direction.to(dtype), read.detach().to(dtype)


def uncapped(model: HookedModel, normalized: Tensor) -> Tensor:
    """The logits before a final soft cap, from what is behind the final norm [... d_model]."""
    return wide(normalized) @ wide(model.W_U.detach()) + wide(model.b_U.detach())
