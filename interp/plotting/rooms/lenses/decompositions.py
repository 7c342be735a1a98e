"""Sums of parts: a waterfall for one position, a component-by-position map, a map of the heads.

The waterfall is the picture of Nanda's direct logit attribution and of SHAP: each bar begins where
the one above ends, and the last is what the model says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.lenses.decomposition import Decomposition
from interp.plotting import basics, labels, theme
from interp.plotting.config import DecompositionConfig, HeadMapConfig
from interp.plotting.rooms.lenses import heads

BAR = 22
SIGNS = "the part says it (blue +, red −)"


@renders(Decomposition)
def decomposition(
    result: Decomposition, config: DecompositionConfig | None = None, **options: Any
) -> go.Figure:
    """Draw a decomposition.

    Args:
        result: Values [component pos].
        config: Which picture, how many components.
        **options: Fields of `DecompositionConfig` to change, e.g. `kind="heads"`.

    Raises:
        ConfigError: A position or a kind of component that the result does not have.
    """
    config = (config or DecompositionConfig()).changed(options, "this picture")
    kind = config.kind
    if kind == "auto":
        kind = "heatmap" if len(result.tokens) > 1 else "waterfall"
    if kind == "heatmap":
        return _heatmap(result, config)
    one = result.at(config.position)
    if kind == "heads":
        title = config.title or f"What each head adds to the {_what(one)}"
        quantity = Quantity("contribution", "logits", "the head says it", True)
        return heads.head_heatmap(one.heads()[..., 0], title, quantity, HeadMapConfig())
    return _waterfall(one, config)


def _what(result: Decomposition) -> str:
    """`logit of ·Mary` and where it is read."""
    target = labels.shown(result.targets[0], 24)
    named = "" if result.reading == "observable" else f" of {target}"
    return f"{result.reading}{named}"


def _sentence(result: Decomposition) -> str:
    """How the sum relates to the model's output."""
    if not result.softcap:
        return ""
    return f"the sum is before the soft cap {result.softcap:g}·tanh(x/{result.softcap:g})"


def _waterfall(result: Decomposition, config: DecompositionConfig) -> go.Figure:
    shown = result.folded(config.keep)
    values = shown.values[:, 0].double().cpu().numpy()
    names, lengths = list(shown.components), list(values)
    starts = [0.0, *np.cumsum(values)[:-1]]
    total = float(result.total[0])
    names, lengths, starts = [*names, "sum"], [*lengths, total], [*starts, 0.0]
    if result.softcap:
        names, starts = [*names, "after the soft cap"], [*starts, 0.0]
        lengths = [*lengths, float(result.output[0])]
    higher = "; ".join(filter(None, [SIGNS, _sentence(result)]))
    after = labels.shown(result.tokens[0], 24)
    title = config.title or f"The {_what(result)} after {after}, part by part"
    fig = theme.figure(title, Quantity("contribution", "logits", higher), 712, 150 + BAR * len(names))
    negative, positive = theme.SIGNED[0][1], theme.SIGNED[-1][1]
    whole = len(names) - len(values)
    colors = [positive if v >= 0 else negative for v in values] + [theme.INK] * whole
    fig.add_trace(
        go.Bar(
            x=theme.packed(np.array(lengths)),
            base=theme.packed(np.array(starts)),
            y=list(range(len(names))),
            orientation="h",
            marker={"color": colors},
            text=[labels.number(v, signed=True) for v in lengths],
            textposition="outside",
            cliponaxis=False,
            textfont={"size": 11},
            customdata=[
                labels.hover(f"{labels.plain(name)} · {labels.number(v, True)} logits")
                for name, v in zip(names, lengths, strict=True)
            ],
            hovertemplate="%{customdata}" + labels.NO_NAME,
        )
    )
    ends = np.concatenate([np.array(starts), np.array(starts) + np.array(lengths), [0.0]])
    reach = float(ends.max() - ends.min()) or 1.0
    fig.update_xaxes(
        title_text="logits so far",
        showgrid=True,
        zeroline=True,
        zerolinecolor=theme.INK,
        range=[float(ends.min()) - 0.1 * reach, float(ends.max()) + 0.1 * reach],
    )
    fig.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=labels.numbered(names),
        range=[len(names) - 0.4, -0.6],
    )
    return fig


def _heatmap(result: Decomposition, config: DecompositionConfig) -> go.Figure:
    shown = result.folded(config.keep)
    higher = "; ".join(filter(None, ["the part says the answer", _sentence(result)]))
    fig = basics.heatmap(
        shown.values,
        config.title or f"What each part adds to the {result.reading}",
        Quantity("contribution", "logits", higher, True),
        rows=shown.components,
        columns=result.tokens,
        row_axis="component",
        column_axis="input token (the answer is the token after it)",
        first_row="bottom",
    )
    answers = [f" · answer {labels.label(target)}" for target in result.targets]
    trace: Any = fig.data[0]
    trace.customdata = [
        [hover + answer for hover, answer in zip(row, answers, strict=True)] for row in trace.customdata
    ]
    fig.update_xaxes(tickangle=-45)
    return fig
