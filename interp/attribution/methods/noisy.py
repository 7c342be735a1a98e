"""Gradients at noisy places, averaged; every score with its standard error over the draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame
from interp.attribution.methods.raw import Raw
from interp.attribution.methods.sampling import SAMPLES
from interp.core.errors import ModelError
from interp.core.randomness import generator

GROUPS = 10
"""Parts of the draws that are left out in turn, where a mean is not the score itself."""


def smoothgrad(game: SiteGame, config: AttributionConfig) -> Raw:
    """|mean gradient under Gaussian noise| (Smilkov et al. 2017)."""
    total = torch.zeros_like(game.x)
    sums, counts = total.expand(GROUPS, *game.x.shape[1:]).clone(), torch.zeros(GROUPS)
    done = 0
    for noise in _noises(game, config, "smoothgrad"):
        _, slopes = game.gradients(game.x + noise)
        group = torch.arange(done, done + len(noise)) % GROUPS
        sums.index_add_(0, group.to(sums.device), slopes)
        counts += group.bincount(minlength=GROUPS)
        done += len(noise)
    errors = None
    if bool((counts > 0).all()):
        counts = counts.to(sums).view(-1, *[1] * (sums.dim() - 1))
        without = ((sums.sum(0) - sums) / (done - counts)).abs()
        apart = torch.stack([game.who.reduce(one)[0].double() for one in without])
        errors = ((GROUPS - 1) ** 2 / GROUPS * apart.var(0)).sqrt()  # Quenouille's and Tukey's jackknife
    return Raw((sums.sum(0) / done).abs(), standard_errors=errors)


def gradient_shap(game: SiteGame, config: AttributionConfig) -> Raw:
    """Expected gradients between the baseline and noisy inputs (Lundberg and Lee 2017).

    What equals the baseline gets no noise: it takes no part in f(x) - f(r).
    """
    drawn = generator(config.seed, "gradient_shap places")
    moving = (game.x != game.r).to(game.x)
    total, each = torch.zeros_like(game.x[0]), []
    for noise in _noises(game, config, "gradient_shap"):
        delta = game.x + moving * noise - game.r
        along = torch.rand(len(noise), generator=drawn).to(delta).view(-1, *[1] * (delta.dim() - 1))
        _, slopes = game.gradients(game.r + along * delta)
        scores = (slopes * delta).detach()
        total += scores.sum(0)
        each += [game.who.reduce(one)[0].double() for one in scores]
    return Raw(total / len(each), nodes=len(each), standard_errors=_of_means(each))


def functional_information(game: SiteGame, config: AttributionConfig) -> Raw:
    """E[variance_i (d_i f)^2 / f] under Gaussian noise around x (Gat et al. 2022, eq. 5).

    f must be positive, as a probability is. The covariance is isotropic: (noise x std of x)^2.

    Raises:
        ModelError: The target is not positive everywhere it was sampled.
    """
    variance = (config.noise * game.x.std()) ** 2
    total, each = torch.zeros_like(game.x[0]), []
    for noise in _noises(game, config, "functional information"):
        values, slopes = game.gradients(game.x + noise)
        if bool((values <= 0).any()):
            raise ModelError(
                "functional information needs a positive target",
                got=f"{float(values.min()):.3g}",
                expected="a probability",
                fix="target=lambda output: output[:, -1].softmax(-1)[:, token]",
            )
        weight = values.to(slopes.dtype).view(-1, *[1] * (slopes.dim() - 1))
        scores = variance * slopes.pow(2) / weight
        total += scores.sum(0)
        each += [game.who.reduce(one)[0].double() for one in scores]
    return Raw(total / len(each), standard_errors=_of_means(each))


def _noises(game: SiteGame, config: AttributionConfig, purpose: str) -> Iterator[Tensor]:
    """Gaussian noise for the copies of each pass, [n, *shape]."""
    drawn = generator(config.seed, purpose, device=str(game.x.device))
    spread = config.noise * game.x.std()
    samples = config.samples or SAMPLES
    for start in range(0, samples, config.rows):
        n = min(config.rows, samples - start)
        noise = torch.randn(n, *game.x.shape[1:], generator=drawn, device=game.x.device)
        yield spread * noise.to(game.x.dtype)


def _of_means(each: list[Tensor]) -> Tensor | None:
    """Standard errors of a mean of draws [pos]; None for a single one."""
    return torch.stack(each).std(0) / len(each) ** 0.5 if len(each) > 1 else None
