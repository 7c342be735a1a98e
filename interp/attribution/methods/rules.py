"""Backward passes by rule: every operation of any model keeps its value and changes its slope.

A `TorchFunctionMode` sees each torch call, whether it comes from a module, a functional or an
operator, so a gate written `silu(a) * b` is seen like any other. A subclass says what slope an
elementwise function, a product and a linear map get; composites (softmax, layer norm, attention)
are taken apart into these. DeepLIFT and LRP are two such sets of rules.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Op = Callable[..., Tensor]

ELEMENTWISE = frozenset(
    "relu relu6 gelu silu sigmoid logsigmoid tanh exp expm1 log log1p sqrt rsqrt square abs "
    "softplus elu selu celu leaky_relu hardtanh hardswish hardsigmoid mish erf sin cos reciprocal "
    "clamp clamp_min clamp_max pow rpow rtruediv rdiv softsign tanhshrink".split()
)
PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "mul": torch.mul,
    "rmul": torch.mul,
    "imul": torch.mul,
    "multiply": torch.mul,
    "matmul": torch.matmul,
    "rmatmul": lambda a, b: torch.matmul(b, a),
    "bmm": torch.bmm,
    "mm": torch.mm,
}
DIVISIONS = frozenset(("div", "truediv", "true_divide", "itruediv", "divide"))
LINEAR = frozenset(("linear", "conv1d", "conv2d", "conv3d", "addmm"))


class Slope(torch.autograd.Function):
    """A value with a slope of our own: forward y, backward g * slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return y.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None


def carried(value: Tensor, carrier: Tensor) -> Tensor:
    """`value`, with the gradient of `carrier`."""
    return value.detach() + (carrier - carrier.detach())


def slope_at(function: Op, x: Tensor) -> Tensor:
    """f'(x) of an elementwise function."""
    with torch.enable_grad():
        here = x.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(function(here).sum(), here)
    return found


