"""Attention scores split by what meets what: positions, contexts, and the rest of two states.

What a head reads is μ + pos + ctx + rest, its queries and keys are linear in that, so a score is a
sum over pairs of parts. Where position meets position, the head looks at places; where the rest
meets the rest, at words.
Source: Song and Zhong 2024 (arXiv 2310.04861), section 5: interplay of positions and contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ModelError
from interp.core.result import Result
from interp.lenses.reading import whole_rows
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import wide

QUERY = ("mean", "position", "context", "rest")
"""Parts of a query; its bias counts with the mean."""
KEY = ("position", "context", "rest")


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionParts(Result):
    """Shares of the variance of attention scores over keys, by parts of query and key."""

    share: Float[Tensor, "head query_part key_part"]
    """Covariance of a part with the whole score over its variance; sums to one per head."""
    gap: Float[Tensor, ""]
    """Largest difference of the sum of parts from the model's scores, relative to their spread."""
    layer: int
    """Block of the heads."""

    def check(self) -> Checks:
        """The parts add up to the scores, and the shares to one."""
        total = (self.share.sum((1, 2)) - 1).abs().max()
        return Checks(
            [
                Check.at_most("sum of parts = scores", self.gap, 1e-3),
                Check.at_most("shares sum to one", total, 1e-3),
            ]
        )


@torch.no_grad()
def split_attention(
    model: HookedModel, inputs: Any, layer: int, *, first: int = 1, batch_size: int = 32
) -> AttentionParts:
    """Split one layer's attention scores over texts of one length.

    A constant per query moves no attention, so scores are centred over the keys that a query may
    see; the mean state and the bias of the keys are such constants.

    Args:
        inputs: Texts or ids [context pos] of one length.
        layer: Block.
        first: First position that counts, as query and as key; 1 leaves a sink at 0 out.

    Raises:
        ConfigError: No such layer, fewer than two texts, or too few positions.
        ModelError: Scores are more than products of queries and keys (rotary, relative, ALiBi).
    """
    inputs = whole_rows(model, inputs)
    cfg = model.cfg
    n_pos = inputs.shape[-1] - first
    if not 0 <= layer < cfg.n_layers or inputs.ndim != 2 or len(inputs) < 2 or n_pos < 3:
        raise ConfigError(
            "attention cannot be split here",
            got=f"layer {layer}, tokens {list(inputs.shape)}",
            expected=f"layers 0 to {cfg.n_layers - 1}, two texts of {first + 3} tokens",
        )
    sites = [f"blocks.{layer}.attn.hook_{name}" for name in ("q", "k", "attn_scores")]
    missing = [name for name in sites if name not in model.sites]
    if missing:
        raise ModelError(f"{cfg.model_name} does not give its scores", got=f"no site {', '.join(missing)}")
    acts = [model.capture(rows, sites) for rows in inputs.split(batch_size)]
    q, k = (torch.cat([wide(a[name][:, first:]) for a in acts]).cpu() for name in sites[:2])
    scores = torch.cat([wide(a[sites[2]][:, :, first:, first:]) for a in acts]).cpu()
    seen = torch.ones(n_pos, n_pos, dtype=torch.bool)
    seen = seen.tril() if cfg.causal else seen
    seen[seen.sum(1) < 2] = False  # a single key has no variance
    share, gap = _split(q, k.repeat_interleave(q.shape[2] // k.shape[2], 2), scores, seen)
    if gap > 1e-2:
        raise ModelError(
            f"attention scores of {cfg.model_name} are no products of these queries and keys",
            got=f"a difference of {gap:.2g} of their spread",
            expected="positions in the stream; not rotary, relative, or with a bias per distance",
        )
    return AttentionParts(
        share=share,
        gap=torch.tensor(gap),
        layer=layer,
        labels={
            "head": [f"L{layer}H{head}" for head in range(len(share))],
            "query_part": list(QUERY),
            "key_part": list(KEY),
        },
        provenance=model.provenance(sites),
    )


def _split(q: Tensor, k: Tensor, scores: Tensor, seen: Tensor) -> tuple[Tensor, float]:
    """Shares [head query_part key_part] and the largest gap, from queries and keys
    [context pos head d_head], which are linear in the state: their parts are its parts' images."""
    queries, keys = _parts(q), _parts(k)[1:]
    together = torch.zeros(q.shape[2], len(QUERY), len(KEY), dtype=torch.float64)
    spread = torch.zeros(q.shape[2], dtype=torch.float64)
    gap = 0.0
    for context in range(len(q)):
        parts = [[_product(_row(a, context), _row(b, context), seen) for b in keys] for a in queries]
        total = torch.stack([part for row in parts for part in row]).sum(0)
        own = _centred(scores[context], seen)
        scale = (total * own).sum() / total.square().sum().clamp(min=1e-30)  # 1 / sqrt(d_head)
        gap = max(gap, float((scale * total - own).abs().max() / own.std().clamp(min=1e-12)))
        spread += total.double().square().sum((1, 2))
        for i, row in enumerate(parts):
            for j, part in enumerate(row):
                together[:, i, j] += (part.double() * total.double()).sum((1, 2))
    return (together / spread.clamp(min=1e-30)[:, None, None]).float(), gap


def _parts(x: Tensor) -> Sequence[Tensor]:
    """Mean, position, context and rest of [context pos head d_head], broadcastable to it."""
    mean = x.mean((0, 1), keepdim=True)
    pos, ctx = x.mean(0, keepdim=True) - mean, x.mean(1, keepdim=True) - mean
    return mean, pos, ctx, x - mean - pos - ctx


def _row(part: Tensor, context: int) -> Tensor:
    """One context's [pos or 1, head, d_head]."""
    return part[context if part.shape[0] > 1 else 0]


def _product(q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
    """Centred scores [head query key] of two parts [pos or 1, head, d_head]."""
    scores = torch.einsum("qhd,khd->hqk", q, k)
    return _centred(scores.expand(-1, *seen.shape), seen)


def _centred(scores: Tensor, seen: Tensor) -> Tensor:
    """Scores [head query key] less their mean over the keys seen; 0 elsewhere."""
    scores = torch.where(seen, scores, 0.0)
    mean = scores.sum(-1, keepdim=True) / seen.sum(-1).clamp(min=1)[:, None]
    return torch.where(seen, scores - mean, 0.0)
