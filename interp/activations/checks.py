"""Configs are checked field by field before any work is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean


def check_fields(config: Any, least: Mapping[str, int]) -> None:
    """Refuse fields of the wrong type or below their least value, naming them.

    Args:
        config: An instance of a config dataclass.
        least: Field -> smallest allowed number; such a field must also be finite.

    Raises:
        ConfigError: The field, what it holds, what it may hold.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if not _accepts(hint, value):
            choices = [c for part in (hint, *get_args(hint)) for c in get_args(part)]
            texts = [c for c in choices if isinstance(c, str)]
            near = did_you_mean(value, texts) if isinstance(value, str) else ""
            raise ConfigError(
                f"{field.name} has a wrong value",
                got=repr(value),
                expected=_say(hint),
                fix=near or None,
            )
        low = least.get(field.name)
        if low is not None and value is not None and not low <= value < math.inf:
            raise ConfigError(
                f"{field.name} is out of range", got=value, expected=f"a finite number >= {low:g}"
            )


def dtype_of(name: str | None) -> torch.dtype | None:
    """The floating torch dtype of that name; None stays None.

    Raises:
        ConfigError: There is no such floating dtype.
    """
    if name is None:
        return None
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        known = ["float32", "float64", "float16", "bfloat16"]
        raise ConfigError(
            f"no floating dtype {name!r}",
            expected=", ".join(known),
            fix=did_you_mean(name, known) or None,
        )
    return found


def _accepts(hint: Any, value: object) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        if parts[-1] is ...:
            return isinstance(value, tuple) and all(_accepts(parts[0], each) for each in value)
        if not isinstance(value, tuple) or len(value) != len(parts):
            return False
        return all(map(_accepts, parts, value))
    if parts:
        return any(_accepts(part, value) for part in parts)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint  # exact, so that True is not an int


def _say(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    if get_args(hint)[-1:] == (...,):
        return f"a tuple of {_say(get_args(hint)[0])}"
    if get_origin(hint) is None and isinstance(hint, type):
        return hint.__name__.replace("NoneType", "None")
    joined = ", " if get_origin(hint) is tuple else " or "
    return joined.join(map(_say, get_args(hint)))
