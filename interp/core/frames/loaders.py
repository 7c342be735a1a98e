"""Functions that results call to find what they must not import: their pictures and their types.

`interp` fills both when it is imported. Standard library only, so that doing so loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LOADERS: dict[str, Callable[[Any], None]] = {}
"""`renderer`: takes a result type, `type`: takes the name of one."""


def set_renderer_loader(loader: Callable[[type], None]) -> None:
    """Name the function that imports the renderers of a result type when `.plot()` needs them."""
    LOADERS["renderer"] = loader


def set_type_loader(loader: Callable[[str], None]) -> None:
    """Name the function that imports the result type of a given name when `load` needs it."""
    LOADERS["type"] = loader
