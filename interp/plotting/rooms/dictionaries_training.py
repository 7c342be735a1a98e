"""How dictionaries trained: error, active latents, dead latents, one line per dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import ConfigError
from interp.plotting import labels, theme
from interp.plotting.training import smooth

PANEL, GAP = (330, 190), (86, 84)
TOP, LEFT, FOOT, RIGHT = 124, 70, 62, 30
PANELS = {
    "fvu": "FVU: variance left unexplained",
    "l0": "L0: active latents per token",
    "dead": "dead latents",
    "sparsity": "weight of the sparsity penalty",
    "loss": "loss",
}
SMOOTHING = 0.01


def dictionary_curves(
    records: Sequence[Mapping[str, Any]],
    targets: Mapping[str, int | float | None] | None = None,
    title: str = "Dictionary training",
) -> go.Figure:
    """Panels over steps, one line per dictionary; dashed: the number of active latents asked for.

    Args:
        records: Of a `FitReport` of `run_training`, or lines of its metrics.jsonl.
        targets: Dictionary -> L0 asked for; its keys name the lines.
        title: Title.

    Raises:
        ConfigError: No records of a dictionary's training.
    """
    names = _names(records)
    targets = dict(targets or {})
    if len(names) == 1 and len(targets) == 1:  # records of one dictionary do not name it
        targets = {names[0]: next(iter(targets.values()))}
    keys = [key for key in PANELS if any(_key(name, key) in r for r in records for name in names)]
    keys = keys[:4] if len(keys) > 4 else keys
    n_rows = -(-len(keys) // 2)
    inner = (2 * PANEL[0] + GAP[0], n_rows * (PANEL[1] + GAP[1]) - GAP[1])
    fig = theme.figure(title, None, inner[0] + LEFT + RIGHT, inner[1] + TOP + FOOT)
    fig.update_layout(
        title_subtitle_text="thick: moving average; thin: raw; dashed: L0 asked for",
        margin={"l": LEFT, "r": RIGHT, "t": TOP, "b": FOOT},
        showlegend=len(names) > 1,
        legend={"y": 1 + 26 / inner[1]},
    )
    for index, key in enumerate(keys):
        _place(fig, index, key, inner)
        for number, name in enumerate(names):
            _draw(fig, index, records, name, key, number)
            wanted = targets.get(name)
            if key == "l0" and wanted is not None:
                _target(fig, index, wanted, number)
    return fig


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dictionaries in the records; "" where there is one, whose metrics bear no name."""
    found = dict.fromkeys(
        key[: -len("fvu")].removesuffix("/")
        for record in records
        for key in record
        if key == "fvu" or key.endswith("/fvu")
    )
    if not found:
        raise ConfigError(
            "no records of a dictionary's training", expected="records with `fvu`, `l0`, `dead`"
        )
    return list(found)


def _key(name: str, key: str) -> str:
    return key if not name else f"{name}/{key}"


def _axes(index: int) -> tuple[str, str]:
    suffix = "" if index == 0 else str(index + 1)
    return f"x{suffix}", f"y{suffix}"


def _place(fig: go.Figure, index: int, key: str, inner: tuple[int, int]) -> None:
    """Axes of one panel at its pixels, and its title."""
    x, y = _axes(index)
    row, column = divmod(index, 2)
    left = column * (PANEL[0] + GAP[0])
    top = inner[1] - row * (PANEL[1] + GAP[1])
    across = [left / inner[0], (left + PANEL[0]) / inner[0]]
    up = [(top - PANEL[1]) / inner[1], top / inner[1]]
    logarithmic = key in ("fvu", "sparsity")
    shared = {"showgrid": True, "showline": True}
    fig.update_layout(
        {
            f"xaxis{x[1:]}": {
                "domain": across,
                "anchor": y,
                "title": {"text": "step", "standoff": 4},
                "matches": None if index == 0 else "x",
                **shared,
            },
            f"yaxis{y[1:]}": {
                "domain": up,
                "anchor": x,
                "type": "log" if logarithmic else "linear",
                "rangemode": "normal" if logarithmic else "tozero",
                "nticks": 6,
                "dtick": "D2" if logarithmic else None,
                "tickformat": "~g" if logarithmic else "",
                **shared,
            },
        }
    )
    fig.add_annotation(
        text=labels.plain(PANELS[key], 60),
        x=0,
        y=1,
        xref=f"{x} domain",
        yref=f"{y} domain",
        yshift=4,
        showarrow=False,
        xanchor="left",
        yanchor="bottom",
        font={"size": 13},
    )


def _draw(
    fig: go.Figure, index: int, records: Sequence[Mapping[str, Any]], name: str, key: str, number: int
) -> None:
    field = _key(name, key)
    points = {r["step"]: r[field] for r in records if r.get(field) is not None}
    if not points:
        return
    steps = np.array(sorted(points), dtype=float)
    values = np.array([float(points[int(s)]) for s in steps])
    if key in ("fvu", "sparsity"):
        values = np.where(values > 0, values, np.nan)
    x, y = _axes(index)
    color = theme.LINES[number % len(theme.LINES)]
    label = labels.plain(name or "dictionary", 40)
    common = {
        "x": theme.packed(steps),
        "xaxis": x,
        "yaxis": y,
        "mode": "lines",
        "name": label,
        "legendgroup": label,
        "meta": [label, labels.plain(PANELS[key], 60)],
    }
    about = "%{meta[0]} · %{meta[1]} · step %{x:,} · %{y:.4g}" + labels.NO_NAME
    span = float(steps[-1] - steps[0])
    fig.add_trace(
        go.Scatter(
            y=values,
            line={"width": 1, "color": color},
            opacity=0.35,
            showlegend=False,
            hoverinfo="skip",
            **common,
        )
    )
    line = smooth(steps, values, SMOOTHING * span) if span else values
    fig.add_trace(
        go.Scatter(
            y=line, line={"width": 2.4, "color": color}, showlegend=index == 0, hovertemplate=about, **common
        )
    )


def _target(fig: go.Figure, index: int, wanted: int | float, number: int) -> None:
    x, y = _axes(index)
    fig.add_shape(
        type="line",
        x0=0,
        x1=1,
        y0=wanted,
        y1=wanted,
        xref=f"{x} domain",
        yref=y,
        line={"width": 1.5, "dash": "dash", "color": theme.LINES[number % len(theme.LINES)]},
    )
