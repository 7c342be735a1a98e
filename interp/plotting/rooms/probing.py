"""Probes: what is readable layer by layer beside its controls, F1 against k, audits of erasure."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.core.result import renders
from interp.core.settings import check_choice
from interp.plotting import basics, labels, theme
from interp.plotting.config import Quantity
from interp.probing.findings import ContextProbes, NeuronAblation
from interp.probing.result import (
    AmnesicResult,
    AttentionProbeResult,
    CodeLengths,
    ErasureAudit,
    ProbeSweep,
    PruningCurve,
    SparseSweep,
    VInformation,
)

MAX_CURVES = 6
HIGHER = "more is readable"


@renders(ProbeSweep)
def probe_curves(result: ProbeSweep, target: str | None = None, title: str = "") -> go.Figure:
    """Score by site with its band, the controls, and chance as a dotted line.

    Several targets give a map of site by target; `target` picks one of them as curves.

    Args:
        result: A sweep; arrays [site target].
        target: Which target to draw.
        title: Title; by default what is read.

    Raises:
        ConfigError: No such target.
    """
    names, sites = result.labels["target"], _short_sites(result.labels["site"])
    if target is None and len(names) > 1:
        quantity = Quantity("test score", "R2" if "real" in result.kinds else "accuracy", HIGHER)
        return basics.heatmap(
            result.score,
            title or "What is readable where",
            quantity,
            rows=sites,
            columns=names,
            row_axis="site",
            column_axis="target",
            first_row="bottom",
        )
    column = 0 if target is None else _index("target", target, names)
    series: dict[str, object] = {"probe": result.score[:, column]}
    bands = {"probe": (result.low[:, column], result.high[:, column])}
    for name, values in (
        ("control task", result.control),
        ("random weights", result.random_init),
        ("shuffled labels", result.shuffled),
    ):
        if values is not None:
            series[name] = values[:, column]
    if result.shuffled_low is not None and result.shuffled_high is not None:
        bands["shuffled labels"] = (result.shuffled_low[:, column], result.shuffled_high[:, column])
    real = result.kinds[column] == "real"
    quantity = Quantity("test R2" if real else "test accuracy", "", HIGHER)
    level = "nothing explained" if real else "always the majority"
    fig = basics.lines(
        range(len(sites)),
        series,
        title or f"Probe for {labels.plain(names[column], 60)}",
        quantity,
        x_axis="site",
        bands=bands,
        reference={level: float(result.majority[column])},
    )
    return _named_ticks(fig, sites)


@renders(SparseSweep)
def sparse_curves(result: SparseSweep, metric: str = "f1", title: str = "") -> go.Figure:
    """F1 (or another metric) against the number of neurons, the best sites, with the null band.

    Args:
        result: A sparse sweep.
        metric: f1, mcc, kappa, fmi, precision, recall, roc_auc or pr_auc.
        title: Title.

    Raises:
        ConfigError: No such metric.
    """
    metrics = ["f1", "mcc", "kappa", "fmi", "precision", "recall", "roc_auc", "pr_auc"]
    values = getattr(result, metrics[_index("metric", metric, metrics)])
    ks = [int(k) for k in result.labels["k"]]
    best = values.amax(1).argsort(descending=True, stable=True)[:MAX_CURVES].sort().values.tolist()
    sites = _short_sites(result.labels["site"])
    names = [f"layer {s}" if s.isdigit() else s for s in sites]
    series: dict[str, object] = {names[i]: values[i] for i in best}
    bands: dict[str, tuple[object, object]] = {}
    low, high = result.null_low, result.null_high
    if metric == "f1" and result.null_f1 is not None and low is not None and high is not None:
        series["shuffled labels"] = result.null_f1[best].mean(0)
        bands["shuffled labels"] = (low[best].amin(0), high[best].amax(0))
    what = f"{result.target}: {result.positive}" if result.positive != "True" else result.target
    fig = basics.lines(
        ks,
        series,
        title or f"k-sparse probes for {labels.plain(what, 50)}",
        Quantity(f"test {metric.replace('_', ' ')}", "", "fewer mistakes"),
        x_axis="neurons in the probe",
        bands=bands,
    )
    shown = [k for i, k in enumerate(ks) if i == 0 or k >= 1.5 * ks[i - 1] or k <= 4]
    fig.update_xaxes(type="log", tickmode="array", tickvals=shown, ticktext=list(map(str, shown)))
    return fig


@renders(ErasureAudit)
def erasure_bars(result: ErasureAudit, title: str = "") -> go.Figure:
    """Before, after, and after a random projection of the same rank; one group per probe."""
    probes, targets = result.labels["probe"], result.labels["target"]
    rows = [(p, t) for t in range(len(targets)) for p in range(len(probes))]
    names = [
        f"{labels.plain(targets[t], 24)}{' (erased)' if targets[t] == result.erased else ''} · {probes[p]}"
        for p, t in rows
    ]
    quantity = Quantity("test score", "accuracy, or R2", f"{HIGHER}; dotted: the majority class")
    title = title or f"{result.method.replace('_', ' ')}: {labels.plain(result.erased, 40)} erased"
    fig = theme.figure(title, quantity, 712, 190 + 62 * len(rows))
    groups = {"before": result.before, "after": result.after, "random, same rank": result.random}
    for (name, values), color in zip(groups.items(), theme.LINES, strict=False):
        array = theme.as_array(values, 2, "audit")
        fig.add_trace(
            go.Bar(
                x=[array[p, t] for p, t in rows],
                y=list(range(len(rows))),
                orientation="h",
                name=name,
                marker={"color": color},
                customdata=[
                    labels.hover(f"{name} · {n} · {array[p, t]:.3f}")
                    for n, (p, t) in zip(names, rows, strict=True)
                ],
                hovertemplate="%{customdata}" + labels.NO_NAME,
            )
        )
    for at, (_, t) in enumerate(rows):
        level = float(result.majority[t])
        fig.add_shape(
            type="line",
            x0=level,
            x1=level,
            y0=at - 0.45,
            y1=at + 0.45,
            line={"dash": "dot", "color": theme.INK, "width": 2},
        )
    fig.update_xaxes(title_text="test score", showgrid=True, range=[0, 1.02])
    fig.update_yaxes(autorange="reversed", tickmode="array", tickvals=list(range(len(rows))), ticktext=names)
    fig.update_layout(barmode="group", bargap=0.25, margin_t=theme.HEADER + 22)
    return fig


@renders(AmnesicResult)
def amnesic_bars(result: AmnesicResult, title: str = "") -> go.Figure:
    """Rise of the loss when the concept goes, beside random directions of the same rank."""
    random = result.random_effects.tolist()
    names = ["the concept", *(f"random {i}" for i in range(len(random)))]
    quantity = Quantity("rise of the loss", "nats per token", "the model used what was erased")
    return basics.bars(
        [result.effect, *random], names, title or f"Erased at {result.site}, rank {result.rank}", quantity
    )


@renders(AttentionProbeResult)
def attention_probe_bars(result: AttentionProbeResult, title: str = "") -> go.Figure:
    """UAS of the probe per relation, over the best fixed offset of each relation."""
    names = ["all relations", *result.labels["relation"]]
    probe = [float(result.uas), *result.relation_uas.tolist()]
    offset = [float(result.offset_uas), *result.relation_offset.tolist()]
    higher = "more heads guessed right"
    if result.random_init_uas is not None:
        higher += f"; with random weights {float(result.random_init_uas):.2f} over all relations"
    fig = theme.figure(
        title or "Heads of words, from attention alone",
        Quantity("UAS", "share of words", higher),
        712,
        170 + 34 * len(names),
    )
    columns = {"attention probe": probe, "best fixed offset": offset}
    for (name, values), color in zip(columns.items(), theme.LINES, strict=False):
        fig.add_trace(
            go.Bar(
                x=values,
                y=list(range(len(names))),
                orientation="h",
                name=name,
                marker={"color": color},
                customdata=[
                    labels.hover(f"{name} · {labels.plain(n)} · {v:.3f}")
                    for n, v in zip(names, values, strict=True)
                ],
                hovertemplate="%{customdata}" + labels.NO_NAME,
            )
        )
    fig.update_xaxes(title_text="UAS", showgrid=True, range=[0, 1])
    ticks = [labels.plain(name, 24) for name in names]
    fig.update_yaxes(autorange="reversed", tickmode="array", tickvals=list(range(len(names))), ticktext=ticks)
    fig.update_layout(barmode="group", bargap=0.25, margin_t=theme.HEADER + 22)
    return fig


@renders(CodeLengths)
def code_curves(result: CodeLengths, title: str = "") -> go.Figure:
    """Bits per label by site, beside shuffled labels and the uniform code."""
    sites = _short_sites(result.labels["site"])
    fig = basics.lines(
        range(len(sites)),
        {"labels": result.bits / result.n, "shuffled labels": result.shuffled / result.n},
        title or f"Code length of {labels.plain(result.target, 60)}",
        Quantity("online code", "bits per label", "less is readable, or with more data"),
        x_axis="site",
        reference={"uniform code": float(result.uniform) / result.n},
    )
    return _named_ticks(fig, sites)


@renders(VInformation)
def information_map(result: VInformation, title: str = "") -> go.Figure:
    """V-information of every target by site."""
    return basics.heatmap(
        result.nats,
        title or "Linearly usable information",
        Quantity("V-information", "nats", HIGHER),
        rows=_short_sites(result.labels["site"]),
        columns=result.labels["target"],
        row_axis="site",
        column_axis="target",
        first_row="bottom",
    )


@renders(PruningCurve)
def pruning_curve(result: PruningCurve, title: str = "") -> go.Figure:
    """F1 as the best single neuron is taken away, again and again."""
    return basics.lines(
        range(len(result.f1)),
        {f"{result.k} best neurons left": result.f1},
        title or f"Pruning neurons for {labels.plain(result.target, 60)}",
        Quantity("test F1", "", "others tell it, too"),
        x_axis="neurons taken away",
    )


@renders(ContextProbes)
def context_probe_curves(result: ContextProbes, title: str = "") -> go.Figure:
    """R2 by layer for every target, beside the same target of unrelated problems."""
    names = result.labels["target"]
    series: dict[str, object] = {n: result.r2[:, i] for i, n in enumerate(names)}
    series |= {f"{n}, unrelated": result.control[:, i] for i, n in enumerate(names)}
    fig = basics.lines(
        range(len(result.r2)),
        series,
        title or "Is the problem readable in the states?",
        Quantity("test R2", "", HIGHER),
        reference={"nothing explained": 0.0},
    )
    return _named_ticks(fig, [labels.plain(n, 24) for n in result.labels["layer"]])


@renders(NeuronAblation)
def ablation_bars(result: NeuronAblation, title: str = "") -> go.Figure:
    """Rise of each group's loss without the neurons, and without random others."""
    names, values = [], []
    for i, group in enumerate(result.labels["group"]):
        shown = labels.plain(group, 24)
        names.append(f"{shown}: the neurons")
        values.append(float(result.effect[i]))
        for draw, effect in enumerate(result.random_effects[:, i].tolist()):
            names.append(f"{shown}: others {draw}")
            values.append(effect)
    what = ", ".join(map(str, result.neurons[:6])) + ("…" if len(result.neurons) > 6 else "")
    return basics.bars(
        values,
        names,
        title or f"Without {what} of {labels.plain(result.site, 40)}",
        Quantity("rise of the loss", "nats per token", "the neurons were used"),
    )


def _short_sites(sites: list[str]) -> list[str]:
    """Site names without what all share: `blocks.3.hook_resid_post` -> `3.resid_post`, `3`."""
    short = [s.removeprefix("blocks.").replace("hook_", "") for s in sites]
    kinds = {s.partition(".")[2] for s in short if s[:1].isdigit()}
    if len(kinds) == 1:
        short = [s.partition(".")[0] if s[:1].isdigit() else s for s in short]
    return [labels.plain(s, 24) for s in short]


def _named_ticks(fig: go.Figure, names: list[str]) -> go.Figure:
    every = max(1, -(-len(names) // 16))
    at = list(range(0, len(names), every))
    fig.update_xaxes(tickmode="array", tickvals=at, ticktext=[names[i] for i in at])
    fig.update_xaxes(range=[-0.3, max(len(names) - 0.7, 0.3)])
    return fig


def _index(what: str, name: str, names: list[str]) -> int:
    check_choice(what, name, names)
    return names.index(name)
