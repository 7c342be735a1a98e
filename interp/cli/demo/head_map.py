"""Section: four numbers per head, on a random block of tokens that is repeated once."""

from __future__ import annotations

from torch import Tensor

from interp.cli.demo.scene import Scene
from interp.plotting import HeadMapConfig, Quantity, head_heatmap
from interp.reports import Item, Section

KINDS = {
    "previous token": "the head looks one token back",
    "induction": "the head looks at what followed this token before",
    "duplicate token": "the head looks at the same token before",
    "first token": "the head rests on the first token",
}


def head_map(scene: Scene) -> Section | None:
    """Where heads look, as layer-by-head maps."""
    if not scene.has_patterns:
        return None
    scores = head_scores(scene.repetition, scene.block)
    items = [
        Item(
            head_heatmap(
                scores[kind],
                f"{kind} score",
                Quantity(kind, "mean attention", higher),
                HeadMapConfig(top=1.0),
            )
        )
        for kind, higher in KINDS.items()
    ]
    read = "a list of random words" if scene.is_bundled else f"{scene.block} random tokens"
    prose = (
        f"Mean attention probability in the second reading of {read}, read twice. It has no "
        "meaning, so what a head does here it does by position and by repetition alone."
    )
    return Section("What each head does", items, prose)


def head_scores(patterns: Tensor, block: int) -> dict[str, Tensor]:
    """Four statistics of every head on a block repeated once.

    Args:
        patterns: Attention probabilities, [layer head query key] with query = key = 2 * block.
        block: Length of the block.

    Returns:
        Kind -> [layer head], each the mean attention of queries in the second half to: the key
        before; the key after the earlier occurrence (query - block + 1); the earlier occurrence
        (query - block); the first key. Source: Olsson et al. (2022), and TransformerLens's
        head detector.
    """

    def to_offset(offset: int) -> Tensor:
        return patterns.diagonal(-offset, -2, -1)[..., -block:].mean(-1)

    return {
        "previous token": to_offset(1),
        "induction": to_offset(block - 1),
        "duplicate token": to_offset(block),
        "first token": patterns[..., block:, 0].mean(-1),
    }
