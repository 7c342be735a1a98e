"""Layer-wise relevance propagation by rule, as input x gradient with changed slopes.

Bach et al. 2015 (epsilon, alpha-beta), Montavon et al. 2019 (gamma), Achtibat et al. 2024
(AttnLRP). Relevance of an entry is its value times the slope that the rules give: a linear layer
redistributes by its rule, an activation passes relevance on unchanged, a product gives each factor
half, the scale of a norm is a constant, and a softmax keeps its own gradient (AttnLRP eq. 13).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame, frozen
from interp.attribution.methods.raw import Raw
from interp.attribution.methods.rules import Op, Rules, Slope, carried, slope_at

TINY = 1e-9


def epsilon_rule(game: SiteGame, config: AttributionConfig) -> Raw:
    """Linear layers: R_i = sum_j x_i w_ij / (z_j + eps sign z_j) R_j."""
    return _run(game, Relevance(config.epsilon))


def gamma_rule(game: SiteGame, config: AttributionConfig) -> Raw:
    """Linear layers: positive contributions count (1 + gamma) times.

    Positive means: of the sign of the output (Andeol et al. 2023); the classic rule behind ReLUs.
    """
    return _run(game, Relevance(config.epsilon, positive=1 + config.gamma))


def alpha_beta_rule(game: SiteGame, config: AttributionConfig) -> Raw:
    """Linear layers: alpha x the share of positive contributions - beta x that of negative ones."""
    return _run(game, Relevance(config.epsilon, apart=(config.alpha, config.alpha - 1)))


def attention_rule(game: SiteGame, config: AttributionConfig) -> Raw:
    """AttnLRP: the epsilon rule in linear layers, the attention rules in between.

    The same as `epsilon_rule` here, whose rules for products, norms and softmax are AttnLRP's;
    the name says what to cite for a transformer.
    """
    return _run(game, Relevance(config.epsilon))


def _run(game: SiteGame, rules: Relevance) -> Raw:
    with torch.enable_grad(), frozen(game.model):
        here = game.x.detach().clone().requires_grad_(True)
        with rules:
            out = game(here)
        (slope,) = torch.autograd.grad(out[0], here)
    game.n_backward += 1
    return Raw((slope * game.x)[0].detach())


class Relevance(Rules):
    """LRP's rules.

    Args:
        epsilon: Stabiliser, relative to the largest |z| of a layer.
        positive: Weight of contributions of the output's own sign (1 + gamma; 1: no preference).
        apart: (alpha, beta) of the alpha-beta rule, None for the others.
    """

    def __init__(
        self, epsilon: float = 1e-6, *, positive: float = 1.0, apart: tuple[float, float] | None = None
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.positive = positive
        self.apart = apart

    def elementwise(self, function: Op, x: Tensor) -> Tensor:
        """Relevance passes unchanged: slope y / x, and f'(0) where x is 0."""
        y = function(x.detach())
        flat = x.detach().abs() < TINY
        through = y / torch.where(flat, torch.ones_like(x), x.detach())
        slope = torch.where(flat, slope_at(function, x), through)
        return Slope.apply(x, y, slope)

    def product(self, op: Op, a: Tensor, b: Tensor) -> Tensor:
        """Half of the relevance to each factor."""
        carrier = op(a, b.detach()) / 2 + op(a.detach(), b) / 2
        return carried(op(a.detach(), b.detach()), carrier)

    def scale(self, variance: Tensor) -> Tensor:
        """The scale of a norm takes no relevance."""
        return torch.sqrt(variance.detach())

    def inverse_root(self, x: Tensor) -> Tensor:
        """The same, written out as RMS norms of Hugging Face have it."""
        return torch.rsqrt(x.detach())

    def divide(self, a: Any, b: Tensor) -> Tensor:
        """A quotient is a product with the inverse, which takes no relevance."""
        return a / b.detach()

    def linear(self, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Redistribute by the rule."""
        if func.__name__ == "addmm":
            bias, x, weight = args[:3]
            args, func = (x, weight.T, bias), torch.nn.functional.linear
        x, weight = args[0], args[1]
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        rest = args[3:]
        z = func(x.detach(), weight, bias, *rest, **_without_bias(kwargs))
        if self.apart is None and self.positive == 1.0:
            plain = func(x, weight, bias, *rest, **_without_bias(kwargs))
            return Slope.apply(plain, z, z / self._stable(z))
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        xp, xn = x.clamp(min=0), x.clamp(max=0)
        half = _halves(bias)

        def apply(value: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            return func(value, w, b, *rest, **_without_bias(kwargs))

        gains = apply(xp, up, half[0]) + apply(xn, down, None)
        costs = apply(xp, down, half[1]) + apply(xn, up, None)
        if self.apart is None:
            favour = z.detach() >= 0  # generalised to z < 0, so that no denominator vanishes
            mixed = torch.where(favour, self.positive, 1.0) * gains
            mixed = mixed + torch.where(favour, 1.0, self.positive) * costs
            return Slope.apply(mixed, z, z / self._stable(mixed.detach()))
        alpha, beta = self.apart
        part_up = Slope.apply(gains, z, alpha * z / self._stable(gains.detach()))
        part_down = Slope.apply(costs, z, -beta * z / self._stable(costs.detach()))
        return carried(z, part_up + part_down)

    def _stable(self, z: Tensor) -> Tensor:
        eps = self.epsilon * z.abs().max().clamp(min=TINY)
        return z + eps * torch.where(z >= 0, 1.0, -1.0)


def _halves(bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if bias is None else (bias.clamp(min=0), bias.clamp(max=0))


def _without_bias(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k != "bias"}
