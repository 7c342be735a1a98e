"""What plain torch hooks see and do: the reference for modules of any kind, without interp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

SKIPPED = (nn.ModuleList, nn.ModuleDict, nn.Identity)
Call = tuple[tuple[Any, ...], dict[str, Any]]


def tensors(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Each tensor of a nest with the keys that lead to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key in value:
            yield from tensors(value[key], (*path, key))
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        for key, part in zip(names, value, strict=True):
            yield from tensors(part, (*path, key))
    elif is_dataclass(value):
        for f in fields(value):
            yield from tensors(getattr(value, f.name), (*path, f.name))


def put(value: Any, path: tuple[Any, ...], new: Tensor) -> Any:
    """The nest with one tensor exchanged."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(value, dict):
        changed = dict(value)
        changed[key] = put(value[key], rest, new)
        return type(value)(**changed) if type(value) is not dict else changed
    if isinstance(value, tuple | list):
        i = value._fields.index(key) if isinstance(key, str) else key  # type: ignore[union-attr]
        parts = [*value[:i], put(value[i], rest, new), *value[i + 1 :]]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return type(value)(
        **{f.name: getattr(value, f.name) for f in fields(value)} | {key: put(getattr(value, key), rest, new)}
    )


def parts_of(module: nn.Module) -> dict[str, nn.Module]:
    """Every submodule that has sites, once."""
    return {n: m for n, m in module.named_modules() if n and not isinstance(m, SKIPPED)}


def name_of(module: str, end: str, path: tuple[Any, ...], first: tuple[Any, ...]) -> str:
    base = f"{module}.hook_{end}"
    return base if path == first else ".".join([base, *map(str, path)])


def watch(module: nn.Module, call: Call) -> tuple[Any, dict[str, list[Tensor]], set[str]]:
    """The output, what every tensor of every submodule was at each call, and who stayed silent."""
    seen: dict[str, list[Tensor]] = {}
    ran: set[str] = set()

    def note(name: str, end: str, value: Any) -> None:
        found = list(tensors(value))
        for path, tensor in found:
            seen.setdefault(name_of(name, end, path, found[0][0]), []).append(tensor.clone())
            ran.add(f"{name}.hook_{end}")

    def hooks(name: str, part: nn.Module) -> list[Any]:
        def before(_: Any, args: Any, kwargs: Any) -> None:
            note(name, "in", dict(enumerate(args)) | kwargs)

        return [
            part.register_forward_pre_hook(before, with_kwargs=True),
            part.register_forward_hook(lambda m, a, out: note(name, "out", out)),
        ]

    handles = [h for name, part in parts_of(module).items() for h in hooks(name, part)]
    try:
        with torch.no_grad():
            output = module(*call[0], **call[1])
    finally:
        for handle in handles:
            handle.remove()
    both = {f"{name}.hook_{end}" for name in parts_of(module) for end in ("in", "out")}
    return output, seen, both - ran


def edited(module: nn.Module, call: Call, site: str, edit: Callable[[Tensor], Tensor]) -> Any:
    """The output where one tensor of one submodule (at one call, `#k`) is another."""
    site, _, number = site.partition("#")
    name, _, rest = site.rpartition(".hook_")
    end = rest.partition(".")[0]
    calls = 0

    def changed(value: Any) -> Any:
        nonlocal calls
        calls += 1
        if number and calls - 1 != int(number):
            return None
        found = list(tensors(value))
        for path, tensor in found:
            if name_of(name, end, path, found[0][0]) == site:
                return put(value, path, edit(tensor.clone()))
        raise AssertionError(f"{site} is not there")

    def before(_: Any, args: Any, kwargs: Any) -> Any:
        new = changed(dict(enumerate(args)) | kwargs)
        if new is None:
            return None
        return tuple(new[i] for i in range(len(args))), {k: new[k] for k in kwargs}

    part = parts_of(module)[name]
    handle = (
        part.register_forward_pre_hook(before, with_kwargs=True)
        if end == "in"
        else part.register_forward_hook(lambda m, a, out: changed(out))
    )
    try:
        with torch.no_grad():
            return module(*call[0], **call[1])
    finally:
        handle.remove()


def gap(a: Any, b: Any) -> float:
    """The largest difference between two outputs of any form."""
    pairs = zip(tensors(a), tensors(b), strict=True)
    return max(float((x.detach().double() - y.detach().double()).abs().max()) for (_, x), (_, y) in pairs)
