"""Dictionaries: densities, what was recovered, loss against sparsity, agreement between seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from interp.core.errors import ConfigError
from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.core.settings import check_choice
from interp.dictionaries.result import Absorption, DictionaryReport, Recovery, Splitting, Stability
from interp.plotting import basics, labels, theme

BINS = 40
"""Bars of the density histogram."""
MAX_CONCEPTS = 30
MAX_CHILDREN = 8
FRONTIERS = {
    "ce_recovered": Quantity("CE recovered", "", "less lost against mean ablation"),
    "kl_recovered": Quantity("KL recovered", "", "predictions nearer to the model's own"),
    "explained_variance": Quantity("explained variance", "", "closer reconstruction"),
}
"""What a frontier can show against L0."""


@renders(DictionaryReport)
def density_histogram(result: DictionaryReport, title: str = "") -> go.Figure:
    """How often the latents fire, on a log scale; dead ones beside it, dense ones marked.

    Args:
        result: An evaluation; densities [latent].
        title: Title; by default the architecture and the site.
    """
    density = theme.as_array(result.density, 1, "densities")
    alive = density[density > 0]
    where = result.site_in if result.site_in == result.site_out else (f"{result.site_in} → {result.site_out}")
    heading = f"{result.architecture} {where}".strip()
    quantity = Quantity(_figures(result))
    fig = theme.figure(title or heading, quantity, 712, 400)
    low = np.floor(np.log10(alive.min())) if len(alive) else -5.0
    low = min(low, np.floor(np.log10(result.dense_above)) - 1)
    counts, edges = np.histogram(np.log10(alive), BINS, (low, 0.0))
    centre = (edges[:-1] + edges[1:]) / 2
    width = edges[1] - edges[0]
    is_dense = centre > np.log10(result.dense_above)
    fig.add_trace(
        go.Bar(
            x=centre,
            y=counts,
            width=width * 0.92,
            name="latents",
            marker={"color": [theme.LINES[1] if d else theme.LINES[0] for d in is_dense]},
            customdata=[
                labels.hover(f"{count} latents · fire on {10**a:.2g} to {10**b:.2g} of the tokens")
                for count, a, b in zip(counts, edges[:-1], edges[1:], strict=True)
            ],
            hovertemplate="%{customdata}" + labels.NO_NAME,
        )
    )
    dead_at = low - 3 * width
    fig.add_trace(
        go.Bar(
            x=[dead_at],
            y=[result.dead],
            width=width * 2.4,
            name="dead",
            cliponaxis=False,
            marker={"color": theme.INK},
            text=[str(result.dead)],
            textposition="outside",
            hovertemplate=f"{result.dead} latents never fire" + labels.NO_NAME,
        )
    )
    fig.add_vline(
        x=np.log10(result.dense_above),
        line={"dash": "dot", "color": theme.INK, "width": 1},
        annotation={"text": f"dense: {result.dense}", "font": {"size": 11}},
        annotation_position="top right",
    )
    decades = np.arange(low, 1)
    fig.update_xaxes(
        title_text="share of tokens a latent fires on",
        tickmode="array",
        tickvals=[dead_at, *decades],
        ticktext=["never", *(_power(d) for d in decades)],
        range=[dead_at - 2 * width, width],
    )
    fig.update_yaxes(title_text="latents", showgrid=True)
    fig.update_layout(showlegend=False, bargap=0)
    return fig


def _figures(result: DictionaryReport) -> str:
    """The subtitle: what a reader asks first."""
    parts = [f"L0 {float(result.l0):.1f}", f"explained variance {result.explained_variance:.3f}"]
    recovered, interval = result.recovered(), result.interval()
    if recovered is not None and interval is not None:
        low, high = interval
        parts.append(f"CE recovered {recovered:.3f} [{low:.3f}, {high:.3f}]")
    n = len(result.density)
    parts.append(f"{result.dead} of {n:,} dead · {result.n_tokens:,} tokens")
    return " · ".join(parts)


def _power(exponent: float) -> str:
    return f"{10**exponent:.0%}" if exponent >= -2 else f"10<sup>{exponent:.0f}</sup>"


@renders(Recovery)
def recovery_scatter(result: Recovery, title: str = "") -> go.Figure:
    """Every true feature: cosine with its latent and F1 of its firing, by how often it fires.

    Args:
        result: A comparison with the truth.
        title: Title.
    """
    sentence = (
        f"MCC {result.mcc:.3f} · F1 {float(result.f1.mean()):.3f} · L0 {float(result.l0):.2f} "
        f"of {result.true_l0:.2f} · {result.dead} dead; dotted: F1 of the true directions"
    )
    fig = theme.figure(title or "Recovery of the true features", Quantity(sentence), 712, 420)
    rate = theme.as_array(result.probability, 1, "probabilities")
    for (name, values), color, symbol in zip(
        {"|cosine| with the matched latent": result.cosine, "F1 of its firing": result.f1}.items(),
        theme.LINES,
        ("circle", "diamond"),
        strict=False,
    ):
        array = theme.as_array(values, 1, name)
        fig.add_trace(
            go.Scatter(
                x=rate,
                y=array,
                mode="markers",
                name=name,
                marker={"color": color, "size": 6, "opacity": 0.65, "symbol": symbol},
                customdata=[
                    labels.hover(f"feature {i} · latent {int(result.partner[i])} · {v:.3f}")
                    for i, v in enumerate(array)
                ],
                hovertemplate="%{customdata}" + labels.NO_NAME,
            )
        )
    for name, scores in result.ceiling.items():
        fig.add_hline(
            y=scores["f1"],
            line={"dash": "dot", "color": theme.INK, "width": 1},
            annotation={"text": f"{labels.plain(name, 30)}: {scores['f1']:.2f}", "font": {"size": 11}},
            annotation_position="bottom left",
        )
    ticks = [t * 10.0**e for e in range(-5, 0) for t in (1, 2, 5)] + [1.0]
    shown = [t for t in ticks if rate.min() / 1.3 <= t <= rate.max() * 1.3]
    fig.update_xaxes(
        title_text="firing probability of the feature",
        type="log",
        tickmode="array",
        tickvals=shown,
        ticktext=[f"{t:g}" for t in shown],
    )
    fig.update_yaxes(title_text="score", range=[-0.02, 1.04], showgrid=True)
    fig.update_layout(margin_t=theme.HEADER + 22)
    return fig


@renders(Stability)
def stability_map(result: Stability, kind: Literal["map", "latents"] = "map", title: str = "") -> go.Figure:
    """Agreement of each two runs, or of each latent with its partners.

    Args:
        result: Dictionaries compared.
        kind: map ([run other]) or latents (each run's latents in order of their agreement).
        title: Title.

    Raises:
        ConfigError: Another kind.
    """
    null = float(result.null)
    if kind == "map":
        quantity = Quantity(
            "mean cosine of matched decoder rows",
            "",
            f"the same latents; random rows give {null:.2f}",
            signed=False,
        )
        names = result.labels["run"]
        return basics.heatmap(
            result.agreement,
            title or "Stability across runs",
            quantity,
            rows=names,
            columns=names,
            row_axis="run",
            column_axis="run",
        )
    ordered = result.latent.sort(1, descending=True).values
    share = np.linspace(0, 1, ordered.shape[1])
    keep = np.unique(np.linspace(0, len(share) - 1, 200).astype(int))
    series: dict[str, object] = {
        f"run {name}": ordered[i, keep] for i, name in enumerate(result.labels["run"][:6])
    }
    fig = basics.lines(
        [float(s) for s in share[keep]],
        series,
        title or "How stable each latent is",
        Quantity("mean cosine with its partners", "", "found again by the other runs"),
        x_axis="share of latents, most stable first",
        reference={"random rows": null, "found again": result.threshold},
    )
    fig.update_traces(mode="lines")
    fig.update_annotations(x=0, xanchor="left")
    fig.update_yaxes(range=[0, 1.02])
    return fig


@renders(Splitting)
def splitting_bars(result: Splitting, title: str = "") -> go.Figure:
    """How many narrow latents have none, one, two ... children in the wide dictionary."""
    counts = result.n_children[result.is_measured].clamp(max=MAX_CHILDREN)
    n = np.bincount(counts.numpy(), minlength=3)
    names = [f"{i} or more" if i == MAX_CHILDREN else str(i) for i in range(len(n))]
    sentence = (
        f"{result.split_share:.0%} of {int(result.is_measured.sum()):,} latents split · "
        f"{result.novel_share:.0%} of {len(result.parent):,} wide latents belong to none"
    )
    fig = theme.figure(title or "Feature splitting", Quantity(sentence), 712, 360)
    fig.add_trace(
        go.Bar(
            x=names,
            y=n,
            marker={"color": theme.LINES[0]},
            width=0.7,
            text=[f"{v:,}" for v in n],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y} narrow latents with %{x} children" + labels.NO_NAME,
        )
    )
    fig.update_xaxes(title_text="children in the wide dictionary", type="category")
    fig.update_yaxes(title_text="latents of the narrow one", showgrid=True)
    return fig


@renders(Absorption)
def absorption_bars(result: Absorption, title: str = "") -> go.Figure:
    """Rate and fraction per concept, the most absorbed first; how readable it is in the name."""
    order = result.rate.argsort(descending=True, stable=True)[:MAX_CONCEPTS].tolist()
    names = [
        f"{labels.prose(result.labels['concept'][i], 24)} · split in {int(result.n_main[i])}"
        f" · probe F1 {float(result.probe_f1[i]):.2f}"
        for i in order
    ]
    quantity = Quantity("share of the concept's occurrences", "", "the concept hides in other latents")
    columns = {"fully absorbed": result.rate[order], "mean absorbed fraction": result.fraction[order]}
    return basics.grouped_bars(columns, names, title or "Feature absorption", quantity)


def dictionary_frontier(
    reports: Mapping[str, Sequence[DictionaryReport]], measure: str = "ce_recovered", title: str = ""
) -> go.Figure:
    """Quality against sparsity: one line per family of dictionaries, one point per dictionary.

    Args:
        reports: Name of a family (an architecture, say) to its evaluations.
        measure: ce_recovered, kl_recovered (both with 95 % bootstrap bars) or
            explained_variance.
        title: Title.

    Raises:
        ConfigError: No such measure, or a report without it.
    """
    check_choice("measure", measure, FRONTIERS)
    if not reports:
        raise ConfigError("a frontier needs something to show", got="no reports")
    quantity = FRONTIERS[measure]
    fig = theme.figure(title or f"{quantity.name} against L0", quantity, 712, 420)
    ticks: set[float] = set()
    for i, (name, family) in enumerate(reports.items()):
        points = sorted((_point(report, measure) for report in family), key=lambda p: p[0])
        l0, value, low, high = (np.array(column) for column in zip(*points, strict=True))
        ticks |= {float(f"{x:.2g}") for x in l0}
        color = theme.LINES[i % len(theme.LINES)]
        fig.add_trace(
            go.Scatter(
                x=l0,
                y=value,
                name=labels.plain(name, 40),
                mode="lines+markers",
                line={"color": color, "width": 2},
                marker={"size": 7},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": high - value,
                    "arrayminus": value - low,
                    "thickness": 1.2,
                    "width": 3,
                    "visible": bool((high > low).any()),
                },
                customdata=[
                    labels.hover(f"{name} · L0 {x:.1f} · {quantity.name} {y:.4f}")
                    for x, y in zip(l0, value, strict=True)
                ],
                hovertemplate="%{customdata}" + labels.NO_NAME,
            )
        )
    there = sorted(tick for tick in ticks if tick > 0) or [1.0]
    room = 1.6 if there[-1] > 4 * there[0] else 3  # one number alone is no scale
    low, high = there[0] / room, there[-1] * room
    shown = _apart(there, _round_numbers(low, high))
    fig.update_xaxes(
        title_text="L0: latents active per token",
        type="log",
        tickmode="array",
        tickvals=shown,
        ticktext=[f"{t:g}" for t in shown],
        range=[math.log10(low), math.log10(high)],
    )
    fig.update_yaxes(title_text=labels.plain(quantity.axis), showgrid=True)
    theme.room_for_legend(fig, [labels.plain(name, 40) for name in reports])
    return fig


def _point(report: DictionaryReport, measure: str) -> tuple[float, float, float, float]:
    """L0, value, low, high."""
    l0 = float(report.l0)
    if measure == "explained_variance":
        value = report.explained_variance
        return l0, value, value, value
    kind = measure.partition("_")[0]
    value, interval = report.recovered("mean", kind), report.interval("mean", kind)
    if value is None or interval is None:
        raise ConfigError(
            f"a report has no {measure}",
            got=f"{report.architecture} at {report.site_in!r}",
            fix="evaluate it with a language model, or draw explained_variance",
        )
    return l0, value, *interval


def _apart(values: list[float], between: list[float]) -> list[float]:
    """Ticks of a log axis that do not run into each other: these, and others where there is room."""
    kept: list[float] = []
    for value in [*values, *between]:
        if all(max(value / other, other / value) > 1.15 for other in kept):
            kept.append(value)
    return sorted(kept)


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**e for e in powers for m in (1, 2, 5) if low < m * 10.0**e < high]
