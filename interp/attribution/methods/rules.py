"""Backward passes by rule: every operation of any model keeps its value and changes its slope.

A `TorchFunctionMode` sees each torch call, whether it comes from a module, a functional, a method or
an operator, so a gate written `silu(a) * b` is seen like any other. A subclass says what slope an
elementwise function, a product, a linear map and a selection get (`primitives`); composites (norms,
attention, recurrent cells) are taken apart into these; what torch itself composes in Python is walked
through. What is left over is found in the graph and refused by name (`unruled`). DeepLIFT and LRP are
two such sets of rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from interp.attribution.methods.composites import Composites
from interp.attribution.methods.operations import (
    CONTRACTIONS,
    DIVISIONS,
    ELEMENTWISE,
    LAYERS,
    PRODUCTS,
    SUMMED_PRODUCTS,
    canonical,
    keyword,
)
from interp.attribution.methods.primitives import flat, live, spread
from interp.attribution.methods.recurrent import Recurrent
from interp.attribution.methods.selections import Selections
from interp.attribution.methods.unruled import refuse_unruled
from interp.core.errors import ModelError

_WALKED = {"torch.nn.functional", "torch.functional"}
_OTHER_ORDER = {"batch_norm", "instance_norm"}
"""Functionals that hand their arguments to torch's own in another order: walked through to it."""
_BLIND = {
    name: lambda *_: False
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
}


