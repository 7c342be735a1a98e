"""Whether the values of a pass are finite, read where that costs least.

On the CPU a number is read where it is. On an accelerator the host would wait for the device at
every site: what edits returned is remembered there as a few numbers and told when the pass ends.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from interp.core.errors import NonFiniteError
from interp.core.finite import check_finite, not_finite
from interp.models.hooks.sites import Site


class _Doubt(NamedTuple):
    what: str
    shape: torch.Size
    dtype: torch.dtype
    wrong: Tensor
    """How many values are wrong, on the device."""
    first: Tensor
    """Where the first of them is, in row-major order."""
    value: Tensor
    """What is there."""


class Doubts:
    """Edits of one pass whose numbers nobody has read yet."""

    def __init__(self) -> None:
        self._open: list[_Doubt] = []

    def check(self, new: Tensor, old: Tensor, site: Site, what: str) -> None:
        """Refuse NaN and infinity where the activation `old` had none: at once, or at `settle`.

        Raises:
            NonFiniteError: On the CPU, naming `what` and the first index.
        """
        if new.is_cpu:
            try:
                check_activation(new, site, what)
            except NonFiniteError:
                # What the model computed at padding may be no number; an edit answers for its own.
                if bool((new.isfinite() | ~old.isfinite()).all()):
                    return
                raise
        elif new.is_floating_point() and not new.is_meta:
            self._note(unmasked(new.detach(), site), old.detach(), what)

    def settle(self) -> None:
        """Read what is open: the host waits once for each device.

        Raises:
            NonFiniteError: Naming the first edit that returned no number, and the index.
        """
        doubts, self._open = self._open, []
        by_device: dict[torch.device, list[_Doubt]] = {}
        for doubt in doubts:
            by_device.setdefault(doubt.wrong.device, []).append(doubt)
        for same in by_device.values():
            for doubt, count in zip(same, torch.stack([d.wrong for d in same]).tolist(), strict=True):
                if count:
                    where = tuple(int(i) for i in torch.unravel_index(doubt.first.cpu(), doubt.shape))
                    raise not_finite(
                        doubt.what, float(doubt.value), where, doubt.dtype, count, doubt.shape.numel()
                    )

    def _note(self, new: Tensor, old: Tensor, what: str) -> None:
        wide = new.float() if new.element_size() == 1 else new
        bad = ~wide.isfinite()
        if new.shape == old.shape:
            bad &= (old.float() if old.element_size() == 1 else old).isfinite()
        flat = bad.flatten()
        first = flat.int().argmax()
        value = wide.flatten().index_select(0, first[None])
        self._open.append(_Doubt(what, new.shape, new.dtype, flat.sum(), first, value))


def check_activation(value: Tensor, site: Site, what: str) -> None:
    """Finite numbers only; scores and masks handed to a module may be -inf: how a mask is written.

    Raises:
        NonFiniteError: Naming the site and the first index.
    """
    check_finite(unmasked(value, site), what)


def unmasked(value: Tensor, site: Site) -> Tensor:
    """Zero where a score is -inf, which is how a mask is written; other sites' values as they are."""
    mask = site.kind == "in" and site.slot != ""
    if mask or site.slot == "scores" or site.name.endswith("hook_attn_scores"):
        return value.masked_fill(value == -torch.inf, 0.0)
    return value
