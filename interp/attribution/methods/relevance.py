"""Layer-wise relevance propagation by rule, as input x gradient with changed slopes.

Bach et al. 2015 (epsilon, alpha-beta), Montavon et al. 2019 (gamma), Achtibat et al. 2024
(AttnLRP), Ali et al. 2022 (what the first three do in attention). Relevance of an entry is its value
times the slope that the rules give: a linear layer redistributes by its rule, an activation passes
relevance on unchanged, a product of n gives each factor 1/n, a maximum all of it to the winner; a
denominator and the gate of a recurrent cell (Arras et al. 2017) take none. Softmax is where the
methods part: AttnLRP keeps its gradient (its equation 13), the others hold probabilities constant,
so that attention passes relevance through values only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame, frozen
from interp.attribution.graph import reaches
from interp.attribution.methods.primitives import Op, Slope, carried, exclusive, slope_at
from interp.attribution.methods.raw import Raw
from interp.attribution.methods.rules import Rules
from interp.core.errors import ModelError

TINY = 1e-9


def epsilon_rule(game: SiteGame, config: AttributionConfig) -> Raw:
    """Linear layers: R_i = sum_j x_i w_ij / (z_j + eps sign z_j) R_j; softmax held constant."""
    return _run(game, "lrp_epsilon", epsilon=config.epsilon)


def gamma_rule(game: SiteGame, config: AttributionConfig) -> Raw:
    """Linear layers: positive contributions count (1 + gamma) times.

    Positive means: of the sign of the output (Andeol et al. 2023); the classic rule behind ReLUs.
    """
    return _run(game, "lrp_gamma", epsilon=config.epsilon, positive=1 + config.gamma)


def alpha_beta_rule(game: SiteGame, config: AttributionConfig) -> Raw:
    """Linear layers: alpha x the share of positive contributions - beta x that of negative ones."""
    return _run(game, "lrp_alpha_beta", epsilon=config.epsilon, apart=(config.alpha, config.alpha - 1))


def attention_rule(game: SiteGame, config: AttributionConfig) -> Raw:
    """AttnLRP: the epsilon rule in linear layers, and relevance through the softmax as well."""
    return _run(game, "attn_lrp", epsilon=config.epsilon, through_softmax=True)


def _run(game: SiteGame, method: str, **settings: Any) -> Raw:
    rules = Relevance(game.x.detach().clone().requires_grad_(True), **settings)
    with frozen(game.model):
        found = propagate(lambda x: game.pass_through(x, rules.leave_model), rules, method)
    # zero everywhere counts: a fused q, k, v is one tensor, and its other parts do lead on
    if rules.held and (found is None or not bool(found.any())):
        raise ModelError(
            f"{method} holds {' and '.join(sorted(rules.held))} constant, and nothing else leads from "
            f"{game.at!r} to the target {game.target.name!r}",
            fix="method='attn_lrp' or 'deeplift'",
        )
    if found is None:
        raise game.unreached()
    game.n_backward += 1
    return Raw(found[0])


def propagate(function: Op, rules: Relevance, method: str) -> Tensor | None:
    """Relevance of every entry of the rules' source for function(source)[0]; None if it reaches none.

    Raises:
        ModelError: An operation without a rule.
    """
    with torch.enable_grad():
        with rules:
            out = function(rules.source)
        if not reaches(out, rules.source):
            return None
        rules.refuse_unruled(out, method)
        (slope,) = torch.autograd.grad(out[0], rules.source)
    return (slope * rules.source).detach()


class Relevance(Rules):
    """LRP's rules.

    Args:
        epsilon: Stabiliser, relative to the largest |z| of a layer.
        positive: Weight of contributions of the output's own sign (1 + gamma; 1: no preference).
        apart: (alpha, beta) of the alpha-beta rule, None for the others.
        through_softmax: Whether probabilities pass relevance on to their logits.
    """

    def __init__(
        self,
        source: Tensor,
        *,
        epsilon: float = 1e-6,
        positive: float = 1.0,
        apart: tuple[float, float] | None = None,
        through_softmax: bool = False,
    ) -> None:
        super().__init__(source)
        self.epsilon = epsilon
        self.positive = positive
        self.apart = apart
        self.through_softmax = through_softmax
        self.held: set[str] = set()
        """What took no relevance although it depends on the source."""

    def leave_model(self) -> None:
        """A softmax of the target's own is no attention: a probability passes relevance to its logits."""
        self.through_softmax = True

    def elementwise(self, function: Op, x: Tensor) -> Tensor:
        """Relevance passes unchanged: slope y / x, and f'(0) where x is 0."""
        y = function(x.detach())
        flat = x.detach().abs() < TINY
        through = y / torch.where(flat, torch.ones_like(x), x.detach())
        slope = torch.where(flat, slope_at(function, x), through)
        return Slope.apply(x, y, slope)

    def product(self, op: Op, *factors: Tensor) -> Tensor:
        """An equal share of the relevance to each factor."""
        value = op(*(factor.detach() for factor in factors))
        carrier = torch.zeros_like(value)
        for i, factor in enumerate(factors):
            carrier = carrier + op(*(factor if j == i else f.detach() for j, f in enumerate(factors)))
        return carried(value, carrier / len(factors))

    def prod(self, x: Tensor, dim: int) -> Tensor:
        """The same."""
        now = x.detach()
        return carried(now.prod(dim), (exclusive(now, dim, now) * x).sum(dim) / x.shape[dim])

    def inverse_root(self, x: Tensor) -> Tensor:
        """The scale of a norm, written out as RMS norms of Hugging Face have it, takes no relevance."""
        self.held.add("denominators")
        return torch.rsqrt(x.detach())

    def divide(self, a: Any, b: Tensor) -> Tensor:
        """A quotient is a product with the inverse, which takes no relevance."""
        self.held.add("denominators")
        return a / b.detach()

    def softmax(self, x: Tensor, dim: int) -> Tensor:
        """Its own gradient, or constant."""
        if self.through_softmax:
            p = x.detach().softmax(dim)
            weighed = p * x.masked_fill(x == -torch.inf, 0.0)
            return carried(p, weighed - p * weighed.sum(dim, keepdim=True))
        self.held.add("softmax probabilities")
        return x.detach().softmax(dim)

    def logsumexp(self, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        """Its own gradient, the probabilities: a maximum gives all to the winner, this to each its share."""
        p = x.detach().softmax(dim)
        carrier = (p * x.masked_fill(x == -torch.inf, 0.0)).sum(dim, keepdim=keepdim)
        return carried(torch.logsumexp(x.detach(), dim, keepdim), carrier)

    def gate(self, x: Tensor) -> Tensor:
        """The signal takes all, the gate nothing (Arras et al. 2017): sigmoid(z) / z has no bound."""
        self.held.add("gates")
        return torch.sigmoid(x.detach())

    def select(self, pick: Callable[..., Any], x: Tensor, dim: int, extreme: int) -> tuple[Tensor, Tensor]:
        """Winner takes all."""
        y, place = pick(x.detach())
        return carried(y, x.gather(dim, place)), place

    def choose(self, condition: Tensor, a: Any, b: Any) -> Any:
        """The side that was taken."""
        return torch.where(condition, a, b)

    def linear(self, apply: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Redistribute by the rule."""
        z = apply(x.detach(), weight, bias)
        if self.apart is None and self.positive == 1.0:
            return Slope.apply(apply(x, weight, bias), z, z / self._stable(z))
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        above = x.detach() > 0
        xp, xn = torch.where(above, x, 0.0), torch.where(above, 0.0, x)
        b_up, b_down = _halves(bias)
        gains = apply(xp, up, b_up) + apply(xn, down, None)
        costs = apply(xp, down, b_down) + apply(xn, up, None)
        if self.apart is None:
            favour = z >= 0  # generalised to z < 0, so that no denominator vanishes
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
