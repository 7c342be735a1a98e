"""DeepLIFT, exact on products: sum of contributions = f(x) - f(r) for any composition.

Shrikumar, Greenside, Kundaje 2017 (1704.02685): Rescale (section 3.5.1's multipliers) and
RevealCancel (3.5.2). Exact identities carry it through what a rule for activations alone gets
silently wrong (gated MLPs, norms, attention, maxima), with slopes that stay bounded. Bars are means
over input and reference:

    product    D(ab)  = mean(b) Da + mean(a) Db;  of more factors, the mean of both orders
    quotient   D(a/b) = (Da - mean(a/b) Db) / mean(b)
    softmax    Dp_i   = l_i (Ds_i - sum_j l_j Ds_j / sum_j l_j),  l = Dp / D(log p)
    rank k     all of Dy goes to an entry that stands at or above it on one side and at or below it on
               the other: there always is one, and its share Dy / Dx lies between 0 and 1

The reference goes first and leaves the operands of every rule on a tape, which the input then reads:
operations are paired by their order, whatever their shapes, and no axis need be the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame, frozen
from interp.attribution.methods.primitives import Op, Slope, carried, exclusive, live, slope_at
from interp.attribution.methods.raw import Raw
from interp.attribution.methods.rules import Rules
from interp.core.errors import ModelError

FLAT = 1e-6
"""Below this difference of inputs the slope is the derivative at the midpoint."""
NEAR = 1e-3
"""Below this difference of logarithms their mean is the geometric one, 4e-8 off."""


def deeplift(game: SiteGame, config: AttributionConfig) -> Raw:
    """The Rescale rule, exact on gated products, norms and attention."""
    return _run(game, "deeplift", reveal=False)


def reveal_cancel(game: SiteGame, config: AttributionConfig) -> Raw:
    """RevealCancel: behind a linear layer, positive and negative contributions rescale apart."""
    return _run(game, "deeplift_reveal_cancel", reveal=True)


def _run(game: SiteGame, method: str, *, reveal: bool) -> Raw:
    with frozen(game.model):
        entries, missed = lift(game, game.x, game.r, method, reveal=reveal)
    game.n_backward += 1
    return Raw(entries[0], error=missed)


def lift(
    function: Op, x: Tensor, r: Tensor, method: str = "deeplift", *, reveal: bool = False
) -> tuple[Tensor, float]:
    """Contribution of every entry to function(x)[0] - function(r)[0], and what their sum misses of it.

    Raises:
        ModelError: An operation without a rule, or x and r part on their way through the model.
    """
    with torch.enable_grad():
        start, here = (end.detach().clone().requires_grad_(True) for end in (r, x))
        with DeepLift(start, reveal) as reference:
            base = function(start)
        with DeepLift(here, reveal, reference.tape) as rules:
            out = function(here)
        rules.refuse_unruled(out, method)
        (multiplier,) = torch.autograd.grad(out[0], here)
    entries = (multiplier * (x - r)).detach()
    # places that follow the data (argmax, then gather) have no slope and no node: the sum tells
    missed = entries.double().sum() - (out[0] - base[0]).detach().double()
    return entries, float(missed.abs())


class DeepLift(Rules):
    """The rules, for the reference first and then, with its tape, for the input."""

    def __init__(
        self, source: Tensor, reveal: bool = False, reference: list[tuple[Tensor, ...]] | None = None
    ) -> None:
        super().__init__(source)
        self.reveal = reveal
        self.reference = reference
        self.tape: list[tuple[Tensor, ...]] = []
        self._inverse: dict[int, tuple[Tensor, Tensor]] = {}
        self._linear: dict[int, tuple[Tensor, _Linear]] = {}

    def _then(self, *now: Tensor) -> tuple[Tensor, ...]:
        """What stood here when the reference went through.

        Raises:
            ModelError: The reference took another path through the model.
        """
        kept = tuple(value.detach().clone() for value in now)
        self.tape.append(kept)
        if self.reference is None:
            return kept
        at = len(self.tape) - 1
        then = self.reference[at] if at < len(self.reference) else ()
        if [value.shape for value in then] != [value.shape for value in now]:
            raise ModelError(
                "deeplift compares input and baseline operation by operation, and they part here",
                got=f"operation {at}: shapes {[tuple(v.shape) for v in now]} of the input",
                expected=f"{[tuple(v.shape) for v in then]}, as for the baseline",
                fix="method='integrated_gradients', which only asks for values and gradients",
            )
        return then

    def elementwise(self, function: Op, x: Tensor) -> Tensor:
        """Slope Dy / Dx."""
        (below,) = self._then(x)
        if self.reference is None:
            return function(x)
        origin = self._linear.get(id(x)) if self.reveal else None
        above = x.detach()
        y = function(above)
        if origin is not None and origin[0] is x:
            return _Apart.apply(origin[1].x, y, origin[1], *_slopes_apart(function, below, origin[1]))
        difference = (above - below).nan_to_num(0.0)  # -inf - -inf: masked in both
        middle = slope_at(function, torch.where(above == below, above, (above + below) / 2))
        steep = difference.abs() > FLAT
        secant = (y - function(below)) / torch.where(steep, difference, torch.ones_like(difference))
        return Slope.apply(x, y, torch.where(steep, secant, middle))

    def product(self, op: Op, *factors: Tensor) -> Tensor:
        """Each factor is weighed by the others, half of them at the reference, in both orders."""
        if op is torch.mul and len(factors) == 2:
            for factor, other in (factors, factors[::-1]):
                inverse = self._inverse.get(id(factor))
                if inverse is not None and inverse[0] is factor:
                    return self.divide(other, inverse[1])
        then = self._then(*factors)
        now = [factor.detach() for factor in factors]
        value = op(*now)
        carrier = torch.zeros_like(value)
        for i, factor in enumerate(factors):
            carrier = carrier + op(*now[:i], factor, *then[i + 1 :]) + op(*then[:i], factor, *now[i + 1 :])
        return carried(value, carrier / 2)

    def divide(self, a: Any, b: Tensor) -> Tensor:
        """The quotient rule; a reference near zero leaves its slopes bounded."""
        if not live(a):
            inverse = self.elementwise(torch.reciprocal, b)
            return a * inverse
        a, b = torch.broadcast_tensors(a, b)
        a_then, b_then = self._then(a, b)
        y = a.detach() / b.detach()
        ratio, size = (y + a_then / b_then) / 2, (b.detach() + b_then) / 2
        return carried(y, (a - ratio * b) / size)

    def inverse_root(self, x: Tensor) -> Tensor:
        """1 / root, remembered with its root: what it multiplies is divided by the root."""
        root = self.elementwise(torch.sqrt, x)
        inverse = self.elementwise(torch.reciprocal, root)
        self._inverse[id(inverse)] = (inverse, root)
        return inverse

    def softmax(self, x: Tensor, dim: int) -> Tensor:
        """The softmax's own gradient with logarithmic means in the place of probabilities."""
        p, weight = self._log_means(x, dim)
        centred = x - (weight / weight.sum(dim, keepdim=True) * _finite(x)).sum(dim, keepdim=True)
        return carried(p, weight * _finite(centred))

    def logsumexp(self, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        """The mean of the differences, weighed by the same means: D lse = sum_j l_j Ds_j / sum_j l_j."""
        _, weight = self._log_means(x, dim)
        carrier = (weight / weight.sum(dim, keepdim=True) * _finite(x)).sum(dim, keepdim=keepdim)
        return carried(torch.logsumexp(x.detach(), dim, keepdim), carrier)

    def _log_means(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Softmax of x, and per entry the logarithmic mean of its values in both."""
        (then,) = self._then(x)
        return x.detach().softmax(dim), logarithmic_means(x.detach(), then, dim)

    def select(self, pick: Callable[..., Any], x: Tensor, dim: int, extreme: int) -> tuple[Tensor, Tensor]:
        """All of Dy to one entry, at a slope between 0 and 1."""
        (below,) = self._then(x)
        above = x.detach()
        (y, place), (y_then, place_then) = pick(above), pick(below)
        if extreme:  # the largest above where it rose, the largest before where it fell
            there = torch.where((y - y_then) * extreme >= 0, place, place_then)
        else:
            there = _between(above, below, y, y_then, place, dim)
        moved = (above - below).gather(dim, there)
        steep = moved.abs() > FLAT
        slope = torch.where(steep, (y - y_then) / torch.where(steep, moved, torch.ones_like(moved)), 1.0)
        return carried(y, x.gather(dim, there) * slope.nan_to_num(0.0)), place

    def choose(self, condition: Tensor, a: Any, b: Any) -> Any:
        """A mask that is the same in both is constant; one that moved splits what has one live side."""
        condition, a, b = (torch.as_tensor(v, device=condition.device) for v in (condition, a, b))
        then, a_then, b_then = self._then(condition, a, b)
        if bool((then == condition).all()):
            return torch.where(condition, a, b)
        if live(a) and live(b):
            raise ModelError(
                "deeplift has no rule for torch.where between two values that both depend on the site",
                got=f"a condition that changes at {int((then != condition).sum())} places",
                fix="method='integrated_gradients', or an activation of torch's own (F.leaky_relu, F.elu)",
            )
        y = torch.where(condition, a.detach(), b.detach())
        y_then = torch.where(then, a_then, b_then)
        side, below = (a, a_then) if live(a) else (b, b_then)
        own = condition if live(a) else ~condition
        moved = (side.detach() - below).expand_as(y)
        steep = moved.abs() > FLAT
        secant = (y - y_then) / torch.where(steep, moved, torch.ones_like(moved))
        return Slope.apply(side.expand_as(y), y, torch.where(steep, secant, own.to(y)))

    def prod(self, x: Tensor, dim: int) -> Tensor:
        """Each entry is weighed by those before it at one end and those behind it at the other."""
        (then,) = self._then(x)
        now = x.detach()
        slope = (exclusive(now, dim, then) + exclusive(then, dim, now)) / 2
        return carried(now.prod(dim), (slope * x).sum(dim))

    def linear(self, apply: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As it is; remembered where RevealCancel will ask for its contributions."""
        out = apply(x, weight, bias)
        if self.reveal:
            (then,) = self._then(x)
            self._linear[id(out)] = (out, _Linear(apply, x, weight, x.detach() - then))
        return out


def logarithmic_means(x: Tensor, then: Tensor, dim: int) -> Tensor:
    """(p - q) / (log p - log q), entry by entry, of the softmaxes of two tensors."""
    p, q = x.softmax(dim), then.softmax(dim)
    difference = (x.log_softmax(dim) - then.log_softmax(dim)).nan_to_num(0.0)
    steep = difference.abs() > NEAR
    secant = (p - q) / torch.where(steep, difference, torch.ones_like(difference))
    return torch.where(steep, secant, (p * q).sqrt())


def _between(above: Tensor, below: Tensor, y: Tensor, y_then: Tensor, place: Tensor, dim: int) -> Tensor:
    """A place along `dim` whose entry went past both: of k at or above y now and n - k + 1 at or below
    it then (or the other way round), one is the same."""
    dim = dim % above.dim()
    a, b = above.unsqueeze(dim), below.unsqueeze(dim)  # [..., 1, n]
    new, old = y.unsqueeze(dim + 1), y_then.unsqueeze(dim + 1)  # [..., k, 1]
    rose = new >= old
    crossed = torch.where(rose, (a >= new) & (b <= old), (a <= new) & (b >= old))
    own = torch.zeros_like(crossed).scatter(dim + 1, place.unsqueeze(dim + 1), True) & crossed
    return torch.where(own.any(dim + 1), place, crossed.to(torch.uint8).argmax(dim + 1))


def _finite(x: Tensor) -> Tensor:
    """Masked scores may be -inf; their weight is 0, and 0 * -inf would be NaN."""
    return x.masked_fill(x == -torch.inf, 0.0)


class _Linear:
    """A linear layer, its input, and how far that lies from the reference."""

    def __init__(self, apply: Op, x: Tensor, weight: Tensor, dx: Tensor) -> None:
        self.apply, self.x, self.weight, self.dx = apply, x, weight.detach(), dx

    def back(self, grad: Tensor, weight: Tensor) -> Tensor:
        """The transpose of the map with other weights."""
        with torch.enable_grad():
            here = self.dx.detach().clone().requires_grad_(True)
            (found,) = torch.autograd.grad(self.apply(here, weight, None), here, grad)
        return found


def _slopes_apart(function: Op, start: Tensor, linear: _Linear) -> tuple[Tensor, Tensor]:
    """m+ and m- behind a linear layer.

    Inputs that push an output up are sent back by its m+, those that push it down by its m-:
    Df+ = mean over both orders of what the rise alone adds, m+ = Df+ / rise (equation 3.5.2).
    """
    dx, weight = linear.dx, linear.weight
    up, down = weight.clamp(min=0), weight.clamp(max=0)
    rise = linear.apply(dx.clamp(min=0), up, None) + linear.apply(dx.clamp(max=0), down, None)
    fall = linear.apply(dx.clamp(min=0), down, None) + linear.apply(dx.clamp(max=0), up, None)
    y0, y_up, y_down = function(start), function(start + rise), function(start + fall)
    y_all = function(start + rise + fall)
    gain = ((y_up - y0) + (y_all - y_down)) / 2
    loss = ((y_down - y0) + (y_all - y_up)) / 2
    local = slope_at(function, start)
    m_up = torch.where(rise > FLAT, gain / rise.clamp(min=FLAT), local)
    m_down = torch.where(fall < -FLAT, loss / fall.clamp(max=-FLAT), local)
    return m_up, m_down


class _Apart(torch.autograd.Function):
    """f(linear(x)) with multipliers m+ and m-: what w_i Dx_i > 0 sends comes back by m+."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, linear: _Linear, m_up: Tensor, m_down: Tensor) -> Tensor:
        ctx.linear = linear
        ctx.save_for_backward(m_up, m_down)
        return y.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        m_up, m_down = ctx.saved_tensors
        linear: _Linear = ctx.linear
        g = grads[0]
        up, down = linear.weight.clamp(min=0), linear.weight.clamp(max=0)
        rising = linear.back(g * m_up, up) + linear.back(g * m_down, down)
        falling = linear.back(g * m_down, up) + linear.back(g * m_up, down)
        even = (rising + falling) / 2
        found = torch.where(linear.dx > 0, rising, torch.where(linear.dx < 0, falling, even))
        return found, None, None, None, None
