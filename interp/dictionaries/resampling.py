"""Dead latents start again where the dictionary reconstructs badly.

Bricken et al. 2023 ("Towards Monosemanticity", appendix: neuron resampling): a dead latent takes
the direction of a row drawn with probability proportional to its squared loss, a smaller encoder
than the living ones, and fresh moments. Where latents compete for k places the new encoder is as
large as the living ones: a smaller one would never be among the k.

Two latents of one direction are one too many: where `resample_similar` is given, the one that fired
longer ago counts as dead, as in K-SVD (Aharon et al. 2006, IEEE TSP 54(11), implementation notes).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.core.randomness import generator
from interp.dictionaries.config import TOPK_FAMILY
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.trainee import Trainee

ENCODER_SHARE = 0.2
"""Norm of a new encoder row, as a share of the mean of the living."""
BLOCK = 1024
"""Rows compared with all others at once."""
BY_LATENT = ("encoder", "W_dec", "b_enc", "b_gate", "b_mag", "r_mag", "threshold")


@torch.no_grad()
def resample(trainee: Trainee, optimizer: torch.optim.Optimizer, t: int) -> int:
    """Give dead latents new directions from the batch trained on last, in place.

    Args:
        trainee: Has trained on a batch; its dead latents are replaced and count as alive again.
        optimizer: Its moments for these latents become zero.
        t: The step, from which what is drawn derives.

    Returns:
        How many latents were replaced: at most as many as the batch has rows.
    """
    if trainee.last is None:
        return 0
    d, (x, y) = trainee.dictionary, trainee.last
    gone = trainee.dead
    if trainee.config.resample_similar is not None:
        gone = gone | _repeated(d.W_dec, trainee.idle, trainee.config.resample_similar)
    dead = gone.nonzero().flatten()[: len(x)]
    if not len(dead):
        return 0
    error = d.error(x, y)
    loss = error.double().pow(2).sum(1).cpu()
    draw = generator(trainee.config.seed, "resample", t)
    rows = torch.multinomial(loss.square() + 1e-12, len(dead), generator=draw).to(x.device)
    at_x = d.b_dec if d.config.apply_b_dec_to_input else x.mean(0)
    direction = F.normalize(x[rows] - at_x, dim=1)
    alive = ~gone
    by_error = d.config.is_transcoder or d.config.activation == "matching_pursuit"
    d.W_dec[dead] = F.normalize(error[rows], dim=1) if by_error else direction
    if d.config.activation != "matching_pursuit":
        _point(d, dead, direction, at_x, alive)
    for name in BY_LATENT:
        moments = optimizer.state.get(getattr(d, name, None), {})  # pyright: ignore
        for key in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            if isinstance(moments.get(key), Tensor):
                moments[key][dead] = 0
    trainee.idle[dead] = 0
    trainee.dead[dead] = False
    return len(dead)


def _repeated(
    rows: Float[Tensor, "d_sae d"], idle: Int[Tensor, " d_sae"], most: int | float
) -> Bool[Tensor, " d_sae"]:
    """Of every two rows that are too similar, the one idle for longer (of equals the later)."""
    unit = F.normalize(rows, dim=1)
    place = torch.arange(len(rows), device=rows.device)
    found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for part in place.split(BLOCK):
        later = (idle[part, None] > idle) | ((idle[part, None] == idle) & (part[:, None] > place))
        found[part] = ((unit[part] @ unit.T > most) & later).any(1)
    return found


def _point(d: Dictionary, dead: Tensor, direction: Tensor, at_x: Tensor, alive: Tensor) -> None:
    """Encoder rows and biases of new latents: at_x encodes to zero, as at the start."""
    share = 1.0 if d.config.activation in TOPK_FAMILY else ENCODER_SHARE
    norm = d.encoder[alive].norm(dim=1).mean() if bool(alive.any()) else 1.0
    d.encoder[dead] = share * norm * direction
    bias = 0.0 if d.config.apply_b_dec_to_input else -(d.encoder[dead] @ at_x)
    for name in ("b_enc", "b_gate", "b_mag"):
        if hasattr(d, name):
            getattr(d, name)[dead] = bias
    if d.config.activation == "gated":
        d.r_mag[dead] = 0
    if d.config.activation == "jumprelu" and bool(alive.any()):
        d.threshold[dead] = ENCODER_SHARE * d.threshold[alive].median()
