"""Captum's methods on a SiteGame: the one file that imports captum.

Gradient methods get x and the baseline r as they are; methods that perturb get coalitions z, all
ones against all zeros, so that one feature of captum's is one player of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum import attr as captum
from torch import Tensor, nn

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame, frozen
from interp.attribution.methods.raw import Raw
from interp.core.errors import ConfigError, ModelError
from interp.core.randomness import generator


@contextmanager
def _drawn(config: AttributionConfig, purpose: str) -> Iterator[None]:
    """Captum draws from global generators: lend it ours, and put them back."""
    import random

    import numpy as np

    states = random.getstate(), np.random.get_state()
    seed = generator(config.seed, purpose).initial_seed()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def gradient_x_input(game: SiteGame, config: AttributionConfig) -> Raw:
    """Gradient at x times (x - r): first-order Taylor (Shrikumar et al. 2016)."""
    with frozen(game.model):
        shifted = captum.InputXGradient(lambda d: game(game.r + d))
        return Raw(shifted.attribute((game.x - game.r).requires_grad_(True)).detach()[0])


def saliency(game: SiteGame, config: AttributionConfig) -> Raw:
    """|gradient| at x (Simonyan et al. 2013): sensitivity, without a sign."""
    with frozen(game.model):
        return Raw(captum.Saliency(game).attribute(game.x.clone().requires_grad_(True)).detach()[0])


def smoothgrad(game: SiteGame, config: AttributionConfig) -> Raw:
    """|mean gradient under Gaussian noise| (Smilkov et al. 2017)."""
    noisy = captum.NoiseTunnel(captum.Saliency(game))
    with _drawn(config, "smoothgrad"), frozen(game.model):
        found: Any = noisy.attribute(
            game.x.clone().requires_grad_(True),
            nt_type="smoothgrad",
            nt_samples=config.samples,
            nt_samples_batch_size=config.rows,
            stdevs=float(config.noise * game.x.std()) or 1e-12,
            abs=False,
        )
    return Raw(found.detach().abs()[0])


def gradient_shap(game: SiteGame, config: AttributionConfig) -> Raw:
    """Expected gradients between the baseline and noisy inputs (Lundberg and Lee 2017)."""
    total, done = torch.zeros_like(game.x), 0
    with _drawn(config, "gradient_shap"), frozen(game.model):
        while done < config.samples:
            n = min(config.rows, config.samples - done)
            found = captum.GradientShap(game).attribute(
                game.x.clone().requires_grad_(True),
                baselines=game.r,
                n_samples=n,
                stdevs=float(config.noise * game.x.std()) / 10,
            )
            total, done = total + n * found.detach(), done + n
    return Raw(total[0] / done, nodes=done)


def captum_deeplift(game: SiteGame, config: AttributionConfig) -> Raw:
    """Captum's DeepLIFT (Rescale): wrong, and silent about it, where a model multiplies or calls
    `relu` as a function; the gap shows it. `deeplift` is exact there."""
    module = _AsModule(game)
    with _drawn(config, "deeplift"), frozen(game.model):
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


def layer_conductance(game: SiteGame, config: AttributionConfig) -> Raw:
    """How much of the path from baseline to input passes each unit (Dhamdhere et al. 2018).

    The path runs over the model's embeddings. Over a layer that everything passes, a residual
    stream, the scores sum to f(x) - f(baseline); over one that can be bypassed they need not.
    """
    site, path = game.site, game.path
    if path is None or path.at == game.at:
        raise ConfigError(
            "conductance measures an inner site, along a path over the embeddings",
            got=f"at={game.at!r}",
            fix="at='blocks.0.mlp.hook_post', or method='integrated_gradients'",
        )
    if site.kind not in ("in", "out"):
        raise ConfigError(
            "captum's conductance reaches inputs and outputs of modules only",
            got=f"{game.at!r}, which lies inside one",
            fix="method='integrated_gradients'",
        )
    game.gradients(game.x)  # captum's own word for a site that the target does not depend on is none
    with _drawn(config, "conductance"), frozen(game.model):
        found = captum.LayerConductance(path, site.module).attribute(
            path.x,
            baselines=path.r,
            n_steps=min(config.max_nodes, 64),
            method="gausslegendre",
            internal_batch_size=max(config.rows, 2),
            attribute_to_layer_input=site.kind == "in",
        )
    raw = found[0] if isinstance(found, tuple) else found
    view = site.view
    entries = raw.detach() if view is None else view.read(raw.detach())
    return Raw(entries.reshape(game.x.shape)[0], nodes=min(config.max_nodes, 64))


def feature_ablation(game: SiteGame, config: AttributionConfig) -> Raw:
    """f(x) - f(x without one player), each on its own."""
    return _perturbed(game, captum.FeatureAblation, config, perturbations_per_eval=config.rows)


def occlusion(game: SiteGame, config: AttributionConfig) -> Raw:
    """The same with a sliding window of neighbours hidden together (Zeiler and Fergus 2014)."""
    width = max(1, min(config.window, game.n_players))
    return _perturbed(
        game, captum.Occlusion, config, perturbations_per_eval=config.rows, sliding_window_shapes=(width,)
    )


def shapley(game: SiteGame, config: AttributionConfig) -> Raw:
    """Shapley values by sampled permutations (Strumbelj and Kononenko 2010).

    `samples` counts evaluations per player's place: samples / players permutations, at least 8.
    """
    n = max(8, config.samples // max(1, game.n_players))
    return _perturbed(
        game, captum.ShapleyValueSampling, config, n_samples=n, perturbations_per_eval=config.rows
    )


def kernel_shap(game: SiteGame, config: AttributionConfig) -> Raw:
    """Shapley values by weighted least squares over random coalitions (Lundberg and Lee 2017)."""
    return _perturbed(
        game,
        captum.KernelShap,
        config,
        n_samples=config.samples,
        perturbations_per_eval=config.rows,
        return_input_shape=True,
    )


def lime(game: SiteGame, config: AttributionConfig) -> Raw:
    """A sparse linear model around the input (Ribeiro et al. 2016).

    Captum's penalty is absolute, so the target is measured in units of |f(x) - f(r)|: scores scale
    with the target, and a probability of 1e-3 is explained as well as a logit.
    """
    value, base = game.ends()
    unit = abs(value - base) or 1.0
    raw = _perturbed(
        game,
        captum.Lime,
        config,
        unit,
        n_samples=config.samples,
        perturbations_per_eval=config.rows,
        return_input_shape=True,
    )
    return Raw(players=None if raw.players is None else raw.players * unit)


def _perturbed(
    game: SiteGame, kind: Callable[..., Any], config: AttributionConfig, unit: float = 1.0, **options: Any
) -> Raw:
    ones = torch.ones(1, game.n_players)

    def value(z: Tensor) -> Tensor:
        return (game.coalition(z) / unit).float()

    with _drawn(config, kind.__name__):
        found = kind(value).attribute(ones, baselines=torch.zeros_like(ones), **options)
    return Raw(players=found.detach()[0].double())
