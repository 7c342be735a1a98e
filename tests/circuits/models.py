"""Small models with one stream, and pairs of prompts for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import interp
from tests.models import zoo

FAMILIES = ["gpt2", "llama", "neox", "neox-sequential", "gemma2", "qwen3", "opt"]
"""Learned positions; key-value groups; parallel blocks; norms behind sublayers; norms on q and k."""


def family(name: str, dtype: torch.dtype = torch.float64) -> interp.HookedModel:
    """A random model of the zoo."""
    return interp.wrap(zoo.make(name, dtype=dtype))


def pair(n: int = 3, width: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clean ids, and corrupted ones that differ in two places, [n width]."""
    draw = torch.Generator().manual_seed(seed)
    clean = torch.randint(5, zoo.V, (n, width), generator=draw)
    corrupted = clean.clone()
    corrupted[:, 1] = (clean[:, 1] + 7) % 90 + 5
    corrupted[:, 3] = (clean[:, 3] + 11) % 90 + 5
    return clean, corrupted


def linear() -> interp.HookedModel:
    """Two layers whose attention is uniform, without norms: the logits are linear in every writer."""
    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 12, "n_ctx": 8, "d_head": 3, "n_heads": 4}
    config = interp.models.SmallConfig(
        **sizes,
        d_vocab=zoo.V,
        d_vocab_out=9,
        attn_only=True,
        normalization_type=None,
        dtype="float64",
        act_fn="relu",
    )
    module = interp.models.SmallTransformer(config, seed=2)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.mul_(0 if name.endswith(("W_Q", "W_K")) else 6)
    return interp.wrap(module)
