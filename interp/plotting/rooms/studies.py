"""Studies: what one unit does on rows of either class."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.plotting import labels, theme
from interp.studies.sentiment_unit import UnitResult


@renders(UnitResult)
def unit_histogram(result: UnitResult, title: str = "") -> go.Figure:
    """What the unit does on rows of either class, and the threshold between them."""
    fig = theme.figure(
        title or f"Unit {result.unit} and {labels.plain(result.target, 50)}",
        Quantity(
            "rows",
            f"count; the unit alone is right on {float(result.unit_accuracy):.1%}, "
            f"all units on {float(result.full_accuracy):.1%}",
            "",
        ),
        712,
        400,
    )
    low, high = float(result.values.min()), float(result.values.max())
    bins = {"start": low, "end": high + 1e-9, "size": (high - low) / 40 or 1.0}
    for code, name in enumerate(result.classes):
        own = theme.as_array(result.values[result.label == code], 1, "unit")
        shown = labels.plain(name, 30)
        fig.add_trace(
            go.Histogram(
                x=theme.packed(own),
                name=shown,
                xbins=bins,
                opacity=0.6,
                marker={"color": theme.LINES[code]},
                hovertemplate=f"{labels.hover(shown)} · %{{y}} rows at %{{x}}{labels.NO_NAME}",
            )
        )
    fig.add_vline(x=result.threshold, line={"dash": "dot", "color": theme.INK, "width": 2})
    fig.update_layout(barmode="overlay", bargap=0)
    fig.update_xaxes(title_text=f"unit {result.unit}")
    fig.update_yaxes(title_text="rows", showgrid=True)
    return fig
