"""What a piece of code does, counted: the same on every machine, whatever else runs beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_FREE = (
    "detach",
    "view",
    "slice",
    "select",
    "transpose",
    "permute",
    "expand",
    "unsqueeze",
    "alias",
    "_unsafe_view",
    "t",
)


class Calls:
    """How many Python and C functions were called."""

    n = 0


@contextmanager
def counted_calls() -> Iterator[Calls]:
    """Count the function calls of this thread inside the block; a stand-in for its CPU time."""
    calls, before = Calls(), sys.getprofile()

    def count(frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            calls.n += 1

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(before)


class Elements(TorchDispatchMode):
    """How many tensor elements torch's operations read: the largest operand of each."""

    n = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ not in _FREE:
            self.n += max((x.numel() for x in args if isinstance(x, Tensor)), default=0)
        return func(*args, **(kwargs or {}))


def counted_elements() -> Elements:
    """Count the elements read inside a `with` block; a stand-in for the time of its products."""
    return Elements()
