"""Training curves from `metrics.jsonl` records: small panels over one axis, raw under smoothed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import ConfigError
from interp.core.settings import check_choice
from interp.plotting import labels, theme
from interp.plotting.config import CurvesConfig

PANEL = (276, 170)
GAP = (60, 66)
NOT_METRICS = frozenset({"step", "tokens", "time", "seconds", "wall_s", "epoch", "seed"})


def training_curves(
    records: Sequence[Mapping[str, Any]],
    metrics: Sequence[str] | None = None,
    title: str = "Training",
    config: CurvesConfig | None = None,
) -> go.Figure:
    """Small panels, one per metric, sharing the horizontal axis.

    A resumed run joins: where two records have the same x, the later one counts. The thin line is
    the raw record, the thick one its exponential moving average.

    Args:
        records: Dictionaries as in `metrics.jsonl`; a record may lack a metric.
        metrics: Keys to draw; None takes every numeric key but counters such as "step".
        title: Title.
        config: Axis key, log scales, smoothing, panels per row.

    Raises:
        ConfigError: no records, or a key that no record has.
    """
    config = config or CurvesConfig()
    keys = _keys(records, metrics, config.x)
    columns = max(1, min(config.columns, len(keys)))
    n_rows = -(-len(keys) // columns)
    inner = (columns * (PANEL[0] + GAP[0]) - GAP[0], n_rows * (PANEL[1] + GAP[1]) - GAP[1])
    fig = theme.figure(title, None, inner[0] + 100, inner[1] + 170)
    fig.update_layout(margin={"l": 70, "r": 30, "t": 108, "b": 62}, showlegend=False)
    smoothed = f"thick: moving average, half-life {config.smoothing:.1%} of the axis; thin: raw"
    fig.update_layout(title_subtitle_text=smoothed if config.smoothing else "raw values")
    for index, key in enumerate(keys):
        x, y = _series(records, key, config)
        _panel(fig, index, key, config)
        _place(fig, index, columns, inner)
        _draw(fig, index, key, x, y, config)
    return fig


def _keys(records: Sequence[Mapping[str, Any]], metrics: Sequence[str] | None, x: str) -> list[str]:
    if not records:
        raise ConfigError("no records to draw", expected="at least one line of metrics.jsonl")
    found = [
        key
        for key in dict.fromkeys(key for record in records for key in record)
        if any(_is_number(record.get(key)) for record in records)
    ]
    for key in metrics or []:
        check_choice("metrics", key, found)
    check_choice("x", x, found)
    chosen = list(metrics) if metrics else [k for k in found if k not in NOT_METRICS | {x}]
    if not chosen:
        raise ConfigError("records hold counters only", got=", ".join(found))
    return chosen


def _series(
    records: Sequence[Mapping[str, Any]], key: str, config: CurvesConfig
) -> tuple[np.ndarray, np.ndarray]:
    points = {
        float(record[config.x]): float(record[key])
        for record in records
        if _is_number(record.get(config.x)) and _is_number(record.get(key))
        if not config.log_x or record[config.x] > 0
    }
    x = np.array(sorted(points))
    return x, np.array([points[at] for at in x])


def smooth(x: np.ndarray, y: np.ndarray, half_life: float) -> np.ndarray:
    """Two-sided exponential average: weights 2^(-|x_i - x_j| / half_life), NaN left out.

    Two-sided, because the usual one-sided average lags behind the curve it is drawn on.
    Shapes [n] -> [n], in O(n): a pass from each side, the point itself counted once.
    """
    seen = np.isfinite(y)
    value, weight = np.where(seen, y, 0.0), seen.astype(float)
    decay = 0.5 ** (np.diff(x) / half_life)
    sums = [_both_ways(part, decay) for part in (value, weight)]
    return np.divide(*sums, out=np.full_like(y, np.nan), where=sums[1] > 0)


def _both_ways(values: np.ndarray, decay: np.ndarray) -> np.ndarray:
    left, right = values.copy(), values.copy()
    for i in range(1, len(values)):
        left[i] += left[i - 1] * decay[i - 1]
        right[-i - 1] += right[-i] * decay[-i]
    return left + right - values


def _panel(fig: go.Figure, index: int, key: str, config: CurvesConfig) -> None:
    suffix = "" if index == 0 else str(index + 1)
    matches = {} if index == 0 else {"matches": "x"}
    fig.update_layout(
        {
            f"xaxis{suffix}": {
                "type": "log" if config.log_x else "linear",
                "anchor": f"y{suffix}",
                "showgrid": True,
                "showline": True,
                **matches,
            },
            f"yaxis{suffix}": {
                "type": "log" if key in config.log_y else "linear",
                "anchor": f"x{suffix}",
                "showgrid": True,
            },
        }
    )


def _place(fig: go.Figure, index: int, columns: int, inner: tuple[int, int]) -> None:
    suffix = "" if index == 0 else str(index + 1)
    row, column = divmod(index, columns)
    left = column * (PANEL[0] + GAP[0]) / inner[0]
    top = 1 - row * (PANEL[1] + GAP[1]) / inner[1]
    across = [left, left + PANEL[0] / inner[0]]
    up = [max(0, top - PANEL[1] / inner[1]), top]
    fig.update_layout({f"xaxis{suffix}": {"domain": across}, f"yaxis{suffix}": {"domain": up}})


def _draw(fig: go.Figure, index: int, key: str, x: np.ndarray, y: np.ndarray, config: CurvesConfig) -> None:
    suffix = "" if index == 0 else str(index + 1)
    name = labels.plain(key, 40)
    color = theme.LINES[index % len(theme.LINES)]
    axis_name = labels.plain(config.x, 40)
    axes = {
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "mode": "lines",
        "name": name,
        "meta": [name, axis_name],
    }
    about = "%{meta[0]} · %{meta[1]} %{x:,} · %{y:.4g}" + labels.NO_NAME
    along = np.log10(x) if config.log_x else x  # smooth along the axis as drawn
    span = float(along[-1] - along[0]) if len(x) > 1 else 0.0
    smoothing = config.smoothing > 0 and span > 0
    thin = {"width": 1 if smoothing else 2, "color": color}
    fig.add_trace(
        go.Scatter(
            x=theme.packed(x),
            y=y,
            line=thin,
            opacity=0.35 if smoothing else 1,
            hovertemplate="raw " + about,
            **axes,
        )
    )
    if smoothing:
        fig.add_trace(
            go.Scatter(
                x=theme.packed(x),
                y=smooth(along, y, config.smoothing * span),
                line={"width": 2.4, "color": color},
                hovertemplate=about,
                **axes,
            )
        )
    fig.add_annotation(
        text=name,
        x=0,
        y=1,
        xref=f"x{suffix} domain",
        yref=f"y{suffix} domain",
        yshift=4,
        showarrow=False,
        xanchor="left",
        yanchor="bottom",
        font={"size": 13},
    )
    fig.update_layout({f"xaxis{suffix}": {"title": {"text": axis_name, "standoff": 4}}})


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
