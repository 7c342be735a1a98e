"""Second-order effects: which neurons, written where, through which heads."""

from __future__ import annotations

from typing import Literal

import plotly.graph_objects as go

from interp.core.result import renders
from interp.lenses.indirect import SecondOrder
from interp.plotting import basics, heads, labels
from interp.plotting.config import HeadMapConfig, Quantity


@renders(SecondOrder)
def second_order(
    result: SecondOrder,
    kind: Literal["tokens", "neurons", "heads"] = "tokens",
    keep: int = 16,
    title: str = "",
) -> go.Figure:
    """Draw the strongest neurons by token, as bars, or all neurons by the head they pass."""
    what = f"logit of {labels.shown(result.target, 24)}"
    quantity = Quantity("second-order effect", "logits", "later heads make it say the answer", True)
    if kind == "heads":
        config = HeadMapConfig(layer_labels=tuple(f"L{layer}" for layer in result.layers))
        title = title or f"Heads that carry layer {result.layer}'s neurons to the {what}"
        return heads.head_heatmap(result.by_head, title, quantity, config)
    total = result.total()
    chosen = total.abs().topk(min(keep, len(total))).indices
    names = [f"L{result.layer}N{int(n)}" for n in chosen]
    if kind == "neurons":
        title = title or f"Neurons that reach the {what} through later heads"
        return basics.bars(total[chosen], names, title, quantity)
    fig = basics.heatmap(
        result.effects[chosen],
        title or f"Where layer {result.layer} writes what later heads bring to the {what}",
        quantity,
        rows=names,
        columns=result.tokens,
        row_axis="neuron",
        column_axis="token at which it writes",
    )
    fig.update_xaxes(tickangle=-45)
    return fig
