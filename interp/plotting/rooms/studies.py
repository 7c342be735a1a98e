"""Studies: one picture each."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.core.quantity import Quantity
from interp.core.result import renders
from interp.plotting import basics, labels, theme
from interp.plotting.basics import bars, lines, subtitled
from interp.studies.amortised import Amortised
from interp.studies.clamped_units import ClampedWriting
from interp.studies.end_tasks import EndTask
from interp.studies.in_context import InContextResult
from interp.studies.low_signals import Elimination, LowSignal
from interp.studies.sentiment_unit import UnitResult


@renders(UnitResult)
def unit_histogram(result: UnitResult, title: str = "") -> go.Figure:
    """What the unit does on rows of either class, and the threshold between them."""
    fig = theme.figure(
        title or f"Unit {result.unit} and {labels.plain(result.target, 50)}",
        Quantity(
            "rows",
            f"count; the unit alone is right on {float(result.unit_accuracy):.1%}, "
            f"all units on {float(result.full_accuracy):.1%}",
            "",
        ),
        712,
        400,
    )
    low, high = float(result.values.min()), float(result.values.max())
    bins = {"start": low, "end": high + 1e-9, "size": (high - low) / 40 or 1.0}
    for code, name in enumerate(result.classes):
        own = theme.as_array(result.values[result.label == code], 1, "unit")
        shown = labels.plain(name, 30)
        fig.add_trace(
            go.Histogram(
                x=theme.packed(own),
                name=shown,
                xbins=bins,
                opacity=0.6,
                marker={"color": theme.LINES[code]},
                hovertemplate=f"{labels.hover(shown)} · %{{y}} rows at %{{x}}{labels.NO_NAME}",
            )
        )
    fig.add_vline(x=result.threshold, line={"dash": "dot", "color": theme.INK, "width": 2})
    fig.update_layout(barmode="overlay", bargap=0)
    fig.update_xaxes(title_text=f"unit {result.unit}")
    fig.update_yaxes(title_text="rows", showgrid=True)
    return fig


@renders(InContextResult)
def algorithm_curves(result: InContextResult, title: str = "") -> go.Figure:
    """Distance of the predictions to each named algorithm's, by number of exemplars."""
    series = dict(zip(result.labels["algorithm"], result.spd, strict=True))
    fig = basics.lines(
        [int(k) for k in result.labels["exemplars"]],
        series,
        title or "Which algorithm predicts like this?",
        Quantity("squared difference of predictions", "over d", "another algorithm"),
        x_axis="exemplars",
    )
    fig.update_yaxes(type="log")
    return fig


@renders(ClampedWriting)
def writing_bars(result: ClampedWriting, title: str = "") -> go.Figure:
    """What is written with the units held toward each class, free, and with others held."""
    ends = [labels.plain(n, 24) for n in result.labels["toward"]]
    names = [f"held toward {end}" for end in ends] + ["nothing held"]
    values = [*result.share.tolist(), float(result.free)]
    for i, pair in enumerate(result.random.tolist()):
        values += pair
        names += [f"others {i} toward {end}" for end in ends]
    held = f"unit {result.units[0]}" if len(result.units) == 1 else f"{len(result.units)} units"
    fig = basics.bars(
        values,
        names,
        title or f"Writing with {held} held",
        Quantity("share of samples", f"judged {ends[1]}", f"more of {ends[1]}"),
    )
    return fig.update_xaxes(range=[0, 1])


@renders(EndTask)
def endtask_lines(result: EndTask) -> go.Figure:
    """Sensitivity + specificity - 1 of every way to answer, over the size of the change."""
    series = dict(zip(result.labels["answer"], result.youden, strict=True))
    return lines(
        result.deltas.tolist(),
        series,
        "Does raising the feature raise the output?",
        Quantity("sensitivity + specificity - 1", "", "the answer is right more often"),
        x_axis="size of the change",
        reference={"a coin": 0.0},
    )


@renders(LowSignal)
def low_signal_bars(result: LowSignal) -> go.Figure:
    """Share of true features among the leading ones, per method."""
    quantity = Quantity("true features among the leading ones", "share")
    title = "Few features that matter, many that do not"
    fig = bars(result.precision, result.labels["method"], title, quantity)
    fig.add_vline(x=result.chance, line={"dash": "dot"})
    return subtitled(fig, f"{quantity.axis}; dotted: chance, {result.chance:.2g}")


@renders(Elimination)
def elimination_lines(result: Elimination) -> go.Figure:
    """Held-out error and share of true features over the features left."""
    return lines(
        result.kept.tolist(),
        {
            "held-out error": result.error,
            "true among those left": result.precision,
            "true ones still there": result.recall,
        },
        f"Recursive elimination by {result.method.replace('_', ' ')}",
        Quantity("error, or share", "", ""),
        x_axis="features left",
    )


@renders(Amortised)
def amortised_lines(result: Amortised) -> go.Figure:
    """Error of the expensive method over its budget, and the amortised one's level."""
    return lines(
        result.budgets.tolist(),
        {"expensive method": result.cheaper_error},
        "What one pass is worth",
        Quantity("mean squared error", "", "farther off"),
        x_axis="evaluations",
        reference={"amortised": result.error, "mean map": result.error_mean},
    )
