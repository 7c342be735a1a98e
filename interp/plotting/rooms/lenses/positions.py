"""Position and context: shares by layer, the curve of the positions, and their cosines."""

from __future__ import annotations

from typing import Literal

import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.lenses.positions.attention import AttentionParts
from interp.lenses.positions.states import PositionContext
from interp.plotting import basics, labels, theme


@renders(PositionContext)
def position_context(
    result: PositionContext,
    kind: Literal["shares", "curve", "gram"] = "shares",
    layer: int = -1,
    title: str = "",
) -> go.Figure:
    """Draw shares of variance per layer, or one layer's positions as a curve or by cosine."""
    layer = range(len(result.sites))[layer]
    where = labels.sites(result.sites)[layer]
    if kind == "gram":
        cosines = result.gram(layer)
        names = [str(result.first + i) for i in range(len(cosines))]
        quantity = Quantity("cosine of position vectors", "", "the positions look alike", True)
        return basics.heatmap(
            cosines,
            title or f"Positions at {where}",
            quantity,
            rows=names,
            columns=names,
            row_axis="position",
            column_axis="position",
        )
    if kind == "curve":
        return _curve(result, layer, title or f"The curve of positions at {where}")
    series = {"position": result.share_pos, "context": result.share_ctx, "neither": result.share_resid}
    fig = basics.lines(
        labels.sites(result.sites),
        series,
        title or "What the stream's variance is made of",
        Quantity("share of variance", "0 to 1", "more of the states is this", False),
    )
    fig.update_yaxes(range=[0, 1])
    return fig


@renders(AttentionParts)
def attention_parts(result: AttentionParts, title: str = "") -> go.Figure:
    """Draw, per head, the share of every pair of parts; columns query part × key part."""
    pairs = [f"{a}×{b}" for a in result.labels["query_part"] for b in result.labels["key_part"]]
    return basics.heatmap(
        result.share.flatten(1),
        title or f"What meets what in the attention of layer {result.layer}",
        Quantity("share of the scores' variance", "", "the pair decides where heads look", True),
        rows=result.labels["head"],
        columns=pairs,
        row_axis="head",
        column_axis="part of the query × part of the key",
    ).update_xaxes(tickangle=-40)


def _curve(result: PositionContext, layer: int, title: str) -> go.Figure:
    points = result.plane(layer).cpu().numpy()
    quantity = Quantity("position vectors in their two leading directions; colour: position")
    fig = theme.figure(title, quantity, 560, 520)
    numbers = list(range(result.first, result.first + len(points)))
    fig.add_trace(
        go.Scatter(
            x=theme.packed(points[:, 0]),
            y=theme.packed(points[:, 1]),
            mode="lines+markers",
            line={"color": theme.GRID, "width": 1},
            customdata=numbers,
            marker={
                "color": numbers,
                "colorscale": theme.PROBABILITY,
                "size": 7,
                "colorbar": theme.colorbar(Quantity("position"), 360),
            },
            hovertemplate="position %{customdata}" + labels.NO_NAME,
        )
    )
    fig.update_xaxes(title_text="first direction", showgrid=True)
    fig.update_yaxes(title_text="second direction", showgrid=True, scaleanchor="x")
    return fig
