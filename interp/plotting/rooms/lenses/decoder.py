"""The decoder lens over a batch: what is solved at which encoder layer."""

from __future__ import annotations

from typing import Literal

import plotly.graph_objects as go

from interp.core.quantity import Quantity
from interp.core.result import renders
from interp.lenses.decoder_scores import DecoderScores
from interp.plotting import basics, labels


@renders(DecoderScores)
def decoder_scores(
    result: DecoderScores, kind: Literal["solved", "kl"] = "solved", title: str = ""
) -> go.Figure:
    """Draw accuracy per encoder layer (`kind="solved"`), or the KL to the model (`kind="kl"`)."""
    if kind == "kl":
        series = {"KL": result.kl.mean(1)}
        quantity = Quantity("KL(model ‖ layer)", "nats per token", "farther from the model", False)
    else:
        series = {"tokens (teacher-forced)": result.token_accuracy.mean(1)}
        if result.exact_match is not None:
            series["whole answers (greedy)"] = result.exact_match.mean(1)
        quantity = Quantity("share that is right", "0 to 1", "the layer's states suffice", False)
    fig = basics.lines(
        list(range(len(result.components))),
        series,
        title or f"What the decoder can do with each layer ({result.kl.shape[1]:,} examples)",
        quantity,
        x_axis="encoder layer that it reads",
    )
    fig.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(result.components))),
        ticktext=labels.numbered(result.components),
    )
    fig.update_yaxes(rangemode="tozero")
    return fig
