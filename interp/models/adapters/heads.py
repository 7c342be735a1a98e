"""The heads of Hugging Face models: from the normalised residual stream to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interp.models.adapters.adapter import find
from interp.models.cfg import ModelConfig


def width_of(head: nn.Module | None, cfg: ModelConfig) -> int:
    """How many logits a head gives; 0 without one."""
    out = getattr(head, "out_features", None)
    return int(out) if out else cfg.d_vocab if head is not None else 0


def unembedding(
    module: Any, base: Any, cfg: ModelConfig, factor: float
) -> tuple[Callable[[Tensor], Tensor] | None, nn.Module | None]:
    """Normalised residual -> logits, exactly as the model's own head computes it."""
    kind = type(module).__name__
    if cfg.family == "ViT":
        head = find(module, "classifier")
        return (head, head) if head is not None else (None, None)
    causal = kind.endswith(("LMHeadModel", "ForCausalLM"))
    if kind.endswith("ForMaskedLM") or (causal and cfg.family == "BERT"):
        return _masked_lm_head(module)
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    if not causal or head is None:
        return None, None
    out: Any = head
    project, cap = find(base, "decoder.project_out"), cfg.final_softcap

    def unembed(x: Tensor) -> Tensor:
        logits = out(x if project is None else project(x))
        logits = logits if factor == 1.0 else logits * factor
        return torch.tanh(logits / cap) * cap if cap else logits

    return unembed, head


_MASKED_HEADS = (
    ("cls",),
    ("lm_head",),
    ("predictions",),
    ("generator_predictions", "generator_lm_head"),
    ("head", "decoder"),
)
"""Modules that one after the other make logits of what an encoder ends with."""


def _masked_lm_head(module: Any) -> tuple[Callable[[Tensor], Tensor] | None, nn.Module | None]:
    own = getattr(module, "get_output_embeddings", lambda: None)()
    for paths in _MASKED_HEADS:
        parts = [part for path in paths if (part := find(module, path)) is not None]
        if len(parts) == len(paths) and own is not None:
            return (parts[0] if len(parts) == 1 else nn.Sequential(*parts)), own
    if find(module, "vocab_projector") is None:
        return None, None

    def distil(x: Tensor) -> Tensor:
        return module.vocab_projector(module.vocab_layer_norm(module.activation(module.vocab_transform(x))))

    return distil, module.vocab_projector
