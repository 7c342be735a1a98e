"""Our own gradient methods: integrated gradients with a measured error, functional information."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame
from interp.attribution.methods.paths import integrate
from interp.attribution.methods.raw import Raw
from interp.core.errors import ModelError
from interp.core.randomness import generator

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
    )
    return Raw((found.value * delta[0]).detach(), nodes=found.nodes, error=found.error)


def rounding(game: SiteGame, value: float, base: float) -> float:
    """The smallest difference of f that this precision can tell from zero."""
    eps = torch.finfo(game.x.dtype).eps
    return 16 * eps * (abs(value) + abs(base) + 1e-6)


def functional_information(game: SiteGame, config: AttributionConfig) -> Raw:
    """E[variance_i (d_i f)^2 / f] under Gaussian noise around x (Gat et al. 2022, eq. 5).

    f must be positive, as a probability is. The covariance is isotropic: (noise x std of x)^2.

    Raises:
        ModelError: The target is not positive everywhere it was sampled.
    """
    spread = config.noise * game.x.std()
    drawn = generator(config.seed, "functional information", device=str(game.x.device))
    total = torch.zeros_like(game.x[0])
    for start in range(0, config.samples, config.rows):
        n = min(config.rows, config.samples - start)
        noise = torch.randn(n, *game.x.shape[1:], generator=drawn, device=game.x.device)
        values, slopes = game.gradients(game.x + spread * noise.to(game.x.dtype))
        if bool((values <= 0).any()):
            raise ModelError(
                "functional information needs a positive target",
                got=f"{float(values.min()):.3g}",
                expected="a probability",
                fix="target=lambda output: output[:, -1].softmax(-1)[:, token]",
            )
        weight = values.to(slopes.dtype).view(-1, *[1] * (slopes.dim() - 1))
        total += (spread**2 * slopes.pow(2) / weight).sum(0)
    return Raw(total / config.samples)
