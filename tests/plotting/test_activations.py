"""A training report draws itself."""

from __future__ import annotations

import torch
from torch import nn

from interp.activations import FitConfig, fit


def test_a_fit_report_plots_its_own_metrics() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 3)

    def step(module: nn.Module, batch: torch.Tensor, t: int) -> torch.Tensor:
        return (module(batch) - batch).square().mean()

    def batches(t: int) -> torch.Tensor:
        return torch.randn(5, 3, generator=torch.Generator().manual_seed(t))

    report = fit(module, step, batches, FitConfig(steps=30, lr=0.05, log_every=1))
    figure = report.plot(title="toy")
    assert figure.layout.title.text.startswith("toy")
    drawn = [len(trace.x) for trace in figure.data if trace.x is not None]
    assert max(drawn) == 30
