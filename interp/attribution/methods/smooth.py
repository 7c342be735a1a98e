"""One quadrature rule for a smooth path: looked at cheaply first, then as few nodes as it needs.

Where an integrand is dear and its antiderivative cheap, as many forward passes as a rule has nodes
cost less than one node. The antiderivative at Chebyshev points gives the whole path, and on that
path every rule can be tried for nothing, and its weights can be fitted: the components of the slope
are samples of the functions that the dear integrand is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.methods.paths import gauss_legendre

SIZES = (*range(4, 21), *range(22, 49, 2))
WIDTHS = (0.05, 0.1, 0.2, 0.4, 1.0, 100.0)
PROBES = (16, 32, 64, 128)
"""Intervals of the probe, doubled until the path is resolved; a probe's points serve the next."""
TAIL = 2.0
"""A path is resolved when the last quarter of its slope's coefficients is this small (root of the
sum of squares), in units of what may be missed."""
ROOM = (0.6, 0.25, 0.06)
"""How much of what may be missed a rule may miss on the probe, try by try."""
LEAP = 5.0
"""What a rule may miss before its weights are fitted: with few components any rule can be fitted,
and the fit would say nothing about what lies under their sum."""
RIDGE = 1e-6
"""Holds fitted weights to those they start from, relative to the slopes' mean square."""


class Rule(NamedTuple):
    """A quadrature rule on (0, 1)."""

    at: Float[Tensor, " node"]
    """Nodes of the rule."""
    weights: Float[Tensor, " node"]
    """Weights of the nodes; they sum to about 1."""


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
    misses: Callable[[Tensor], Tensor],
    size: Callable[[Tensor], float],
    tolerated: float,
    most: int,
) -> Iterator[Rule]:
    """Rules for the slope of a path, with as few nodes as the path seems to need; three at most.

    None comes where the path is not smooth enough for 128 points to tell.

    Args:
        values: The path at many points of [0, 1] at once, [point] -> [point dim].
        misses: Integrals [... dim] in units of what they may miss, [... unit]; linear.
        size: Of such a miss [unit]; 1 is tolerated.
        tolerated: What the length of the integral may miss, relative to the path's.
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
        wanted = misses(known[-1] - known[0])
        # A rule of k / 2 nodes integrates any interpolant of the probe: it would prove nothing.
        for n in (n for n in SIZES if smallest < n <= min(most, 3 * k // 8)):
            tried = [bunched(n, centre, width) for width in WIDTHS]
            slopes = [misses(path(rule.at)) for rule in tried]
            found = [size(r.weights @ s - wanted) for r, s in zip(tried, slopes, strict=True)]
            best = min(range(len(tried)), key=found.__getitem__)
            if found[best] > LEAP:
                continue
            rule = fitted(tried[best], slopes[best], wanted)
            if size(rule.weights @ slopes[best] - wanted) <= room:
                yield rule
                smallest, again = n, next(rooms, None)
                if again is None:
                    return
                room = again


def fitted(rule: Rule, slopes: Tensor, wanted: Tensor) -> Rule:
    """The same nodes with the nearest weights that integrate all slopes [node unit] to `wanted`.

    Least squares: there are many more components than nodes, so no component is integrated by
    chance, and one rule for all of them is nearly a Gaussian rule for the space they span.
    """
    gram = slopes @ slopes.T
    gram.diagonal().add_(RIDGE * float(gram.diagonal().mean()) or 1e-30)
    change = torch.linalg.solve(gram, slopes @ (wanted - rule.weights @ slopes))
    return Rule(rule.at, rule.weights + change)


class Slope:
    """The derivative of a path, from its values at k + 1 Chebyshev points, [point dim]."""

    def __init__(self, values: Tensor) -> None:
        self.series: Tensor = _slope_coefficients(values)
        size = float((values[-1] - values[0]).norm()) or 1e-30
        self.tail: float = float(self.series[-(len(self.series) // 4) :].norm()) / size

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
