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
    score = scores(d, d.preactivations(x.to(d.W_dec)))
    cut = cut_at(score, l0)
    if d.config.activation == "jumprelu":
        d.threshold.mul_(cut.clamp(1e-3, 1e3))
    elif d.config.activation == "batchtopk":
        d.threshold.fill_(cut.clamp(min=torch.finfo(cut.dtype).tiny))  # zeros mean: not measured
    elif (score > 0).any():
        (d.b_gate if d.config.activation == "gated" else d.b_enc).sub_(cut)


@torch.no_grad()
def scores(dictionary: Dictionary, pre: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
    """What the cut is made on: a latent is active where its score is above it.

    JumpReLU: the pre-activation over the threshold. Gated: the gate, -inf where the magnitude is 0
    whatever the gate does. Otherwise the pre-activation.
    """
    d = dictionary
    if d.config.activation == "jumprelu":
        return pre.clamp(min=0) / d.threshold.clamp_min(1e-12)
    if d.config.activation == "gated":
        return (pre + d.b_gate).masked_fill(pre * d.r_mag.exp() + d.b_mag <= 0, -torch.inf)
    return pre.detach()


@torch.no_grad()
def cut_at(score: Float[Tensor, "n d_sae"], l0: int | float) -> Float[Tensor, ""]:
    """The smallest of the `l0` best scores per row on average, finite ones only; 0 without any."""
    wanted = min(int(torch.count_nonzero(score.isfinite())), max(1, round(l0 * len(score))))
    if not wanted:
        return score.new_zeros(())
    return score.flatten().topk(wanted, sorted=False).values.min()
