"""What a pass makes on its way, known from shapes before it runs."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch

from interp.models.hooked import HookedModel


class Pass(NamedTuple):
    """What one row makes on its way through the sites behind one of them, in bytes.

    Attributes:
        stream: Activations that grow with the row's length, of all layers together.
        pairs: Attention scores and patterns, which grow with its square, of all layers together.
        fused: Whether attention runs without making scores and patterns, unless they are asked for.
        n_blocks: How many blocks that is; what nobody keeps is there one block at a time.
        site: The site itself.
        logits: Logits of one position.
    """

    stream: int
    pairs: int
    fused: bool
    n_blocks: int
    site: int
    logits: int


def pass_bytes(model: HookedModel, pos: int, at: str | None = None) -> Pass:
    """Sizes of a pass of one row from a site on; sites that only a run measures count as 0.

    Args:
        pos: Positions of the row.
        at: The site; None counts all of them.
    """
    sites, cfg = model.sites, model.cfg
    names = list(sites)
    wide = getattr(torch, cfg.dtype or "float32").itemsize
    behind = names[names.index(at) :] if at in names else names
    by_order, blocks = [0, 0, 0], set[str]()
    for name in behind:
        volume = sites[name].volume
        if volume is None:
            continue
        known, _, positions = volume
        by_order[min(positions, 2)] += wide * known * pos**positions
        block = re.match(r".*blocks\.\d+\.", name)
        if block:
            blocks.add(block[0])
    own = sites[at].volume if at in names else None
    return Pass(
        stream=by_order[1],
        pairs=by_order[2],
        fused=_is_fused(model, at),
        n_blocks=max(1, len(blocks)),
        site=0 if own is None else wide * own[0] * pos ** own[2],
        logits=wide * (cfg.d_vocab_out or cfg.d_vocab) if model.has_head else 0,
    )


def _is_fused(model: HookedModel, at: str | None) -> bool:
    """Whether attention is torch's own: not written out, and nobody changes what is inside."""
    own = [getattr(config, "_attn_implementation_internal", None) for config in model.adapter.configs]
    return "eager" not in own and (at or "").rpartition(".")[2] not in ("hook_attn_scores", "hook_pattern")
