"""Integrals along the straight path from baseline to input, refined only where they must be.

The path is cut into panels with Gauss-Legendre nodes. On every panel the integral of the
directional derivative is known exactly, f(end) - f(start), so each panel measures its own error;
the fewest panels that spoil the bound are halved, the others are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NODES = 8
"""Per panel: exact for polynomials of degree 15."""

Integrand = Callable[[Tensor], Tensor]
"""Nodes [node] in (0, 1) -> integrand [node, ...]."""


@dataclass(frozen=True)
class Integral:
    """What a refined integration found."""

    value: Tensor
    """The integral over [0, 1], the integrand's shape without its node axis."""
    error: float
    """Sum over panels of their measured errors."""
    nodes: int
    """Evaluations of the integrand."""
    converged: bool
    """Whether the error meets the bound."""


@cache
def gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(n)
    return (x + 1) / 2, w / 2


def integrate(
    integrand: Integrand,
    potential: Integrand,
    project: Callable[[Tensor], Tensor],
    bound: float,
    max_nodes: int,
    at_once: int = 4 * NODES,
) -> Integral:
    """Integrate until the measured error meets the bound.

    Args:
        integrand: What is integrated, at many nodes at once.
        potential: F with `project(integral over [a, b]) = F(b) - F(a)`; at nodes -> [node, ...].
        project: Linear map from a value of the integral to what the potential measures.
        bound: On the sum of the panels' errors (the norm of each), absolute.
        max_nodes: Give up beyond, and say so.
        at_once: Nodes at once, a panel's at least: their values are dropped before the next.
    """
    x, w = gauss_legendre(NODES)
    ends: dict[float, Tensor] = {}
    panels: list[Panel] = []
    todo, used = [(0.0, 1.0)], 0
    while True:
        new = sorted({e for panel in todo for e in panel} - ends.keys())
        if new:
            for some in torch.tensor(new, dtype=torch.float64).split(at_once):
                ends.update(zip(some.tolist(), potential(some), strict=True))
        parts, misses = [], []
        for start in range(0, len(todo), max(1, at_once // NODES)):
            some = todo[start : start + max(1, at_once // NODES)]
            at = torch.tensor(np.concatenate([a + (b - a) * x for a, b in some]))
            found = integrand(at).unflatten(0, (len(some), NODES))
            used += len(at)
            for (a, b), values in zip(some, found, strict=True):
                weights = torch.tensor((b - a) * w, dtype=values.dtype, device=values.device)
                parts.append(torch.tensordot(weights, values, 1))
                misses.append((project(parts[-1]) - (ends[b] - ends[a])).double().norm())
        told = torch.stack(misses).tolist()  # one wait for all panels where they lie on a device
        panels += [Panel(a, b, *both) for (a, b), *both in zip(todo, told, parts, strict=True)]
        panels.sort(key=lambda panel: panel.miss)
        error = sum(panel.miss for panel in panels)
        split = _worst(panels, bound / 2)
        if error <= bound or used + 2 * NODES * len(split) > max_nodes:
            total = torch.zeros_like(panels[0].part)
            for panel in panels:
                total += panel.part
            return Integral(total, error, used, error <= bound)
        panels = panels[: len(panels) - len(split)]
        todo = [h for a, b, _, _ in split for h in ((a, (a + b) / 2), ((a + b) / 2, b))]


def integrate_by_halves(
    stretch: Callable[[float, float], Tensor],
    project: Callable[[Tensor], Tensor],
    points: int,
    bound: float,
    max_nodes: int,
) -> Integral:
    """The same where no antiderivative is known: a stretch's error is what its halves say otherwise.

    Args:
        stretch: The integral over a stretch of the path by one rule, whatever its accuracy.
        project: Linear map from an integral to what must be right.
        points: Evaluations that a stretch costs.
        bound: On the sum of the stretches' errors (the norm of each), absolute.
        max_nodes: Give up beyond, and say so.
    """
    halved: list[_Halved] = []
    todo, used = [(0.0, 1.0, stretch(0.0, 1.0))], points
    while True:
        done, misses = [], []
        for start, end, whole in todo:
            middle = (start + end) / 2
            halves = (start, middle, stretch(start, middle)), (middle, end, stretch(middle, end))
            done.append((start, end, halves[0][2] + halves[1][2], halves))
            misses.append(project(done[-1][2] - whole).double().norm())
        for (start, end, part, halves), miss in zip(done, torch.stack(misses).tolist(), strict=True):
            halved.append(_Halved(Panel(start, end, miss, part), halves))
        used += 2 * points * len(todo)
        halved.sort(key=lambda one: one.panel.miss)
        panels = [one.panel for one in halved]
        error = sum(panel.miss for panel in panels)
        split = min(len(_worst(panels, bound / 2)), (max_nodes - used) // (4 * points))
        if error <= bound or split < 1:
            total = torch.stack([panel.part for panel in panels]).sum(0)
            return Integral(total, error, used, error <= bound)
        todo = [half for one in halved[-split:] for half in one.halves]
        halved = halved[:-split]


class Panel(NamedTuple):
    """A stretch of the path, with the error it measured and its part of the integral."""

    start: float
    end: float
    miss: float
    part: Tensor


class _Halved(NamedTuple):
    """A stretch that was done twice: whole, and in these two halves."""

    panel: Panel
    """Integral by halves, and how far the whole was from that."""
    halves: tuple[tuple[float, float, Tensor], tuple[float, float, Tensor]]
    """Start, end and integral of each half."""


def _worst(panels: list[Panel], allowed: float) -> list[Panel]:
    """The fewest panels without which the others' errors stay within `allowed`; sorted input."""
    kept = 0.0
    for i, panel in enumerate(panels):
        kept += panel.miss
        if kept > allowed:
            return panels[i:]
    return []
