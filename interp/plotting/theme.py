"""One look for every picture: a 0.5 KB template that is legible on light and on dark ground.

Signed values are blue where positive and red where negative, symmetric about 0; unsigned values use
one sequential scale from 0. All scales are explicit lists, because plotly.py and plotly.js disagree
about the direction of the one named "RdBu".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import ShapeError
from interp.core.frames.quantity import Quantity
from interp.plotting.labels import BR, ELLIPSIS, escape_label, plain, prose

CHAR = 6.6  # pixels to reserve per character of a 12 px label
LINE = 22  # pixels of one line of a legend
HEADER = 88  # pixels above the plot: title and two lines below it
INK = "#6f7680"
GRID = "rgba(128,136,148,0.22)"
MARK = "#e8590c"
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'Liberation Mono', monospace"

Scale = list[tuple[float, str]]
"""A colour scale of plotly: places from 0 to 1, each with its colour."""

_RED, _BLUE = "#b2332e", "#1f65ad"
SIGNED: Scale = [(0.0, _RED), (0.25, "#ec9a7d"), (0.5, "#f6f6f4"), (0.75, "#88b9dc"), (1.0, _BLUE)]
SEQUENTIAL: Scale = [
    (0.0, "#f4f7fb"),
    (0.25, "#c5daee"),
    (0.5, "#7fb2da"),
    (0.75, "#377fbc"),
    (1.0, "#0b3d7a"),
]
PROBABILITY: Scale = [
    (0.0, "#440154"),
    (0.25, "#3b528b"),
    (0.5, "#21918c"),
    (0.75, "#5ec962"),
    (1.0, "#fde725"),
]
# Okabe-Ito, without black and yellow, which vanish on one of the two grounds.
LINES = ("#1b7fc4", "#d9730d", "#109873", "#c65b99", "#8a6fd1", "#b08900")

_AXIS = {
    "showgrid": False,
    "zeroline": False,
    "linecolor": GRID,
    "gridcolor": GRID,
    "ticks": "",
    "automargin": True,
    "ticklabelstandoff": 4,
    "title": {"standoff": 10, "font": {"size": 12}},
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "title": {"x": 0, "xref": "container", "xanchor": "left", "font": {"size": 16, "weight": 600}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": list(LINES),
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"align": "left", "font": {"family": MONO, "size": 12}},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    }
)


def figure(title: str, quantity: Quantity | None, width: int, height: int) -> go.Figure:
    """An empty figure of fixed size in pixels, with title and the quantity's sentence below it."""
    below = subtitle(quantity.sentence if quantity is not None else "", width)
    fig = go.Figure()
    fig.update_layout(
        template=TEMPLATE,
        width=width,
        height=height,
        margin={"l": 64, "r": 24, "t": HEADER, "b": 56},
        title={
            "text": plain(title),
            "subtitle": {"text": below, "font": {"size": 12}},
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 12, "l": 8},
        },
    )
    return fig


def room_for_legend(fig: go.Figure, names: Sequence[str]) -> go.Figure:
    """Show a legend where there are several names, with as many lines above the plot as it takes.

    Plotly gives every entry the width of the longest once they do not fit into one line.
    """
    widths = [48 + CHAR * len(name) for name in names]
    layout: Any = fig.layout
    room, rows = layout.width - 88, int(len(names) > 1)
    if rows and sum(widths) > room:
        rows = math.ceil(len(names) / max(1, int(room / max(widths))))
    grown = layout.height + LINE * max(0, rows - 1)
    return fig.update_layout(showlegend=rows > 0, margin_t=HEADER + LINE * rows, height=grown)


def subtitle(sentence: str, width: int) -> str:
    """The sentence below a title, in at most two lines that fit `width` pixels."""
    lines = wrap(prose(sentence, 240), max(20, int((width - 16) / CHAR)))
    if len(lines) > 2:
        lines = [lines[0], lines[1][:-1] + ELLIPSIS]
    return BR.join(escape_label(line) for line in lines)


def scale(values: np.ndarray, quantity: Quantity, probability: bool = False) -> dict[str, Any]:
    """`zmin`, `zmax`, `zmid` and `colorscale` for heat-map values (any shape).

    Signed: symmetric about 0. Unsigned: from 0 (or the minimum, when that is below 0).
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if is_signed(values, quantity):
        reach = max(abs(low), abs(high)) or 1.0
        return {"zmin": -reach, "zmax": reach, "zmid": 0, "colorscale": SIGNED}
    low = min(low, 0.0)
    high = high if high > low else low + 1.0
    return {"zmin": low, "zmax": high, "colorscale": PROBABILITY if probability else SEQUENTIAL}


def is_signed(values: np.ndarray, quantity: Quantity) -> bool:
    """Whether the diverging scale applies: as told, else when a value is negative."""
    if quantity.signed is not None:
        return quantity.signed
    return bool(np.nanmin(values, initial=0.0) < 0)


def colorbar(quantity: Quantity, length: int, **extra: Any) -> dict[str, Any]:
    """A slim colour bar, `length` pixels tall, titled with the quantity where that fits.

    Few rows leave no room for a scale of ticks: then the bar shows its two ends.
    """
    fitting = [text for text in (quantity.axis, quantity.name) if len(text) * CHAR <= length]
    text = plain(fitting[0]) if fitting else ""
    return {
        "title": {"text": text, "side": "right", "font": {"size": 12}},
        "thickness": 12,
        "outlinewidth": 0,
        "len": 1,
        "xpad": 8,
        "tickfont": {"size": 11},
        "nticks": 2 if length < 100 else 6,
    } | extra


def menu(buttons: list[dict[str, Any]], active: int = 0, **place: Any) -> dict[str, Any]:
    """A row of buttons above the picture. Plotly's hover colour is fixed and light, so the buttons
    bring their own ground and ink and read the same on a dark page."""
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": buttons,
        "active": active,
        "showactive": True,
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"l": 0, "b": 6, "t": 0, "r": 0},
        "bgcolor": "#e8ecf1",
        "bordercolor": "#c3cad3",
        "borderwidth": 1,
        "font": {"size": 11, "color": "#1f2733"},
    } | place


def as_array(values: Any, ndim: int, what: str) -> np.ndarray:
    """Float64 numpy copy of a tensor, array or nested list with `ndim` axes.

    Raises:
        ShapeError: another number of axes, or no elements.
    """
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or array.size == 0:
        raise ShapeError(
            f"{what} cannot be drawn",
            got=f"shape {array.shape}",
            expected=f"{ndim} non-empty axes",
            fix="select or reduce the other axes first",
        )
    return array


def packed(values: np.ndarray) -> np.ndarray:
    """Float32, half of what plotly would write into the page; pictures show three digits."""
    return values.astype(np.float32)