class Rules(TorchFunctionMode, ABC):
    """Routes what touches a live tensor (one that requires a gradient) to the rules below."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "").strip("_")
        handler = getattr(self, f"on_{name}", None)
        if not (handler or name in _ROUTED) or not _any_live(args, kwargs):
            return func(*args, **kwargs)
        if handler is not None:
            return handler(*args, **kwargs)
        return self._route(name, func, args, kwargs)

    def _route(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in ELEMENTWISE:
            return self._elementwise_call(name, func, args, kwargs)
        if name in LINEAR:
            return self.linear(func, args, kwargs)
        a, b = (*args, *kwargs.values())[:2]
        if name in DIVISIONS:
            if not live(b):
                return func(*args, **kwargs)
            return self.divide(a, b)
        if not (live(a) and live(b)):
            constant = b if live(a) else a
            if PRODUCTS[name] in (torch.matmul, torch.mm) and live(a) and constant.dim() == 2:
                return self.linear(F.linear, (a, constant.T), {})
            return func(*args, **kwargs)
        return self.product(PRODUCTS[name], a, b)

    def _elementwise_call(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        x, rest = args[0], args[1:]
        kwargs.pop("inplace", None)
        if name == "pow" and (not live(x) or any(live(a) for a in rest)):
            return func(*args, **kwargs)
        if name in ("rtruediv", "rdiv"):  # number / x
            top = rest[0]
            return self.elementwise(lambda t: top / t, x)
        if name == "rsqrt" or (name == "pow" and rest and rest[0] == -0.5):
            return self.inverse_root(x)
        if name in ("relu", "relu6", "hardtanh", "elu", "selu", "celu", "leaky_relu"):
            kwargs["inplace"] = False
        if name == "relu":
            return self.elementwise(torch.relu, x)
        return self.elementwise(lambda t: func(t, *rest, **kwargs), x)

    # ---- what a subclass decides -----------------------------------------------------------

    @abstractmethod
    def elementwise(self, function: Op, x: Tensor) -> Tensor:
        """y = f(x), entry by entry."""

    @abstractmethod
    def product(self, op: Op, a: Tensor, b: Tensor) -> Tensor:
        """A bilinear operation of two live tensors."""

    def linear(self, func: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """A linear map with constant weights."""
        return func(*args, **kwargs)

    def scale(self, variance: Tensor) -> Tensor:
        """The scale of a norm, the root of a variance."""
        return self.elementwise(torch.sqrt, variance)

    def inverse_root(self, x: Tensor) -> Tensor:
        """1 / sqrt(x), which norms multiply by."""
        return self.elementwise(torch.rsqrt, x)

    def divide(self, a: Any, b: Tensor) -> Tensor:
        """a / b with b live."""
        return self.multiply(a, self.elementwise(torch.reciprocal, b))

    # ---- composites, taken apart -----------------------------------------------------------

    def multiply(self, a: Any, b: Any) -> Tensor:
        """a * b, by the product rule where both are live."""
        return self.product(torch.mul, a, b) if live(a) and live(b) else a * b

    def on_softmax(self, x: Tensor, dim: int = -1, *args: Any, **kwargs: Any) -> Tensor:
        """As torch has it, unless a subclass knows better."""
        return torch.softmax(x, dim, dtype=kwargs.get("dtype"))

    def on_log_softmax(self, x: Tensor, dim: int = -1, *args: Any, **kwargs: Any) -> Tensor:
        """The same for its logarithm."""
        return torch.log_softmax(x, dim, dtype=kwargs.get("dtype"))

    def on_layer_norm(
        self,
        x: Tensor,
        normalized_shape: Any,
        weight: Any = None,
        bias: Any = None,
        eps: float = 1e-5,
        *_: Any,
    ) -> Tensor:
        """Centre, variance, root, quotient."""
        return self._norm(x, len(normalized_shape), weight, bias, eps, centre=True)

    def on_rms_norm(
        self, x: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
    ) -> Tensor:
        """The same without centring."""
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        return self._norm(x, len(normalized_shape), weight, None, eps, centre=False)

    def _norm(self, x: Tensor, axes: int, weight: Any, bias: Any, eps: float, *, centre: bool) -> Tensor:
        dims = tuple(range(-axes, 0))
        c = x - x.mean(dims, keepdim=True) if centre else x
        variance = self.elementwise(torch.square, c).mean(dims, keepdim=True)
        scale = self.scale(variance + eps)
        y = self.divide(c, scale) if live(scale) else c / scale
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    def on_var(
        self,
        x: Tensor,
        dim: Any = None,
        *,
        correction: int = 1,
        keepdim: bool = False,
        unbiased: bool | None = None,
    ) -> Tensor:
        """Mean square of the centred values."""
        correction = correction if unbiased is None else int(unbiased)
        dims = tuple(range(x.dim())) if dim is None else dim
        square = self.elementwise(torch.square, x - x.mean(dims, keepdim=True))
        mean = square.mean(dims, keepdim=keepdim)
        n = square.numel() // mean.numel()
        return mean * (n / max(1, n - correction))

    def on_norm(self, x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
        """Root of the sum of squares (p = 2)."""
        if p not in (2, 2.0, "fro", None):
            return torch.norm(x, p, dim, keepdim)
        dims = tuple(range(x.dim())) if dim is None else dim
        return self.scale(self.elementwise(torch.square, x).sum(dims, keepdim=keepdim))

    def on_linalg_vector_norm(
        self, x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any
    ) -> Tensor:
        """Root of the sum of squares (ord = 2)."""
        return self.on_norm(x, ord, dim, keepdim)

    def on_normalize(self, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, **_: Any) -> Tensor:
        """x / |x|."""
        length = self.on_norm(x, p, dim, True).clamp_min(eps)
        return self.divide(x, length) if live(length) else x / length

    def on_einsum(self, equation: str, *operands: Any) -> Tensor:
        """Two operands are one product; more are multiplied from the left by torch itself."""
        parts = operands[0] if len(operands) == 1 and not isinstance(operands[0], Tensor) else operands
        if len(parts) == 2 and live(parts[0]) and live(parts[1]):
            return self.product(lambda a, b: torch.einsum(equation, a, b), *parts)
        return torch.einsum(equation, *parts)

    def on_scaled_dot_product_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Scores, softmax and values as two products around a softmax."""
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key = key.repeat_interleave(groups, -3)
            value = value.repeat_interleave(groups, -3)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = self._matmul(query, key.transpose(-1, -2)) * scale
        if is_causal:
            shape = scores.shape[-2:]
            attn_mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min / 2)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._matmul(self.on_softmax(scores, -1), value)

    def _matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return self.product(torch.matmul, a, b) if live(a) and live(b) else a @ b


_ROUTED = ELEMENTWISE | LINEAR | DIVISIONS | frozenset(PRODUCTS)


def live(value: Any) -> bool:
    """Whether a value depends on what is attributed to."""
    return isinstance(value, Tensor) and value.requires_grad


def _any_live(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    flat = [*args, *kwargs.values()]
    flat += [item for part in flat if isinstance(part, tuple | list) for item in part]
    return any(live(value) for value in flat)
