"""The one reading of devices and dtypes that people name: known to torch, and here on this machine."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean

FLOATS = ("float64", "float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda", "mps")
PLANS = ("auto", "balanced", "balanced_low_0", "sequential")
"""How accelerate spreads a model over what is there."""


def read_device(value: Any, *, meta: bool = True) -> torch.device:
    """A device by name, number or object.

    Args:
        value: As a user wrote it.
        meta: Whether the meta device will do, where tensors have a shape and no values.

    Raises:
        ConfigError: torch does not know it, or this machine has none.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | torch.device):
            raise TypeError("neither a name nor a number")
        device = torch.device(value)
        _tried(device)
        if device.type == "meta" and not meta:
            raise ValueError("it holds no values")
    except (RuntimeError, AssertionError, NotImplementedError, ValueError, TypeError) as error:
        why, known = str(error).partition("\n")[0][:120], str(value).partition(":")[0] in DEVICES
        raise ConfigError(
            f"there is no device {str(value)[:80]!r} on this machine",
            got=f"{value!r}: {why}"[:200],
            expected=", ".join(_present()),
            fix="'cpu' is always there" if known else did_you_mean(str(value), (*DEVICES, *FLOATS)),
        ) from error
    return device


def read_device_map(value: Any) -> Any:
    """Where the parts of a model go: a plan of accelerate's, one device, or module -> device.

    Raises:
        ConfigError: No such plan, an empty map, a device that this machine does not have.
    """
    if isinstance(value, dict) and value:
        for name, place in value.items():
            if not isinstance(name, str):
                raise ConfigError("device_map goes from modules' names to devices", got=repr(name)[:80])
            if place != "disk":
                read_device(place, meta=False)
    elif isinstance(value, dict | list | tuple | set):
        raise ConfigError(
            "device_map is a plan, a device or a dict",
            got=repr(value)[:80],
            expected=f"{', '.join(PLANS)}, a device, or {{module: device}}",
            fix="device_map={'': 'cpu'}",
        )
    elif not isinstance(value, str) or value not in PLANS:
        near = did_you_mean(value, (*PLANS, *DEVICES)) if isinstance(value, str) else ""
        try:
            read_device(value, meta=False)
        except ConfigError as error:
            raise ConfigError(
                "device_map is no plan and no device of this machine",
                got=error.got,
                expected=f"{', '.join((*PLANS, *_present()))}, or {{module: device}}",
                fix=near or error.fix,
            ) from error
    return value


def _present() -> list[str]:
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *cards, *(["mps"] if torch.backends.mps.is_available() else [])]


@lru_cache(maxsize=32)
def _tried(device: torch.device) -> None:
    """Torch tells only on use whether a device is there; what raised is tried again."""
    torch.empty(0, device=device)


def read_float(value: Any) -> torch.dtype:
    """A floating-point dtype by name or object, for weights.

    Raises:
        ConfigError: torch has no such dtype, or it holds other numbers.
    """
    found = read_dtype(value)
    if not found.is_floating_point:
        raise ConfigError("weights have a floating-point dtype", got=found, expected=", ".join(FLOATS))
    return found


def read_dtype(value: Any) -> torch.dtype:
    """A dtype by name or object.

    Raises:
        ConfigError: torch has no such dtype.
    """
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if isinstance(found, torch.dtype):
        return found
    raise ConfigError(
        f"there is no dtype {str(value)[:80]!r}",
        got=repr(value)[:80],
        expected=", ".join(FLOATS),
        fix=did_you_mean(str(value), FLOATS),
    )


def read_target(value: Any, *, weights: bool = False) -> torch.device | torch.dtype:
    """Where `.to` goes: a dtype by name or object, or a device.

    Args:
        value: As a user wrote it.
        weights: Whether a model goes there, whose dtype is floating-point and whose device holds values.

    Raises:
        ConfigError: Neither; or a device that this machine does not have.
    """
    named = isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype)
    if named or isinstance(value, torch.dtype):
        return read_float(value) if weights else read_dtype(value)
    return read_device(value, meta=not weights)
