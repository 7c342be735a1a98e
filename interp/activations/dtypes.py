"""Floating dtypes by their names."""

from __future__ import annotations

import torch

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean


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
            f"no floating dtype {name!r}", expected=", ".join(known), fix=did_you_mean(name, known) or None
        )
    return found
