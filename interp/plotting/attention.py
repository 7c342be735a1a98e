"""Attention patterns: a thumbnail per head and one head large, query downward, key across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import ConfigError, ShapeError
from interp.core.frames.quantity import Quantity
from interp.plotting import labels, theme
from interp.plotting.config import AttentionConfig

GAP = 26
HOVER = "%{meta[0]} · query %{y} → key %{x} · %{z:.3f}" + labels.NO_NAME
THUMBNAIL = 64
"""Cells along a thumbnail at most: it is about as many pixels wide."""
QUANTITY = Quantity("attention probability", "0 to 1", "the query reads more from the key", False)


def attention_patterns(
    patterns: object,
    tokens: Sequence[str],
    title: str = "Attention patterns",
    names: Sequence[str] | None = None,
    config: AttentionConfig | None = None,
) -> go.Figure:
    """Thumbnails of every head beside one large map with token labels and hover.

    The menu (and, in our report pages, a click on a thumbnail) chooses the large head. The second
    menu rescales the colours to the keys after the first, because a first-token sink takes most of
    the attention and hides all else.

    Args:
        patterns: Attention probabilities, shape [head query key].
        tokens: The sequence, length `query`; queries and keys are the same positions.
        title: Title.
        names: One name per head, e.g. "L0H3"; default H0, H1, ...
        config: Thumbnails per row, opening head, causal blanking, size.

    Raises:
        ShapeError: not [head query key] with query = key = number of tokens, or names that do
            not match.
        ConfigError: an opening head that does not exist.
    """
    config = config or AttentionConfig()
    array = theme.as_array(patterns, 3, "attention patterns")
    n_heads, n_queries, _ = array.shape
    _check(array, tokens, names, config)
    if config.causal:
        array = np.where(np.tril(np.ones((n_queries, n_queries), bool)), array, np.nan)
    heads = labels.numbered(names or [f"H{head}" for head in range(n_heads)])
    grid = _Grid(n_heads, config)
    fig = theme.figure(title, QUANTITY, grid.width, grid.height)
    fig.update_layout(margin=grid.margin)
    places = _places(tokens)
    for head in range(n_heads):
        _add_thumbnail(fig, grid, head, heads[head], array[head])
    for head in range(n_heads):
        _add_large(fig, heads[head], array[head], places, head == config.selected)
    _large_axes(fig, grid, tokens)
    shared = theme.colorbar(QUANTITY, config.large, tickformat=".2f")
    fig.update_layout(
        coloraxis={"cmin": 0, "cmax": 1, "colorscale": theme.SEQUENTIAL, "colorbar": shared},
        updatemenus=_menus(heads, config.selected, array, grid),
        # read by the report page: clicking trace i shows large trace n_heads + i
        meta={"thumbnails": n_heads},
    )
    return fig


class _Grid:
    """Pixel geometry: thumbnails left, large map right, in plotly's paper coordinates."""

    def __init__(self, n_heads: int, config: AttentionConfig) -> None:
        self.columns = max(1, min(config.columns, n_heads))
        self.n_rows = -(-n_heads // self.columns)
        self.thumb_side = min(108, max(56, config.large // self.n_rows - GAP))
        self.step = (self.thumb_side + 12, self.thumb_side + GAP)
        self.thumbs_width = self.columns * self.step[0]
        self.margin = {"l": 24, "r": 90, "t": theme.HEADER + 38, "b": 84}
        self.large = config.large
        self.between = 110
        inner_height = max(self.large, self.n_rows * self.step[1])
        self.inner = (self.thumbs_width + self.between + self.large, inner_height)
        self.width = self.inner[0] + self.margin["l"] + self.margin["r"]
        self.height = self.inner[1] + self.margin["t"] + self.margin["b"]

    def thumb(self, head: int) -> tuple[list[float], list[float]]:
        """x and y domain of a thumbnail, first row on top."""
        row, column = divmod(head, self.columns)
        left = column * self.step[0] / self.inner[0]
        top = 1.0 - (row * self.step[1] + 16) / self.inner[1]
        side = self.thumb_side
        return [left, left + side / self.inner[0]], [top - side / self.inner[1], top]

    def main(self) -> tuple[list[float], list[float]]:
        """x and y domain of the large map."""
        return [1 - self.large / self.inner[0], 1.0], [1 - self.large / self.inner[1], 1.0]


def _check(
    array: np.ndarray, tokens: Sequence[str], names: Sequence[str] | None, config: AttentionConfig
) -> None:
    n_heads, n_queries, n_keys = array.shape
    if n_queries != n_keys or n_queries != len(tokens):
        raise ShapeError(
            "attention patterns do not fit the tokens",
            got=f"{n_queries} queries, {n_keys} keys, {len(tokens)} tokens",
            expected="the same number of each",
        )
    if names is not None and len(names) != n_heads:
        raise ShapeError("head names do not fit", got=len(names), expected=n_heads)
    if not 0 <= config.selected < n_heads:
        raise ConfigError("no such head", got=config.selected, expected=f"0 to {n_heads - 1}")


def _add_thumbnail(fig: go.Figure, grid: _Grid, head: int, name: str, pattern: np.ndarray) -> None:
    suffix = "" if head == 0 else str(head + 1)
    across, down = grid.thumb(head)
    fig.add_trace(
        go.Heatmap(
            z=theme.packed(_small(pattern)),
            xaxis=f"x{suffix}",
            yaxis=f"y{suffix}",
            coloraxis="coloraxis",
            hovertemplate="%{meta[0]}" + labels.NO_NAME,
            meta=[name],
            hoverongaps=False,
        )
    )
    hidden = {"showticklabels": False, "showline": True, "mirror": True, "fixedrange": True}
    fig.update_layout(
        {
            f"xaxis{suffix}": hidden | {"domain": across, "anchor": f"y{suffix}"},
            f"yaxis{suffix}": hidden | {"domain": down, "anchor": f"x{suffix}", "autorange": "reversed"},
        }
    )
    fig.add_annotation(
        text=name,
        x=across[0],
        y=down[1],
        xref="paper",
        yref="paper",
        showarrow=False,
        xanchor="left",
        yanchor="bottom",
        font={"size": 11},
    )


def _small(pattern: np.ndarray) -> np.ndarray:
    """The largest value of every block of cells, so that no stripe is lost in a thumbnail."""
    step = -(-len(pattern) // THUMBNAIL)
    if step == 1:
        return pattern
    edge = -len(pattern) % step
    cells = np.pad(pattern, (0, edge), constant_values=np.nan)
    n = len(cells) // step
    blocks = cells.reshape(n, step, n, step).swapaxes(1, 2).reshape(n, n, -1)
    blank = np.isnan(blocks).all(-1)
    return np.where(blank, np.nan, np.where(np.isnan(blocks), -np.inf, blocks).max(-1))


def _add_large(fig: go.Figure, name: str, pattern: np.ndarray, places: list[str], visible: bool) -> None:
    """The hover text comes from the axes: two strings for every cell would be most of a page."""
    fig.add_trace(
        go.Heatmap(
            z=theme.packed(pattern),
            x=places,
            y=places,
            xaxis="x999",
            yaxis="y999",
            coloraxis="coloraxis",
            name=name,
            hovertemplate=HOVER,
            meta=[name],
            visible=visible,
            hoverongaps=False,
            xgap=0.5,
            ygap=0.5,
        )
    )


def _places(tokens: Sequence[str]) -> list[str]:
    """Position and token, different for every position: the categories of both axes."""
    return [f"{i} {labels.escape_label(labels.full(token))}" for i, token in enumerate(tokens)]


def _large_axes(fig: go.Figure, grid: _Grid, tokens: Sequence[str]) -> None:
    across, down = grid.main()
    every = max(1, -(-14 * len(tokens) // grid.large))
    marks = labels.ticks(tokens, 12)
    marks["tickvals"] = marks["tickvals"][::every]
    marks["ticktext"] = marks["ticktext"][::every]
    fig.update_layout(
        xaxis999={
            "type": "category",
            "domain": across,
            "anchor": "y999",
            "tickangle": -45,
            **marks,
            "title": {"text": "key (attended to)"},
        },
        yaxis999={
            "type": "category",
            "domain": down,
            "anchor": "x999",
            "autorange": "reversed",
            **marks,
            "title": {"text": "query (attends)"},
        },
    )


def _menus(heads: list[str], selected: int, array: np.ndarray, grid: _Grid) -> list[dict[str, Any]]:
    n_heads = len(heads)
    choose = [
        {
            "label": f"{name} large",
            "method": "restyle",
            "args": ["visible", [True] * n_heads + [i == head for i in range(n_heads)]],
        }
        for head, name in enumerate(heads)
    ]
    rest = array[:, 1:, 1:]
    high = float(np.nanmax(rest)) if rest.size else 1.0
    rescale = [
        {"label": "scale 0 to 1", "method": "relayout", "args": ["coloraxis.cmax", 1]},
        {
            "label": f"scale to later keys (0 to {high:.2f})",
            "method": "relayout",
            "args": ["coloraxis.cmax", max(high, 1e-3)],
        },
    ]
    head_menu = theme.menu(choose, selected, type="dropdown", direction="down")
    return [head_menu, theme.menu(rescale, 0, x=grid.main()[0][0])]
