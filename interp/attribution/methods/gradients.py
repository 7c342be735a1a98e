"""Our own gradient methods: along the path with a measured error, under noise with a standard error."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame
from interp.attribution.methods.paths import integrate
from interp.attribution.methods.raw import Raw

SHARE = 0.1
"""The integral is refined to this share of the tolerated gap: rounding and the sum need room."""


def integrated_gradients(game: SiteGame, config: AttributionConfig) -> Raw:
    """(x - r) times the mean gradient on the straight path from r to x (Sundararajan et al. 2017).

    Gauss-Legendre panels, refined until their measured error is within a tenth of the tolerance.
    """
    delta = game.x - game.r

    def along(at: Tensor) -> Tensor:
        view = at.to(game.x.device, game.x.dtype).view(-1, *[1] * (game.x.dim() - 1))
        return game.r + view * delta

    value, base = game.ends()
    bound = max(SHARE * config.tolerance * abs(value - base), rounding(game, value, base))
    found = integrate(
        lambda at: game.gradients(along(at))[1],
        lambda at: game.values(along(at)),
        lambda part: (part * delta[0]).double().sum(),
        bound,
        config.max_nodes,
        game.batch,
    )
    return Raw((found.value * delta[0]).detach(), nodes=found.nodes, error=found.error)


def rounding(game: SiteGame, value: float, base: float) -> float:
    """The smallest difference of f that this precision can tell from zero."""
    eps = torch.finfo(game.x.dtype).eps
    return 16 * eps * (abs(value) + abs(base) + 1e-6)
