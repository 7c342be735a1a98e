"""Feature vectors: how they couple, and where in a text they are."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.core.quantity import Quantity
from interp.core.result import renders
from interp.lenses.features import FeatureVectors, TokenScores
from interp.plotting import basics


@renders(FeatureVectors)
def feature_coupling(result: FeatureVectors, title: str = "") -> go.Figure:
    """Draw the coupling coefficient of every pair: C(row → column)."""
    return basics.heatmap(
        result.coupling(),
        title or f"How the features of {result.observable} couple",
        Quantity("coupling coefficient", "", "a unit of the row's feature brings more of the column's", True),
        rows=result.names,
        columns=result.names,
        row_axis="feature",
        column_axis="feature",
    )


@renders(TokenScores)
def token_scores(result: TokenScores, title: str = "") -> go.Figure:
    """Draw the score of every feature at every token."""
    fig = basics.heatmap(
        result.scores,
        title or f"Where the features of {result.observable} are",
        Quantity("vector · activation", "logits", f"the token speaks for {result.observable}", True),
        rows=result.names,
        columns=result.tokens,
        row_axis="feature",
        column_axis="token",
    )
    fig.update_xaxes(tickangle=-45)
    return fig
