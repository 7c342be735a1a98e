"""TransformerLens by its own loader, for whoever wants its weight processing."""

from __future__ import annotations

from typing import Any

import torch

from interp.core.errors import MissingDependency
from interp.models.gate import refused
from interp.models.hooked import HookedModel


def boot_bridge(
    source: str, *, device: Any = None, dtype: torch.dtype | None = None, name: str = ""
) -> HookedModel:
    """A TransformerBridge booted from a folder (or hub id), wrapped as a guest.

    Raises:
        MissingDependency: transformer-lens 3.9 is not installed.
    """
    from interp.models.wrapping import wrap

    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        raise MissingDependency(
            "the transformer_lens backend needs transformer-lens",
            fix="pip install 'transformer-lens>=3.9,<4'",
        ) from error
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    try:
        bridge = TransformerBridge.boot_transformers(
            source, device=str(device or "cpu"), trust_remote_code=False, **options
        )
    except Exception as error:  # the bridge lets every layer below it raise
        raise refused(source, error) from error
    return wrap(bridge, name=name or source)
