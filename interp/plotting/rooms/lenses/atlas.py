"""Pictures of the attention atlas: one layer-by-head map per statistic, behind a menu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity, drawn_fields
from interp.core.result import renders
from interp.core.settings import check_choice
from interp.lenses.heads.distance import HeadDistances
from interp.lenses.heads.result import MASS, HeadAtlas
from interp.lenses.heads.weights import WeightHeads
from interp.plotting import basics, labels, theme
from interp.plotting.config import HeadMapConfig
from interp.plotting.rooms.lenses import heads

STANDS_OUT = 0.2
"""A head that recalls this share from weights alone is worth opening the page with."""


@dataclass(frozen=True)
class _Map:
    """One choice of the menu."""

    key: str
    """What `statistic=` calls it."""
    values: Any
    """[layer head]."""
    quantity: Quantity
    """What it is."""
    top: float | None
    """Upper end of the colours."""
    note: str = ""
    """Added to the subtitle."""


@renders(HeadAtlas)
def head_atlas_maps(atlas: HeadAtlas, statistic: str = "previous", against: str | None = None) -> go.Figure:
    """Layer-by-head map of one statistic; the menu shows the others. Or two as a scatter.

    Args:
        statistic: A field of the atlas.
        against: Another: every head as a point, this one across.

    Raises:
        ConfigError: No such statistic here.
    """
    if against is not None:
        return _scatter(atlas, statistic, against)
    maps = []
    for key in atlas.statistics:
        quantity = atlas.quantity(key)
        top = 1.0 if quantity.unit == MASS else None
        note = f" · uniform: {atlas.uniform[key]:.3f}" if key in atlas.uniform else ""
        maps.append(_Map(key, getattr(atlas, key), quantity, top, note))
    return _switchable("What each head looks at", maps, statistic)


@renders(WeightHeads)
def weight_heads_maps(found: WeightHeads, statistic: str | None = None) -> go.Figure:
    """Layer-by-head map of one recall; the menu shows the others.

    Args:
        statistic: "previous", "matching", "copying", "eigenvalues" or "induction"; None opens the
            first one in which some head stands out.

    Raises:
        ConfigError: No such statistic here.
    """
    maps = []
    chance = {"previous": found.previous_chance, "copying": 1 / found.n_tokens}
    for key in drawn_fields(WeightHeads):
        values = getattr(found, key)
        if values is None:
            continue
        if key == "matching":
            values = values.flatten(2).amax(-1)
        quantity = found.quantity(key)
        note = f" · chance: {chance[key]:.3f}" if key in chance else ""
        maps.append(_Map(key, values, quantity, None if key == "induction" else 1.0, note))
    seen = (m.key for m in maps if float(m.values.abs().nan_to_num().max()) > STANDS_OUT)
    opening = statistic or next(seen, maps[0].key)
    return _switchable("Heads from weights alone", maps, opening)


@renders(HeadDistances)
def head_distance_map(found: HeadDistances, view: Literal["map", "matrix"] = "map") -> go.Figure:
    """The heads on a plane, coloured by layer; or all distances, neighbours of a tree side by side.

    Args:
        view: "map" or "matrix".

    Raises:
        ConfigError: Another view.
    """
    quantity = Quantity("Jensen-Shannon divergence", "nats", "two heads look at other things", False)
    names = found.labels["head"]
    if view == "matrix":
        order = found.order
        ordered = [names[i] for i in order.tolist()]
        values = found.distance[order][:, order]
        return basics.heatmap(
            values,
            "How much heads differ",
            quantity,
            rows=ordered,
            columns=ordered,
            row_axis="head",
            column_axis="head",
        )
    test = f"within layers {found.within:.3f}, between {found.between:.3f}, p {found.p_value:.2g}"
    fig = theme.figure("Heads that look alike lie together", None, 640, 560)
    below = f"distances are {quantity.axis} · {test} · stress {found.stress:.2f}"
    fig.update_layout(title_subtitle_text=theme.subtitle(below, 640))
    n_layers = int(found.layer.max()) + 1
    apart = theme.as_array(found.place, 2, "head map")
    apart = np.linalg.norm(apart[:, None] - apart[None], axis=-1) + np.eye(len(names)) * 1e9
    lonely = apart.min(1) > 0.04 * apart[apart < 1e9].max(initial=0.0)  # room for a name
    seen = labels.numbered(names)
    for layer in range(n_layers):
        mine = (found.layer == layer).nonzero().flatten().tolist()
        place = found.place[mine]
        shade = theme.LINES[layer % len(theme.LINES)]
        fig.add_trace(
            go.Scatter(
                x=place[:, 0].tolist(),
                y=place[:, 1].tolist(),
                name=f"layer {layer}",
                mode="markers+text",
                text=[seen[i] if lonely[i] else "" for i in mine],
                customdata=[seen[i] for i in mine],
                textposition="top center",
                textfont={"size": 9},
                marker={"size": 8, "color": shade, "symbol": layer // len(theme.LINES)},
                hovertemplate="%{customdata}" + labels.NO_NAME,
            )
        )
    fig.update_xaxes(title_text="map, nats", zeroline=False)
    fig.update_yaxes(zeroline=False, scaleanchor="x")
    fig.update_layout(legend={"y": -0.12, "yanchor": "top"}, margin_b=90)
    return fig


def _scatter(atlas: HeadAtlas, up: str, across: str) -> go.Figure:
    """Every head by two of its statistics; dotted lines: what uniform attention would have."""
    for key in (up, across):
        check_choice("statistic", key, atlas.statistics)
    quantities = [atlas.quantity(key) for key in (across, up)]
    fig = theme.figure(f"Heads by two statistics: {quantities[1].name}", None, 640, 560)
    x, y = (theme.as_array(getattr(atlas, key), 2, key) for key in (across, up))
    for layer in range(len(x)):
        names = [f"L{layer}H{head}" for head in range(x.shape[1])]
        fig.add_trace(
            go.Scatter(
                x=x[layer].tolist(),
                y=y[layer].tolist(),
                name=f"layer {layer}",
                mode="markers",
                customdata=names,
                marker={
                    "size": 8,
                    "color": theme.LINES[layer % len(theme.LINES)],
                    "symbol": layer // len(theme.LINES),
                },
                hovertemplate="%{customdata} · %{x:.3f} · %{y:.3f}" + labels.NO_NAME,
            )
        )
    dotted = {"dash": "dot", "color": theme.INK, "width": 1}
    if across in atlas.uniform:
        fig.add_vline(x=atlas.uniform[across], line=dotted)
    if up in atlas.uniform:
        fig.add_hline(y=atlas.uniform[up], line=dotted)
    below = " · ".join(q.sentence for q in quantities)
    fig.update_layout(title_subtitle_text=theme.subtitle(below, 640))
    fig.update_xaxes(title_text=labels.plain(quantities[0].axis), showgrid=True)
    fig.update_yaxes(title_text=labels.plain(quantities[1].axis), showgrid=True)
    fig.update_layout(legend={"y": -0.16, "yanchor": "top"}, margin_b=110)
    return fig


def _switchable(title: str, maps: Sequence[_Map], opening: str) -> go.Figure:
    """One figure with a heat map per choice, of which the menu shows one."""
    keys = [m.key for m in maps]
    check_choice("statistic", opening, keys)
    first = keys.index(opening)
    singles = [heads.head_heatmap(m.values, title, m.quantity, HeadMapConfig(top=m.top)) for m in maps]
    fig = singles[first]
    width = fig.to_dict()["layout"]["width"]
    sentences = [theme.subtitle(m.quantity.sentence + m.note, width) for m in maps]
    traces = [single.data[0] for single in singles]
    fig.data = ()
    fig.add_traces([trace.update(visible=i == first) for i, trace in enumerate(traces)])
    buttons = [
        {
            "label": maps[i].quantity.name,
            "method": "update",
            "args": [{"visible": [j == i for j in range(len(maps))]}, {"title.subtitle.text": sentences[i]}],
        }
        for i in range(len(maps))
    ]
    fig.update_layout(
        title_subtitle_text=sentences[first],
        updatemenus=[theme.menu(buttons, first, type="dropdown", direction="down")],
        margin_t=theme.HEADER + 38,
        height=fig.to_dict()["layout"]["height"] + 38,
    )
    return fig
