"""Lenses compared: one line per lens over the rows, on text none of them has seen."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.lenses.benchmark import LensBenchmark
from interp.plotting import basics


@renders(LensBenchmark)
def lens_benchmark(result: LensBenchmark, k: int = 10, title: str = "") -> go.Figure:
    """Draw the share of prompts whose unwritten concept is among the top k, beside its control."""
    seen, control = result.seen(k), result.seen_control(k)
    series = {f"{name} lens": row for name, row in zip(result.lenses, seen, strict=True)}
    series |= {f"{n}: other concept": row for n, row in zip(result.lenses, control, strict=True)}
    fig = basics.lines(
        result.components,
        series,
        title or f"Unwritten concepts in {len(result.items):,} prompts",
        Quantity(f"share seen in the top {k}", "0 to 1", "the row holds the concept", False),
        x_axis="row of the lens",
    )
    fig.update_yaxes(range=[0, 1.02])
    return fig
