"""What a set of rules decides: slopes of entrywise functions, products, linear maps and selections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Op = Callable[..., Tensor]


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


class Primitives(ABC):
    """The decisions; composites are written in terms of these."""

    @abstractmethod
    def elementwise(self, function: Op, x: Tensor) -> Tensor:
        """y = f(x), entry by entry."""

    @abstractmethod
    def product(self, op: Op, *factors: Tensor) -> Tensor:
        """An operation that is linear in each of several live tensors."""

    @abstractmethod
    def linear(self, apply: Op, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`apply(x, weight, bias)`: a linear layer with constant weights."""

    @abstractmethod
    def divide(self, a: Any, b: Tensor) -> Tensor:
        """a / b with b live."""

    @abstractmethod
    def inverse_root(self, x: Tensor) -> Tensor:
        """1 / sqrt(x), which norms multiply by."""

    @abstractmethod
    def softmax(self, x: Tensor, dim: int) -> Tensor:
        """Probabilities."""

    @abstractmethod
    def logsumexp(self, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        """The logarithm of their normaliser."""

    @abstractmethod
    def select(self, pick: Callable[..., Any], x: Tensor, dim: int, extreme: int) -> tuple[Tensor, Tensor]:
        """`pick(x)`: entries of x along `dim` and their places there.

        Args:
            extreme: 1 for largest entries, -1 for smallest, 0 for the entry of some rank.
        """

    @abstractmethod
    def choose(self, condition: Tensor, a: Any, b: Any) -> Any:
        """a where the condition holds, b elsewhere; NotImplemented where that has no rule."""

    @abstractmethod
    def prod(self, x: Tensor, dim: int) -> Tensor:
        """The product of the entries along `dim`."""

    def multiply(self, a: Any, b: Any) -> Tensor:
        """a * b, by the product rule where both are live."""
        return self.product(torch.mul, a, b) if live(a) and live(b) else a * b

    def contract(self, op: Op, a: Tensor, b: Tensor) -> Tensor:
        """A bilinear sum: a product of two live tensors, a linear layer of one."""
        if live(a) and live(b):
            return self.product(op, a, b)
        if live(a):
            return self.linear(lambda x, w, c: plus(op(x, w), c), a, b, None)
        return self.linear(lambda x, w, c: plus(op(w, x), c), b, a, None)

    def entrywise(self, function: Op, x: Tensor) -> Tensor:
        """`elementwise` where x is live, the function itself where it is not."""
        return self.elementwise(function, x) if live(x) else function(x)

    def gate(self, x: Tensor) -> Tensor:
        """The gate of a recurrent cell."""
        return self.entrywise(torch.sigmoid, x)

    def over(self, a: Any, b: Any) -> Tensor:
        """a / b, by the quotient rule where b is live."""
        return self.divide(a, b) if live(b) else a / b


def carried(value: Tensor, carrier: Tensor) -> Tensor:
    """`value`, with the gradient of `carrier`."""
    return value.detach() + (carrier - carrier.detach())


def slope_at(function: Op, x: Tensor) -> Tensor:
    """f'(x) of an elementwise function; 0 where it is infinite, as torch has it for norms at 0."""
    with torch.enable_grad():
        here = x.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(function(here).sum(), here)
    return found.nan_to_num(0.0, 0.0, 0.0)


def live(value: Any) -> bool:
    """Whether a value depends on what is attributed to."""
    return isinstance(value, Tensor) and value.requires_grad


def flat(value: Any) -> Iterator[Any]:
    """Leaves of nested tuples, lists and mappings."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from flat(part)
    else:
        yield value


def spread(x: Tensor, *others: Any) -> Tensor:
    """x in the shape that it takes beside other tensors; x itself where that is its own."""
    shape = torch.broadcast_shapes(x.shape, *(other.shape for other in others if isinstance(other, Tensor)))
    return x if shape == x.shape else x.expand(shape)


def exclusive(x: Tensor, dim: int, other: Tensor) -> Tensor:
    """For each entry along `dim`: product of x before it times product of `other` behind it."""
    ones = torch.ones_like(x.narrow(dim, 0, 1))
    before = torch.cat([ones, x.narrow(dim, 0, x.shape[dim] - 1)], dim).cumprod(dim)
    behind = torch.cat([ones, other.flip(dim).narrow(dim, 0, x.shape[dim] - 1)], dim).cumprod(dim)
    return before * behind.flip(dim)


def plus(y: Tensor, bias: Tensor | None) -> Tensor:
    """y + bias, where there is one."""
    return y if bias is None else y + bias
