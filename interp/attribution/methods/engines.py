"""Captum's methods on a SiteGame: the one file that imports captum.

Gradient methods get x and the baseline r as they are; methods that perturb get coalitions z, all
ones against all zeros, so that one feature of captum's is one player of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from captum import attr as captum
from torch import Tensor, nn

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame, frozen
from interp.attribution.methods.raw import Raw
from interp.core.errors import ConfigError, ModelError


def gradient_x_input(game: SiteGame, config: AttributionConfig) -> Raw:
    """Gradient at x times (x - r): first-order Taylor (Shrikumar et al. 2016)."""
    with frozen(game.model):
        shifted = captum.InputXGradient(lambda d: game(game.r + d))
        return Raw(shifted.attribute((game.x - game.r).requires_grad_(True)).detach()[0])


def saliency(game: SiteGame, config: AttributionConfig) -> Raw:
    """|gradient| at x (Simonyan et al. 2013): sensitivity, without a sign."""
    with frozen(game.model):
        return Raw(captum.Saliency(game).attribute(game.x.clone().requires_grad_(True)).detach()[0])


def captum_deeplift(game: SiteGame, config: AttributionConfig) -> Raw:
    """Captum's DeepLIFT (Rescale): wrong, and silent about it, where a model multiplies or calls
    `relu` as a function; the gap shows it. `deeplift` is exact there."""
    module = _AsModule(game)
    with warnings.catch_warnings(), frozen(game.model):
        warnings.simplefilter("ignore")
        try:
            found = captum.DeepLift(module).attribute(game.x.clone().requires_grad_(True), baselines=game.r)
        except (AssertionError, RuntimeError, AttributeError) as error:
            raise ModelError(
                "captum's DeepLIFT cannot run on this model", got=str(error)[:200], fix="method='deeplift'"
            ) from error
    value, base = game.ends()  # captum's rules say nothing of what they miss: the sum does
    missed = abs(float(found.detach().double().sum()) - (value - base))
    return Raw(found.detach()[0], error=missed)


class _AsModule(nn.Module):
    """The game as a module that owns the model's modules, for methods that hook them."""

    def __init__(self, game: SiteGame) -> None:
        super().__init__()
        self.inner = game.model.module
        self._game = game

    def forward(self, x: Tensor) -> Tensor:
        return self._game(x)


def feature_ablation(game: SiteGame, config: AttributionConfig) -> Raw:
    """f(x) - f(x without one player), each on its own; exactly 0 for one that equals the baseline."""
    game.afford(game.who.n, "feature_ablation", config)
    found, moving = torch.zeros(game.who.n, dtype=torch.float64), game.moving().cpu()
    found[moving] = _perturbed(game, captum.FeatureAblation, config, (game.who.n,))[moving]
    return Raw(players=found)


def occlusion(game: SiteGame, config: AttributionConfig) -> Raw:
    """The same with a sliding window of neighbours hidden together (Zeiler and Fergus 2014).

    In a picture the window is a square of pixels or patches; what stands beside the picture, as a class
    token does, is hidden on its own.

    Raises:
        ConfigError: A window of channels, which have no neighbours.
    """
    grid = game.who.grid
    if game.who.each == "channel" and config.window > 1:
        raise ConfigError(
            "channels have no neighbours to hide with them",
            got=f"window={config.window}, units='channel'",
            fix="window=1, or method='feature_ablation'",
        )
    wide = (config.window, 1) if game.who.n != game.who.n_scores else (config.window,) * len(grid)
    window = tuple(min(w, size) for w, size in zip(wide, grid, strict=True))  # heads are no neighbours
    lone = game.who.n - prod(grid)
    game.afford(lone + prod(s - w + 1 for s, w in zip(grid, window, strict=True)), "occlusion", config)
    found = _perturbed(game, captum.Occlusion, config, grid, sliding_window_shapes=window)
    if lone:
        alone = torch.ones(lone + 1, game.who.n, dtype=torch.float64)
        alone[1:, :lone] -= torch.eye(lone, dtype=torch.float64)
        worth = game.coalition(alone).cpu()
        found = torch.cat([worth[0] - worth[1:], found])
    return Raw(players=found)


def _perturbed(
    game: SiteGame, kind: Callable[..., Any], config: AttributionConfig, grid: tuple[int, ...], **options: Any
) -> Tensor:
    """Captum's scores of the last players, which lie on a grid, [player]; those before stay."""
    ones, lone = torch.ones(1, *grid, dtype=torch.float64), game.who.n - prod(grid)

    def worth(z: Tensor) -> Tensor:
        return game.coalition(torch.cat([z.new_ones(len(z), lone), z.flatten(1)], 1)).cpu()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = kind(worth).attribute(
            ones, baselines=torch.zeros_like(ones), perturbations_per_eval=config.rows, **options
        )
    return found.detach().flatten()
