"""How the activations room's results are drawn: a training report is its curves."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from interp.activations.report import FitReport
from interp.core.result import renders
from interp.plotting.training import training_curves


@renders(FitReport)
def fit_report(report: FitReport, **options: Any) -> go.Figure:
    """Every logged metric over the steps; `options` go to `training_curves`."""
    return training_curves(report.records, **options)
