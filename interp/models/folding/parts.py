"""What folding works on: affine maps, the norms with the maps that read them, and value paths.

Nothing here changes a weight unless `Affine.write` or `FoldNorm.reset` is called, and both put a
new Parameter in place: tied tensors come apart, the tensors they held stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from interp.core.errors import FoldError
from interp.models.adapters.norms import norm_parts
from interp.models.small.layers import Norm

Layout = Literal["rows", "columns", "heads"]
"""How a stored tensor is a matrix [in, out]: as it is (leading axes flattened); transposed (the
first axis is `out`); or W_Q's [head, in, d_head]."""


def _wide(tensor: Tensor) -> Tensor:
    """In float64, so that folding rounds once; Apple's GPU has none."""
    return tensor.detach() if tensor.device.type == "mps" else tensor.detach().double()


@dataclass(frozen=True)
class Affine:
    """One map x @ weight + bias, or (rows of) an embedding table, whatever holds it.

    Attributes:
        bias: Name of the bias, "" where the forward pass would not add one to this very product.
    """

    name: str
    module: nn.Module
    layout: Layout
    weight: str = "weight"
    bias: str = "bias"

    def __post_init__(self) -> None:
        held = self.module._parameters.get(self.weight)
        if held is None or not held.is_floating_point() or held.dim() < 2:
            raise FoldError(
                f"cannot fold: {self.name} is not a plain floating-point matrix",
                got=f"{type(self.module).__name__}, quantised, packed or adapted",
                expected="nn.Linear, Conv1D or nn.Embedding with floating-point weights",
                fix="load the model unquantised and merge its adapters first",
            )
        if held.is_meta:
            raise FoldError(
                f"cannot fold: the weight of {self.name} is offloaded, not in memory",
                fix="load the model without offloading",
            )
        if held.dtype not in (torch.float32, torch.float64):
            raise FoldError(
                f"cannot fold in {str(held.dtype).removeprefix('torch.')}: "
                "the products would be rounded and the model would change",
                got=f"{self.name} in {held.dtype}",
                expected="float32 or float64",
                fix="fold(model.to(torch.float32))",
            )

    def read(self) -> tuple[Tensor, Tensor | None]:
        """(weight [in, out], bias [out] or None), in float64."""
        held = _wide(getattr(self.module, self.weight))
        bias = getattr(self.module, self.bias, None) if self.bias else None
        return self._matrix(held), None if bias is None else _wide(bias).flatten()

    def write(self, weight: Tensor, bias: Tensor | None) -> None:
        """Put both in place; a bias is created where there was none."""
        old = getattr(self.module, self.weight)
        if self.layout == "columns":
            stored = weight.T.reshape(old.shape)
        elif self.layout == "heads":
            stored = weight.reshape(old.shape[1], old.shape[0], old.shape[2]).movedim(1, 0)
        else:
            stored = weight.reshape(old.shape)
        _renew(self.module, self.weight, stored, old)
        if bias is None:
            return
        if not self.bias:
            raise FoldError(
                f"cannot fold: {self.name} has no bias that could take up the norm's",
                got="a norm with a bias before a gated MLP whose only bias follows the product",
                fix="fold_ln=False, or a norm without bias (RMS, or zeros)",
            )
        held = getattr(self.module, self.bias, None)
        _renew(self.module, self.bias, bias if held is None else bias.reshape(held.shape), old)

    def _matrix(self, held: Tensor) -> Tensor:
        if self.layout == "columns":
            return held.flatten(1).T
        if self.layout == "heads":
            return held.movedim(0, 1).flatten(1)
        return held.reshape(-1, held.shape[-1])


def _renew(module: nn.Module, name: str, value: Tensor, like: Tensor) -> None:
    fresh = value.to(like.dtype).contiguous().clone()
    setattr(module, name, nn.Parameter(fresh, requires_grad=like.requires_grad))


@dataclass(frozen=True)
class FoldNorm:
    """A norm and every map that reads its output, nothing else reading it."""

    name: str
    module: nn.Module
    readers: tuple[Affine, ...]

    @property
    def centred(self) -> bool:
        """Whether its output, before gain and bias, sums to zero over d_model."""
        if isinstance(self.module, Norm):
            return self.module.centre
        parts = norm_parts(self.module)
        return parts is not None and parts.centred

    def read(self) -> tuple[Tensor | None, Tensor | None]:
        """(gain, bias) [d_model] in float64, None where the norm has none."""
        weight, bias = (getattr(self.module, n, None) for n in self._names())
        gain = None if weight is None else _wide(weight) + self._offset()
        return gain, None if bias is None else _wide(bias)

    def reset(self) -> None:
        """Gain one, bias zero."""
        for name, value in zip(self._names(), (1.0 - self._offset(), 0.0), strict=True):
            held = getattr(self.module, name, None)
            if held is not None:
                _renew(self.module, name, torch.full_like(held, value), held)

    def _names(self) -> tuple[str, str]:
        return ("w", "b") if isinstance(self.module, Norm) else ("weight", "bias")

    def _offset(self) -> float:
        """Gemma stores the gain minus one."""
        parts = norm_parts(self.module)
        return 1.0 if parts is not None and parts.plus_one else 0.0


@dataclass(frozen=True)
class ValuePath:
    """A value projection, the indices [kv_head, d_head] of its values, the output projection."""

    v: Affine
    index: Tensor
    o: Affine


@dataclass
class FoldParts:
    """Everything `fold` may change in one model, and why it may not.

    Attributes:
        writers: Maps and tables whose rows enter the residual stream.
        head: The unembedding.
        no_norms, no_values, no_centring, no_unembed: Reasons against a step, "" when it is exact.
        softmax: The logits are a language model's: a constant added to all of them is nothing.
    """

    norms: list[FoldNorm] = field(default_factory=list)
    writers: list[Affine] = field(default_factory=list)
    values: list[ValuePath] = field(default_factory=list)
    head: Affine | None = None
    no_norms: str = ""
    no_values: str = ""
    no_centring: str = ""
    no_unembed: str = ""
    softmax: bool = True

    def refuse_shared(self) -> None:
        """Raises FoldError when two blocks are one module: it would be folded twice."""
        held = [(id(r.module), r.weight) for n in self.norms for r in n.readers]
        held += [(id(n.module), "") for n in self.norms]
        wrote = [(id(w.module), w.weight) for w in self.writers]
        if len(set(held)) < len(held) or len(set(wrote)) < len(wrote):
            raise FoldError(
                "cannot fold: blocks share a module, whose readers need different weights",
                fix="give each block its own module (copy.deepcopy) first",
            )
