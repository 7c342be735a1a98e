"""TopK dictionaries as JumpReLU ones, for tools that have no TopK: thresholds from data."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import ConfigError
from interp.core.finite import check_finite
from interp.core.settings import check_flags
from interp.dictionaries.dictionary import Dictionary

_CELLS = 1 << 24  # pre-activations held at once


@torch.no_grad()
def to_jumprelu(
    dictionary: Dictionary, activations: Float[Tensor, "*n d_in"], *, per_latent: bool = True
) -> Dictionary:
    """The nearest JumpReLU dictionary: encoder and decoder stay, thresholds replace the choice.

    Each latent fires on the given rows as often as it did, on its strongest ones: its threshold
    lies halfway between the last row where it fires and the next. The mean L0 on these rows is
    thus that of the TopK, up to ties; a latent that never fired does not fire on them.

    Args:
        dictionary: topk, or batchtopk (whose measured threshold is then replaced).
        activations: Rows of its input site, as many as can be had: 10^4 are few.
        per_latent: Otherwise one threshold for all latents, as SAELens gives BatchTopK.

    Returns:
        A jumprelu dictionary of the same sites; `metadata["thresholds"]` says how it was made.

    Raises:
        ConfigError: An activation without a fixed number of latents, or signed ones; no rows.
        NonFiniteError: NaN or infinity among the rows.
        ShapeError: Rows of another width.
    """
    check_flags(per_latent=per_latent)
    config = dictionary.config
    if config.activation not in ("topk", "batchtopk"):
        raise ConfigError(
            f"thresholds cannot replace the choice of a {config.activation} dictionary",
            got=config.activation,
            expected="topk or batchtopk",
        )
    if config.rescale_acts_by_decoder_norm:
        dictionary = dictionary.folded()
        config = dictionary.config
    width = config.d_in
    rows = activations.flatten(-2) if activations.shape[-1] != width else activations
    rows = rows.reshape(-1, rows.shape[-1])
    if not len(rows):
        raise ConfigError("thresholds are measured on rows of activations", got="none")
    check_finite(rows, "the rows to calibrate thresholds on")
    fires = _fires(dictionary, rows)
    total = int(fires.sum())
    if per_latent:
        threshold = _per_latent(dictionary, rows, fires)
    else:
        threshold = _shared(dictionary, rows, total).expand(config.d_sae)
    state = dictionary.state_dict() | {"threshold": threshold}
    changed = replace(config, activation="jumprelu", k=None, rescale_acts_by_decoder_norm=False, groups=())
    made = Dictionary.from_state(changed, state)
    made.provenance = dictionary.provenance
    made.metadata = dictionary.metadata | {
        "thresholds": {
            "from": config.activation,
            "k": config.k,
            "rows": len(rows),
            "per_latent": per_latent,
            "l0": total / len(rows),
        }
    }
    return made


def _chunks(dictionary: Dictionary, rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, _CELLS // dictionary.config.d_sae))


def _fires(dictionary: Dictionary, rows: Tensor) -> Tensor:
    """How often each latent fires on the rows, [d_sae]."""
    counts = torch.zeros(dictionary.config.d_sae, dtype=torch.long)
    for part in _chunks(dictionary, rows):
        counts += (dictionary.encode(part) > 0).sum(0).cpu()
    return counts


def _per_latent(dictionary: Dictionary, rows: Tensor, fires: Tensor) -> Tensor:
    """Halfway between the n-th and the next strongest pre-activation of each latent."""
    config = dictionary.config
    threshold = torch.empty(config.d_sae)
    centred = rows.to(dictionary.W_dec.dtype)
    for latents in torch.arange(config.d_sae).split(max(1, _CELLS // len(rows))):
        part = _columns(dictionary, latents)
        pre = part.preactivations(centred).float().sort(0, descending=True).values.cpu()
        column = torch.arange(len(latents))
        n = fires[latents]
        below = pre[n.clamp(max=len(rows) - 1), column].masked_fill(n == len(rows), 0.0)
        above = pre[(n - 1).clamp(min=0), column]
        halfway = torch.where(n > 0, (above + below.clamp(min=0)) / 2, below)
        threshold[latents] = halfway.clamp(min=0)
    return threshold


def _columns(dictionary: Dictionary, latents: Tensor) -> Dictionary:
    """A dictionary of some of the latents, for their pre-activations."""
    rows = ("encoder", "b_enc", "W_dec", "threshold")
    state = {
        name: tensor[latents] if name in rows else tensor for name, tensor in dictionary.state_dict().items()
    }
    config = replace(dictionary.config, d_sae=len(latents), k=1, groups=())
    return Dictionary.from_state(config, state)


def _shared(dictionary: Dictionary, rows: Tensor, total: int) -> Tensor:
    """One threshold above which `total` pre-activations of all rows lie."""
    best = torch.empty(0)
    for part in _chunks(dictionary, rows):
        pre = dictionary.preactivations(part).float().flatten().cpu()
        best = torch.cat([best, pre]).topk(min(total + 1, len(best) + len(pre))).values
    if len(best) <= total:
        return torch.zeros(())
    return ((best[total - 1] + best[total].clamp(min=0)) / 2 if total else best[0]).clamp(min=0)
