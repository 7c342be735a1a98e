"""The picture of any result that has no renderer of its own, from the axes it declares."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean
from interp.core.result import Result, renders
from interp.plotting import basics, theme
from interp.plotting.config import Quantity

MAX_BARS = 40


@renders(Result)
def plot_result(
    result: Result,
    field: str | None = None,
    quantity: Quantity | None = None,
    title: str | None = None,
    **index: int,
) -> go.Figure:
    """Draw one field: two axes as a heat map, one axis as bars (a line beyond 40 entries).

    Args:
        result: Any result.
        field: Field to draw; default the first that has one or two axes left.
        quantity: What the field is; default its name.
        title: Title; default the result's type.
        **index: Axis name to the index at which a larger field is cut, e.g. `layer=3`.

    Raises:
        ConfigError: an unknown field, or one with no axes or more than two after cutting.
    """
    left = {name: tuple(axis for axis in axes if axis not in index) for name, axes in result.axes.items()}
    field = field or next((name for name, axes in left.items() if len(axes) in (1, 2)), None)
    if field not in left or len(left[field]) not in (1, 2):
        raise ConfigError(
            f"{type(result).__name__} has no field to draw",
            got=field and f"{field} with axes {result.axes.get(field, '(unknown)')}",
            expected="a field with one or two axes",
            fix=did_you_mean(field, left) if field else "cut an axis: plot(layer=0)",
        )
    quantity = quantity or Quantity(field.replace("_", " "))
    title = title or type(result).__name__
    at = tuple(index.get(axis, slice(None)) for axis in result.axes[field])
    values, axes = getattr(result, field)[at], left[field]
    names = {axis: _names(result, axis, size) for axis, size in zip(axes, values.shape, strict=True)}
    if len(axes) == 2:
        rows, columns = axes
        return basics.heatmap(
            values,
            title,
            quantity,
            rows=names[rows],
            columns=names[columns],
            row_axis=rows,
            column_axis=columns,
        )
    if len(values) <= MAX_BARS:
        return basics.bars(values, names[axes[0]], title, quantity)
    array = theme.as_array(values, 1, field)
    return basics.lines(range(len(array)), {field: array}, title, quantity, x_axis=axes[0])


def _names(result: Result, axis: str, size: int) -> list[str]:
    """The axis's own labels, else "layer 0", "layer 1", ..."""
    return list(result.labels.get(axis, ())) or [f"{axis} {i}" for i in range(size)]
