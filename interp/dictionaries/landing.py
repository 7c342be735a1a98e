"""The last step to the number of active latents asked for.

While a penalty is steered, what it steers keeps moving, so that a short run ends a few per cent
beside its aim. As BatchTopK's threshold, the cut is therefore measured on rows at last.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.dictionaries.dictionary import Dictionary

LATENTS, LEAST_ROWS = 2**24, 1024
"""About as many latent values are looked at, and at least as many rows."""


def rows_wanted(d_sae: int) -> int:
    """How many rows `land` should see."""
    return min(16_384, max(LEAST_ROWS, LATENTS // d_sae))


@torch.no_grad()
def land(dictionary: Dictionary, x: Float[Tensor, "n d_in"], l0: int | float) -> None:
    """Let `l0` latents be active per row of x on average, in place.

    BatchTopK: the one threshold. JumpReLU: all thresholds times one factor. ReLU and Gated: one
    number added to all biases (of the gates). Nothing is changed where no latent is ever positive.
    """
    d = dictionary
    pre = d.preactivations(x.to(d.W_dec))
    if d.config.activation == "gated":
        silent = pre * d.r_mag.exp() + d.b_mag <= 0  # whatever its gate does
        pre = (pre + d.b_gate).masked_fill(silent, -torch.inf)
    if d.config.activation == "jumprelu":
        pre = pre.clamp_(min=0) / d.threshold.clamp_min(1e-12)
    wanted = min(int(pre.isfinite().sum()), max(1, round(l0 * len(pre))))
    if not wanted:
        return
    cut = pre.flatten().topk(wanted, sorted=False).values.min()
    if d.config.activation == "jumprelu":
        d.threshold.mul_(cut.clamp(1e-3, 1e3))
    elif d.config.activation == "batchtopk":
        d.threshold.fill_(cut.clamp(min=0))
    elif (pre > 0).any():
        (d.b_gate if d.config.activation == "gated" else d.b_enc).sub_(cut)
