"""The picture of any result that has no renderer of its own, from what its fields declare.

Two axes are a map, an ordered axis carries lines with bands, named places are bars; what chance
gives stands beside all of them. `interp.core.frames.quantity` is where a field says which it is.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor

from interp.core.frames.quantity import Drawn, Quantity
from interp.core.result import Result, renders
from interp.plotting import basics, labels, theme
from interp.plotting.view import View

MAX_BARS = 40
MAX_LINES = len(theme.LINES)


@renders(Result)
def plot_result(
    result: Result,
    field: str | None = None,
    quantity: Quantity | None = None,
    title: str | None = None,
    **cut: int | str,
) -> go.Figure:
    """Draw one field and what belongs beside it.

    Args:
        result: Any result.
        field: Field to draw; default the first that says what it measures, else the first that has
            one or two axes left.
        quantity: What the field is; default what it declares, else its name.
        title: Title; default the result's headline.
        **cut: Axis name to the index or the name at which it is cut, e.g. `layer=3`.

    Raises:
        ConfigError: an unknown field, axis or place, or a field with more than two axes left.
    """
    view = View(result, cut)
    field = view.choose(field)
    heading = title or " · ".join([result.headline, *view.cut_at])
    quantity = quantity or result.quantity(field)
    drawn = view.declared.get(field, Drawn())
    axes = view.axes(field)
    if not axes:
        fig = _numbers(view, field, heading, quantity)
    elif len(axes) == 1 and (drawn.along in axes or (not drawn.quantity and view.size(axes[0]) > MAX_BARS)):
        fig = _lines(view, field, axes[0], heading, quantity)
    elif len(axes) == 2 and drawn.along in axes and drawn.several == "lines":
        fig = _lines(view, field, drawn.along, heading, quantity)
    elif len(axes) == 2 and drawn.several != "bars":
        fig = _map(view, field, heading, quantity)
    else:
        fig = _bars(view, field, heading, quantity)
    said = [quantity.sentence, result.caption, *view.notes]
    if any(said[1:]):
        below = str(fig.to_dict()["layout"]["title"]["subtitle"]["text"])
        sign = f" ({basics.SIGN_LEGEND})" if "blue +" in below else ""
        basics.subtitled(fig, " · ".join(filter(None, [said[0] + sign, *said[1:]])))
    return fig


def _lines(view: View, field: str, along: str, title: str, quantity: Quantity) -> go.Figure:
    drawn = view.declared.get(field, Drawn())
    values, axes = view.values(field), view.axes(field)
    series: dict[str, object] = {}
    bands: dict[str, tuple[object, object]] = {}
    if len(axes) == 1:
        rows = [0]
        for name in (field, *view.present(drawn.beside)):
            series[view.legend(name)] = view.values(name)
            if (band := view.band(name)) is not None:
                bands[view.legend(name)] = band
    else:
        other = axes[1 - axes.index(along)]
        values = values if axes[1] == along else values.T
        rows = _leading(view, values, other)
        names = labels.sites(view.names(other))
        series |= {names[i]: values[i] for i in rows}
    dotted, levels = [], {}
    for name in view.present(drawn.null):
        line, band = _null(view, name, along, axes, rows)
        if line is None:
            continue
        if line.ndim:
            series[view.legend(name)] = line
            dotted.append(view.legend(name))
            bands |= {view.legend(name): band} if band is not None else {}
        else:
            levels[view.legend(name)] = float(line)
    x, x_axis = view.places(along, drawn.axis_title)
    fig = basics.lines(x, series, title, quantity, x_axis=x_axis, bands=bands, reference=levels, nulls=dotted)
    if drawn.log == "x" and view.size(along) > 1:
        fig.update_xaxes(type="log", tickmode="array", **_spaced([float(place) for place in x]))
    return fig.update_yaxes(type="log") if drawn.log == "y" else fig


def _leading(view: View, values: Tensor, axis: str) -> list[int]:
    """The rows to draw: all, or as many as there are colours, those with the highest values."""
    if len(values) <= MAX_LINES:
        return list(range(len(values)))
    view.notes.append(f"the {MAX_LINES} of {len(values)} ({axis.replace('_', ' ')}) with the highest values")
    return (
        values.nan_to_num(-torch.inf)
        .amax(1)
        .argsort(descending=True, stable=True)[:MAX_LINES]
        .sort()
        .values.tolist()
    )


def _null(
    view: View, name: str, along: str, axes: tuple[str, ...], rows: list[int]
) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    """A null as one line (with its band) or one level; what has an axis too many is averaged."""
    values, own, band = view.values(name), view.axes(name), view.band(name)
    if not own:
        return values, None
    if own == (along,):
        return values, band
    if along not in own:  # a level per line: none where several lines are drawn
        view.notes.append(f"{view.legend(name)}: {float(values.min()):.3g} to {float(values.max()):.3g}")
        return None, None
    over = 1 - own.index(along)
    if own[over] in axes:
        chosen = torch.tensor(rows)
        values = values.index_select(over, chosen)
        if band is not None:
            low, high = (edge.index_select(over, chosen) for edge in band)
            return values.mean(over), (low.amin(over), high.amax(over))
    return values.mean(over), (values.amin(over), values.amax(over))


def _map(view: View, field: str, title: str, quantity: Quantity) -> go.Figure:
    rows, columns = view.axes(field)
    drawn = view.declared.get(field, Drawn())
    for name in view.present(drawn.null):
        view.notes.append(f"{view.legend(name)}: {float(view.values(name).nanmean()):.3g} on average")
    return basics.heatmap(
        view.values(field),
        title,
        quantity,
        rows=labels.sites(view.names(rows)),
        columns=labels.sites(view.names(columns)),
        row_axis=rows.replace("_", " "),
        column_axis=columns.replace("_", " "),
        first_row="bottom" if drawn.along == rows else "top",
    )


def _bars(view: View, field: str, title: str, quantity: Quantity) -> go.Figure:
    drawn, axes = view.declared.get(field, Drawn()), view.axes(field)
    names = [" · ".join(parts) for parts in _products([labels.sites(view.names(a)) for a in axes])]
    if not (drawn.beside or drawn.null or drawn.band) or quantity.signed:
        return basics.bars(view.values(field).flatten(), names, title, quantity)
    groups: dict[str, object] = {}
    bands: dict[str, tuple[object, object]] = {}
    marks: dict[str, object] = {}
    for name in (field, *view.present((*drawn.beside, *drawn.null))):
        values, own, band = view.values(name), view.axes(name), view.band(name)
        legend = view.legend(name)
        if extra := [axis for axis in own if axis not in axes]:  # draws: their mean, and how far they go
            at = own.index(extra[0])
            own, band = tuple(a for a in own if a not in extra), (values.amin(at), values.amax(at))
            values = values.mean(at)
        if own == axes:
            groups[legend] = values.flatten()
            bands |= {legend: (band[0].flatten(), band[1].flatten())} if band is not None else {}
        else:
            marks[legend] = _spread(values, own, axes, [view.size(axis) for axis in axes])
            view.notes.append(f"dotted: {legend}")
    nulls = {view.legend(name) for name in drawn.null}
    return basics.grouped_bars(groups, names, title, quantity, bands=bands, marks=marks, nulls=nulls)


def _numbers(view: View, field: str, title: str, quantity: Quantity) -> go.Figure:
    """The single numbers of the field's unit as bars, each beside what chance gives."""
    alike = {
        name: drawn
        for name, drawn in view.declared.items()
        if drawn.quantity and drawn.quantity.unit == quantity.unit and not drawn.ticks and not view.axes(name)
    }
    groups: dict[str, list[float]] = {}
    for at, (name, drawn) in enumerate(alike.items()):
        others = view.present((*drawn.beside, *drawn.null))
        for legend, other in [("measured", name), *((view.legend(one), one) for one in others)]:
            groups.setdefault(legend, [float("nan")] * len(alike))[at] = float(view.values(other))
    names = [view.result.quantity(name).name for name in alike]
    shared = quantity if len(alike) == 1 else Quantity("value", quantity.unit, quantity.higher)
    nulls = {view.legend(null) for drawn in alike.values() for null in drawn.null}
    return basics.grouped_bars(groups, names, title, shared, nulls=nulls)


def _spread(values: Tensor, own: tuple[str, ...], axes: tuple[str, ...], shape: list[int]) -> Tensor:
    """Values over some of the axes, repeated over the others, as one row."""
    index = tuple(slice(None) if axis in own else None for axis in axes)
    return values[index].expand(shape).flatten()


def _products(names: list[list[str]]) -> list[list[str]]:
    """Every combination of places, the last axis fastest."""
    found: list[list[str]] = [[]]
    for places in names:
        found = [[*before, place] for before in found for place in places]
    return found


def _spaced(at: list[float]) -> dict[str, Any]:
    """Ticks of a logarithmic axis that do not run into each other."""
    kept: list[float] = []
    for place in at:
        if place > 0 and (not kept or place >= 1.5 * kept[-1] or place <= 4):
            kept.append(place)
    return {"tickvals": kept, "ticktext": [f"{place:g}" for place in kept]}
