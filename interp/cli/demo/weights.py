"""Section: what the weights alone say, before the model reads anything."""

from __future__ import annotations

from interp.cli.demo.scene import Scene
from interp.core.errors import ModelError
from interp.lenses import TokenTableConfig, find_heads, neuron_atlas, read_pairs
from interp.reports import Item, Section

WORK = 2e11
"""Multiplications that this section may spend on neurons: a few seconds."""


def weights(scene: Scene) -> Section | None:
    """Heads by what their matrices recall; neurons, or OV circuits where there are no MLPs."""
    model = scene.model
    try:
        items = [Item(find_heads(model, n_tokens=256), prose=HEADS)]
        if model.cfg.d_mlp and not model.cfg.attn_only:
            per_layer = 3 * model.cfg.d_mlp * model.cfg.d_model * model.cfg.d_vocab
            n = max(1, min(model.cfg.n_layers, int(WORK / max(per_layer, 1))))
            layers = range(model.cfg.n_layers - n, model.cfg.n_layers)
            items.append(Item(neuron_atlas(model, layers=list(layers)), prose=NEURONS))
        else:
            config = TokenTableConfig(k=8)
            items.append(Item(read_pairs(model, "OV", config=config), prose=PAIRS))
    except ModelError:
        return None
    return Section("What the weights say", items, PROSE)


PROSE = "Nothing was run for these pictures: they are products of weight matrices."
HEADS = (
    "A head's matrices are memories: given a position, which position do they bring back; given a "
    "token, which token? The menu changes the question. An induction circuit needs a head that "
    "recalls the position before, a later head that matches what it wrote, and an output that "
    "copies. Source: Bietti et al., Birth of a Transformer (2023)."
)
NEURONS = (
    "Each row is what a neuron reads (`in`, `gate`) or writes (`out`), as tokens; the rows that "
    "stand out most come first. Source: Davies, Decoding specialised feature neurons (2025)."
)
PAIRS = (
    "Each row is a head: attending to the left token, it makes the right one more likely. Pairs "
    "of a token with itself mean that the head copies."
)
