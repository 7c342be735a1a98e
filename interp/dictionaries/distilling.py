"""An encoder that reads in one pass what matching pursuit finds in many.

Pursuit recovers more of the true features than any one-pass encoder that learns its directions
itself, but takes as many products as latents. Here the directions stay and a linear gate learns,
by logistic regression, when pursuit would take each latent: amortised inference (Gregor & LeCun
2010, "Learning fast approximations of sparse coding"), written as a gated dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.errors import ConfigError
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.scores.config import DistilConfig

ENTRIES = 2**24
"""Latent values in the calibration sample, about."""
STEEP = 4.0
"""Logits per unit of a latent at the start; the gate opens at half a unit."""


def distil(
    teacher: Dictionary,
    batches: Callable[[int], Float[Tensor, "row d_in"]],
    config: DistilConfig | None = None,
) -> Dictionary:
    """A gated dictionary with the teacher's decoder that imitates which latents it takes.

    The gate's offset is set so that as many latents are active as with the teacher (a latent that
    this would leave silent gets its own), magnitudes by one regression per latent on the rows
    where the teacher takes it.

    Args:
        teacher: An SAE with non-negative latents, usually matching pursuit.
        batches: t -> rows, raw activations.
        config: Steps and learning rate.

    Returns:
        A dictionary with `activation="gated"`; sites and provenance are the teacher's.

    Raises:
        ConfigError: A transcoder, or settings out of range.
    """
    config = config or DistilConfig()
    if teacher.config.is_transcoder or teacher.config.normalize_activations != "none":
        raise ConfigError(
            "only plain SAEs are distilled",
            got=f"transcoder: {teacher.config.is_transcoder}, "
            f"normalize_activations={teacher.config.normalize_activations!r}",
        )
    like = teacher.W_dec
    gate = nn.Linear(teacher.config.d_in, teacher.config.d_sae, dtype=like.dtype)
    gate.to(like.device)
    with torch.no_grad():
        rows = F.normalize(like, dim=1)
        gate.weight.copy_(STEEP * rows)
        gate.bias.fill_(-STEEP / 2)

    def loss(module: nn.Module, batch: Tensor, t: int) -> Tensor:
        x = batch.to(like)
        with torch.no_grad():
            on = (teacher.encode(x) > 0).to(x.dtype)
        logits = module(x - teacher.b_dec.detach())
        return F.binary_cross_entropy_with_logits(logits, on, reduction="sum") / len(x)

    plan = FitConfig(steps=config.steps, lr=config.lr, lr_schedule="linear", seed=config.seed)
    fit(gate, loss, batches, plan)
    return _as_dictionary(teacher, gate, _sample(batches, config.steps, teacher))


def _sample(batches: Callable[[int], Tensor], first: int, teacher: Dictionary) -> Tensor:
    """Rows to calibrate on, beginning with the batch after the last one trained on."""
    wanted, parts, held = max(2048, ENTRIES // teacher.config.d_sae), [], 0
    while held < wanted:
        parts.append(batches(first + len(parts)).to(teacher.W_dec))
        held += len(parts[-1])
    return torch.cat(parts)[:wanted]


@torch.no_grad()
def _as_dictionary(teacher: Dictionary, gate: nn.Linear, x: Tensor) -> Dictionary:
    """Gate, offset and magnitudes as a gated dictionary."""
    pre = F.linear(x - teacher.b_dec, gate.weight)
    z = teacher.encode(x)
    on = z > 0
    logits = pre + gate.bias
    n = int(on.sum())
    offset = -logits.flatten().kthvalue(max(1, logits.numel() - n)).values.expand(len(z.T)).clone()
    silent = 4 * (logits > -offset).sum(0) < on.sum(0)  # these fire as often as the teacher's
    for j in silent.nonzero().flatten().tolist():
        offset[j] = -logits[:, j].kthvalue(max(1, len(x) - int(on[:, j].sum()))).values
    # z = slope * pre + shift over the rows where the teacher takes the latent
    count = on.sum(0).clamp_min(1)
    mean_pre, mean_z = (pre * on).sum(0) / count, z.sum(0) / count
    spread = ((pre - mean_pre).square() * on).sum(0)
    joint = ((pre - mean_pre) * (z - mean_z) * on).sum(0)
    slope = (joint / spread.clamp_min(1e-12)).clamp_min(1e-4)
    config = replace(
        teacher.config,
        activation="gated",
        k=None,
        max_iterations=None,
        rescale_acts_by_decoder_norm=False,
        apply_b_dec_to_input=True,
    )
    student = Dictionary.from_state(
        config,
        {
            "encoder": gate.weight,
            "W_dec": teacher.W_dec,
            "b_dec": teacher.b_dec,
            "b_gate": gate.bias + offset,
            "r_mag": slope.log(),
            "b_mag": mean_z - slope * mean_pre,
        },
    )
    student.provenance = teacher.provenance
    student.metadata = dict(teacher.metadata) | {"distilled_from": teacher.config.activation}
    return student
