"""Feature vectors: how they couple, and where in a text they are."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.lenses.features import FeatureVectors
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
