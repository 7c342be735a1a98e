"""What a cache keeps is known before the run, however it is kept: nothing goes around the budget."""

from __future__ import annotations

import resource
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.core.errors import MemoryBudgetError
from interp.models import budget
from interp.models.hooks.plan import Keeping
from tests.models import zoo

IDS = torch.randint(5, zoo.V, (3, 13), generator=torch.Generator().manual_seed(0))
POSITIONS = (None, 0, -1, [0, 3, 5], slice(0, None), slice(2, 9), slice(None, None, 4), torch.tensor([1, 2]))
POSITIONS += (torch.arange(13) % 3 == 0,)
DTYPES = (None, "float32", "bfloat16", "float64")
TO = (None, "cpu", torch.float16)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_the_estimate_is_what_is_kept(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way of keeping × every position: refused at one byte less, run at what it needs."""
    model = interp.wrap(zoo.make(family))
    sites = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_pattern", "blocks.*.mlp.hook_post"]
    for positions, dtype, to in product(POSITIONS, DTYPES, TO):
        if dtype is not None and isinstance(to, torch.dtype):
            continue  # refused for what it is: two dtypes
        how: dict[str, Any] = {"positions": positions, "dtype": dtype, "to": to}
        acts = model.capture(IDS, sites, **how)
        kept = sum(value.numel() * value.element_size() for value in acts.values())
        model.capture(IDS, sites, **how, max_bytes=kept)
        for run in (model.capture, model.run_with_cache):
            with pytest.raises(MemoryBudgetError):
                run(IDS, sites, **how, max_bytes=kept - 1)


def test_free_memory_is_asked_for_however_values_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = interp.wrap(zoo.make("gpt2"))
    whole = model.estimate(IDS)
    monkeypatch.setattr(budget, "SMALL", 0)
    monkeypatch.setattr(budget, "free_bytes", lambda device: 2 * (whole - 1))
    for how in ({}, {"to": "cpu"}, {"dtype": "float32"}, {"positions": slice(0, None)}, {"clone": True}):
        with pytest.raises(MemoryBudgetError, match="max_bytes"):
            model.run_with_cache(IDS, **how)
    for how in ({"dtype": "bfloat16"}, {"positions": -1}, {"to": torch.float16}):
        model.run_with_cache(IDS, **how)


def test_the_memory_asked_is_where_values_go() -> None:
    here, there = torch.device("cuda:1"), torch.device("cpu")
    assert Keeping(to=there).form("float32", here) == ("float32", there)
    assert Keeping(to=torch.float64).form("float32", here) == ("float64", here)
    assert Keeping(dtype="bfloat16", to=there).form("float32", here) == ("bfloat16", there)


# ---- what is free ------------------------------------------------------------------------------

CPU = torch.device("cpu")
GIB = 2**30
TWO = {
    "memory.max": f"{GIB}",
    "memory.current": f"{GIB // 2}",
    "memory.stat": f"anon 7\ninactive_file {GIB // 4}",
}
ONE = {
    "memory.limit_in_bytes": f"{GIB}",
    "memory.usage_in_bytes": f"{GIB // 2}",
    "memory.stat": f"total_inactive_file {GIB // 4}",
}


def write_group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n", encoding="ascii")


def on_a_machine(monkeypatch: pytest.MonkeyPatch, groups: Path, own: str) -> None:
    """A machine with 8 GiB to spare, this process in one control group, under no limit of addresses."""
    said = {"/proc/meminfo": ["MemAvailable: 8388608 kB"], "/proc/self/cgroup": own.splitlines()}
    reading = budget._lines
    monkeypatch.setattr(budget, "GROUPS", str(groups))
    monkeypatch.setattr(budget, "_lines", lambda path: said.get(path) or reading(path))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)


@pytest.mark.parametrize(
    ("own", "group", "files"),
    [
        ("0::/job/step", "job", TWO),  # a group above limits what is below
        ("0::/job", "job", TWO),
        ("0::/seen/from/outside", "", TWO),  # in a container its own group is the top
        ("9:name=systemd:/\n4:cpu,memory:/job\n0::/", "memory/job", ONE),
        ("4:memory:/docker/abc", "memory", ONE),
    ],
)
def test_a_control_group_bounds_what_is_free(
    own: str, group: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limit less use, and what it holds of files counts as free; without a limit the machine's memory."""
    on_a_machine(monkeypatch, tmp_path, own)
    assert budget.free_bytes(CPU) == 8 * GIB
    write_group(tmp_path / group, files)
    assert budget.free_bytes(CPU) == GIB * 3 // 4
    limit = next(iter(files))
    write_group(tmp_path / group, {limit: "max" if limit == "memory.max" else str(2**63 - 4096)})
    assert budget.free_bytes(CPU) == 8 * GIB
    write_group(tmp_path / group, {limit: "4096"})  # below its use: nothing is left
    assert budget.free_bytes(CPU) == 0


def test_a_limit_of_addresses_bounds_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, tmp_path, "0::/")
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    used = pages * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (used + GIB, used + GIB))
    assert abs(budget.free_bytes(CPU) - GIB) < GIB / 16
