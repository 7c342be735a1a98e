"""Open the model a command names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interp.core.config import Placement
from interp.core.errors import ModelError

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


def open_model(name: str, placement: Placement) -> HookedModel:
    """`load_model` for a command line.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
        ModelError: no such model, not a model, or a name that no folder can have.
    """
    try:
        Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, an unknown ~user
        shown = name if len(name) < 100 else f"{name[:100]} ... ({len(name)} characters)"
        expected = "a bundled model's name, or the path of a folder"
        raise ModelError("no folder can have this name", got=shown, expected=expected) from error

    from interp.models.loading import NotHere, load_model

    try:
        return load_model(name, device=placement.device, dtype=placement.dtype)
    except NotHere as error:  # commands never fetch: what helps in Python is no option here
        fix = f"{error.near}hf download {name} --local-dir FOLDER, then name that folder"
        raise ModelError(error.what, got=error.got, expected=error.expected, fix=fix) from error
