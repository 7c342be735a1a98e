"""From what a user passes to what the raw module takes: ids, mask and positions, said once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import TokenError
from interp.models.adapter import Inputs
from interp.models.tokens import TokenBatch, Tokenization, position_ids_from_mask


@dataclass
class Prepared:
    """One forward pass.

    Attributes:
        args, kwargs: For the raw module.
        tokens: [batch, pos] ids, None for inputs that are not tokens.
        mask: [batch, pos], True = real; None when nothing is padding.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    tokens: Tensor | None = None
    mask: Tensor | None = None
    decoder_tokens: Tensor | None = None
    decoder_mask: Tensor | None = None


@dataclass(frozen=True)
class Intake:
    """How one model wants its inputs.

    Attributes:
        accepted: Parameter names of the raw module's forward.
        position_offset: Added to position ids (RoBERTa counts from its padding index).
        absolute: Positions are a learned table, so left padding must not shift them.
        start: The decoder's first token id (encoder-decoders).
    """

    kind: Inputs
    tokenization: Tokenization
    accepted: frozenset[str]
    device: torch.device
    huggingface: bool = False
    position_offset: int = 0
    absolute: bool = False
    start: int | None = None

    def prepare(
        self,
        inputs: Any,
        extra: Mapping[str, Any],
        prepend_bos: bool | None,
        left: bool = False,
        truncate: bool = False,
    ) -> Prepared:
        """Arguments for the raw module.

        Args:
            inputs: Text, list of texts, messages, ids [pos] or [batch, pos], a `TokenBatch`,
                pixels, a dict of keyword arguments, or (any module) a tensor or tuple.
            extra: Further keyword arguments for the raw module.
            left: Pad ragged texts on the left (generation).

        Raises:
            TokenError: Ids or text the model cannot read.
        """
        if isinstance(inputs, Mapping):
            return self._from_mapping({**inputs, **extra})
        if self.kind in ("tokens", "encoder_decoder"):
            return self._from_tokens(inputs, dict(extra), prepend_bos, left)
        if self.kind == "pixels":
            return Prepared(kwargs={"pixel_values": _to(inputs, self.device), **extra})
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        return Prepared(tuple(_to(a, self.device) for a in args), dict(extra))

    def _from_mapping(self, given: dict[str, Any]) -> Prepared:
        kwargs = {k: _to(v, self.device) for k, v in given.items()}
        tokens, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if isinstance(tokens, Tensor):
            self.tokenization.check_ids(tokens)
        real = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        return self._finish(kwargs, tokens, real)

    def _from_tokens(
        self, inputs: Any, kwargs: dict[str, Any], prepend_bos: bool | None, left: bool
    ) -> Prepared:
        mask = kwargs.pop("attention_mask", None)
        if isinstance(inputs, TokenBatch):
            ids, mask = inputs.ids, inputs.mask if inputs.padded else None
            self.tokenization.check_ids(ids)
        elif isinstance(inputs, Tensor):
            # Reading values back from a GPU would wait for it at every call.
            self.tokenization.check_ids(inputs, check=not inputs.is_cuda)
            ids = inputs if inputs.dim() == 2 else inputs[None]
        else:
            side = "left" if left else "right"
            batch = self.tokenization.tokenize(inputs, prepend_bos, padding_side=side)
            ids, mask = batch.ids, batch.mask if batch.padded else None
        if mask is not None:
            mask = torch.as_tensor(mask).to(self.device).bool()
            if mask.shape != ids.shape:
                raise TokenError(
                    "attention_mask must have the shape of the token ids",
                    got=tuple(mask.shape),
                    expected=tuple(ids.shape),
                )
        ids = ids.to(self.device)
        kwargs["input_ids"] = ids
        return self._finish(kwargs, ids, mask)

    def _finish(self, kwargs: dict[str, Any], tokens: Any, mask: Tensor | None) -> Prepared:
        if not self.huggingface and self.kind == "tokens":
            args: tuple[Any, ...] = (kwargs.pop("input_ids"),) if "input_ids" in kwargs else ()
        else:
            args = ()
        if mask is not None:
            kwargs["attention_mask"] = mask if not self.huggingface else mask.long()
            if self.huggingface and "position_ids" not in kwargs and not bool(mask[:, 0].all()):
                self._place(kwargs, mask)
        if (
            self.kind == "encoder_decoder"
            and "decoder_input_ids" not in kwargs
            and tokens is not None
        ):
            kwargs["decoder_input_ids"] = self._start_ids(kwargs, tokens)
        if self.huggingface and "use_cache" in self.accepted:
            kwargs.setdefault("use_cache", False)
        return Prepared(args, kwargs, tokens, mask)

    def _place(self, kwargs: dict[str, Any], mask: Tensor) -> None:
        """Left padding: count positions from each row's first real token."""
        if "position_ids" in self.accepted:
            kwargs["position_ids"] = position_ids_from_mask(mask) + self.position_offset
        elif self.absolute:
            raise TokenError(
                "this model takes no position ids, so left padding would shift its positions",
                got="a batch padded on the left",
                fix="pad on the right: model.tokenize(texts, padding_side='right')",
            )

    def _start_ids(self, kwargs: dict[str, Any], tokens: Tensor) -> Tensor:
        if "labels" in kwargs or self.start is None:
            raise TokenError(
                "an encoder-decoder needs decoder_input_ids",
                fix="model(text, decoder_input_ids=ids), or set config.decoder_start_token_id",
            )
        return torch.full((tokens.shape[0], 1), self.start, device=self.device)


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def main_output(raw: Any) -> Any:
    """Logits where the model has them, else its hidden states, else what it returned."""
    for key in ("logits", "last_hidden_state"):
        value = getattr(raw, key, None)
        if isinstance(value, Tensor):
            return value
    return raw


