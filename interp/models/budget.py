"""How much a request would keep or make in memory, known before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from interp.core.errors import ConfigError, MemoryBudgetError
from interp.models.hooks.sites import SiteMap
from interp.models.text.prepared import Prepared

SMALL = 64 * 2**20
"""Below this nobody asks how much memory is free."""
GROUPS = "/sys/fs/cgroup"
"""Where control groups are found."""


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


def rows_that_fit(
    what: str,
    row: Mapping[str, float],
    beside: Mapping[str, float],
    rows: int,
    device: torch.device,
    fix: str,
) -> int:
    """How many rows to send through a model at once: `rows`, halved until half of what is free holds them.

    Args:
        what: Who asks, for the error.
        row: What one row takes, bytes by part.
        beside: What is there whatever the number of rows.
        fix: What makes it fit where one row does not.

    Raises:
        MemoryBudgetError: One row needs more than is free.
    """
    one, fixed = sum(row.values()), sum(beside.values())
    if fixed + rows * one < SMALL:
        return rows
    free = free_bytes(device)
    while rows > 1 and fixed + rows * one > free // 2:
        rows = (rows + 1) // 2
    refuse_parts(
        what, {part: row.get(part, 0) * rows + beside.get(part, 0) for part in {**row, **beside}}, device, fix
    )
    return rows


def refuse_parts(what: str, parts: Mapping[str, float], device: torch.device, fix: str) -> None:
    """Refuse what would make more on its way than is free.

    Args:
        what: Who asks, for the error.
        parts: Bytes of what is there at once, by name.
        fix: The setting that makes it fit.

    Raises:
        MemoryBudgetError: With the size, the largest part and the fix.
    """
    total = sum(parts.values())
    if total < SMALL:
        return
    free = free_bytes(device)
    if total <= free:
        return
    part, size = max(parts.items(), key=lambda item: item[1])
    raise MemoryBudgetError(
        f"{what} would not fit into memory",
        got=f"an estimated {total / 2**20:,.0f} MiB; most in {part} ({size / 2**20:,.0f} MiB)",
        expected=f"at most {free / 2**20:,.0f} MiB, which are free",
        fix=fix,
    )


def refuse_copy(module: nn.Module, what: str, device: torch.device | None = None) -> None:
    """Refuse a copy of a module's weights that is larger than what is free where it goes.

    Raises:
        MemoryBudgetError: With the size of the copy.
    """
    seen = {id(value): value for value in (*module.parameters(), *module.buffers())}
    own = {value.device for value in seen.values()}
    size = float(sum(value.numel() * value.element_size() for value in seen.values()))
    where = device or next(iter(own), torch.device("cpu"))
    fix = "change the only copy: model.module.to(...), then wrap it again; or free memory first"
    refuse_parts(what, {"a second copy of the weights": size}, where, fix)


def fits(parts: Mapping[str, float], device: torch.device) -> bool:
    """Whether so many bytes are free."""
    total = sum(parts.values())
    return total < SMALL or total <= free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Memory that is free for new tensors on `device`: of the machine, and of what limits this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    left = [_free_on_machine(), _free_address_space(), _free_in_group()]
    return max(0, min(each for each in left if each is not None))


def _free_on_machine() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    # No /proc (macOS, Windows): assume a laptop's share rather than refuse everything.
    return 8 * 2**30


def _free_address_space() -> int | None:
    """What `ulimit -v` leaves of this process's addresses."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        used = int(_lines("/proc/self/statm")[0].split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError, IndexError):
        return None
    return None if limit == resource.RLIM_INFINITY else limit - used


def _free_in_group() -> int | None:
    """What the control groups of this process leave it, of both versions: a container's memory."""
    left = []
    for line in _lines("/proc/self/cgroup"):
        _, kinds, group = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = f"{GROUPS}/memory" if kinds else GROUPS
        files = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if kinds
            else ("memory.max", "memory.current", "inactive_file")
        )
        # Inside a container the group's own path is the top; outside, every group above it limits too.
        parts = [part for part in group.split("/") if part]
        for depth in range(len(parts) + 1):
            left.append(_left_of("/".join([top, *parts[:depth]]), *files))
    return min((each for each in left if each is not None), default=None)


def _left_of(folder: str, limit: str, used: str, spare: str) -> int | None:
    """Limit less use of one group, what it keeps of files and can drop counted as free."""
    try:
        most, now = (int(_lines(f"{folder}/{name}")[0]) for name in (limit, used))
    except (IndexError, ValueError):  # no such group here, or "max"
        return None
    caches = [
        int(line.split()[1]) for line in _lines(f"{folder}/memory.stat") if line.startswith(f"{spare} ")
    ]
    return most - now + sum(caches)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as lines:
            return lines.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
