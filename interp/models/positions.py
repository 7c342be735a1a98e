"""Positions, from one source: the mask says which tokens are real, and real tokens are counted.

The same count serves the model's position ids and everybody who asks for "position -1".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import TokenError
from interp.models.token_batch import short

SIDES = ("left", "right", "holes")


def position_ids(mask: Tensor, cached: int = 0) -> Tensor:
    """Positions of the tokens after the cached ones, [batch, pos], from the mask of all of them.

    Each row's real tokens count 0, 1, 2, ...; padding gets any number from 0 up.
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, cached:]


def shifted(mask: Tensor) -> bool:
    """Whether padding stands before a real token, so that columns are no positions."""
    return bool((mask & (mask.long().cumsum(-1) - 1 != _columns(mask))).any())


def sides(mask: Tensor) -> set[str]:
    """Where a mask has padding: "left", "right", "holes" between real tokens."""
    found = set()
    seen = mask.long().cumsum(-1)
    total = seen[:, -1:]
    if bool((~mask & (seen == 0)).any()):
        found.add("left")
    if bool((~mask & (seen == total) & (total > 0)).any()):
        found.add("right")
    if bool((~mask & (seen > 0) & (seen < total)).any()):
        found.add("holes")
    return found


def keys_in_use(mask: Tensor, causal: bool, batch: int) -> Tensor:
    """Which keys a mask [batch, head or 1, query, key] shows to anybody, as [batch, key].

    Args:
        mask: Boolean (True = seen) or additive (0 = seen, very negative = not).
        causal: A row that sees the future is then no query but a filled row of padding, by which
            transformers keeps the softmax finite; it is left out.
    """
    allowed = mask if mask.dtype == torch.bool else mask > -1.0
    rows, keys = allowed.shape[-2:]
    allowed = allowed.any(1)
    if causal:
        last = torch.arange(keys - rows, keys, device=mask.device)
        future = torch.arange(keys, device=mask.device) > last[:, None]
        allowed = allowed & ~(allowed & future).any(-1, keepdim=True)
    return allowed.any(-2).expand(batch, -1)


def position_offset(module: nn.Module) -> int:
    """What a model adds to every position: RoBERTa's family counts from its padding index.

    Read from the position table itself, which leaves the rows up to its padding index unused.
    """
    for name, part in module.named_modules():
        if not isinstance(part, nn.Embedding) or "position" not in name.rpartition(".")[2]:
            continue
        if part.padding_idx is not None:
            return int(part.padding_idx) + 1
    return 0


def read_index(value: Any, size: int, what: str, device: torch.device | None = None) -> Tensor:
    """A selection along one axis as integers [kept], each checked; or the reason why it is none.

    Args:
        value: int, slice, sequence or array of ints, or a boolean mask of `size` values.
        size: Length of the axis; negative indices count from its end.
        what: The noun for errors ("head", "neuron").

    Raises:
        TokenError: Floats, a mask of another length, or an index outside the axis.
    """
    if isinstance(value, slice):
        return torch.arange(size, device=device)[value]
    wanted = index_tensor(value, what)
    if wanted.dtype == torch.bool:
        if wanted.shape != (size,):
            raise TokenError(
                f"a boolean {what} mask must have one value per {what}",
                got=tuple(wanted.shape),
                expected=(size,),
            )
        return wanted.nonzero()[:, 0].to(device)
    flat = wanted.reshape(-1)
    bad = (flat >= size) | (flat < -size)
    if bool(bad.any()):
        raise TokenError(
            f"{what} {int(flat[bad][0])} does not exist",
            got=short(flat.tolist()),
            expected=f"{-size} to {size - 1}",
        )
    return torch.where(flat < 0, flat + size, flat).to(device)


def index_tensor(value: Any, what: str) -> Tensor:
    """What a user gives as an index, as int64 or boolean; floats and single booleans are refused.

    Raises:
        TokenError: Anything else.
    """
    try:
        wanted = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TokenError(f"this is no {what}", got=short(value), expected="integers") from error
    if wanted.dtype == torch.bool and wanted.dim() > 0:
        return wanted
    if wanted.dtype == torch.bool or wanted.is_floating_point() or wanted.is_complex():
        if wanted.numel() == 0:
            return wanted.long()  # an empty list has torch's default type
        raise TokenError(
            f"a {what} must be an integer",
            got=f"{short(value)} ({wanted.dtype})",
            expected="int, slice, integers, or a boolean mask",
        )
    return wanted.long()


