"""Finds the renderers of a result type; core asks for this when the first `.plot()` comes."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules


def load_renderers(result_type: type | None = None) -> None:
    """Import the renderers for a result type: its room's file or folder, and the generic ones.

    Args:
        result_type: A subclass of Result defined in `interp.<room>`; None loads the generic
            renderer only.
    """
    import_module("interp.plotting.generic")
    for kind in result_type.__mro__ if result_type is not None else ():
        parts = kind.__module__.split(".")
        if parts[0] != "interp" or len(parts) < 2:
            continue
        name = f"interp.plotting.rooms.{parts[1]}"
        if find_spec(name) is None:
            continue
        room = import_module(name)
        for file in iter_modules(getattr(room, "__path__", ())):
            import_module(f"{name}.{file.name}")
