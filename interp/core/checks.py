"""How far to trust a result: named numbers with bounds."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

SHOWN = 3
"""Checks that are written out."""


class Check(NamedTuple):
    """One named number with its bound."""

    name: str
    """What is bounded, as `completeness_gap`."""
    value: float
    """What was measured."""
    bound: float
    """The last value that passes, unless `ok` was decided otherwise."""
    ok: bool
    """Whether it passes."""
    sense: str = "≤"
    """How the value must stand to the bound: ≤ or ≥."""

    @classmethod
    def at_most(cls, name: str, value: float | Tensor, bound: float) -> Check:
        """Passes if the value is at most `bound`; NaN never does."""
        return cls(name, float(value), bound, float(value) <= bound)

    @classmethod
    def at_least(cls, name: str, value: float | Tensor, bound: float) -> Check:
        """Passes if the value is at least `bound`; NaN never does."""
        return cls(name, float(value), bound, float(value) >= bound, "≥")

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAILED"
        return f"{self.name} {self.value:.3g} ({self.sense} {self.bound:.3g}) {verdict}"


class Checks(tuple[Check, ...]):
    """The checks of a result."""

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """Whether all pass."""
        return all(check.ok for check in self)

    def __str__(self) -> str:
        """On one line, however many there are: those that fail first of all."""
        failed = [check for check in self if not check.ok]
        if len(self) <= SHOWN:
            return "; ".join(map(str, self)) or "none declared"
        if not failed:
            return f"{len(self)} checks, all ok"
        more = f"; and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        told = "; ".join(map(str, failed[:SHOWN]))
        return f"{len(failed)} of {len(self)} checks FAILED: {told}{more}"
