"""What torch's own modules say of their tensors: which axis means what, and how many there are."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from interp.models.adapters.linear import is_transposed

End = Literal["in", "out"]
Axes = tuple[str, tuple[int | None, ...]]
"""Axis names ("..." stands for any number of them) and the known size of each."""

_MAPS = {1: "batch channel time", 2: "batch channel row column", 3: "batch channel depth row column"}
"""Images and their like, channels first; counted from the end, for the batch may be missing."""
_MAP_NAMES = tuple(
    """
    Conv MaxPool AvgPool LPPool FractionalMaxPool MaxUnpool Dropout InstanceNorm ReflectionPad
    ReplicationPad ZeroPad ConstantPad CircularPad Upsampling
    """.split()
)
_BY_CHANNEL = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LocalResponseNorm)
"""Channels on axis 1, whatever follows."""
ANYTHING, UNKNOWN = "...", ""
"""Entries on the last axis, as everywhere but in maps; and where nothing tells."""


def layout(part: nn.Module, end: End, parent: nn.Module | None = None) -> Axes:
    """The axes of a module's input or output, as far as its type tells.

    What stands directly beside one-dimensional maps (a ReLU after a Conv1d) may hold [batch,
    channel, time] or [batch, pos, d]: those axes are unknown, not the usual ones.
    """
    rank = _rank(part)
    if rank:
        return _MAPS[rank], _map_sizes(part, end, rank)
    if isinstance(part, _BY_CHANNEL):
        width = getattr(part, "num_features", getattr(part, "num_channels", None))
        return "batch channel ...", (None, width, None)
    width = _width(part, end)
    if width is not None:
        return f"... d_{end}", (None, width)
    beside = () if parent is None else parent.children()
    lines = any(_rank(m) == 1 or isinstance(m, nn.BatchNorm1d) for m in beside)
    return (UNKNOWN if lines else ANYTHING), ()


def tensors_beside(part: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the inputs and outputs that a kind of module always has beside its first."""
    if isinstance(part, nn.LSTM):
        return (), ("1.0", "1.1")
    if isinstance(part, nn.RNNBase):
        return (), ("1",)
    if isinstance(part, nn.MultiheadAttention):
        return ("1", "2"), ()
    if isinstance(part, nn.Bilinear | nn.TransformerDecoderLayer | nn.TransformerDecoder):
        return ("1",), ()
    return (), ()


def _rank(part: nn.Module) -> int:
    """1, 2 or 3 for torch's convolutions, poolings and paddings; 0 for anything else."""
    for kind in type(part).__mro__:
        name = kind.__name__.removeprefix("Lazy").removeprefix("Adaptive")
        rank = next((n for n in (1, 2, 3) if f"{n}d" in name), 0)
        if rank and kind.__module__.startswith("torch.nn.") and name.startswith(_MAP_NAMES):
            # Dropout1d alone may mean rows of a matrix.
            return 0 if kind is nn.Dropout1d else rank
    return 0


def _map_sizes(part: nn.Module, end: str, rank: int) -> tuple[int | None, ...]:
    width: Any = getattr(part, f"{end}_channels", getattr(part, "num_features", None))
    return (None, width or None, *(None,) * rank)


def _width(part: nn.Module, end: str) -> int | None:
    """The size of the last axis, where a module's type fixes it."""
    if isinstance(part, nn.Linear):
        return getattr(part, f"{end}_features")
    if is_transposed(part) and hasattr(part, "nf"):  # transformers' transposed linear
        return int(part.nx if end == "in" else part.nf)  # type: ignore[arg-type]
    if isinstance(part, nn.Embedding) and end == "out":
        return part.embedding_dim
    if type(part) in (nn.LayerNorm, nn.RMSNorm):
        return int(part.normalized_shape[-1])  # type: ignore[index]
    return None