def position_index(
    positions: Any, length: int, batch: int, mask: Tensor | None, device: torch.device
) -> Tensor:
    """Positions as an index: [kept], or [batch, kept] when rows are padded.

    Positions count each row's real tokens: 0 is the first, -1 the last, whatever the padding, and
    holes in the mask are skipped.

    Args:
        positions: int, slice, sequence of ints, an array [kept] or [batch, kept]; or a boolean mask
            [pos] or [batch, pos] over the columns as they stand.
        length: Tokens per row, padding included.

    Raises:
        TokenError: A position outside the text, naming it and the row; floats.
    """
    ragged = mask is not None and not bool(mask.all())
    if isinstance(positions, slice):
        if ragged:
            raise TokenError(
                "a slice of positions means different tokens in rows of different length",
                got=str(positions),
                fix="give a list of positions, or a tensor [batch, kept]",
            )
        return torch.arange(length, device=device)[positions]
    wanted = index_tensor(positions, "position").to(device)
    if wanted.dtype == torch.bool:
        return _masked_positions(wanted, length, batch, mask if ragged else None)
    wanted = wanted[None] if wanted.dim() == 0 else wanted
    if wanted.dim() > 2 or (wanted.dim() == 2 and wanted.shape[0] not in (1, batch)):
        raise TokenError(
            "positions must be [kept] or [batch, kept]",
            got=tuple(wanted.shape),
            expected=f"one row for each of {batch}",
        )
    if mask is None:
        rows = wanted if wanted.dim() == 2 else wanted[None]
        lengths = torch.full((len(rows),), length, device=device)
    else:
        mask = mask.to(device)
        lengths = mask.sum(1)
        rows = wanted.expand(len(lengths), -1)
    bad = (rows >= lengths[:, None]) | (rows < -lengths[:, None])
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise TokenError(
            f"position {int(rows[row, column])} does not exist",
            got=f"row {row} with {int(lengths[row])} tokens",
            expected=f"{-int(lengths[row])} to {int(lengths[row]) - 1}",
        )
    index = torch.where(rows < 0, rows + lengths[:, None], rows)
    if mask is not None:
        # Real columns first, in order: the k-th of them holds the row's k-th real token.
        columns = torch.argsort((~mask).int(), dim=1, stable=True)
        return columns.gather(1, index)
    return index[0] if wanted.dim() == 1 else index.expand(batch, -1)


def _masked_positions(wanted: Tensor, length: int, batch: int, mask: Tensor | None) -> Tensor:
    if wanted.dim() == 1 and len(wanted) == length and mask is None:
        return wanted.nonzero()[:, 0]
    if wanted.shape != (batch, length):
        raise TokenError(
            "a boolean mask of positions must say yes or no to every token",
            got=tuple(wanted.shape),
            expected=f"{(batch, length)}" + ("" if mask is not None else f" or {(length,)}"),
        )
    counts = wanted.sum(1)
    if bool((counts != counts[0]).any()):
        raise TokenError(
            "a boolean mask of positions must keep as many in every row",
            got=short(counts.tolist()),
            fix="one row at a time, or an intervention for each",
        )
    if mask is not None and bool((wanted & ~mask).any()):
        row, column = (wanted & ~mask).nonzero()[0].tolist()
        raise TokenError("the mask of positions keeps padding", got=f"[row, pos] [{row}, {column}]")
    return wanted.nonzero()[:, 1].reshape(batch, -1)


def take(value: Tensor, axis: int, index: Tensor) -> Tensor:
    """Select positions along `axis`; `index` is [kept] or [batch, kept]."""
    if index.dim() == 1:
        return value.index_select(axis, index)
    shape = [index.shape[0]] + [1] * (value.dim() - 1)
    shape[axis] = index.shape[1]
    target = list(value.shape)
    target[axis] = index.shape[1]
    return value.gather(axis, index.view(shape).expand(target))


def _columns(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[-1], device=mask.device)