def position_index(
    positions: Any, length: int, batch: int, mask: Tensor | None, device: torch.device
) -> Tensor:
    """Positions as an index: [kept], or [batch, kept] when rows are padded.

    Positions count each row's real tokens: 0 is the first, -1 the last, whatever the padding.

    Args:
        positions: int, slice, sequence of ints, or a tensor [kept] or [batch, kept].
        length: Tokens per row, padding included.

    Raises:
        TokenError: A position outside the text, naming it and the row.
    """
    if isinstance(positions, slice):
        if mask is not None and not bool(mask.all()):
            raise TokenError(
                "a slice of positions means different tokens in rows of different length",
                got=str(positions),
                fix="give a list of positions, or a tensor [batch, kept]",
            )
        return torch.arange(length, device=device)[positions]
    wanted = torch.as_tensor(positions, device=device).long()
    wanted = wanted[None] if wanted.dim() == 0 else wanted
    if mask is None and wanted.dim() == 1:
        lengths, starts = (
            torch.tensor([length], device=device),
            torch.zeros(1, device=device).long(),
        )
    elif mask is None:
        lengths = torch.full((batch,), length, device=device)
        starts = torch.zeros_like(lengths)
    else:
        lengths, starts = mask.sum(1), mask.long().argmax(1)
    rows = wanted if wanted.dim() == 2 else wanted.expand(len(lengths), -1)
    bad = (rows >= lengths[:, None]) | (rows < -lengths[:, None])
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise TokenError(
            f"position {int(rows[row, column])} does not exist",
            got=f"row {row} with {int(lengths[row])} tokens",
            expected=f"{-int(lengths[row])} to {int(lengths[row]) - 1}",
        )
    index = torch.where(rows < 0, rows + lengths[:, None], rows) + starts[:, None]
    return index[0] if mask is None and wanted.dim() == 1 else index


def take(value: Tensor, axis: int, index: Tensor) -> Tensor:
    """Select positions along `axis`; `index` is [kept] or [batch, kept]."""
    if index.dim() == 1:
        return value.index_select(axis, index)
    shape = [index.shape[0]] + [1] * (value.dim() - 1)
    shape[axis] = index.shape[1]
    target = list(value.shape)
    target[axis] = index.shape[1]
    return value.gather(axis, index.view(shape).expand(target))
