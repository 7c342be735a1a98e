"""Conductance: how much of the path from baseline to input passes a unit (Dhamdhere et al. 2018).

    C_j = integral over the path of  df/dy_j  dy_j/da  da

y is what the inner site holds at place a of the path over the model's embeddings. On a stretch of the
path both factors are taken at Gauss-Lobatto points; the slope of y is that of the polynomial through
its values, so no derivative through the layers before the site is needed, and where df/dy is constant
the stretch is exact. Its error is measured by doing it again in two halves.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame
from interp.attribution.methods.gradients import SHARE, rounding
from interp.attribution.methods.paths import integrate_by_halves
from interp.attribution.methods.raw import Raw
from interp.core.errors import ConfigError, ModelError

POINTS = 9
"""Per stretch, both ends included: exact for products of degree 15."""


def layer_conductance(game: SiteGame, config: AttributionConfig) -> Raw:
    """What each unit of an inner site passes on, refined until its measured error is small enough.

    Over a layer that everything passes, a residual stream, the scores sum to f(x) - f(baseline); over
    one that can be bypassed they need not.

    Raises:
        ConfigError: The site is where the path itself runs.
        ModelError: The path moves nothing at the site.
    """
    path = game.path
    if path is None or path.at == game.at:
        raise ConfigError(
            "conductance measures an inner site, along a path over the embeddings",
            got=f"site={game.at!r}",
            fix="site='blocks.0.mlp.hook_post', or method='integrated_gradients'",
        )
    delta, shape, moved = path.x - path.r, game.x.shape[1:], False
    at, weights, derivative = (torch.from_numpy(each) for each in _lobatto(POINTS))

    def stretch(start: float, end: float) -> Tensor:
        nonlocal moved
        places = (start + (end - start) * at).to(delta).view(-1, *[1] * (delta.dim() - 1))
        held, slopes = path.behind(game.at, path.r + places * delta)
        held, slopes = (each.reshape(POINTS, *shape).double() for each in (held, slopes))
        changes = torch.tensordot(derivative.to(held.device), held - held[:1], 1)
        moved = moved or bool(changes.any())
        return torch.tensordot(weights.to(held.device), slopes * changes, 1)

    value, base = path.ends()
    bound = max(SHARE * config.tolerance * abs(value - base), rounding(path, value, base))
    found = integrate_by_halves(
        stretch, lambda part: game.who.reduce(part)[0], POINTS, bound, config.max_nodes
    )
    if not moved and bool(delta.any()):
        raise ModelError(
            f"nothing at {game.at!r} depends on {path.at!r}, where the path runs",
            fix="a site that comes after the embeddings",
        )
    return Raw(found.value.to(game.x.dtype), nodes=found.nodes, error=found.error)


@cache
def _lobatto(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points on [0, 1] with both ends, weights that sum to 1, and the derivative in units of [0, 1].

    Row i of the derivative gives the slope at point i of the polynomial through n values, on a stretch
    of length 1; times weights, the length of the stretch cancels.
    """
    legendre = np.polynomial.legendre.Legendre.basis(n - 1)
    x = np.concatenate([[-1.0], np.sort(legendre.deriv().roots().real), [1.0]])
    weights = 2 / (n * (n - 1) * legendre(x) ** 2)
    apart = x[:, None] - x
    np.fill_diagonal(apart, 1.0)
    scale = apart.prod(1)
    derivative = scale[:, None] / scale / apart
    np.fill_diagonal(derivative, 0.0)
    np.fill_diagonal(derivative, -derivative.sum(1))  # a constant has no slope
    return (x + 1) / 2, weights / 2, 2 * derivative
