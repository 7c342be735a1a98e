"""Second-order effects: which neurons, written where, by which heads, and what hangs on them."""

from __future__ import annotations

from typing import Literal

import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.lenses.indirect.many import NeuronDirections, SparseCode
from interp.lenses.indirect.one import SecondOrder
from interp.plotting import basics, labels
from interp.plotting.config import HeadMapConfig
from interp.plotting.rooms.lenses import heads


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


@renders(NeuronDirections)
def neuron_directions(
    result: NeuronDirections,
    kind: Literal["explained", "inputs"] = "explained",
    share: float = 0.02,
    title: str = "",
) -> go.Figure:
    """Draw, over neurons sorted by it, how far one direction or few inputs hold all effects.

    Args:
        kind: "explained": variance along the principal direction; "inputs": part of the squared
            effects that the strongest `share` of the inputs hold.
    """
    if kind == "explained":
        values, floor = result.explained, 1 / result.direction.shape[1]
        quantity = Quantity("variance along one direction", "share", "one direction says it all")
        level = {"of noise at least": floor}
    else:
        values = result.concentration(share)
        quantity = Quantity(
            f"squared effects on {share:.0%} of the inputs", "share", "the neuron speaks seldom"
        )
        level = {"if all inputs were alike": share}
    ordered = values.sort(descending=True).values
    fig = basics.lines(
        list(range(len(ordered))),
        {f"layer {result.layer}": ordered},
        title or f"Second-order effects of {len(ordered)} neurons of layer {result.layer}",
        quantity,
        x_axis="neuron, by this number",
        reference=level,
    )
    return fig.update_yaxes(range=[-0.08, 1.02])  # room for the level's name below it


@renders(SparseCode)
def sparse_code(result: SparseCode, row: int = 0, keep: int = 16, title: str = "") -> go.Figure:
    """Draw the weights of one vector's atoms."""
    words = result.words(row, keep)
    names = result.labels.get("row") or [f"vector {i}" for i in range(len(result.ids))]
    left = f"{float(result.error[row, -1]):.2f} of its length is left"
    quantity = Quantity("weight", f"unit atoms; {left}", "the atom is more of it", True)
    title = title or f"{labels.shown(names[row], 24)} as a sum of atoms"
    return basics.bars([w for _, w in words], [labels.shown(a, 24) for a, _ in words], title, quantity)
