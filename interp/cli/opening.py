"""Open the model a command names, with the device checked before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interp.core.config import Placement
from interp.core.errors import ConfigError, ModelError

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

    import torch

    from interp.models import load_model

    try:
        torch.empty(1, device=placement.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            "this device cannot be used",
            got=placement.device,
            expected=f"cpu, or one of {torch.cuda.device_count()} CUDA devices, or mps",
            fix="interp doctor lists what this machine has",
        ) from error
    return load_model(name, device=placement.device, dtype=placement.dtype)
