"""Masks: which tokens are real, read from what a user gives and fitted to the ids beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from interp.core.errors import TokenError
from interp.models.hooks.sides import keys_held
from interp.models.text.forms import padded
from interp.models.text.positions import keys_in_use


class MaskReader(Protocol):
    """What the reading of a mask depends on: see `Intake`."""

    @property
    def device(self) -> torch.device: ...

    @property
    def huggingface(self) -> bool: ...

    @property
    def causal(self) -> bool: ...

    @property
    def dtype(self) -> torch.dtype | None: ...


def read_mask(
    mask: Any, shape: torch.Size, cached: int, reader: MaskReader, name: str = "attention_mask"
) -> tuple[Tensor, Tensor]:
    """A mask as (which keys are real [batch, key], what the raw module gets).

    Args:
        mask: [batch, key] of 0 and 1; or [batch, head or 1, query, key] for transformers models,
            boolean or of integers 0 and 1 (1 = seen), or additive.
        shape: Of the token ids; `cached` keys stand before them.

    Raises:
        TokenError: It does not fit; names both shapes.
    """
    try:
        mask = torch.as_tensor(mask).to(reader.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TokenError(f"{name} is no array", got=repr(mask)[:80]) from error
    batch, pos = shape[0], shape[1]
    if mask.dim() == 1 and batch == 1:
        mask = mask[None]
    total = cached + pos
    fits = mask.shape == (batch, total)
    if mask.dim() == 4 and reader.huggingface:
        heads_or_one = mask.shape[0] in (1, batch)
        fits = heads_or_one and mask.shape[-2] == pos and mask.shape[-1] == total
    if not fits:
        wanted = f"{(batch, total)}" + (f", {cached} of them cached" if cached else "")
        raise TokenError(
            f"{name} must have the shape of the token ids", got=tuple(mask.shape), expected=wanted
        )
    if mask.dim() == 4:
        seen = mask if mask.is_floating_point() else _flags(mask, name)
        return keys_in_use(seen, reader.causal, batch), _additive(seen, name, reader.dtype)
    full = _flags(mask, name)
    return full, full.long() if reader.huggingface else full


def _flags(mask: Tensor, name: str) -> Tensor:
    """A mask of 0 and 1 as a boolean one.

    Raises:
        TokenError: Other numbers.
    """
    if not mask.is_cuda and mask.dtype != torch.bool and bool(((mask != 0) & (mask != 1)).any()):
        raise TokenError(
            f"{name} must hold 1 for real tokens and 0 for padding",
            got=f"values from {mask.min().item():g} to {mask.max().item():g}",
            fix="an additive mask has four axes [batch, 1, query, key], and floats",
        )
    return mask.bool()


def _additive(mask: Tensor, name: str, dtype: torch.dtype | None) -> Tensor:
    """A mask of queries and keys as every kind of attention adds it: what is not seen is lowest.

    Eager attention would add a boolean one as 0 and 1.

    Raises:
        TokenError: Floats of 0 and 1, which say nothing when they are added.
    """
    dtype = dtype or torch.float32
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
            ~mask, torch.finfo(dtype).min
        )
    if not mask.is_cuda and bool((mask == 1).any()) and bool(((mask == 0) | (mask == 1)).all()):
        raise TokenError(
            f"{name} of four axes is added to the scores where it holds floats",
            got="floats of 0 and 1",
            expected="0 where a key is seen and a very negative number where not, or booleans",
            fix="mask.bool()",
        )
    return mask.to(dtype)


def cached_keys(kwargs: Mapping[str, Any]) -> int:
    """How many keys the cache among a module's arguments holds."""
    cache = kwargs.get("past_key_values")
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return keys_held(cache)
    try:
        return int(cache[0][0].shape[-2])
    except (TypeError, IndexError, AttributeError):
        return 0


def cut(ids: Tensor, mask: Any, limit: int) -> tuple[Tensor, Any]:
    """Every row's first `limit` real tokens."""
    if mask is None:
        return ids[:, :limit], None
    real = torch.as_tensor(mask).bool().to(ids.device)
    if real.shape != ids.shape:
        return ids, mask  # refused, with both shapes, where the mask is read
    left = bool((~real[:, 0]).any())
    batch = padded([row[keep][:limit] for row, keep in zip(ids, real, strict=True)], left=left)
    return batch.ids, batch.mask if batch.padded else None


def both(own: Tensor, given: Any, reader: MaskReader) -> Any:
    """Padding of a batch stays padding; a mask may hide more.

    Raises:
        TokenError: The mask does not fit, or takes padding for text.
    """
    full, read = read_mask(given, own.shape, 0, reader)
    own = own.to(full.device)
    if bool((full & ~own).any()):
        row, column = (full & ~own).nonzero()[0].tolist()
        raise TokenError(
            "attention_mask takes padding for text",
            got=f"a real token at [row, pos] [{row}, {column}]",
            expected=f"0 there: the row's {int(own[row].sum())} tokens stand elsewhere",
            fix="leave it out (the text's own is used), or model.tokenize(texts) for ids and their mask",
        )
    return read if read.dim() == 4 else full
