"""Pictures of weights read as tokens: a row per direction, its tokens across, colour by z."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import ConfigError
from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.lenses.weights.clamp import ClampEffect
from interp.lenses.weights.pairs import PairTable
from interp.lenses.weights.table import SIGNS, TokenTable
from interp.plotting import basics, labels, theme

ROW = 26
QUANTITY = Quantity(
    "z score", "deviations above the vocabulary's mean", "the direction says the token more", False
)
PAIRS = {
    "OV": Quantity("score", "logits", "attending to the left token says the right one more"),
    "QK": Quantity("score", "", "the left token, as query, looks for the right one"),
}
WORDS = {"+": "direction", "-": "negative direction"}


@renders(TokenTable)
def token_table(
    table: TokenTable, rows: str | Sequence[str] | None = None, n: int = 24, sign: str = "+", title: str = ""
) -> go.Figure:
    """Draw a table of tokens; the menu turns to the negative of every direction.

    Args:
        rows: Names or globs; default: the `n` directions with the highest first z of either sign.
        n: Rows at most.
        sign: Which sign to open with.
        title: Title; empty for one that says how many rows there are.

    Raises:
        ConfigError: No such sign, or no rows to draw.
        SiteError: A pattern that matches nothing.
    """
    if sign not in SIGNS or n < 1:
        raise ConfigError("cannot draw this table", got=f"sign {sign!r}, n {n}", expected="+ or -")
    if rows is None:
        order = table.z[..., 0].amax(-1).argsort(descending=True, stable=True)
        shown = table.select(order[:n].tolist())
    else:
        shown = table.select(rows)
        shown = shown.select(range(min(n, len(shown.names))))
    z = theme.as_array(shown.z, 3, "token table")
    n_rows, _, k = z.shape
    names = labels.numbered(shown.names)
    name_width = round(theme.CHAR * max(min(len(name), 40) for name in shown.names))
    cell = 7 * max(labels.cell_chars(piece, 12) for piece in shown.pieces.values()) + 10
    width = max(640, 150 + name_width + cell * k)
    heading = title or f"{n_rows} of {len(table.names):,} directions as tokens"
    fig = theme.figure(heading, QUANTITY, width, theme.HEADER + 110 + ROW * n_rows)
    for index, which in enumerate(SIGNS):
        fig.add_trace(_trace(shown, z[:, index], index, float(z.max())))
        fig.data[index].visible = which == sign
    buttons = [
        {"label": WORDS[which], "method": "restyle", "args": ["visible", [other == which for other in SIGNS]]}
        for which in SIGNS
    ]
    fig.update_layout(updatemenus=[theme.menu(buttons, SIGNS.index(sign))], margin_t=theme.HEADER + 38)
    return _ranked(fig, names, k, "rank of the token")


def _trace(table: TokenTable, z: np.ndarray, index: int, top: float) -> go.Heatmap:
    ids, scores = table.ids[:, index].tolist(), table.scores[:, index].tolist()
    hover = [
        [
            labels.hover(
                f"{labels.plain(name)} · rank {rank + 1} · "
                f"{labels.escape_label(labels.full(table.pieces[token]))}",
                f"score {labels.number(scores[row][rank])} · z {labels.number(z[row, rank])}",
            )
            for rank, token in enumerate(ids[row])
        ]
        for row, name in enumerate(table.names)
    ]
    text = [[labels.label(table.pieces[i], 12) for i in row] for row in ids]
    scale = {"zmin": 0, "zmax": max(top, 1e-6), "colorscale": theme.SEQUENTIAL}
    return _words(z, text, hover, QUANTITY, WORDS[SIGNS[index]], scale)


def _words(
    values: np.ndarray,
    text: list[list[str]],
    hover: list[list[str]],
    quantity: Quantity,
    name: str,
    scale: dict[str, Any],
) -> go.Heatmap:
    """A grid of words coloured by `values` [row rank]."""
    return go.Heatmap(
        z=theme.packed(values),
        text=text,
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=hover,
        hovertemplate="%{customdata}" + labels.NO_NAME,
        xgap=1,
        ygap=1,
        name=name,
        colorbar=theme.colorbar(quantity, ROW * len(values)),
        **scale,
    )


def _ranked(fig: go.Figure, names: Sequence[str], n_ranks: int, title: str) -> go.Figure:
    """A row per name, its ranks across."""
    ranks = list(range(n_ranks))
    fig.update_xaxes(title_text=title, tickvals=ranks, ticktext=[i + 1 for i in ranks])
    at = list(range(len(names)))
    return fig.update_yaxes(tickmode="array", tickvals=at, ticktext=names, autorange="reversed")


@renders(PairTable)
def pair_table(table: PairTable, n: int = 24, k: int = 8) -> go.Figure:
    """Draw token pairs: a row per head, its strongest pairs across.

    Args:
        n: Heads at most, those with the strongest pair first.
        k: Pairs per head at most.
    """
    order = table.scores[:, 0].argsort(descending=True, stable=True)[:n].tolist()
    scores = theme.as_array(table.scores[order, :k], 2, "pair table")
    names = [table.labels["head"][i] for i in order]
    pairs = [table.pairs(name)[:k] for name in names]
    text = [[labels.label(f"{a}→{b}", 20) for a, b in row] for row in pairs]
    quantity = PAIRS[table.circuit]
    chars = max(min(20, len(labels.shown(f"{a}→{b}", 20))) for row in pairs for a, b in row)
    width = max(640, 190 + (7 * chars + 10) * scores.shape[1])
    title = f"{table.circuit} circuits: strongest token pairs"
    fig = theme.figure(title, quantity, width, theme.HEADER + 72 + ROW * len(names))
    hover = [
        [
            labels.hover(
                f"{labels.plain(name)} · rank {rank + 1}",
                f"{labels.escape_label(labels.full(a))} → {labels.escape_label(labels.full(b))}",
                f"score {labels.number(scores[row, rank])}",
            )
            for rank, (a, b) in enumerate(pairs[row])
        ]
        for row, name in enumerate(names)
    ]
    fig.add_trace(
        _words(scores, text, hover, quantity, labels.plain(quantity.axis), theme.scale(scores, quantity))
    )
    return _ranked(fig, labels.numbered(names), scores.shape[1], "rank of the pair")


@renders(ClampEffect)
def clamp_effect(effect: ClampEffect, n: int = 12) -> go.Figure:
    """The tokens that a clamped neuron raises and lowers most.

    Args:
        n: Tokens on either side.
    """
    moved = [*effect.moved(n), *effect.moved(n, down=True)[::-1]]
    quantity = Quantity(
        "change of probability",
        f"mean of {len(effect.before)} contexts",
        "the clamped model says the token more",
        True,
    )
    title = f"{effect.site} neuron {effect.neuron} held at {labels.number(effect.value)}"
    return basics.bars([change for _, change in moved], [token for token, _ in moved], title, quantity)
