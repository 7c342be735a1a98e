"""The one attention function: scores, pattern and rotated q, k as sites in every architecture.

Hugging Face models look their attention up by name at each call. While a pass asks for something
inside attention, `switched` makes the model's configs name the function registered here, to that
thread only; elsewhere the model computes exactly as it was loaded (sdpa, flash, ...).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

NAME = "interp"

Fire = Callable[[Tensor], Tensor | None]

Slots = dict[int, dict[str, Fire]]
"""What to do inside which attention module, by `id(module)` and slot; filled by one pass."""


class _Here(threading.local):
    """What this thread asks of attention."""

    def __init__(self) -> None:
        self.slots: list[Slots] = []
        self.switched: dict[int, list[bool]] = {}
        """Configs (by id) that point here, each time with `eager_float32`: the family's own eager
        attention normalises in float32 even in a float64 model; equal results need its rounding."""


_here = _Here()
_lock = threading.Lock()
_holders: dict[int, int] = {}
"""How many passes, in any thread, hold a config's class."""


def _fire(module: nn.Module, name: str, value: Tensor) -> Tensor:
    for slots in _here.slots:
        fire = slots.get(id(module), {}).get(name)
        if fire is not None:
            new = fire(value)
            value = value if new is None else new
    return value


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
        options: `softcap` (Gemma-2), `position_bias` [.., head, pos, key_pos] (T5) and `s_aux`
            [head], a score that takes its share of the softmax and has no value (GPT-OSS);
            whatever else a family passes is already in the mask.

    Returns:
        (z [batch, pos, head, d_head], pattern [batch, head, pos, key_pos]).
    """
    softcap, position_bias = options.get("softcap"), options.get("position_bias")
    query = _fire(module, "rot_q", query.transpose(1, 2)).transpose(1, 2)
    key = _fire(module, "rot_k", key.transpose(1, 2)).transpose(1, 2)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + _additive(attention_mask, scores)
    scores = _fire(module, "scores", scores)
    wide = any(_here.switched.get(id(getattr(module, "config", None)), ()))
    sinks = options.get("s_aux")
    if sinks is None:
        pattern = _softmax(scores, query.dtype, wide)
    else:
        sink = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores.dtype)
        sink = _fire(module, "sink", sink)
        pattern = _softmax(torch.cat((scores, sink), -1), query.dtype, wide)[..., :-1]
    pattern = _fire(module, "pattern", pattern)
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


def listen(slots: Slots) -> None:
    """Call these functions on what this thread's attention modules compute."""
    _here.slots.append(slots)


def forget(slots: Slots) -> None:
    """Undo `listen`, in whatever order."""
    _here.slots[:] = [known for known in _here.slots if known is not slots]


def listening() -> bool:
    """Whether this thread asks attention for anything."""
    return bool(_here.slots or _here.switched)


@contextmanager
def switched(configs: Sequence[Any], eager_float32: bool = False) -> Iterator[None]:
    """Route this thread's attention of the models that own `configs` through here.

    A config's own setting is never written: while anybody asks, the config answers this thread
    with our name and every other thread with its own setting.

    Args:
        configs: The config objects that choose a model's attention function.
        eager_float32: The family's own eager attention normalises in float32.
    """
    rounding = [eager_float32 and c._attn_implementation_internal == "eager" for c in configs]
    for config, wide in zip(configs, rounding, strict=True):
        _hold(config)
        _here.switched.setdefault(id(config), []).append(wide)
    try:
        yield
    finally:
        for config, wide in zip(configs, rounding, strict=True):
            left = _here.switched[id(config)]
            left.remove(wide)
            if not left:
                del _here.switched[id(config)]
            _release(config)


def _hold(config: Any) -> None:
    with _lock:
        _holders[id(config)] = _holders.get(id(config), 0) + 1
        if _holders[id(config)] == 1:
            config.__class__ = _thread_aware(type(config))


def _release(config: Any) -> None:
    with _lock:
        _holders[id(config)] -= 1
        if not _holders[id(config)]:
            del _holders[id(config)]
            config.__class__ = type(config).__mro__[1]


@lru_cache(maxsize=256)
def _thread_aware(kind: type) -> type:
    """A config class whose attention setting depends on the thread that asks."""

    def read(self: Any) -> Any:
        own = self.__dict__.get("_attn_implementation_internal")
        return NAME if id(self) in _here.switched else own

    def write(self: Any, value: Any) -> None:
        self.__dict__["_attn_implementation_internal"] = value

    body = {
        "_attn_implementation_internal": property(read, write),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (kind,), body)
