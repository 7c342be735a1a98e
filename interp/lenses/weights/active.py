"""Do weights read as tokens say what the model is about? Active neurons against the hidden state.

The test of the projection itself: the tokens of the rows that are active at a position should be
among those that the hidden state stands for, more often than among another position's.
Source: Dar et al. 2023, "Analyzing Transformers in Embedding Space" (arXiv 2209.02535), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.frames.quantity import called, measured
from interp.core.randomness import generator
from interp.core.result import Result
from interp.lenses.config import TokenTableConfig
from interp.lenses.reading import stream_rows
from interp.lenses.weights.tokens import read_weights
from interp.models.hooked import HookedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class ActiveOverlap(
    Result,
    headline="Active neurons against the stream, {n_positions:,} positions",
    caption="{k} tokens, {active} neurons per position",
):
    """Share of the hidden state's k tokens that an active neuron's k tokens hold too."""

    overlap: Float[Tensor, " layer"] = measured(
        "tokens shared",
        "share",
        "active neurons say what the stream says",
        signed=False,
        legend="same position",
        along="layer",
        null="control",
    )
    """Mean over positions and their most active neurons."""
    control: Float[Tensor, " layer"] = called("another position")
    """Overlap with the hidden state of another position, drawn at random."""
    k: int
    """Tokens compared."""
    active: int
    """Neurons per position."""
    n_positions: int
    """Positions read."""

    def check(self) -> Checks:
        """A share is at most 1."""
        return Checks([Check.at_most("largest overlap", self.overlap.max(), 1.0)])


@torch.no_grad()
def measure_active_overlap(
    model: HookedModel,
    inputs: Any,
    *,
    k: int = 50,
    active: int = 5,
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> ActiveOverlap:
    """Compare what active neurons write, read as tokens, with what the stream then says.

    A neuron counts by |activation| x length of its row of W_out; the stream is read after its
    layer by the final norm and the unembedding.

    Args:
        inputs: Texts, ids or a `TokenBatch`.
        k: Tokens per direction and per hidden state.
        active: Most active neurons per position.

    Raises:
        ConfigError: More tokens than the vocabulary has, or no such layer.
        ModelError: No stream with a head over tokens, or no MLPs.
    """
    cfg = model.cfg
    chosen = list(range(cfg.n_layers)) if layers is None else list(layers)
    if not 1 <= k < cfg.d_vocab or not all(0 <= layer < cfg.n_layers for layer in chosen):
        raise ConfigError(
            "no such tokens or layers",
            got=f"k = {k}, layers {chosen}",
            expected=f"k below {cfg.d_vocab}, layers 0 to {cfg.n_layers - 1}",
        )
    sites = list(stream_rows(model, "resid").values())[1:]
    table = read_weights(model, "out", TokenTableConfig(k=k))
    said = table.ids.unflatten(0, (cfg.n_layers, -1))  # [layer neuron sign k]
    inputs = model.read(inputs)
    posts = [f"blocks.{layer}.mlp.hook_post" for layer in chosen]
    acts = model.capture(inputs, [*posts, *(sites[layer] for layer in chosen)])
    found, control = [], []
    for layer, post in zip(chosen, posts, strict=True):
        strength = acts.flat(post).float() * model.W.layer("W_out", layer).detach().float().norm(dim=-1)
        most = strength.abs().topk(active, dim=-1).indices.cpu()  # [pos active]
        sign = (strength.cpu().gather(-1, most) < 0).long()
        tokens = said[layer][most, sign]  # [pos active k]
        hidden = model.unembed(model.ln_final(acts.flat(sites[layer]))).topk(k, -1).indices.cpu()
        draw = generator(seed, "other positions", layer)
        shift = torch.randint(1, max(2, len(hidden)), (len(hidden),), generator=draw)
        other = hidden[(torch.arange(len(hidden)) + shift) % len(hidden)]
        found.append(_shared(tokens, hidden))
        control.append(_shared(tokens, other))
    return ActiveOverlap(
        overlap=torch.stack(found),
        control=torch.stack(control),
        k=k,
        active=active,
        n_positions=len(acts.flat(posts[0])),
        labels={"layer": [f"L{layer}" for layer in chosen]},
        provenance=model.provenance([*posts, *sites]),
    )


def _shared(tokens: Tensor, hidden: Tensor) -> Tensor:
    """Mean share of `hidden` [pos k] that is in `tokens` [pos active k]."""
    both = (tokens[..., :, None] == hidden[:, None, None, :]).any(-1)
    return both.float().mean()
