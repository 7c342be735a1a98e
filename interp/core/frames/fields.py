"""What the fields of a result may hold: arrays with declared axes, and values for JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from types import NoneType
from typing import Any, get_args, get_type_hints

from jaxtyping import AbstractArray
from torch import Tensor

from interp.core.errors import ConfigError, CorruptArtefact, ShapeError
from interp.core.provenance import Provenance
from interp.core.settings import accepts, hints_of, say_type


@dataclass(frozen=True)
class Declared:
    """The annotation of one array field."""

    axes: tuple[str, ...]
    """Axis names; `_` and literal sizes count as names."""
    kind: str
    """As written: `Float[Tensor, 'layer pos']`."""
    dtypes: Collection[str] | None
    """Accepted dtypes; None for any."""
    optional: bool
    """Whether None is accepted."""


@cache
def declaration(cls: type) -> dict[str, Declared]:
    """The array fields of a result type, in order of definition.

    Raises:
        ConfigError: The type lacks the dataclass decorator, an annotation cannot be resolved, or
            an array's axes are not plain names.
    """
    if "__dataclass_fields__" not in cls.__dict__:
        raise ConfigError(
            f"{cls.__name__} is no dataclass",
            fix="decorate it with @dataclass(frozen=True, kw_only=True, eq=False)",
        )
    try:
        hints = get_type_hints(cls)
    except NameError as error:
        raise ConfigError(
            f"an annotation of {cls.__name__} cannot be resolved: {error}",
            fix="import the name at the top of the module, not under TYPE_CHECKING",
        ) from error
    found = {f.name: declared_array(cls, f.name, hints[f.name]) for f in dataclass_fields(cls)}
    return {name: declared for name, declared in found.items() if declared is not None}


def declared_array(cls: type, name: str, hint: Any) -> Declared | None:
    """What an annotation says of an array; None where it is none.

    Raises:
        ConfigError: An axis without a plain name.
    """
    options = get_args(hint)
    arrays = [h for h in options or (hint,) if isinstance(h, type) and issubclass(h, AbstractArray)]
    if not arrays:
        return None
    array = arrays[0]
    axes = tuple(array.dim_str.split())
    if not all(axis == "_" or axis.isdecimal() or axis.isidentifier() for axis in axes):
        raise ConfigError(
            f"{cls.__name__}.{name}: every axis of a result needs one plain name",
            got=array.dim_str,
            expected="as in Float[Tensor, 'layer pos']",
        )
    dtypes = array.dtypes if isinstance(array.dtypes, list | tuple) else None
    return Declared(axes, array.__name__, dtypes, NoneType in options)


def bind(
    owner: str, name: str, value: object, declared: Declared | None, sizes: dict[str, tuple[int, str]]
) -> None:
    """Check one field; `sizes` maps each axis met so far to its size and the field it came from.

    Raises:
        ShapeError: The value is no such array, or an axis has another size in another field.
    """
    where = f"{owner}.{name}"
    if declared is None:
        if isinstance(value, Tensor):
            raise ShapeError(
                f"{where} is an array without declared axes",
                got=f"shape {list(value.shape)}",
                fix="annotate it, as in Float[Tensor, 'layer pos']",
            )
        return
    if value is None and declared.optional:
        return
    if not isinstance(value, Tensor):
        raise ShapeError(f"{where} is no tensor", got=type(value).__name__, expected=declared.kind)
    dtype = str(value.dtype).removeprefix("torch.")
    if declared.dtypes is not None and dtype not in declared.dtypes:
        raise ShapeError(f"{where} has another dtype", got=dtype, expected=declared.kind)
    if value.ndim != len(declared.axes):
        raise ShapeError(
            f"{where} has {value.ndim} axes, not {len(declared.axes)}",
            got=f"shape {list(value.shape)}",
            expected=declared.kind,
        )
    for axis, size in zip(declared.axes, value.shape, strict=True):
        if axis == "_":
            continue
        known = (int(axis), "its annotation") if axis.isdecimal() else (size, name)
        wanted, other = known if axis.isdecimal() else sizes.setdefault(axis, known)
        if size != wanted:
            raise ShapeError(
                f"axis {axis!r} has two sizes in one {owner}",
                got=f"{size} in {name!r} (shape {list(value.shape)})",
                expected=f"{wanted}, as in {other!r}",
            )


def require_types(cls: type, values: Mapping[str, Any]) -> None:
    """Refuse values of another type than their field's annotation; arrays are judged by `bind`.

    Raises:
        CorruptArtefact: The field, what it holds, what it may hold.
    """
    arrays, hints = declaration(cls), hints_of(cls)
    for name in (hints.keys() & values.keys()) - arrays.keys():
        if not accepts(hints[name], values[name]):
            raise CorruptArtefact(
                f"{cls.__name__}.{name} holds a value of another type",
                got=repr(values[name])[:200],
                expected=say_type(hints[name]),
            )


def distinct(name: str, taken: Collection[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... if it is taken."""
    if name not in taken:
        return name
    return next(n for i in range(2, len(taken) + 3) if (n := f"{name}_{i}") not in taken)


def to_json(value: Any, where: str) -> Any:
    """A JSON value from which `from_json` makes an equal one, types of containers included.

    Raises:
        ConfigError: Something else than str, int, float, bool, None, tuple, list, dict, Provenance.
    """
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"__float__": repr(float(value))}
    if isinstance(value, Provenance):
        return {"__provenance__": value.to_json()}
    if isinstance(value, list | tuple):
        items = [to_json(item, where) for item in value]
        return items if type(value) is list else {"__tuple__": items}
    if isinstance(value, dict):
        pairs = [[to_json(k, where), to_json(v, where)] for k, v in value.items()]
        plain = all(isinstance(k, str) and not k.startswith("__") for k in value)
        return dict(pairs) if plain else {"__dict__": pairs}
    raise ConfigError(
        f"{where} cannot be saved: it holds a {type(value).__name__}",
        expected="tensors with declared axes, str, int, float, bool, None, tuple, list, dict, Provenance",
    )


def from_json(value: Any) -> Any:
    """The inverse of `to_json`."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("__"):
        return {key: from_json(item) for key, item in value.items()}
    if tag == "__tuple__":
        return tuple(from_json(value[tag]))
    if tag == "__dict__":
        return {from_json(key): from_json(item) for key, item in value[tag]}
    if tag == "__float__":
        return float(value[tag])
    if tag == "__provenance__":
        return Provenance.from_json(value[tag])
    raise CorruptArtefact(f"a result holds a value of unknown kind {tag!r}")
