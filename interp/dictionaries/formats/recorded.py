"""Does an imported dictionary do what its file says? The cheapest sign of a wrong import is L0."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check
from interp.core.errors import ConfigError, ProvenanceError
from interp.core.finite import check_finite
from interp.core.settings import check_flags
from interp.dictionaries.config import TOPK_FAMILY
from interp.dictionaries.dictionary import Dictionary


def recorded_l0(dictionary: Dictionary) -> float | None:
    """The L0 that the file records, or the k that it was made for; None if it says neither."""
    told = dictionary.metadata.get("l0")
    if isinstance(told, int | float) and not isinstance(told, bool) and told > 0:
        return float(told)
    k = dictionary.config.k if dictionary.config.activation in TOPK_FAMILY else None
    return None if k is None else float(k)


@torch.no_grad()
def check_l0(
    dictionary: Dictionary, activations: Float[Tensor, "*n d_in"], *, within: float = 1.5, strict: bool = True
) -> Check:
    """Compare the mean number of active latents with the one on record.

    A TopK read as ReLU, a lost threshold, a site off by one or unscaled activations all show here,
    by factors.

    Args:
        dictionary: With a recorded L0.
        activations: Rows of its site, BOS left out.
        within: The largest factor between the two, either way.
        strict: Raise; otherwise return the failed check.

    Returns:
        The measured factor (at least 1) and its bound.

    Raises:
        ProvenanceError: They differ by more than `within`.
        ConfigError: No L0 on record, or no rows.
        NonFiniteError: NaN or infinity among the rows.
    """
    check_flags(strict=strict)
    told = recorded_l0(dictionary)
    if told is None or not activations.numel():
        raise ConfigError(
            "there is nothing to compare the L0 with" if told is None else "L0 is a mean over rows",
            got="no rows" if told is not None else "metadata without l0",
        )
    check_finite(activations, "the rows to measure L0 on")
    z = dictionary.encode(activations)
    measured = float((z != 0).sum(-1).double().mean())
    factor = max(measured, 1e-9) / told
    check = Check.at_most("l0_off_by", max(factor, 1 / factor), within)
    if strict and not check.ok:
        raise ProvenanceError(
            f"this {dictionary.config.activation} dictionary has another L0 than its file records",
            got=f"{measured:.1f} active latents per row",
            expected=f"about {told:.1f}",
            fix="another activation function, site, scale or model than it was made for?",
        )
    return check
