"""Linear maps as the field writes them: weight [in, out], whatever module holds it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import ModelError


def in_features(module: Any) -> int:
    """Width of the input of a linear module (nn.Linear, transformers Conv1D, quantised ones)."""
    width = getattr(module, "in_features", None)
    if width is None and hasattr(module, "nx"):
        width = module.nx
    if width is None:
        width = linear_weight(module).shape[0]
    return int(width)


def has_plain_weight(module: nn.Module | None) -> bool:
    """Whether `linear_weight` can read this module."""
    weight: Any = getattr(module, "weight", None)
    matrix = isinstance(weight, Tensor) and weight.dim() == 2 and not weight.is_meta
    return matrix and weight.is_floating_point()


def linear_weight(module: nn.Module | None) -> Tensor:
    """The weight as [in, out].

    Raises:
        ModelError: The module holds no plain floating-point matrix (quantised, offloaded).
    """
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() != 2:
        raise ModelError(
            f"{type(module).__name__} has no plain weight matrix to read",
            got="a quantised or packed weight",
            expected="a floating-point matrix",
            fix="load the model unquantised to read its weights; activations work as it is",
        )
    if weight.is_meta:
        raise ModelError(
            f"the weight of {type(module).__name__} is offloaded and not in memory",
            fix="load the model without offloading to read its weights; activations work as it is",
        )
    return weight if type(module).__name__ == "Conv1D" else weight.T


def linear_bias(module: nn.Module | None, width: int) -> Tensor:
    """The bias [out]; zeros where the module has none."""
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor):
        return bias
    weight = linear_weight(module)
    return torch.zeros(width, dtype=weight.dtype, device=weight.device)


def set_linear(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Give a module a new [in, out] weight and bias (a bias is created where there was none)."""
    stored = weight if type(module).__name__ == "Conv1D" else weight.T
    module.weight = nn.Parameter(stored.contiguous(), requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
