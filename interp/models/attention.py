"""The one attention function: scores, pattern and rotated q, k as sites in every architecture.

Hugging Face models look their attention up by name at each call. While a run asks for something
inside attention, `switched` points the model's configs at the function registered here; outside
such a run the model computes exactly as it was loaded (sdpa, flash, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NAME = "interp"
SLOTS = ("rot_q", "rot_k", "scores", "pattern")

Fire = Callable[[Tensor], Tensor | None]

_active: dict[int, dict[str, Fire]] = {}
"""What to do inside which attention module, by `id(module)`; filled only during a run."""
_eager_float32: set[int] = set()
"""Configs (by id) of switched models whose own eager attention normalises in float32 even when the
model is float64; equal results need the same rounding."""
_reached: set[int] | None = None
"""While probing: the attention modules that came through here."""


def _fire(slots: dict[str, Fire], name: str, value: Tensor) -> Tensor:
    fire = slots.get(name)
    if fire is None:
        return value
    new = fire(value)
    return value if new is None else new


def _softmax(scores: Tensor, dtype: torch.dtype, float32: bool) -> Tensor:
    # Half precision is normalised in float32 as every family does; float64 keeps its digits.
    half = dtype in (torch.float16, torch.bfloat16)
    return torch.softmax(scores, -1, dtype=torch.float32 if half or float32 else None).to(dtype)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Eager attention with sites, in the signature that transformers calls.

    Args:
        query: [batch, head, pos, d_head]; key and value: [batch, kv_head, key_pos, d_head].
        attention_mask: Additive, broadcastable to [batch, head, pos, key_pos].
        scaling: Factor on q·k; 1/sqrt(d_head) when absent.
        options: `softcap` (Gemma-2) and `position_bias` [.., head, pos, key_pos] (T5); whatever
            else a family passes is already in the mask.

    Returns:
        (z [batch, pos, head, d_head], pattern [batch, head, pos, key_pos]).
    """
    softcap, position_bias = options.get("softcap"), options.get("position_bias")
    if _reached is not None:
        _reached.add(id(module))
    slots = _active.get(id(module), {})
    query = _fire(slots, "rot_q", query.transpose(1, 2)).transpose(1, 2)
    key = _fire(slots, "rot_k", key.transpose(1, 2)).transpose(1, 2)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    scores = (
        query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    )
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + _additive(attention_mask, scores)
    scores = _fire(slots, "scores", scores)
    pattern = _fire(
        slots,
        "pattern",
        _softmax(scores, query.dtype, id(getattr(module, "config", None)) in _eager_float32),
    )
    weights = nn.functional.dropout(pattern, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), pattern


def _additive(mask: Tensor, scores: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        # where() rather than a product: 0 * min would be right, but a mask of -inf would give NaN.
        lowest = torch.finfo(scores.dtype).min
        return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, lowest)
    return mask


def register() -> None:
    """Make the function known to transformers (idempotent; importing transformers is cheap)."""
    from transformers.masking_utils import AttentionMaskInterface, eager_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def switched(configs: Sequence[Any], eager_float32: bool = False) -> Iterator[None]:
    """Route attention of the models that own `configs` through here; restored on the way out.

    Args:
        configs: The config objects that choose a model's attention function.
        eager_float32: The family's own eager attention normalises in float32.
    """
    before = [c._attn_implementation_internal for c in configs]
    rounding = {
        id(c) for c, name in zip(configs, before, strict=True) if eager_float32 and name == "eager"
    }
    try:
        _eager_float32.update(rounding)
        for config in configs:
            config._attn_implementation_internal = NAME
        yield
    finally:
        _eager_float32.difference_update(rounding)
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name


def activate(module: nn.Module, slot: str, fire: Fire) -> Callable[[], None]:
    """Call `fire` on one quantity of one attention module; returns the undo.

    A nested run adds to an outer one: the inner sees what the outer made of the value.
    """
    slots = _active.setdefault(id(module), {})
    outer = slots.get(slot)

    def both(value: Tensor) -> Tensor | None:
        first = outer(value) if outer is not None else None
        second = fire(value if first is None else first)
        return first if second is None else second

    slots[slot] = both if outer is not None else fire

    def undo() -> None:
        if outer is not None:
            slots[slot] = outer
        else:
            slots.pop(slot, None)
        if not slots:
            _active.pop(id(module), None)

    return undo


@contextmanager
def probing() -> Iterator[set[int]]:
    """Collect the ids of the attention modules that are really computed by `attention`."""
    global _reached
    _reached = set()
    try:
        yield _reached
    finally:
        _reached = None
