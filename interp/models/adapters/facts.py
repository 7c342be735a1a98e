"""What every Hugging Face model says of itself, whatever its family."""

from __future__ import annotations

from typing import Any


def attention_configs(module: Any) -> tuple[Any, ...]:
    """Every config object some submodule reads its attention implementation from."""
    found: dict[int, Any] = {}
    for part in module.modules():
        config = getattr(part, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            found[id(config)] = config
    return tuple(found.values())


def dtype_device(module: Any) -> dict[str, Any]:
    """dtype and device of the first parameter, as text."""
    first = next(module.parameters(), None)
    if first is None:
        return {"dtype": "", "device": "cpu"}
    return {"dtype": str(first.dtype).removeprefix("torch."), "device": str(first.device)}
