"""The autograd graph between an output and what it was computed from, node by node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def nodes(out: Tensor) -> Iterator[tuple[Any, Any]]:
    """Every node that `out` was computed by, each once, with the node that was reached before it."""
    seen: set[Any] = set()
    waiting: list[tuple[Any, Any]] = [(out.grad_fn, None)]
    while waiting:
        node, reader = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node, reader
        waiting += [(below, node) for below, _ in node.next_functions]


def reaches(out: Tensor, source: Tensor) -> bool:
    """Whether a gradient of `out` would arrive at `source`."""
    if out is source:
        return True
    if source.grad_fn is not None:
        return any(node is source.grad_fn for node, _ in nodes(out))
    return any(getattr(node, "variable", None) is source for node, _ in nodes(out))
