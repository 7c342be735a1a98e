"""What an engine hands back before it is keyed by position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame


@dataclass(frozen=True)
class Raw:
    """What an engine returns."""

    entries: Tensor | None = None
    """Scores of entries, [*shape]; or None where players are scored."""
    players: Tensor | None = None
    """Scores of players, [player]."""
    nodes: int = 0
    """Gradients along a path, where there is one."""
    error: float | None = None
    """Measured error of the integration, where there is one (absolute)."""
    standard_errors: Tensor | None = None
    """Standard errors of the positions' scores, [pos], where draws made them; 0 where all was counted."""


Engine = Callable[[SiteGame, AttributionConfig], Raw]
