"""`AttentionRecord`: patterns, queries and keys of every head on one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.result import Result
from interp.lenses.config import HeadAtlasConfig
from interp.lenses.heads.atlas import pattern_sites, token_rows
from interp.models.hooked import HookedModel


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttentionRecord(Result):
    """What every head computed on one text; `interp.plotting.attention_page` shows it."""

    patterns: Float[Tensor, "layer head query key"]
    """Attention probabilities."""
    queries: Float[Tensor, "layer query head d_head"] | None
    """Query vectors, rotated where the model rotates them; None if the model shows none."""
    keys: Float[Tensor, "layer key kv_head d_head"] | None
    """Key vectors, likewise; head h reads kv head h * n_kv_heads // n_heads."""
    tokens: tuple[str, ...]
    """The text."""
    causal: bool
    """Whether a query sees only itself and earlier keys."""

    def check(self) -> Checks:
        """Attention is a distribution over keys."""
        error = (self.patterns.sum(-1) - 1).abs().max()
        return Checks([Check.at_most("attention rows sum to 1", error, 1e-2)])


@torch.no_grad()
def record_attention(
    model: HookedModel, inputs: Any, *, layers: Sequence[int] | None = None, max_tokens: int = 128
) -> AttentionRecord:
    """Patterns, queries and keys of every head on one text.

    Args:
        inputs: One text, or ids [pos] or [1, pos].
        layers: Layers to keep; default all.
        max_tokens: Tokens that are read.

    Raises:
        ConfigError: More than one text, or a layer that does not exist.
        ModelError: The model offers no attention patterns.
    """
    names = pattern_sites(model)
    chosen = list(range(len(names))) if layers is None else list(layers)
    if not chosen or not all(0 <= layer < len(names) for layer in chosen):
        raise ConfigError("no such layers", got=chosen, expected=f"0 to {len(names) - 1}")
    rows = list(token_rows(model, inputs, HeadAtlasConfig(max_tokens=max_tokens)))
    if len(rows) != 1:
        raise ConfigError("a record is of one text", got=f"{len(rows)} texts")
    sites = {"patterns": [names[layer] for layer in chosen]}
    for field, letter in (("queries", "q"), ("keys", "k")):
        for kind in (f"hook_rot_{letter}", f"hook_{letter}"):
            found = [f"blocks.{layer}.attn.{kind}" for layer in chosen]
            if field not in sites and all(name in model.sites for name in found):
                sites[field] = found
    acts = model.capture(rows[0][None], [name for part in sites.values() for name in part])

    def stacked(field: str) -> Tensor | None:
        if field not in sites:
            return None
        return torch.stack([acts[name][0].float() for name in sites[field]]).cpu()

    patterns = stacked("patterns")
    return AttentionRecord(
        patterns=patterns if patterns is not None else torch.empty(0),
        queries=stacked("queries"),
        keys=stacked("keys"),
        tokens=tuple(model.to_str_tokens(rows[0])),
        causal=model.cfg.causal,
        labels={"layer": [f"L{layer}" for layer in chosen]},
        provenance=model.provenance(sites["patterns"]),
    )
