"""Section: attention patterns on the text."""

from __future__ import annotations

from interp.cli.demo.head_map import head_scores
from interp.cli.demo.scene import Scene
from interp.plotting import AttentionConfig, attention_patterns
from interp.reports import Item, Section

INDUCES = 0.3
"""Share of a head's attention from which one speaks of an induction head."""
MOST = 32
"""Patterns on one page; a larger model shows its heads of the highest induction score."""


def attention(scene: Scene) -> Section | None:
    """A thumbnail per head and one head large."""
    if not scene.has_patterns:
        return None
    induction = head_scores(scene.repetition, scene.block)["induction"].flatten()
    best = induction.argsort(descending=True, stable=True)
    shown = sorted(best[:MOST].tolist())
    n_heads = scene.patterns.shape[1]
    names = [f"L{index // n_heads}H{index % n_heads}" for index in shown]
    figure = attention_patterns(
        scene.patterns.flatten(0, 1)[shown],
        scene.tokens,
        names=names,
        config=AttentionConfig(selected=shown.index(int(best[0])), causal=scene.model.cfg.causal),
    )
    name, score = names[shown.index(int(best[0]))], float(induction[best[0]])
    prose = (
        "Rows are queries, columns keys: a strong colour means that the row's token reads from the "
        f"column's. Shown large first: {name}, the head with the highest induction score, {score:.2f}"
        + (
            "."
            if score >= INDUCES
            else f", which is little: none of these heads reads what followed its token before "
            f"({INDUCES:g} or more of its attention)."
        )
    )
    if len(induction) > MOST:
        prose += f" Of {len(induction)} heads, the {MOST} highest by that score are shown."
    return Section("Where heads look", [Item(figure)], prose)
