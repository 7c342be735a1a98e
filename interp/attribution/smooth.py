"""One quadrature rule for a smooth path: looked at cheaply first, then as few nodes as it needs.

Where an integrand is dear and its antiderivative cheap, as many forward passes as a rule has nodes
cost less than one node. The antiderivative at Chebyshev points gives the whole path, and on that
path every rule can be tried for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.paths import gauss_legendre

SIZES = (4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 28, 32, 36, 40, 48)
WIDTHS = (0.05, 0.1, 0.2, 0.4, 1.0, 100.0)
PROBES = (16, 32, 64, 128)
"""Intervals of the probe, doubled until the path is resolved; a probe's points serve the next."""
TAIL = 2.0
"""A path is resolved when the last quarter of its slope's coefficients is this small (root of the
sum of squares), in units of what may be missed."""
ROOM = (0.5, 0.06)
"""How much of what may be missed a rule may miss on the probe: the first try, and the second."""


class Rule(NamedTuple):
    """A quadrature rule on (0, 1)."""

    at: Float[Tensor, " node"]
    """Nodes."""
    weights: Float[Tensor, " node"]
    """Their weights; their sum is about 1."""


def bunched(n: int, centre: float, width: float) -> Rule:
    """Gauss-Legendre in u, x = centre + width sinh(u): nodes crowd around `centre`.

    A norm that shrinks on the way makes the integrand a bump: poles at centre +- i width, which the
    substitution moves away from the path (Johnston and Elliott 2005). A large width is
    Gauss-Legendre itself.
    """
    start, end = math.asinh(-centre / width), math.asinh((1 - centre) / width)
    x, w = (torch.from_numpy(v) for v in gauss_legendre(n))
    u = start + (end - start) * x
    return Rule(centre + width * u.sinh(), (end - start) * w * width * u.cosh())


def rules(
    values: Callable[[Tensor], Tensor],
    miss: Callable[[Tensor], float],
    tolerated: float,
    most: int,
) -> Iterator[Rule]:
    """Rules for the slope of a path, with as few nodes as the path seems to need; two at most.

    None comes where the path is not smooth enough for 128 points to tell.

    Args:
        values: The path at many points of [0, 1] at once, [point] -> [point dim].
        miss: What an integral [dim] misses, in units of what it may.
        tolerated: The same for the length of the integral, relative to the path's.
        most: Nodes that a rule may have.
    """
    known: Tensor | None = None
    rooms, smallest = iter(ROOM), 0
    room = next(rooms)
    for k in PROBES:
        at = (1 - (torch.arange(k + 1, dtype=torch.float64) * math.pi / k).cos()) / 2
        if known is None:
            known = values(at).double()
        else:
            both = known.new_empty(k + 1, known.shape[1])
            both[::2], both[1::2] = known, values(at[1::2]).double()
            known = both
        path = Slope(known)
        if path.tail > TAIL * tolerated:
            continue
        centre = path.steepest()
        # A rule of k / 2 nodes integrates any interpolant of the probe: it would prove nothing.
        for n in (n for n in SIZES if smallest < n <= min(most, 3 * k // 8)):
            tried = [bunched(n, centre, width) for width in WIDTHS]
            found = [miss(rule.weights @ path(rule.at)) for rule in tried]
            best = min(range(len(tried)), key=found.__getitem__)
            if found[best] <= room:
                yield tried[best]
                smallest, again = n, next(rooms, None)
                if again is None:
                    return
                room = again


class Slope:
    """The derivative of a path, from its values at k + 1 Chebyshev points, [point dim]."""

    def __init__(self, values: Tensor) -> None:
        self.series = _slope_coefficients(values)
        size = float((values[-1] - values[0]).norm()) or 1e-30
        self.tail = float(self.series[-(len(self.series) // 4) :].norm()) / size

    def __call__(self, at: Tensor) -> Tensor:
        """At any points, [point] -> [point dim]."""
        angle = (1 - 2 * at.to(self.series)).clamp(-1, 1).acos()
        degrees = torch.arange(len(self.series)).to(self.series)
        return (angle[:, None] * degrees).cos() @ self.series

    def steepest(self) -> float:
        """Where it is longest."""
        grid = torch.linspace(0, 1, 257).to(self.series)
        return float(grid[self(grid).norm(dim=1).argmax()])


def _slope_coefficients(values: Tensor) -> Tensor:
    """Chebyshev coefficients of the derivative, from values at the k + 1 points [point dim].

    In t = 1 - 2 x, so that the points run from x = 0; d/dx = -2 d/dt.
    """
    k = len(values) - 1
    grid = torch.arange(k + 1, dtype=torch.float64)
    cosines = (grid[:, None] * grid * math.pi / k).cos()
    ends = torch.ones(k + 1, dtype=torch.float64)
    ends[[0, -1]] = 0.5
    series = 2 / k * ends[:, None] * (cosines @ (ends[:, None] * values))
    found = torch.zeros_like(series)
    for j in range(k - 1, -1, -1):  # T_{j+1}' / (j+1) - T_{j-1}' / (j-1) = 2 T_j
        found[j] = 2 * (j + 1) * series[j + 1] + (found[j + 2] if j + 2 <= k else 0)
    found[0] /= 2
    return -2 * found[:-1]
