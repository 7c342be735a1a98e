"""How well a model does, as bars with intervals: one per template, or one per task."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.plotting import labels, theme
from interp.tasks.behaviour import TaskReport

MOST = 40
ROW = 24
CRITERIA = {
    "accuracy": "an answer is the top-1 of the whole vocabulary",
    "preference": "an answer is above every distractor",
    "sentence": "the good sentence is the more probable",
}


@renders(TaskReport)
def accuracy_bars(result: TaskReport, title: str = "") -> go.Figure:
    """Share answered right per group, with 95 % intervals; orange where a group misses its bar.

    Args:
        result: A report; of more than 40 groups, the 40 with the lowest shares are drawn.
        title: Title; empty for the task's name.
    """
    shown = np.arange(len(result.right))
    if len(shown) > MOST:
        shown = np.sort(np.argsort(result.right.numpy(), kind="stable")[:MOST])
    right, low, high = (x.numpy()[shown] for x in (result.right, result.low, result.high))
    names = [result.groups[i] for i in shown]
    bar = result.bar.numpy()[shown]
    missed = ~np.isnan(bar) & (right < bar)
    quantity = Quantity("share answered right", higher=_meaning(result, len(names)))
    width = 712
    fig = theme.figure(title or f"Accuracy · {result.name}", quantity, width, 150 + ROW * len(names))
    fig.add_trace(
        go.Bar(
            x=theme.packed(right),
            y=list(range(len(names))),
            orientation="h",
            marker={
                "color": [theme.MARK if miss else theme.LINES[0] for miss in missed],
                "opacity": 0.6,  # the lower half of an interval lies on its bar
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": theme.packed(high - right),
                "arrayminus": theme.packed(right - low),
                "color": theme.INK,
                "thickness": 1,
                "width": 3,
            },
            customdata=[_hover(result, int(i)) for i in shown],
            hovertemplate="%{customdata}" + labels.NO_NAME,
        )
    )
    for level in sorted(set(bar[~np.isnan(bar)].tolist())):
        fig.add_vline(x=level, line={"dash": "dot", "color": theme.INK, "width": 1})
    fig.update_xaxes(title_text="share answered right", range=[0, 1.02], showgrid=True)
    fig.update_yaxes(
        autorange="reversed",
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[labels.plain(name, 52) for name in names],
    )
    return fig


def _meaning(result: TaskReport, drawn: int) -> str:
    """What counts as right, where that is the same for all, and what is left out."""
    kinds = dict.fromkeys(result.criteria)
    text = "; or ".join(CRITERIA.get(kind, kind) for kind in kinds)
    if drawn < len(result.groups):
        text += f" (the {drawn} lowest of {len(result.groups)})"
    if not bool(result.bar.isnan().all()):
        text += "; dotted: the bar, orange: below it"
    return text


def _hover(result: TaskReport, i: int) -> str:
    right, low, high = (float(x[i]) for x in (result.right, result.low, result.high))
    parts = [result.groups[i], f"right {right:.3f} [{low:.3f}, {high:.3f}] of {int(result.n[i])}"]
    for field, what in (
        ("top1", "top-1"),
        ("preferred", "above distractors"),
        ("probability", "probability of the answer"),
        ("logit_difference", "logit difference"),
    ):
        value = float(getattr(result, field)[i])
        if value == value:
            parts.append(f"{what} {value:.3f}")
    return labels.hover(" · ".join(parts))
