"""Layer-by-head maps: patching effects, head statistics, attribution per head."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity
from interp.plotting import basics, theme
from interp.plotting.config import HeadMapConfig


def head_heatmap(
    scores: object, title: str, quantity: Quantity | None = None, config: HeadMapConfig | None = None
) -> go.Figure:
    """Heat map of one number per head, layer 0 on top as in TransformerLens's pictures.

    Args:
        scores: Shape [layer head]; NaN where a layer has fewer heads.
        title: Title.
        quantity: What the scores are; values outside its usual range are drawn, never clipped.
        config: Cell text, row labels, sign colours.

    Raises:
        ShapeError: not two axes, or row labels that do not match.
    """
    quantity = quantity or Quantity("score")
    config = config or HeadMapConfig()
    array = theme.as_array(scores, 2, "head map")
    n_layers, n_heads = array.shape
    fig = basics.heatmap(
        array,
        title,
        quantity,
        rows=config.layer_labels or [f"L{layer}" for layer in range(n_layers)],
        columns=[f"H{head}" for head in range(n_heads)],
        row_axis="layer",
        column_axis="head",
    )
    if config.top is not None and not theme.is_signed(array, quantity):
        fig.update_traces(zmax=max(config.top, float(array[array == array].max(initial=0.0))))
    if config.cell_text is False:
        fig.update_traces(text=None, texttemplate=None)
    if config.cell_text is True:
        fig.update_traces(text=[[f"{v:.2f}" for v in row] for row in array], texttemplate="%{text}")
    if config.sign_colors == "red-positive" and theme.is_signed(array, quantity):
        flipped = [(1 - at, color) for at, color in reversed(theme.SIGNED)]
        fig.update_traces(colorscale=flipped)
        below = quantity.sentence + " (red +, blue −)"
        width = fig.to_dict()["layout"]["width"]
        fig.update_layout(title_subtitle_text=theme.subtitle(below, width))
    return fig
