"""Token ids with their mask, and the refusal of ids that a model cannot read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.devices import read_device
from interp.core.errors import ShapeError, TokenError

FEW = 64
"""Ids that are looked at one by one."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids with the mask that says which are real; the mask is never inferred from the ids.

    `len(batch)` is the number of rows; iterating yields each row's real ids, `[n_real]`.

    Raises:
        ShapeError: `ids` and `mask` are not both `[batch, pos]`.
        TokenError: `ids` are not int64 or int32, or `mask` is not boolean.
    """

    ids: Tensor
    """Token ids `[batch, pos]`; what stands where the mask is False has no meaning."""
    mask: Tensor
    """`[batch, pos]`: True = a real token, False = padding."""

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.mask.shape:
            raise ShapeError(
                "ids and mask must both be [batch, pos]",
                got=f"ids {list(self.ids.shape)}, mask {list(self.mask.shape)}",
            )
        _check_dtype(self.ids)
        if self.mask.dtype != torch.bool:
            raise TokenError("the mask must be boolean", got=self.mask.dtype, fix="mask.bool()")

    @classmethod
    def of(cls, ids: Tensor) -> TokenBatch:
        """A batch without padding from ids `[batch, pos]`."""
        return cls(ids, torch.ones_like(ids, dtype=torch.bool))

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device.

        Raises:
            ConfigError: No such device on this machine.
        """
        device = read_device(device)
        return TokenBatch(self.ids.to(device), self.mask.to(device))

    @cached_property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Number of real tokens per row."""
        return self.mask.sum(-1)

    @cached_property
    def padded(self) -> bool:
        """Whether any position is padding (one host sync, remembered)."""
        return not bool(self.mask.all())

    def __len__(self) -> int:
        return self.ids.shape[0]

    def __iter__(self) -> Iterator[Int[Tensor, " pos"]]:
        for row, real in zip(self.ids, self.mask, strict=True):
            yield row[real]

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> TokenBatch:
        """Some of the rows as a batch of the same width: one by its number, a slice, a list.

        Raises:
            TokenError: Rows that are not there, or are no rows.
        """
        wanted: Any = [rows] if isinstance(rows, int) and not isinstance(rows, bool) else rows
        try:
            return TokenBatch(self.ids[wanted], self.mask[wanted])
        except (IndexError, TypeError, ShapeError) as error:
            raise TokenError(
                "a batch is cut by its rows", got=short(rows), expected=f"rows below {len(self)}"
            ) from error

    def batches(self, size: int) -> Iterator[TokenBatch]:
        """The rows in order, `size` at a time, at the same width."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @cached_property
    def last(self) -> Int[Tensor, " batch"]:
        """The column of each row's last real token; 0 where there is none."""
        columns = torch.arange(1, self.ids.shape[1] + 1, device=self.mask.device)
        return (self.mask * columns).argmax(-1)


def check_ids(
    ids: object,
    *,
    d_vocab: int | None = None,
    n_ctx: int | None = None,
    values: bool = True,
    fix: str | None = None,
) -> None:
    """Refuse ids that a model would answer with an `IndexError` or worse.

    Args:
        ids: `[pos]` or `[batch, pos]`.
        d_vocab: Ids must lie below; None: only negative ones are refused.
        n_ctx: Longest sequence; None: any.
        values: False leaves the values unread (on a GPU reading them waits for the device); type,
            shape and length are still checked.
        fix: Advice for ids outside the vocabulary.

    Raises:
        TokenError: not an int64 or int32 tensor, empty, longer than `n_ctx`, or an id that is
            negative or ≥ `d_vocab`; names the id, its [row, pos] and the vocabulary size.
    """
    if not isinstance(ids, Tensor):
        raise TokenError("token ids must be a tensor", got=short(ids), fix="torch.tensor(ids) [batch, pos]")
    _check_dtype(ids)
    if ids.layout != torch.strided or ids.is_nested or (ids.is_meta and values):
        raise TokenError(
            "token ids must be a dense tensor with values",
            got="a tensor on the meta device" if ids.is_meta else f"{ids.layout}, nested: {ids.is_nested}",
            fix="ids.tolist()" if ids.is_nested else None if ids.is_meta else "ids.to_dense()",
        )
    if ids.ndim not in (1, 2) or ids.numel() == 0:
        raise TokenError(
            "token ids must be a non-empty [pos] or [batch, pos]", got=f"shape {list(ids.shape)}"
        )
    if n_ctx is not None and ids.shape[-1] > n_ctx:
        raise too_long(ids.shape[-1], n_ctx, "the sequence", f"ids[..., :{n_ctx}]")
    if not values:
        return
    low, high = _extremes(ids)  # anything costlier only on the way to the error
    if low < 0 or (d_vocab is not None and high >= d_vocab):
        bad = (ids < 0) if d_vocab is None else (ids < 0) | (ids >= d_vocab)
        where = bad.nonzero()[0].tolist()
        token = int(ids[tuple(where)].item())
        raise out_of_vocabulary(token, where if ids.ndim == 2 else [0, *where], d_vocab, fix)


def _extremes(ids: Tensor) -> tuple[int | float, int | float]:
    """The smallest and the largest; of a few, Python finds them before torch has begun."""
    if ids.numel() <= FEW:
        values = ids.flatten().tolist()
        return min(values), max(values)
    low, high = torch.aminmax(ids)
    return low.item(), high.item()


def out_of_vocabulary(
    token: int, where: list[int], d_vocab: int | None, fix: str | None = None
) -> TokenError:
    """The error for one id that has no embedding."""
    return TokenError(
        f"token id {token} at [row, pos] {where} is outside the vocabulary",
        got=f"id {token}",
        expected="0 <= id" + ("" if d_vocab is None else f" < d_vocab = {d_vocab}"),
        fix=fix,
    )


def too_long(length: int, n_ctx: int, which: str, fix: str) -> TokenError:
    """The error for a sequence that does not fit."""
    return TokenError(
        f"{which} is longer than the model's context",
        got=f"{length} tokens",
        expected=f"at most n_ctx = {n_ctx}",
        fix=fix,
    )


def short(value: object) -> str:
    """A value for an error message, in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_dtype(ids: Tensor) -> None:
    if ids.dtype not in (torch.int64, torch.int32):
        raise TokenError(
            "token ids must be integers, int64 or int32",
            got=ids.dtype,
            fix="ids.long(), if these are ids and not embeddings",
        )
