"""NaN and infinity are stopped where they appear, not where they hurt."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from interp.core.errors import NonFiniteError


def is_finite(t: Tensor) -> bool:
    """Whether one sum shows that every value is finite; False where a closer look is needed."""
    plain = t.dtype in _SUMMED and not t.is_meta
    return plain and isfinite((t.detach() if t.requires_grad else t).sum().item())


def are_finite(tensors: Sequence[Tensor]) -> list[bool]:
    """`is_finite` of each; the host waits once for each accelerator they lie on, not for each tensor."""
    found = [t.is_cpu and is_finite(t) for t in tensors]
    there: dict[torch.device, list[int]] = {}
    for i, t in enumerate(tensors):
        if not t.is_cpu and not t.is_meta and t.dtype in _SUMMED:
            there.setdefault(t.device, []).append(i)
    for places in there.values():
        # Not by a sum: one that overflows would ask for a closer look, which is a wait.
        told = torch.stack([tensors[i].detach().isfinite().all() for i in places])
        for i, fine in zip(places, told.tolist(), strict=True):
            found[i] = fine
    return found


_SUMMED = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))
"""Floats that torch can add up: those of one byte have no reductions."""


def check_finite(t: Tensor, what: str, *, token_axis: int | None = None) -> None:
    """Raise if a tensor holds NaN or infinity; integers and booleans always pass.

    One reduction and no copy when all is well: a sum is finite only if every term is. A sum of
    finite terms that overflows is told apart by the extremes, which cannot overflow.

    Args:
        t: A tensor of any shape, dtype and device; tensors without storage (meta) pass.
        what: The name in the message (a site, a loss, a result's field).
        token_axis: The axis that counts token positions, to name the token as well.

    Raises:
        NonFiniteError: Names `what`, the first index in row-major order, the value, the dtype and
            how many values are affected.
    """
    if not (t.is_floating_point() or t.is_complex()) or t.is_meta:
        return
    values = t.detach()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if values.element_size() == 1:
        values = values.float()  # the float8 types have no reductions
    if isfinite(values.sum().item()):
        return
    low, high = values.aminmax()
    if isfinite(low.item()) and isfinite(high.item()):
        return
    raise _describe(t.detach(), what, token_axis)


def _describe(t: Tensor, what: str, token_axis: int | None) -> NonFiniteError:
    if t.element_size() == 1:
        bad = ~torch.isfinite(t.float())
    else:
        bad = ~torch.isfinite(t)
    where = tuple(bad.nonzero()[0].tolist())
    return not_finite(what, t[where].item(), where, t.dtype, int(bad.sum()), t.numel(), token_axis)


def not_finite(
    what: str,
    value: float | complex,
    where: tuple[int, ...],
    dtype: torch.dtype,
    count: int,
    numel: int,
    token_axis: int | None = None,
) -> NonFiniteError:
    """The error that names what is not finite, the first index, and how many of `numel` values."""
    token = ""
    if token_axis is not None and where:
        token = f", token {where[token_axis]}"
    name = str(dtype).removeprefix("torch.")
    return NonFiniteError(
        f"{what} is not finite",
        got=f"{value} at index {where}{token}, dtype {name}; {count:,} of {numel:,} values",
        expected="finite numbers",
        fix="float16 ends at 65504: use bfloat16 or float32"
        if dtype == torch.float16
        else "look at the input and the sites before this one",
    )
