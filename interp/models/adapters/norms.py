"""LayerNorm and RMSNorm taken apart: scale and normalised activation as sites.

`hook_scale` is the denominator [.., 1] and `hook_normalized` the value before the gain, as in
TransformerLens 3: out = hook_normalized * gain + bias, hook_normalized = centred / hook_scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import WeightError
from interp.models.adapters.effective import plain


@dataclass(frozen=True)
class NormParts:
    """The formula of one norm module.

    Attributes:
        centred: Whether the mean is subtracted (LayerNorm) or not (RMSNorm).
        eps: Added to the mean square before the root.
        plus_one: The gain is `1 + weight` (Gemma, Nemotron).
    """

    centred: bool
    eps: float
    plus_one: bool

    def centre(self, x: Tensor) -> Tensor:
        """x in at least float32, mean removed where this norm removes it; [..., d_model]."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return wide - wide.mean(-1, keepdim=True) if self.centred else wide

    def scale(self, centred: Tensor) -> Tensor:
        """sqrt(mean(centred²) + eps), [..., 1]."""
        return (centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def gain(self, module: nn.Module) -> Tensor | None:
        """The factor per dimension [d_model], or None."""
        weight = getattr(plain(module), "weight", None)
        if weight is None:
            return None
        if not self.plus_one:
            return weight
        # Gemma's adds in float32, Nemotron's layer norm in its own dtype.
        return 1.0 + (weight if self.centred else weight.float())

    def finish(self, module: nn.Module, normalized: Tensor, like: Tensor) -> Tensor:
        """normalized * gain + bias, in the shape and dtype of the module's output `like`."""
        gain = self.gain(module)
        out = normalized if gain is None else normalized * gain
        bias = getattr(plain(module), "bias", None)
        return (out if bias is None else out + bias).to(like.dtype).reshape(like.shape)


def norm_parts(module: nn.Module) -> NormParts | None:
    """The formula of `module`, or None when it is not a norm this file knows.

    The adapter proof recomputes every norm from these parts and refuses a formula that is wrong.
    """
    try:
        module = plain(module)
    except WeightError:
        return None
    kind = type(module).__name__
    if isinstance(module, nn.LayerNorm):
        return NormParts(True, module.eps, kind == "NemotronLayerNorm1P")
    if isinstance(module, nn.RMSNorm):
        eps = module.eps if module.eps is not None else torch.finfo(module.weight.dtype).eps
        return NormParts(False, eps, False)
    if kind == "OlmoLayerNorm":
        return NormParts(True, 1e-5, False)
    if kind in ("CohereLayerNorm", "Cohere2LayerNorm"):
        eps: Any = module.variance_epsilon
        return NormParts(True, float(eps), False)
    if "RMSNorm" in kind or kind in ("T5LayerNorm", "UMT5LayerNorm"):
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        return None if eps is None else NormParts(False, float(eps), kind.startswith("Gemma"))
    return None
