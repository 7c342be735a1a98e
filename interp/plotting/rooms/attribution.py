"""Attributions: bars per position, source x generated matrices, token x token matrices of pairs."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from torch import Tensor

from interp.attribution.result import Attribution, GeneratedAttribution, PairAttribution
from interp.core.errors import ConfigError
from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.plotting import labels, theme
from interp.plotting.basics import bars, heatmap, subtitled
from interp.plotting.tokens import TokenStrip

MOST_UNITS = 24
TERMS_WIDTH = 330


def attribution_strip(result: Attribution) -> TokenStrip:
    """The text, every token coloured by its score; the gap stands in the heading."""
    note = f"{result.target}; {result.gap_sentence}; baseline {result.baseline}"
    return TokenStrip(result.tokens, result.scores.tolist(), result.method, Quantity("score"), note)


@renders(Attribution)
def attribution_bars(
    result: Attribution, *, units: bool | None = None, strip: bool = False
) -> go.Figure | TokenStrip:
    """Bars per position, positions x units where the site has heads, neurons or latents, or a map.

    Scores that lie on a picture (pixels, patches, groups of them) are drawn where they lie.

    Args:
        result: Scores [pos] and, perhaps, [pos unit].
        units: Show units; None does where there are some. Of many, the largest are shown.
        strip: The coloured text instead, as `attribution_strip` makes it.

    Raises:
        ConfigError: Units of a strip, which has one score per token, or of a site without any; a strip
            of a picture.
    """
    if strip and result.image is not None:
        raise ConfigError("these scores lie on a picture, not in a text", got="strip=True", fix="strip=False")
    if strip:
        if units:
            raise ConfigError("a strip shows no units", got="units=True, strip=True", fix="strip=False")
        return attribution_strip(result)
    if units and result.unit_scores is None:
        raise ConfigError(
            f"{result.site!r} has no heads, neurons or latents to show", got="units=True", fix="leave it out"
        )
    name = result.method.replace("_", " ").capitalize()
    title = f"{name} · {result.target}"
    said = f"{result.gap_sentence} · baseline {result.baseline} · at {result.site}"
    if result.unit_scores is not None and units is not False:
        scores = result.unit_scores
        order = scores.abs().sum(0).argsort(descending=True)[:MOST_UNITS].sort().values
        fig = heatmap(
            scores[:, order],
            title,
            Quantity("score", "", "", True),
            rows=_numbered(result.tokens),
            columns=[str(i) for i in order.tolist()],
            row_axis="position",
            column_axis=f"unit of {result.site}",
        )
    elif result.image is not None:
        fig, said = _picture(result, result.image, title), f"{said}{_beside(result, result.image)}"
    else:
        fig = bars(result.scores, _numbered(result.tokens), title, Quantity("score", "", "", True))
        if result.widest_error and result.standard_errors is not None:
            errors = result.standard_errors.tolist()
            fig.update_traces(error_x={"array": errors, "color": theme.INK, "thickness": 1, "width": 3})
    return subtitled(fig, said)


def _picture(result: Attribution, image: Tensor, title: str) -> go.Figure:
    """The scores where they lie: square cells without gaps or numbers, which hovering shows."""
    values = result.scores.detach().float().cpu()[image.cpu()]
    fig = heatmap(values, title, Quantity("score", "", "", True))
    fig.update_traces(texttemplate=None, text=None, xgap=0, ygap=0)
    every = -(-values.shape[1] // 16)
    fig.update_xaxes(constrain="domain", tickmode="linear", tick0=0, dtick=every, tickangle=0)
    return fig.update_yaxes(scaleanchor="x", constrain="domain")


def _beside(result: Attribution, image: Tensor) -> str:
    """The units of the map, and the scores that have no place on it, as of a class token."""
    on = set(image.unique().tolist())
    off = [i for i in range(len(result.scores)) if i not in on]
    shown = [f"{labels.shown(result.tokens[i], 14)} {float(result.scores[i]):+.3g}" for i in off[:3]]
    if len(off) > 3:
        shown.append(f"{len(off) - 3} more")
    each = {"position": "patch"}.get(result.units, result.units)
    return f" · per {each}" + (f" · not on the map: {', '.join(shown)}" if off else "")


@renders(GeneratedAttribution)
def generated_matrix(result: GeneratedAttribution) -> go.Figure:
    """One row per generated token, one column per position before it."""
    values = result.scores.clone().float()
    start = len(result.tokens) - len(result.generated)
    for row in range(len(result.generated)):
        values[row, start + row :] = float("nan")
    fig = heatmap(
        values,
        f"Source × generated · {result.method.replace('_', ' ')}",
        Quantity("score", "nats", "", True),
        rows=_numbered(result.generated, start),
        columns=_numbered(result.tokens),
        row_axis="generated",
        column_axis="source",
    )
    fig.update_xaxes(tickangle=-45)
    worst = 100 * float(result.gaps.max())
    return subtitled(
        fig,
        f"log-probability (nats) by {result.method.replace('_', ' ')}, baseline "
        f"{result.baseline}; blue raises it, red lowers it; largest gap "
        f"{worst:.2g} %",
    )


@renders(PairAttribution)
def pair_matrix(result: PairAttribution, *, terms: bool = True) -> go.Figure:
    """Token x token heat map, and beside it the four terms that its sum is made of."""
    fig = heatmap(
        result.scores,
        "Which token pairs make the texts similar",
        Quantity("share of similarity", "", "", True),
        rows=_numbered(result.tokens_a),
        columns=_numbered(result.tokens_b),
        row_axis="first text",
        column_axis="second text",
    )
    fig.update_xaxes(tickangle=-45)
    if terms:
        _add_terms(fig, result)
    return subtitled(
        fig, f"{result.similarity} at {result.site}, reference {result.reference}; {result.gap_sentence}"
    )


def _add_terms(fig: go.Figure, result: PairAttribution) -> None:
    """A bar per term, in a panel of its own on the right."""
    layout: Any = fig.layout
    width, height = int(layout.width), max(300, int(layout.height))
    left = width / (width + TERMS_WIDTH)
    named = {
        "f(a,b)": result.f_ab,
        "− f(r,b)": -result.f_rb,
        "− f(a,r)": -result.f_ar,
        "+ f(r,r)": result.f_rr,
        "= Σ pairs": float(result.scores.double().sum()),
    }
    color = [theme.SIGNED[-1][1] if v >= 0 else theme.SIGNED[0][1] for v in named.values()]
    fig.add_trace(
        go.Bar(
            x=list(named),
            y=list(named.values()),
            xaxis="x2",
            yaxis="y2",
            showlegend=False,
            marker={"color": color},
            name="four terms",
            text=[labels.number(v, True) for v in named.values()],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x} %{y:.4f}" + labels.NO_NAME,
        )
    )
    fig.update_layout(
        width=width + TERMS_WIDTH,
        height=height,
        xaxis_domain=[0, left - 0.09],
        xaxis2={"domain": [left + 0.02, 1], "anchor": "y2", "tickangle": -45},
        yaxis2={"anchor": "x2", "zeroline": True, "zerolinecolor": theme.INK, "showgrid": True},
        margin_r=24,
    )
    fig.update_traces(colorbar_x=left - 0.085, selector={"type": "heatmap"})


def _numbered(tokens: Any, start: int = 0) -> list[str]:
    """Positions beside tokens, so that equal tokens stay apart to the eye as well."""
    return [f"{i} {labels.shown(str(token), 14)}" for i, token in enumerate(tokens, start)]
