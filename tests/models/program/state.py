"""Everything about a module that a run could leave changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def state(module: nn.Module) -> dict[str, Any]:
    """Everything about a module that a run could leave changed."""
    found: dict[str, Any] = {"its own mode": [m.training for m in module.modules()]}
    found["requires_grad"] = [p.requires_grad for p in module.parameters()]
    found["gradients"] = [p.grad is None for p in module.parameters()]
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found["hooks"] = [
        [key for key, fn in getattr(m, k).items() if not _recorder(fn)]
        for m in module.modules()
        for k in kinds
    ]
    found["buffers"] = [float(b.double().sum()) for b in module.buffers() if b.numel()]
    configs = list(_configs(module))
    found["the config's class"] = [type(c) for c in configs]
    found["attention"] = [getattr(c, "_attn_implementation", None) for c in configs]
    own = getattr(module, "generation_config", None)
    found["generation_config"] = None if own is None else own.to_dict()
    found["use_cache"] = [getattr(c, "use_cache", None) for c in configs]
    return found


def _recorder(fn: Any) -> bool:
    """transformers keeps the hooks with which it once recorded hidden states."""
    return getattr(fn, "__module__", "").startswith("transformers.")


def _configs(module: nn.Module) -> Iterator[Any]:
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is not None:
            yield config
