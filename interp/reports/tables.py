"""The numbers behind pictures: results, frames and figures as plain columns and rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

import numpy as np

from interp.core.result import Result
from interp.plotting import labels


@dataclass(frozen=True)
class Numbers:
    """A table of plain Python values."""

    columns: tuple[str, ...]
    """Column names."""
    rows: tuple[tuple[object, ...], ...]
    """Strings, integers, floats, booleans or None; all rows as long as `columns`."""
    total: int
    """How many rows there are; `rows` may be the first of them only."""
    caption: str = ""
    """What it holds."""

    def as_json(self, limit: int) -> dict[str, object]:
        """Columns and at most `limit` rows; NaN and infinity become null."""
        rows = [[_json_value(value) for value in row] for row in self.rows[:limit]]
        return {"caption": self.caption, "columns": list(self.columns), "n_rows": self.total, "rows": rows}


def of_rows(columns: Iterable[object], rows: Iterable[Iterable[object]], caption: str) -> Numbers:
    """A table from any rows: numpy scalars become Python numbers, all else unknown becomes text."""
    plain = tuple(tuple(_value(value) for value in row) for row in rows)
    return Numbers(tuple(str(column) for column in columns), plain, len(plain), caption)


def of_frame(frame: Any, caption: str) -> Numbers:
    """A table from a data frame, without its index."""
    return of_rows(frame.columns, frame.itertuples(index=False, name=None), caption)


def of_result(result: Result, limit: int) -> list[Numbers]:
    """One table per set of fields that share their axes: one row per entry, the first `limit`.

    Not through pandas, which refuses labels with lone surrogates and would hold every row.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, axes in result.axes.items():
        groups.setdefault(axes, []).append(name)
    return [_of_fields(result, axes, names, limit) for axes, names in groups.items()]


def _of_fields(result: Result, axes: tuple[str, ...], names: list[str], limit: int) -> Numbers:
    fields = [getattr(result, name) for name in names]
    shape = tuple(fields[0].shape)
    ticks = [result.labels.get(a, range(n)) for a, n in zip(axes, shape, strict=True)]
    entries = islice(product(*ticks), limit)
    values = (field.flatten()[:limit].tolist() for field in fields)
    rows = ((*where, *numbers) for where, *numbers in zip(entries, *values, strict=True))
    table = of_rows([*axes, *names], rows, f"by {', '.join(axes)}" if axes else "totals")
    return replace(table, total=fields[0].numel())


def of_figure(fig: Any) -> list[Numbers]:
    """One table per trace that holds data and is neither decoration (`hoverinfo="skip"` lines) nor
    a thumbnail of another trace."""
    tables = []
    meta = fig.layout.meta if isinstance(fig.layout.meta, dict) else {}
    shown = fig.data[meta.get("thumbnails", 0) :]
    for trace in shown:
        if trace.type == "heatmap" and trace.showscale is not False:
            tables.append(_of_heatmap(fig, trace))
        elif trace.type == "bar":
            tables.append(_of_bars(fig, trace))
    return [table for table in [*tables, *_of_lines(fig, shown)] if table.rows]


def format_value(value: object) -> str:
    """A table cell: four significant digits, whole numbers whole, tokens' whitespace visible.

    Words with one space between them are a sentence and stay one.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value}"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else labels.number(value)
    text = str(value)
    shown = labels.full(text)
    return shown.replace("·", " ") if "·" not in text and all(text.split(" ")) else shown


def _of_heatmap(fig: Any, trace: Any) -> Numbers:
    z = np.asarray(trace.z, dtype=float)
    columns = _tick_names(_axis(fig, trace.xaxis, "x"), z.shape[1])
    rows = _tick_names(_axis(fig, trace.yaxis, "y"), z.shape[0])
    name = labels.unescape(_text(trace.name))
    filled = ([row, *line.tolist()] for row, line in zip(rows, z, strict=True))
    return of_rows(["", *columns], filled, name)


def _of_bars(fig: Any, trace: Any) -> Numbers:
    x, y = _axis(fig, trace.xaxis, "x"), _axis(fig, trace.yaxis, "y")
    lying = trace.orientation == "h"
    along, at, amount, values = (y, trace.y, x, trace.x) if lying else (x, trace.x, y, trace.y)
    array = _list(values)
    where = _tick_names(along, len(array)) if at is None else _named(along, _list(at))
    heads = ["", labels.unescape(_text(amount.title.text)) or "value"]
    rows = zip(where, array, strict=False)
    return of_rows(heads, rows, labels.unescape(_text(trace.name)))


def _of_lines(fig: Any, traces: Iterable[Any]) -> list[Numbers]:
    """Lines over the same x share a table, one column each."""
    groups: dict[tuple[object, ...], list[tuple[str, list[object]]]] = {}
    for trace in traces:
        if trace.type not in ("scatter", "scattergl") or trace.hoverinfo == "skip":
            continue
        axis = labels.unescape(_text(_axis(fig, trace.xaxis, "x").title.text)) or "x"
        faint = trace.opacity is not None and trace.opacity < 1
        name = labels.unescape(_text(trace.name) or "y") + (" (raw)" if faint else "")
        y = _list(trace.y)
        key = (axis, *(range(len(y)) if trace.x is None else _list(trace.x)))
        groups.setdefault(key, []).append((name, y))
    return [
        of_rows(
            [key[0], *(name for name, _ in columns)],
            zip(key[1:], *(values for _, values in columns), strict=False),
            "",
        )
        for key, columns in groups.items()
    ]


def _axis(fig: Any, reference: str | None, letter: str) -> Any:
    return fig.layout[f"{letter}axis{(reference or letter)[1:]}"]


def _tick_names(axis: Any, n: int) -> list[str]:
    return [str(name) for name in _named(axis, range(n))]


def _named(axis: Any, coordinates: Iterable[Any]) -> list[object]:
    """Coordinates by the axis's tick texts where it has them."""
    texts = dict(zip(axis.tickvals or (), axis.ticktext or (), strict=False))
    return [labels.unescape(texts[at]) if at in texts else at for at in coordinates]


def _list(values: Any) -> list[Any]:
    return [] if values is None else np.asarray(values).tolist()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _value(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _json_value(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
