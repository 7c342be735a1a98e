"""How much a request would keep in memory, known before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from interp.core.errors import ConfigError, MemoryBudgetError
from interp.models.hooks.sites import SiteMap
from interp.models.text.prepared import Prepared

SMALL = 64 * 2**20
"""Below this nobody asks how much memory is free."""


def estimate_bytes(
    sites: SiteMap, names: Sequence[str], ready: Prepared, dtype: str, at: Any = None
) -> dict[str, int]:
    """Bytes per site; sites whose sizes only the input decides (plain modules) count as 0.

    Args:
        dtype: What is kept.
        at: At which positions only, as for `capture`; None keeps all.
    """
    if ready.tokens is None:
        return {}
    batch, pos = ready.tokens.shape
    kept = pos if at is None else min(pos, _how_many(at, pos))
    wide = getattr(torch, dtype or "float32").itemsize
    sizes: dict[str, int] = {}
    for name in names:
        volume = sites[name].volume
        if volume is not None:
            known, rows, positions = volume
            size = wide * known * batch**rows * pos**positions
            # Queries are chosen, of all keys.
            sizes[name] = size * kept // pos if positions and pos else size
    return sizes


def _how_many(at: Any, pos: int) -> int:
    """Positions that a choice of them keeps of a row."""
    if isinstance(at, int):
        return 1
    try:
        if isinstance(at, slice):
            return len(range(pos)[at])
        chosen = torch.as_tensor(at)
    except (TypeError, ValueError, RuntimeError):
        return pos  # no positions at all: the run says so
    return int(chosen.sum()) if chosen.dtype == torch.bool else chosen.numel()


def refuse_above(sizes: dict[str, int], limit: int | None, device: torch.device) -> None:
    """Raise when the request is larger than `limit`, or than half of the free memory.

    Raises:
        ConfigError: The limit is no number of bytes.
        MemoryBudgetError: With the estimate, the largest sites and what to do.
    """
    total = sum(sizes.values())
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise ConfigError("max_bytes is a whole number of bytes", got=repr(limit)[:80], fix="max_bytes=2**30")
    if limit is None:
        if total < SMALL:
            return
        limit = free_bytes(device) // 2
    if total <= limit:
        return
    by_kind: dict[str, int] = {}
    for name, size in sizes.items():
        kind = ".".join("*" if part.isdigit() else part for part in name.split("."))
        by_kind[kind] = by_kind.get(kind, 0) + size
    largest = sorted(by_kind.items(), key=lambda item: -item[1])[:3]
    raise MemoryBudgetError(
        "the activations asked for would not fit",
        got=f"an estimated {total / 2**20:,.0f} MiB over {len(sizes)} sites; most in "
        + ", ".join(f"{kind} ({size / 2**20:,.0f} MiB)" for kind, size in largest),
        expected=f"at most {limit / 2**20:,.0f} MiB (half of the free memory, or max_bytes)",
        fix="name the sites you need; or positions=, a smaller batch, dtype='bfloat16', max_bytes=",
    )


def free_bytes(device: torch.device) -> int:
    """Memory that is free for new tensors on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    # No /proc (macOS, Windows): assume a laptop's share rather than refuse everything.
    return 8 * 2**30
