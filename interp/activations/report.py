"""What a training reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.result import Result


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FitReport(Result):
    """How a training went; the trained weights are in the module that was handed to `fit`."""

    allow_nonfinite: ClassVar[frozenset[str]] = frozenset({"loss"})

    step: Int[Tensor, " record"]
    """Steps that were logged, or at which a callback reported something."""
    loss: Float[Tensor, " record"]
    """Loss at these steps; NaN where it was not logged or the step was skipped."""
    steps: int
    """Optimizer steps of the whole run."""
    resumed_at: int
    """Step at which this process took over; 0: it began the run; `steps`: it was finished."""
    skipped: int
    """Steps left out because loss or gradient was not finite."""
    seconds: float
    """Time spent in training, over all processes of the run."""
    records: tuple[dict[str, Any], ...]
    """As in metrics.jsonl: step, loss, lr, grad_norm, seconds and whatever the step function and
    the callbacks report; None where a number was not finite."""
    out: str | None
    """The run's folder."""

    @property
    def final_loss(self) -> float:
        """Loss of the last step; NaN if that step was skipped."""
        return float(self.loss[-1])

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric, where it was recorded."""
        rows = [(r["step"], r[name]) for r in self.records if r.get(name) is not None]
        return [step for step, _ in rows], [value for _, value in rows]

    def check(self) -> Checks:
        """At most one step in a hundred was skipped, and the last one was not."""
        return Checks(
            [
                Check.at_most("skipped_fraction", self.skipped / self.steps, 0.01),
                Check.at_most("final_loss_missing", float(math.isnan(self.final_loss)), 0.0),
            ]
        )


def losses(records: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """`step` and `loss` of a report from its records, both `[record]`."""
    found = [record.get("loss") for record in records]
    steps = torch.tensor([record["step"] for record in records], dtype=torch.int64)
    return steps, torch.tensor([math.nan if x is None else x for x in found], dtype=torch.float64)
