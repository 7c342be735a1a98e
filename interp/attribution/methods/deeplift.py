"""DeepLIFT, exact on products: sum of contributions = f(x) - f(r) for any composition.

Shrikumar, Greenside, Kundaje 2017 (1704.02685): Rescale (section 3.5.1's multipliers) and
RevealCancel (3.5.2). Three exact identities carry it through what a rule for activations alone gets
silently wrong (gated MLPs, norms, attention), with slopes that stay bounded. Bars are means over
input and reference:

    product    D(ab)  = mean(b) Da + mean(a) Db
    quotient   D(a/b) = (Da - mean(a/b) Db) / mean(b)
    softmax    Dp_i   = l_i (Ds_i - sum_j l_j Ds_j / sum_j l_j),  l = Dp / D(log p)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame, frozen
from interp.attribution.methods.raw import Raw
from interp.attribution.methods.rules import Op, Rules, Slope, carried, live, slope_at

FLAT = 1e-6
"""Below this difference of inputs the slope is the derivative at the midpoint."""


def deeplift(game: SiteGame, config: AttributionConfig) -> Raw:
    """The Rescale rule, exact on gated products, norms and attention."""
    return _run(game, reveal=False)


def reveal_cancel(game: SiteGame, config: AttributionConfig) -> Raw:
    """RevealCancel: behind a linear layer, positive and negative contributions rescale apart."""
    return _run(game, reveal=True)


def _run(game: SiteGame, *, reveal: bool) -> Raw:
    with torch.enable_grad(), frozen(game.model):
        pair = torch.cat([game.x, game.r]).detach().requires_grad_(True)
        with DeepLift(reveal):
            out = game(pair)
        (multiplier,) = torch.autograd.grad(out[0], pair)
    game.n_backward += 1
    return Raw((multiplier[0] * (game.x - game.r)[0]).detach())


class DeepLift(Rules):
    """Rows come in two halves, input above reference; only the first half's gradient is read."""

    def __init__(self, reveal: bool = False) -> None:
        super().__init__()
        self.reveal = reveal
        self._inverse: dict[int, tuple[Tensor, Tensor]] = {}
        self._linear: dict[int, tuple[Tensor, Op, tuple[Any, ...], dict[str, Any]]] = {}

    def elementwise(self, function: Op, x: Tensor) -> Tensor:
        """Slope Dy / Dx for both halves."""
        origin = self._linear.get(id(x)) if self.reveal else None
        y = function(x.detach())
        if origin is not None and origin[0] is x:
            return _Apart.apply(origin[2][0], y, *_slopes_apart(function, *origin))
        above, below = x.detach().chunk(2)
        difference = (above - below).nan_to_num(0.0)  # -inf - -inf: masked in both
        middle = slope_at(function, torch.where(above == below, above, (above + below) / 2))
        top, bottom = y.chunk(2)
        steep = difference.abs() > FLAT
        secant = (top - bottom) / torch.where(steep, difference, torch.ones_like(difference))
        slope = torch.where(steep, secant, middle)
        return Slope.apply(x, y, torch.cat([slope, slope]))

    def product(self, op: Op, a: Tensor, b: Tensor) -> Tensor:
        """Each factor is weighed by the mean of the other over input and reference."""
        for factor, other in ((b, a), (a, b)):
            inverse = self._inverse.get(id(factor))
            if inverse is not None and inverse[0] is factor and op is torch.mul:
                return self.divide(other, inverse[1])
        carrier = op(a, _mean(b)) + op(_mean(a), b)
        return carried(op(a.detach(), b.detach()), carrier)

    def divide(self, a: Any, b: Tensor) -> Tensor:
        """The quotient rule; a reference near zero leaves its slopes bounded."""
        if not live(a):
            return a * self.elementwise(torch.reciprocal, b)
        y = a.detach() / b.detach()
        return carried(y, (a - _mean(y) * b) / _mean(b))

    def inverse_root(self, x: Tensor) -> Tensor:
        """1 / root, remembered with its root: what it multiplies is divided by the root."""
        root = self.scale(x)
        inverse = self.elementwise(torch.reciprocal, root)
        self._inverse[id(inverse)] = (inverse, root)
        return inverse

    def on_softmax(self, x: Tensor, dim: int = -1, *args: Any, **kwargs: Any) -> Tensor:
        """The softmax's own gradient with logarithmic means in the place of probabilities."""
        x = x.to(kwargs.get("dtype") or x.dtype)
        p, weight = _log_means(x.detach(), dim)
        centred = x - (weight / weight.sum(dim, keepdim=True) * _finite(x)).sum(dim, keepdim=True)
        return carried(p, weight * _finite(centred))

    def on_log_softmax(self, x: Tensor, dim: int = -1, *args: Any, **kwargs: Any) -> Tensor:
        """D log p_i = Ds_i - sum_j l_j Ds_j / sum_j l_j."""
        x = x.to(kwargs.get("dtype") or x.dtype)
        _, weight = _log_means(x.detach(), dim)
        centred = x - (weight / weight.sum(dim, keepdim=True) * _finite(x)).sum(dim, keepdim=True)
        return carried(torch.log_softmax(x.detach(), dim), centred)

    def linear(self, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """As it is; remembered where RevealCancel will ask for its contributions."""
        out = func(*args, **kwargs)
        if self.reveal and func.__name__ != "addmm":
            self._linear[id(out)] = (out, func, args, kwargs)
        return out


def _log_means(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Softmax of x, and per entry the logarithmic mean of its values in the two halves."""
    p, log_p = x.softmax(dim), x.log_softmax(dim)
    (above, below), (log_above, log_below) = p.chunk(2), log_p.chunk(2)
    difference = (log_above - log_below).nan_to_num(0.0)
    steep = difference.abs() > 1e-3  # below, the mean's error is of order 1e-7
    secant = (above - below) / torch.where(steep, difference, torch.ones_like(difference))
    mean = torch.where(steep, secant, (above * below).sqrt())
    return p, torch.cat([mean, mean])


def _finite(x: Tensor) -> Tensor:
    """Masked scores may be -inf; their weight is 0, and 0 * -inf would be NaN."""
    return x.masked_fill(x == -torch.inf, 0.0)


def _mean(x: Tensor) -> Tensor:
    above, below = x.detach().chunk(2)
    middle = (above + below) / 2
    return torch.cat([middle, middle])


def _slopes_apart(
    function: Op, out: Tensor, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[_Linear, Tensor, Tensor]:
    """What stands before f: the linear map with the input's difference, m+ and m-.

    Inputs that push an output up are sent back by its m+, those that push it down by its m-:
    Df+ = mean over both orders of what the rise alone adds, m+ = Df+ / rise (equation 3.5.2).
    """
    del kwargs
    x, weight = args[0].detach(), args[1].detach()
    rest = args[3:]
    above, below = x.chunk(2)
    dx = above - below
    up, down = weight.clamp(min=0), weight.clamp(max=0)

    def apply(value: Tensor, w: Tensor) -> Tensor:
        return func(value, w, None, *rest)

    rise = apply(dx.clamp(min=0), up) + apply(dx.clamp(max=0), down)
    fall = apply(dx.clamp(min=0), down) + apply(dx.clamp(max=0), up)
    start = out.detach().chunk(2)[1]
    y0, y_up, y_down = function(start), function(start + rise), function(start + fall)
    y_all = function(start + rise + fall)
    gain = ((y_up - y0) + (y_all - y_down)) / 2
    loss = ((y_down - y0) + (y_all - y_up)) / 2
    local = slope_at(function, start)
    m_up = torch.where(rise > FLAT, gain / rise.clamp(min=FLAT), local)
    m_down = torch.where(fall < -FLAT, loss / fall.clamp(max=-FLAT), local)
    return _Linear(apply, weight, dx), m_up, m_down


class _Linear:
    """A linear map with its weights, and the input difference it saw."""

    def __init__(self, apply: Op, weight: Tensor, dx: Tensor) -> None:
        self.apply, self.weight, self.dx = apply, weight, dx

    def back(self, grad: Tensor, weight: Tensor) -> Tensor:
        """The transpose of the map with other weights."""
        with torch.enable_grad():
            here = self.dx.detach().clone().requires_grad_(True)
            (found,) = torch.autograd.grad(self.apply(here, weight), here, grad)
        return found


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
        g = grads[0].chunk(2)[0]
        up, down = linear.weight.clamp(min=0), linear.weight.clamp(max=0)
        rising = linear.back(g * m_up, up) + linear.back(g * m_down, down)
        falling = linear.back(g * m_down, up) + linear.back(g * m_up, down)
        even = (rising + falling) / 2
        found = torch.where(linear.dx > 0, rising, torch.where(linear.dx < 0, falling, even))
        return torch.cat([found, torch.zeros_like(found)]), None, None, None, None
