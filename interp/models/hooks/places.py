"""The tensors of one call of a module: each input and each output has a path of its own.

A module may take several tensors and give several back, nested in tuples, dicts, dataclasses and
model outputs. A path names one of them by numbers, keys and field names, joined with dots: an
LSTM's `(output, (h, c))` holds "0", "1.0" and "1.1"; a call `layer(x, mask=m)` was given "0" and
"mask". The empty path stands for the first tensor there is, which is what a site without a path
means.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, nn


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a nest, with its path, in order."""
    if isinstance(value, Tensor):
        yield prefix, value
        return
    for key, part in _parts(value):
        yield from leaves(part, f"{prefix}.{key}" if prefix else key)


def tensor_at(value: Any, path: str) -> Tensor | None:
    """The tensor at a path of an output; None where there is none."""
    if isinstance(value, Tensor):
        return value if path == "" else None
    if path == "":
        return next((leaf for _, leaf in leaves(value)), None)
    return next((leaf for key, leaf in leaves(value) if key == path), _by_number(value, path))


def replaced(value: Any, path: str, new: Tensor) -> Any:
    """The same nest with another tensor at a path; what was given is not written into."""
    if isinstance(value, Tensor):
        return new
    if path == "":
        path = next(key for key, _ in leaves(value))
    for key, part in _parts(value):
        if path == key or path.startswith(f"{key}."):
            return _with(value, key, replaced(part, path[len(key) + 1 :], new))
    # A field of a named tuple, asked for by its number.
    number, _, rest = path.partition(".")
    key, part = list(_parts(value))[int(number)]
    return _with(value, key, replaced(part, rest, new))


# --- inputs -------------------------------------------------------------------------------------


def given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a call was given: positional ones by number, the others by keyword."""
    yield from leaves(args)
    yield from leaves(dict(kwargs))


def input_at(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], path: str
) -> tuple[Tensor | None, str]:
    """The tensor at a path of the inputs, and the path under which this call holds it.

    An input may be named by its number or by its parameter's name, however it was passed.
    """
    if path == "":
        if args and isinstance(args[0], Tensor):
            return args[0], "0"
        key, found = next(given(args, kwargs), ("", None))
        first = next(iter(_parameters(type(module))), "")
        if not args and isinstance(kwargs.get(first), Tensor):
            return kwargs[first], first
        return found, key
    head, dot, rest = path.partition(".")
    key = _passed_as(module, args, kwargs, head)
    where = f"{key}{dot}{rest}"
    holder = args[int(key)] if key.isdigit() and int(key) < len(args) else kwargs.get(key)
    return tensor_at(holder, rest), where


def with_input(
    args: tuple[Any, ...], kwargs: dict[str, Any], where: str, new: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a call with another tensor at a path that `input_at` gave."""
    head, _, rest = where.partition(".")
    if head.isdigit():
        i = int(head)
        return (*args[:i], replaced(args[i], rest, new), *args[i + 1 :]), kwargs
    return args, {**kwargs, head: replaced(kwargs[head], rest, new)}


def _passed_as(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], head: str) -> str:
    names = _parameters(type(module))
    if head.isdigit():
        i = int(head)
        return names[i] if len(args) <= i < len(names) and names[i] in kwargs else head
    if head not in kwargs and head in names and names.index(head) < len(args):
        return str(names.index(head))
    return head


@lru_cache(maxsize=512)
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    """The names under which a caller may pass a module's inputs, in order."""
    found = list(inspect.signature(kind.forward).parameters.values())[1:]
    return tuple(p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD)


# --- nests --------------------------------------------------------------------------------------


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a nest holds, one level down; nothing for what is no nest."""
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)  # type: ignore[attr-defined]
    elif isinstance(value, tuple | list):
        yield from ((str(i), part) for i, part in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))


def _by_number(value: Any, path: str) -> Tensor | None:
    """Fields of named tuples and model outputs may be counted as well."""
    number, _, rest = path.partition(".")
    if not number.isdigit() or isinstance(value, Tensor):
        return None
    parts = [part for _, part in _parts(value)]
    return tensor_at(parts[int(number)], rest) if int(number) < len(parts) else None


def _with(value: Any, key: str, part: Any) -> Any:
    if isinstance(value, Mapping):
        own = next(k for k in value if str(k) == key)
        if type(value) is dict:
            return {**value, own: part}
        if dataclasses.is_dataclass(value):  # a ModelOutput keeps fields and keys alike
            return type(value)(**{**value, own: part})
        changed: Any = copy.copy(value)
        changed[own] = part
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value._replace(**{key: part})  # type: ignore[attr-defined]
    if isinstance(value, tuple | list):
        i = int(key)
        return type(value)([*value[:i], part, *value[i + 1 :]])
    changed = copy.copy(value)
    object.__setattr__(changed, key, part)
    return changed
