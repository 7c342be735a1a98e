"""Captum's methods on a SiteGame: the one file that imports captum.

Gradient methods get x and the baseline r as they are; methods that perturb get coalitions z, all
ones against all zeros, so that one feature of captum's is one player of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from captum import attr as captum
from torch import Tensor, nn

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame, frozen
from interp.attribution.methods.raw import Raw
from interp.core.errors import ModelError


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
    found, moving = torch.zeros(game.n_players, dtype=torch.float64), game.moving().cpu()
    found[moving] = _perturbed(game, captum.FeatureAblation, config)[moving]
    return Raw(players=found)


def occlusion(game: SiteGame, config: AttributionConfig) -> Raw:
    """The same with a sliding window of neighbours hidden together (Zeiler and Fergus 2014)."""
    width = max(1, min(config.window, game.n_players))
    return Raw(players=_perturbed(game, captum.Occlusion, config, sliding_window_shapes=(width,)))


def _perturbed(game: SiteGame, kind: Callable[..., Any], config: AttributionConfig, **options: Any) -> Tensor:
    ones = torch.ones(1, game.n_players, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = kind(lambda z: game.coalition(z).cpu()).attribute(
            ones, baselines=torch.zeros_like(ones), perturbations_per_eval=config.rows, **options
        )
    return found.detach()[0]