class Rules(Composites, Selections, Recurrent, TorchFunctionMode):
    """Routes what touches a live tensor (one that depends on `source`) to the rules.

    Args:
        source: What is attributed to; any other leaf is a constant, whether it learns or not.
    """

    def __init__(self, source: Tensor) -> None:
        super().__init__()
        self.source = source
        self._calls: dict[Any, Any] = {}
        self._walking: list[Any] = []

    def refuse_unruled(self, out: Tensor, method: str) -> None:
        """Refuse what no rule covered.

        Raises:
            ModelError: Names the operation.
        """
        refuse_unruled(out, self.source, self._calls, method)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args = tuple(map(self._constant, args))
        kwargs = {key: self._constant(value) for key, value in (kwargs or {}).items()}
        if not any(live(value) for value in flat((args, kwargs))):
            return func(*args, **kwargs)
        out = self._ruled(func, args, kwargs)
        if out is NotImplemented:
            out = self._walked(func)(*args, **kwargs)
        self._note(args[:1] if out is None else out, func)  # an assignment gives nothing back
        return out

    def _note(self, out: Any, func: Any) -> None:
        for found in flat(out):
            if live(found):
                self._calls.setdefault(found.grad_fn, func)
                if found._base is not None:
                    self._calls.setdefault(found._base.grad_fn, func)

    def _constant(self, value: Any) -> Any:
        if type(value) in (tuple, list):
            return type(value)(map(self._constant, value))
        if isinstance(value, Tensor) and live(value) and value.is_leaf and value is not self.source:
            return value.detach()
        return value

    def _ruled(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result by rule; NotImplemented where there is none."""
        name, into, reverse = canonical(func)
        handler = self._handler(name, func)
        if handler is None:
            return NotImplemented
        kwargs = {keyword(key): value for key, value in kwargs.items()}
        args, kwargs, asked = _without_inplace(func, args, kwargs)
        if reverse:
            args = (args[1], args[0])
        try:
            bound = inspect.signature(handler).bind(*args, **kwargs)
        except TypeError as error:
            raise ModelError(
                f"the rule for {resolve_name(func)} does not know this form of the call",
                got=str(error),
                fix="method='integrated_gradients', or the call with its arguments in torch's order",
            ) from error
        if not (into or asked):
            return handler(*bound.args, **bound.kwargs)
        target = args[0] if args else kwargs["input"]
        if name not in ELEMENTWISE:  # a rule keeps its operands, and this one is about to change
            bound.arguments[next(iter(bound.arguments))] = target.clone()
        out = handler(*bound.args, **bound.kwargs)
        if out is not NotImplemented:
            out = target.copy_(out)
            self._note(out, Tensor.copy_)
        return out

    def _handler(self, name: str, func: Any) -> Callable[..., Any] | None:
        if name in _OTHER_ORDER and isinstance(func, FunctionType):
            return None
        found = getattr(self, f"on_{name}", None)
        if found is not None:
            return found
        if name in ELEMENTWISE:
            return self._elementwise_call(func)
        if name in LAYERS:
            return self._layer(func)
        if name in DIVISIONS:
            return self._division
        if name in CONTRACTIONS:
            return self._contraction(CONTRACTIONS[name])
        if name in PRODUCTS:
            return self._product_call(PRODUCTS[name])
        if name in SUMMED_PRODUCTS:
            return self._summed(SUMMED_PRODUCTS[name])
        return None

    def _walked(self, func: Any) -> Callable[..., Any]:
        """A composition that torch writes in Python, so that its own calls come here too."""
        if not isinstance(func, FunctionType) or func.__module__ not in _WALKED or func in self._walking:
            return func
        # the body hands itself back to the mode unless it finds none: tell it so
        body = FunctionType(
            func.__code__, {**func.__globals__, **_BLIND}, func.__name__, func.__defaults__, func.__closure__
        )
        body.__kwdefaults__ = func.__kwdefaults__

        def run(*args: Any, **kwargs: Any) -> Any:
            self._walking.append(func)
            try:
                with self:
                    return body(*args, **kwargs)
            finally:
                self._walking.pop()

        return run

    # ---- the kinds of the table ------------------------------------------------------------

    def _elementwise_call(self, func: Any) -> Callable[..., Any]:
        name = canonical(func)[0]

        def on(input: Any, *rest: Any, **kwargs: Any) -> Any:
            if "other" in kwargs:
                rest = (kwargs.pop("other"), *rest)
            if any(live(value) for value in flat((rest, kwargs))):
                return self._power(input, *rest) if name in ("pow", "float_power") else NotImplemented
            if name == "rsqrt" or (name == "pow" and not isinstance(rest[0], Tensor) and rest[0] == -0.5):
                return self.inverse_root(input)
            if name not in ("prelu", "rrelu"):
                input = spread(input, *rest)
            return self.elementwise(lambda t: _plain(func)(t, *rest, **kwargs), input)

        return on

    def _power(self, base: Any, exponent: Tensor) -> Tensor:
        if not live(base):
            shape = torch.broadcast_shapes(exponent.shape, getattr(base, "shape", ()))
            return self.elementwise(lambda t: torch.pow(base, t), exponent.expand(shape))
        logarithm = self.elementwise(torch.log, base)
        return self.elementwise(torch.exp, self.multiply(exponent, logarithm))

    def _layer(self, func: Any) -> Callable[..., Any]:
        def on(input: Any, weight: Any, bias: Any = None, *rest: Any, **kwargs: Any) -> Any:
            def apply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
                return func(x, w, b, *rest, **kwargs)

            if not live(input):
                return NotImplemented
            if not (live(weight) or live(bias)):
                return self.linear(apply, input, weight, bias)
            op = self.product if live(weight) else self.contract
            y = op(lambda x, w: apply(x, w, None), input, weight)
            if bias is None:
                return y
            return y + (bias if func is F.linear else bias.reshape(-1, *[1] * (weight.dim() - 2)))

        return on

    def _division(self, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
        if rounding_mode is not None:
            return NotImplemented
        return self.divide(input, other) if live(other) else torch.div(input, other)

    def _contraction(self, op: Callable[..., Tensor]) -> Callable[..., Any]:
        def on(input: Any, other: Any, *rest: Any, **kwargs: Any) -> Tensor:
            return self.contract(lambda a, b: op(a, b, *rest, **kwargs), input, other)

        return on

    def _product_call(self, op: Callable[..., Tensor]) -> Callable[..., Any]:
        def on(input: Any, other: Any, *rest: Any, **kwargs: Any) -> Tensor:
            def apply(a: Any, b: Any) -> Tensor:
                return op(a, b, *rest, **kwargs)

            if live(input) and live(other):
                return self.product(op if op is torch.mul else apply, input, other)
            return apply(input, other)

        return on

    def _summed(self, op: Callable[..., Tensor]) -> Callable[..., Any]:
        def on(input: Any, mat1: Any, mat2: Any = None, other: Any = None, **kwargs: Any) -> Tensor:
            beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
            second = other if mat2 is None else mat2
            if not live(input) and live(mat1) and not live(second):
                bias = None if beta == 0 else beta * input

                def apply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
                    return op(x, w) if b is None else op(x, w) + b

                return self.linear(apply, mat1, alpha * second, bias)
            found = alpha * self.contract(op, mat1, second)
            return found if beta == 0 else found + beta * input

        return on


def _without_inplace(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], bool]:
    """Arguments of a functional with `inplace=False`, and whether it was asked for."""
    if not isinstance(func, FunctionType) or "inplace" not in func.__code__.co_varnames:
        return args, kwargs, False
    bound = inspect.signature(func).bind(*args, **kwargs)
    asked = bool(bound.arguments.get("inplace", False))
    bound.arguments.pop("inplace", None)
    (first, *_), rest = bound.arguments.items(), dict(list(bound.arguments.items())[1:])
    return (first[1],), rest, asked


def _plain(func: Any) -> Any:
    """The function that a call in place stands for."""
    raw = func.__name__
    if raw.endswith("_") and not raw.startswith("__"):
        for owner in (torch, Tensor, F):
            found = getattr(owner, raw[:-1], None)
            if found is not None:
                return found
    named = {"__ipow__": torch.pow, "__rpow__": torch.pow, "__pow__": torch.pow}
    return named.get(raw, func)
