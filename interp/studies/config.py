"""Settings of this room: frozen dataclasses that import nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from interp.core.settings import Count, Natural, NonNegative, Positive, Settings, at_least


@dataclass(frozen=True, kw_only=True)
class OptimalConfig(Settings):
    """How the best support is proved."""

    gamma: Positive | None = None
    """1 / ridge strength of the hinge loss; None takes 1 / sqrt(n)."""
    prefilter: Count = 50
    """Candidates, the best by mean difference."""
    tolerance: NonNegative = 1e-6
    """Relative gap between cost and bound at which a support counts as proved."""
    seconds: NonNegative = 60.0
    """Time after which the best found so far is returned, with its gap."""


@dataclass(frozen=True, kw_only=True)
class LowSignalConfig(Settings):
    """Data and network of the benchmark."""

    formula: str = "sin(3a) + 3ab + 2c^2"
    """One of FORMULAS."""
    n_noise: Natural = 50
    """Columns that the formula does not read."""
    n_rows: Annotated[int, at_least(5)] = 2_000
    """Rows, a fifth of them held out."""
    width: Count = 100
    """Units in each of the three hidden layers."""
    steps: Count = 600
    """Full-batch steps of Adam."""
    lr: Positive = 2e-3
    """Learning rate."""
    instances: Count = 64
    """Held-out rows that are attributed."""
    seed: int = 0
    """Data, weights and methods follow from it."""
