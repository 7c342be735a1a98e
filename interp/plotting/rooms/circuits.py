"""Circuits as layered graphs: the pass runs upwards, a row for every attention and every MLP."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from interp.circuits.graph import Circuit
from interp.circuits.naming import belongs
from interp.core.errors import ConfigError
from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.plotting import labels, theme
from interp.plotting.basics import subtitled

COLORS = {"q": theme.LINES[0], "k": theme.LINES[1], "v": theme.LINES[2], "": theme.INK}
NAMES = {"q": "into queries", "k": "into keys", "v": "into values", "": "into MLPs and logits"}
STEPS = 8
"""Sizes that the slider offers."""
ROW, COLUMN = 74, 92
"""Pixels between rows and between nodes of a row."""
_PLACE = re.compile(r"([am])(\d+)(?:\.h(\d+))?")


@renders(Circuit)
def circuit_graph(result: Circuit, *, steps: int = STEPS) -> go.Figure:
    """Nodes row by row, edges coloured by what they feed; a slider prunes to the largest weights.

    Args:
        result: Any circuit.
        steps: Sizes that the slider offers; 1 leaves it out, as do circuits without weights.

    Raises:
        ConfigError: No step.
    """
    if isinstance(steps, bool) or steps < 1:
        raise ConfigError("a picture has one size at least", got=f"steps={steps!r}")
    at, depth = _layout(result)
    width, height = max(560, 150 + COLUMN * max(len(row) for row in depth)), 190 + ROW * len(depth)
    fig = theme.figure("Circuit", Quantity("edges"), width, height)
    groups = _groups(result, steps)
    for edges in groups:
        for channel in COLORS:
            fig.add_trace(_lines(result, [e for e in edges if e[2] == channel], at, channel))
    fig.add_trace(_nodes(result, at))
    hidden: dict[str, Any] = {
        "showgrid": False,
        "zeroline": False,
        "showticklabels": False,
        "showline": False,
    }
    fig.update_xaxes(**hidden, range=[-0.5, max(len(row) for row in depth) - 0.5], ticks="")
    fig.update_yaxes(**hidden, range=[-0.6, len(depth) - 0.4], ticks="")
    _legend(fig, result)
    said = [f"{result.n_edges} of {int(result.possible.sum())} edges", result.found_by]
    said += [f"the rest carries {result.ablation}", "colour: what an edge feeds; width: its weight"]
    subtitled(fig, " · ".join(filter(None, said)))
    if len(groups) > 1:
        _slider(fig, [len(edges) for edges in groups], height)
    return fig


def _layout(result: Circuit) -> tuple[dict[str, tuple[float, float]], list[list[str]]]:
    """Where each node stands, and the rows from below: embeddings, a0, m0, a1, ..., logits."""
    rows: dict[tuple[int, int], list[str]] = {}
    for name in result.nodes:
        found = _PLACE.fullmatch(name)
        key = (-1, 0) if found is None else (int(found[2]), int(found[1] == "m"))
        rows.setdefault((10**9, 0) if name == "logits" else key, []).append(name)
    ordered = [rows[key] for key in sorted(rows)] or [["logits"]]
    widest = max(map(len, ordered))
    at = {}
    for y, row in enumerate(ordered):
        shift = (widest - len(row)) / 2
        if len(row) == 1 and 0 < y < len(ordered) - 1:
            shift += 0.3 if y % 4 == 2 else -0.3  # so that no edge runs behind a node between its ends
        at |= {name: (x + shift, float(y)) for x, name in enumerate(row)}
    return at, ordered


def _groups(result: Circuit, steps: int) -> list[list[tuple[str, str, str, float]]]:
    """(from, to, channel, share of the largest weight) of the edges, the heaviest first, in steps."""
    writers, readers = result.labels["writer"], result.labels["reader"]
    owner = belongs(writers, readers)
    weights = result.weights
    found = []
    largest = 1.0 if weights is None else float(weights[result.kept].abs().max()) if result.n_edges else 1.0
    for w, r in result.kept.nonzero().tolist():
        share = 1.0 if weights is None else abs(float(weights[w, r])) / (largest or 1.0)
        channel = readers[r][-2] if readers[r].endswith(">") else ""
        targets = [writers[i] for i in owner[r].nonzero()[:, 0].tolist()] or ["logits"]
        # a key head that query heads share is drawn into each of them that the circuit holds
        found += [(writers[w], target, channel, share) for target in targets]
    found.sort(key=lambda edge: -edge[3])
    if weights is None or steps == 1 or len(found) < 2 * steps:
        return [found]
    cuts = [round(len(found) * (i / steps) ** 2) for i in range(steps + 1)]
    return [found[a:b] for a, b in pairwise(cuts) if b > a]


def _lines(
    result: Circuit, edges: list[tuple[str, str, str, float]], at: dict[str, Any], channel: str
) -> Any:
    x: list[float | None] = []
    y: list[float | None] = []
    for source, target, _, _ in edges:
        if source in at and target in at:
            x += [at[source][0], at[target][0], None]
            y += [at[source][1], at[target][1], None]
    share = sum(edge[3] for edge in edges) / max(1, len(edges))
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": COLORS[channel], "width": 0.8 + 4 * share},
        opacity=0.35 + 0.5 * share,
        hoverinfo="skip",
        showlegend=False,
    )


def _nodes(result: Circuit, at: dict[str, tuple[float, float]]) -> Any:
    names = list(at)
    into: dict[str, list[str]] = {}
    out: dict[str, list[str]] = {}
    for edge in result.edges:
        source, target = edge.split("->")
        out.setdefault(source, []).append(target)
        into.setdefault(target.partition("<")[0], []).append(edge)
    hover = [
        labels.hover(
            name,
            f"reads {len(into.get(name, []))}: {', '.join(into.get(name, [])[:8])}"
            if name in into
            else "reads nothing",
            f"read by {len(out.get(name, []))}: {', '.join(out.get(name, [])[:8])}",
        )
        for name in names
    ]
    return go.Scatter(
        x=[at[name][0] for name in names],
        y=[at[name][1] for name in names],
        mode="markers+text",
        opacity=1,
        text=[labels.plain(name, 16) for name in names],
        textposition="middle center",
        textfont={"size": 12, "color": "#1f2733"},
        marker={
            "size": [14 + 6.6 * len(name) for name in names],
            "color": "#e8ecf1",
            "opacity": 1,
            "line": {"color": theme.INK, "width": 1},
        },
        customdata=hover,
        hovertemplate="%{customdata}" + labels.NO_NAME,
        showlegend=False,
    )


def _legend(fig: go.Figure, result: Circuit) -> None:
    shown = {name[-2] if name.endswith(">") else "" for name in (e.split("->")[1] for e in result.edges)}
    for channel in (c for c in COLORS if c in shown):
        fig.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                mode="lines",
                name=NAMES[channel],
                line={"color": COLORS[channel], "width": 3},
            )
        )
    theme.room_for_legend(fig, [NAMES[c] for c in COLORS if c in shown])


def _slider(fig: go.Figure, sizes: list[int], height: int) -> None:
    """Steps that show the heaviest edges first; the last one, at the start, shows all."""
    total = len(sizes) * len(COLORS) + 1 + len(COLORS)
    steps = []
    for i in range(len(sizes)):
        visible = [j // len(COLORS) <= i for j in range(len(sizes) * len(COLORS))]
        visible += [True] * (total - len(visible))
        steps.append({"method": "restyle", "args": [{"visible": visible}], "label": str(sum(sizes[: i + 1]))})
    fig.update_layout(
        sliders=[
            {
                "steps": steps,
                "active": len(steps) - 1,
                "currentvalue": {"prefix": "largest edges shown: ", "font": {"size": 12}},
                "pad": {"t": 8, "b": 8},
                "font": {"size": 11},
            }
        ],
        margin_b=96,
        height=height + 60,
    )
