"""The plain pictures: heat map, lines with bands, bars, bars in groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import ShapeError
from interp.core.frames.quantity import Quantity
from interp.plotting import labels, theme

MAX_TEXT_CELLS = 256
SIGN_LEGEND = "blue +, red −"


def heatmap(
    values: object,
    title: str,
    quantity: Quantity,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    row_axis: str = "row",
    column_axis: str = "column",
    first_row: str = "top",
) -> go.Figure:
    """Heat map of `values` [row column]; NaN cells stay blank.

    Args:
        values: Array or tensor, shape [row column].
        title: Title.
        quantity: What the values are.
        rows: Row labels (any text; repeated labels stay apart); default: indices.
        columns: Column labels.
        row_axis: Name of the vertical axis.
        column_axis: Name of the horizontal axis.
        first_row: "top" or "bottom".

    Raises:
        ShapeError: not two axes, or labels that do not match.
    """
    array = theme.as_array(values, 2, "heat map")
    row_names = _names(rows, array.shape[0], row_axis)
    column_names = _names(columns, array.shape[1], column_axis)
    cell_h, cell_w = _cell_size(array.shape)
    n_rows, n_columns = array.shape
    signed = theme.is_signed(array, quantity)
    needed = 190 + cell_w * n_columns
    width = max(560, needed)  # room for the subtitle; cells keep their size
    fig = theme.figure(title, _legend(quantity, signed), width, 144 + cell_h * n_rows)
    with_text = array.size <= MAX_TEXT_CELLS and cell_w >= 34
    trace = go.Heatmap(
        z=theme.packed(array),
        customdata=[
            [
                _cell_hover(row, column, value, quantity, signed)
                for column, value in zip(column_names, line, strict=True)
            ]
            for row, line in zip(row_names, array, strict=True)
        ],
        hovertemplate="%{customdata}" + labels.NO_NAME,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        name=labels.plain(quantity.axis, 80),
        colorbar=theme.colorbar(quantity, cell_h * n_rows),
        **theme.scale(array, quantity),
    )
    if with_text:
        trace.text = [[_short(value) for value in line] for line in array]
        trace.texttemplate = "%{text}"
        trace.textfont = {"size": 11}
    fig.add_trace(trace)
    fig.update_xaxes(title_text=labels.plain(column_axis), **_axis_ticks(column_names, cell_w))
    fig.update_yaxes(title_text=labels.plain(row_axis), **_axis_ticks(row_names, cell_h))
    fig.update_yaxes(autorange="reversed" if first_row == "top" else True, tickangle=0)
    fig.update_layout(margin_r=24 + width - needed)
    return _slanted(fig, column_names, cell_w)


def lines(
    x: Sequence[float | int | str],
    series: Mapping[str, object],
    title: str,
    quantity: Quantity,
    *,
    x_axis: str = "layer",
    bands: Mapping[str, tuple[object, object]] | None = None,
    reference: Mapping[str, float] | None = None,
    nulls: Collection[str] = (),
) -> go.Figure:
    """Lines over a shared axis, with confidence bands and named reference levels (chance, control).

    Args:
        x: Coordinates, or names of the places, length n.
        series: Name to values, each of length n; NaN interrupts the line.
        title: Title.
        quantity: What the values are; an unsigned quantity begins at 0.
        x_axis: Name of the horizontal axis.
        bands: Name of a series to its (low, high) values, each of length n.
        reference: Name to level, drawn as dotted horizontals.
        nulls: Names of the series that say what chance gives; they are dotted.

    Raises:
        ShapeError: a series whose length is not that of `x`.
    """
    fig = theme.figure(title, quantity, 712, 400)
    names = [str(place) for place in x] if any(isinstance(place, str) for place in x) else None
    at: list[Any] = list(range(len(x))) if names else list(x)
    for index, (name, values) in enumerate(series.items()):
        array = _of_length(values, len(at), name)
        color = theme.LINES[index % len(theme.LINES)]
        if bands and name in bands:
            fig.add_trace(_band(at, bands[name], color))
        fig.add_trace(
            go.Scatter(
                x=at,
                y=array,
                name=labels.plain(name, 40),
                mode="lines+markers",
                line={"color": color, "width": 2, "dash": "dot" if name in nulls else "solid"},
                marker={"size": 5},
                meta=[labels.plain(x_axis), labels.plain(name, 40)],
                hovertemplate="%{meta[0]} %{x} · %{meta[1]} · %{y:.4g}" + labels.NO_NAME,
            )
        )
    for name, level in (reference or {}).items():
        fig.add_hline(
            y=level,
            line={"dash": "dot", "color": theme.INK, "width": 1},
            annotation={"text": labels.plain(name, 40), "font": {"size": 11}},
            annotation_position="bottom right",
        )
    fig.update_xaxes(title_text=labels.plain(x_axis))
    fig.update_yaxes(title_text=labels.plain(quantity.axis), showgrid=True)
    if quantity.signed is False:
        fig.update_yaxes(rangemode="tozero")
    theme.room_for_legend(fig, [labels.plain(name, 40) for name in series])
    return fig if names is None else named_ticks(fig, names)


MOST_TURNED = 40
"""Names of 14 px each, written upwards, below a figure of usual width."""


def named_ticks(fig: go.Figure, names: Sequence[str]) -> go.Figure:
    """Names below the places 0, 1, ... of the horizontal axis: all that fit, turned if need be."""
    every = max(1, -(-len(names) // MOST_TURNED))
    at = list(range(0, len(names), every))
    fig.update_xaxes(tickmode="array", tickvals=at, ticktext=[labels.plain(names[i], 24) for i in at])
    return fig.update_xaxes(range=[-0.3, max(len(names) - 0.7, 0.3)])


def bars(values: object, names: Sequence[str], title: str, quantity: Quantity) -> go.Figure:
    """Horizontal bars, first on top: one per name. `values` has shape [name]; blue +, red −."""
    array = theme.as_array(values, 1, "bar chart")
    shown = _names(names, len(array), "bars")
    signed = theme.is_signed(array, quantity)
    negative, positive = theme.SIGNED[0][1], theme.SIGNED[-1][1]
    fig = theme.figure(title, _legend(quantity, signed), 712, 150 + 22 * len(array))
    fig.add_trace(
        go.Bar(
            x=theme.packed(array),
            y=list(range(len(array))),
            orientation="h",
            marker={"color": [negative if value < 0 else positive for value in array]},
            customdata=[
                labels.hover(f"{name} · {labels.number(value, signed)}")
                for name, value in zip(shown, array, strict=True)
            ],
            hovertemplate="%{customdata}" + labels.NO_NAME,
        )
    )
    fig.update_xaxes(
        title_text=labels.plain(quantity.axis), showgrid=True, zeroline=True, zerolinecolor=theme.INK
    )
    fig.update_yaxes(autorange="reversed", **_axis_ticks(shown, 22))
    return fig


def grouped_bars(
    groups: Mapping[str, object],
    names: Sequence[str],
    title: str,
    quantity: Quantity,
    *,
    bands: Mapping[str, tuple[object, object]] | None = None,
    marks: Mapping[str, object] | None = None,
    nulls: Collection[str] = (),
) -> go.Figure:
    """Horizontal bars in groups, first on top: one group per name, in it one bar per series.

    Args:
        groups: Series to its values [name]; NaN leaves a bar out.
        names: Names of the groups.
        title: Title.
        quantity: What the values are.
        bands: Series to its (low, high) values, drawn as whiskers.
        marks: Name of a level to its values [name], dotted across each group.
        nulls: Names of the series that say what chance gives; they are grey.

    Raises:
        ShapeError: a series or a level without one value per name.
    """
    shown = [labels.plain(str(name), 52) for name in names]
    signed = quantity.signed is True
    fig = theme.figure(title, quantity, 712, 150 + (14 + 18 * len(groups)) * len(shown))
    for index, (name, values) in enumerate(groups.items()):
        array = _of_length(values, len(shown), name)
        hover = [f"{labels.plain(name, 40)} · {labels.number(value, signed)}" for value in array]
        color = theme.INK if name in nulls else theme.LINES[index % len(theme.LINES)]
        fig.add_trace(
            go.Bar(
                x=theme.packed(array),
                y=list(range(len(shown))),
                orientation="h",
                name=labels.plain(name, 40),
                marker={"color": color, "opacity": 0.5 if name in nulls else 0.85},
                error_x=_whiskers(array, bands[name]) if bands and name in bands else None,
                customdata=[labels.hover(a, b) for a, b in zip(shown, hover, strict=True)],
                hovertemplate="%{customdata}" + labels.NO_NAME,
            )
        )
    for name, levels in (marks or {}).items():
        for at, level in enumerate(_of_length(levels, len(shown), name)):
            line = {"dash": "dot", "color": theme.INK, "width": 2}
            fig.add_shape(type="line", x0=level, x1=level, y0=at - 0.45, y1=at + 0.45, line=line)
    fig.update_xaxes(title_text=labels.plain(quantity.axis), showgrid=True, zeroline=True)
    fig.update_yaxes(autorange="reversed", tickmode="array")
    fig.update_yaxes(tickvals=list(range(len(shown))), ticktext=shown)
    fig.update_layout(barmode="group", bargap=0.25)
    return theme.room_for_legend(fig, [labels.plain(name, 40) for name in groups])


def _whiskers(values: np.ndarray, band: tuple[object, object]) -> dict[str, Any]:
    low, high = (_of_length(edge, len(values), "band") for edge in band)
    ends = {"array": theme.packed(high - values), "arrayminus": theme.packed(values - low)}
    return ends | {"type": "data", "symmetric": False, "color": theme.INK, "thickness": 1, "width": 3}


def _slanted(fig: go.Figure, names: Sequence[str], size: int) -> go.Figure:
    """Names below a map at an angle, with room of their own, where they are wider than a cell."""
    widest = max(len(labels.unescape(name)) for name in names)
    if widest * theme.CHAR <= size:
        return fig
    layout: Any = fig.layout
    return fig.update_xaxes(tickangle=-45).update_layout(height=int(layout.height) + 5 * widest)


def _legend(quantity: Quantity, signed: bool) -> Quantity:
    """The quantity, saying which colour is which where two are used."""
    if not signed:
        return quantity
    return replace(quantity, higher=f"{quantity.higher or 'larger'} ({SIGN_LEGEND})")


def _band(x: Sequence[float | int], band: tuple[object, object], color: str) -> go.Scatter:
    low, high = (_of_length(edge, len(x), "band") for edge in band)
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        opacity=0.2,
        fillcolor=color,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def _names(names: Sequence[str] | None, n: int, axis: str) -> list[str]:
    if names is None:
        return [str(index) for index in range(n)]
    if len(names) != n:
        raise ShapeError(f"labels of the {axis} axis do not fit", got=f"{len(names)} labels", expected=n)
    return [labels.label(str(name), 32) for name in names]


def _of_length(values: object, n: int, name: str) -> np.ndarray:
    array = theme.as_array(values, 1, f"line {name!r}")
    if len(array) != n:
        raise ShapeError(f"line {name!r} does not fit its axis", got=len(array), expected=n)
    return array


def _axis_ticks(names: Sequence[str], size: int) -> dict[str, Any]:
    """Every label where there is room for 14 px, else every k-th."""
    every = max(1, -(-14 // size))
    at = list(range(0, len(names), every))
    return {"tickmode": "array", "tickvals": at, "ticktext": [names[i] for i in at]}


def _cell_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a cell in pixels: a big matrix stays within about 900 pixels."""
    height = min(30, max(4, 640 // shape[0]))
    width = min(46, max(4, 900 // shape[1]))
    return height, width


def _cell_hover(row: str, column: str, value: float, quantity: Quantity, signed: bool) -> str:
    amount = f"{labels.plain(quantity.name)} {labels.number(value, signed)}"
    return labels.hover(f"{row} · {column}", amount)


def _short(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"


def subtitled(fig: go.Figure, sentence: str) -> go.Figure:
    """A sentence below the title, broken to the picture's width."""
    layout: Any = fig.layout
    fig.update_layout(title_subtitle_text=theme.subtitle(sentence, int(layout.width)))
    return fig
