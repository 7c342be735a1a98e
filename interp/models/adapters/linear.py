"""Linear maps as the field writes them: weight [in, out], whatever module holds it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp.core.errors import WeightError
from interp.models.adapters.effective import plain

_SLACK = {torch.float64: 1e-9, torch.float32: 1e-4}


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
    try:
        linear_weight(module)
    except WeightError:
        return False
    return True


def linear_weight(module: nn.Module | None) -> Tensor:
    """The weight in use as [in, out], adapters included.

    Raises:
        WeightError: The module holds no plain floating-point matrix (quantised, offloaded), or
            computes more than its matrix says.
    """
    held = plain(module)
    weight: Any = getattr(held, "weight", None)
    matrix = isinstance(weight, Tensor) and weight.is_floating_point() and weight.dim() == 2
    if not matrix or weight.element_size() < 2:
        raise WeightError(
            f"{type(module).__name__} has no plain weight matrix to read",
            got="a quantised or packed weight",
            expected="a floating-point matrix",
            fix="load the model unquantised to read its weights; activations work as it is",
        )
    if weight.is_meta:
        raise WeightError(
            f"the weight of {type(module).__name__} is offloaded and not in memory",
            fix="load the model without offloading to read its weights; activations work as it is",
        )
    transposed = is_transposed(held)
    if held is module and not transposed:
        _refuse_more(held, weight)
    return weight if transposed else weight.T


def is_transposed(module: nn.Module) -> bool:
    """Whether a weight is [in, out]: transformers' Conv1D, also under a parametrization."""
    return any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)


def linear_bias(module: nn.Module | None, width: int) -> Tensor:
    """The bias in use, [out]; zeros where the module has none."""
    bias = getattr(plain(module), "bias", None)
    if isinstance(bias, Tensor):
        return bias
    weight = linear_weight(module)
    return torch.zeros(width, dtype=weight.dtype, device=weight.device)


def _refuse_more(module: Any, weight: Tensor) -> None:
    """A class with a forward of its own must multiply with its weight, and add its bias, only.

    Raises:
        WeightError: It computes something else: a low-rank update beside the weight, say.
    """
    own = type(module).forward
    if own is nn.Linear.forward:
        return
    x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        try:
            found = own(module, x)
            wanted = F.linear(x, weight, getattr(module, "bias", None))
            off = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
        except (RuntimeError, TypeError, AttributeError):  # no map from rows to rows at all
            off = float("inf")
    if not off <= _SLACK.get(weight.dtype, 1e-1):
        raise WeightError(
            f"{type(module).__name__} computes more than its weight matrix says",
            got=f"outputs differ by {off:.1e} of the largest",
            expected="x @ weight + bias",
            fix="merge what it adds into the weight; activations work as it is",
        )
