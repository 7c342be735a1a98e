"""Lenses compared: one line per lens over the rows, on text none of them has seen."""

from __future__ import annotations

from typing import Literal

import plotly.graph_objects as go

from interp.core.quantity import Quantity
from interp.core.result import renders
from interp.lenses.benchmark import LensBenchmark
from interp.lenses.scores import LensScores
from interp.plotting import basics, labels

Field = Literal["kl", "cross_entropy", "agreement"]
QUANTITIES = {
    "kl": Quantity("KL(model output ‖ row)", "nats", "the row is farther from the output", False),
    "cross_entropy": Quantity("cross-entropy of the next token", "nats", "the row predicts worse", False),
    "agreement": Quantity(
        "share of positions with the model's top-1", "0 to 1", "the row says what the model says"
    ),
}


@renders(LensScores)
def lens_scores(result: LensScores, field: Field = "kl", title: str = "") -> go.Figure:
    """Draw one measure per lens and row; `field` is "kl", "cross_entropy" or "agreement"."""
    values = getattr(result, field)
    names = [f"{name} lens" for name in result.lenses]
    fig = basics.lines(
        list(range(len(result.components))),
        dict(zip(names, values, strict=True)),
        title or f"Lenses on {result.n_tokens:,} held-out tokens",
        QUANTITIES[field],
        x_axis="row of the lens",
    )
    fig.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(result.components))),
        ticktext=labels.numbered(result.components),
    )
    fig.update_yaxes(rangemode="tozero")
    return fig


@renders(LensBenchmark)
def lens_benchmark(result: LensBenchmark, k: int = 10, title: str = "") -> go.Figure:
    """Draw the share of prompts whose unwritten concept is among the top k, beside its control."""
    seen, control = result.seen(k), result.seen_control(k)
    series = {f"{name} lens": row for name, row in zip(result.lenses, seen, strict=True)}
    series |= {f"{n}: other concept": row for n, row in zip(result.lenses, control, strict=True)}
    fig = basics.lines(
        list(range(len(result.components))),
        series,
        title or f"Unwritten concepts in {len(result.items):,} prompts",
        Quantity(f"share seen in the top {k}", "0 to 1", "the row holds the concept", False),
        x_axis="row of the lens",
    )
    fig.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(result.components))),
        ticktext=labels.numbered(result.components),
    )
    fig.update_yaxes(range=[0, 1.02])
    return fig
