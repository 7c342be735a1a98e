"""A norm held fixed at one input: the linear map it applies there, and the adjoint of that map.

LayerNorm and RMSNorm are N(x) = γ ⊙ C(x)/σ(x) + β, with C the removal of the mean (or nothing) and
σ the root mean square. Held fixed, σ is a number from the run; the rest is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import ModelError
from interp.models.adapters.effective import plain
from interp.models.adapters.norms import norm_parts


def wide(x: Tensor) -> Tensor:
    """In at least single precision: sums of many parts are taken there."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class FrozenNorm:
    """One norm, its scale to be given.

    Attributes:
        centred: Whether the mean is removed.
        gain, bias: γ and β [d_model], None where the norm has none.
        eps: Added to the mean square.
        absent: There is no norm here: the identity.
    """

    centred: bool = False
    gain: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 0.0
    absent: bool = False

    def centre(self, x: Tensor) -> Tensor:
        """C(x), [..., d_model]."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, x: Tensor) -> Tensor:
        """σ(x), [..., 1]; 1 where there is no norm."""
        if self.absent:
            return torch.ones_like(x[..., :1])
        return (self.centre(x).pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def apply(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """N(x) with the given scale, its own by default; [..., d_model]."""
        y = self.centre(x) / (self.scale(x) if scale is None else scale)
        y = y if self.gain is None else y * self.gain.to(y)
        return y if self.bias is None else y + self.bias.to(y)

    def adjoint(self, y: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """P(γ ⊙ y)/σ: what `y`, a direction behind the norm, is in front of it; [..., d_model].

        With the scale left at 1 this is the direction alone: that of the exact gradient too, as
        d_model grows (Dunefsky and Cohan 2024, theorem 1).
        """
        return self.centre(y if self.gain is None else y * self.gain.to(y)) / scale

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """∇_x (y · N(x)), scale included: (P(γ⊙y) − x̂ (x̂ · γ⊙y)/d)/σ; [..., d_model]."""
        if self.absent:
            return y
        scale = self.scale(x)
        unit, behind = self.centre(x) / scale, y if self.gain is None else y * self.gain.to(y)
        along = (unit * behind).sum(-1, keepdim=True) / x.shape[-1]
        return (self.centre(behind) - unit * along) / scale

    def constant(self, y: Tensor) -> Tensor:
        """β · y, what the norm adds to the reading of direction `y` whatever it reads; [...]."""
        if self.bias is None:
            return torch.zeros_like(y[..., 0])
        return y @ self.bias.to(y)


IDENTITY = FrozenNorm(absent=True)


def frozen_norm(module: Any) -> FrozenNorm:
    """The norm that a module computes; the identity for None and `nn.Identity`.

    Reads Hugging Face's norms, our small transformer's and TransformerLens's.

    Raises:
        ModelError: The module is no norm of a known formula.
    """
    # A bridge's norm computes what the module inside it does, under that module's formula.
    module = getattr(module, "original_component", module)
    if module is None or isinstance(module, nn.Identity):
        return IDENTITY
    kind = type(module).__name__
    eps = getattr(module, "eps", None)
    ours = kind == "Norm" and hasattr(module, "centre")
    guest = kind in ("LayerNorm", "LayerNormPre", "RMSNorm", "RMSNormPre") and not isinstance(
        module, nn.LayerNorm | nn.RMSNorm
    )
    if (ours or guest) and isinstance(eps, float):
        centred = module.centre if ours else kind.startswith("Layer")
        return FrozenNorm(
            bool(centred), _held(getattr(module, "w", None)), _held(getattr(module, "b", None)), eps
        )
    parts = norm_parts(module)
    if parts is None:
        raise ModelError(
            "this norm is of a kind that cannot be held fixed",
            got=kind,
            expected="a layer norm or an RMS norm",
        )
    used = plain(module)
    gain, bias = _held(getattr(used, "weight", None)), _held(getattr(used, "bias", None))
    if gain is not None and parts.plus_one:
        gain = 1.0 + gain
    return FrozenNorm(parts.centred, gain, bias, parts.eps)


def _held(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else wide(weight.detach())
