"""What a training reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """How a training went; the trained weights are in the module that was handed to `fit`."""

    steps: int
    """Optimizer steps of the whole run."""
    resumed_at: int
    """Step at which this process took over; 0: it began the run; `steps`: it was finished."""
    skipped: int
    """Steps left out because loss or gradient was not finite."""
    seconds: float
    """Time spent in training, over all processes of the run."""
    records: Sequence[Mapping[str, Any]]
    """One record per logged step, as in metrics.jsonl: step, loss, lr, grad_norm, seconds and
    whatever the step function and the callbacks report."""
    out: Path | None
    """The run's folder."""

    @property
    def loss(self) -> float | None:
        """The loss of the last logged step; None if that step was skipped."""
        return self.records[-1]["loss"] if self.records else None

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric, where it was recorded."""
        rows = [(r["step"], r[name]) for r in self.records if r.get(name) is not None]
        return [step for step, _ in rows], [value for _, value in rows]
