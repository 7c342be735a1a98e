"""Norms, attention, losses and other composites, taken apart into the primitives."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.attribution.methods.primitives import Primitives, live, plus


class Composites(Primitives):
    """One method per composite, `on_` its name, with torch's arguments.

    A form without a rule gives NotImplemented: torch's own operation then runs, and is refused.
    """

    # ---- softmax and its relatives ---------------------------------------------------------

    def on_softmax(
        self, input: Tensor, dim: int | None = None, *_: Any, dtype: Any = None, **__: Any
    ) -> Tensor:
        """Probabilities, by the rule."""
        return self.softmax(input if dtype is None else input.to(dtype), _axis(input, dim))

    def on_softmin(
        self, input: Tensor, dim: int | None = None, *_: Any, dtype: Any = None, **__: Any
    ) -> Tensor:
        """The softmax of -x."""
        return self.on_softmax(-input, dim, dtype=dtype)

    def on_log_softmax(
        self, input: Tensor, dim: int | None = None, *_: Any, dtype: Any = None, **__: Any
    ) -> Tensor:
        """x - logsumexp(x)."""
        x = input if dtype is None else input.to(dtype)
        return x - self.logsumexp(x, _axis(x, dim), True)

    def on_logsumexp(self, input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
        """By the rule; several axes as one."""
        if isinstance(dim, int):
            return self.logsumexp(input, dim, keepdim)
        dims = sorted(d % input.dim() for d in dim)
        rest = [d for d in range(input.dim()) if d not in dims]
        found = self.logsumexp(input.permute(*rest, *dims).flatten(len(rest)), -1, False)
        for d in dims if keepdim else ():
            found = found.unsqueeze(d)
        return found

    def on_logaddexp(self, input: Any, other: Any) -> Tensor:
        """The same of two."""
        return self.logsumexp(torch.stack(torch.broadcast_tensors(input, other)), 0, False)

    def on_glu(self, input: Tensor, dim: int = -1) -> Tensor:
        """One half times the sigmoid of the other."""
        a, b = input.chunk(2, dim)
        return self.product(torch.mul, a, self.elementwise(torch.sigmoid, b))

    # ---- norms and spreads -----------------------------------------------------------------

    def on_layer_norm(
        self,
        input: Tensor,
        normalized_shape: Any,
        weight: Any = None,
        bias: Any = None,
        eps: float = 1e-5,
        *_: Any,
    ) -> Tensor:
        """Centre, variance, root, quotient."""
        dims = tuple(range(-len(normalized_shape), 0))
        return self._scaled(self._whitened(input, dims, eps), weight, bias)

    def on_rms_norm(
        self, input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
    ) -> Tensor:
        """The same without centring."""
        eps = torch.finfo(input.dtype).eps if eps is None else eps
        dims = tuple(range(-len(normalized_shape), 0))
        return self._scaled(self._whitened(input, dims, eps, centre=False), weight, None)

    def on_group_norm(
        self, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
    ) -> Tensor:
        """Layer norm over each group of channels and all places."""
        groups = input.reshape(len(input), num_groups, -1)
        y = self._whitened(groups, (-1,), eps).reshape(input.shape)
        return self._scaled(y, *self._by_channel(input, weight, bias))

    def on_instance_norm(self, input: Tensor, weight: Any, bias: Any, *rest: Any) -> Any:
        """Layer norm over the places of each channel, or fixed statistics."""
        mean, variance, own, _, eps, *_ = rest
        if not own:
            return self.on_batch_norm(input, weight, bias, mean, variance, False, 0.0, eps)
        y = self._whitened(input, tuple(range(2, input.dim())), eps)
        return self._scaled(y, *self._by_channel(input, weight, bias))

    def on_batch_norm(self, input: Tensor, weight: Any, bias: Any, *rest: Any) -> Any:
        """Fixed statistics are constants; those of a batch have no rule, for one row is no batch."""
        mean, variance, training, _, eps, *_ = rest
        if training or mean is None:
            return NotImplemented
        mean, scale = self._by_channel(input, mean, (variance + eps).sqrt())
        return self._scaled((input - mean) / scale, *self._by_channel(input, weight, bias))

    def _whitened(self, x: Tensor, dims: Any, eps: float, *, centre: bool = True) -> Tensor:
        c = x - x.mean(dims, keepdim=True) if centre else x
        variance = self.elementwise(torch.square, c).mean(dims, keepdim=True)
        return self.divide(c, self.elementwise(torch.sqrt, variance + eps))

    def _scaled(self, y: Tensor, weight: Any, bias: Any) -> Tensor:
        y = y if weight is None else self.multiply(y, weight)
        return plus(y, bias)

    def _by_channel(self, x: Tensor, *parts: Any) -> list[Any]:
        shape = (-1, *[1] * (x.dim() - 2))
        return [None if part is None else part.view(shape) for part in parts]

    def on_var(
        self,
        input: Tensor,
        dim: Any = None,
        unbiased: bool | None = None,
        keepdim: bool = False,
        *,
        correction: float | None = 1,
    ) -> Tensor:
        """Mean square of the centred values."""
        if isinstance(dim, bool):  # var(x, unbiased)
            dim, unbiased = None, dim
        lost = 1 if correction is None else correction
        lost = lost if unbiased is None else int(unbiased)
        dims = tuple(range(input.dim())) if dim is None or dim == () else dim
        square = self.elementwise(torch.square, input - input.mean(dims, keepdim=True))
        mean = square.mean(dims, keepdim=keepdim)
        n = square.numel() // mean.numel()
        return mean * (n / max(1, n - lost))

    def on_std(self, *args: Any, **kwargs: Any) -> Tensor:
        """Its root."""
        return self.elementwise(torch.sqrt, self.on_var(*args, **kwargs))

    def on_var_mean(self, input: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.on_var(input, dim, *args, **kwargs), self._mean_beside(input, dim, *args, **kwargs)

    def on_std_mean(self, input: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.on_std(input, dim, *args, **kwargs), self._mean_beside(input, dim, *args, **kwargs)

    def _mean_beside(
        self, x: Tensor, dim: Any, unbiased: Any = None, keepdim: bool = False, *, correction: Any = 1
    ) -> Tensor:
        dims = tuple(range(x.dim())) if dim is None or isinstance(dim, bool) else dim
        return x.mean(dims, keepdim=keepdim)

    def on_norm(
        self, input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, **_: Any
    ) -> Tensor:
        """(sum |x|^p)^(1/p); p = 2, "fro" and None: the root of the sum of squares."""
        x = input if dtype is None else input.to(dtype)
        dims = tuple(range(x.dim())) if dim is None else dim
        if p in (2, "fro", None):
            total = self.elementwise(torch.square, x).sum(dims, keepdim=keepdim)
            return self.elementwise(torch.sqrt, total)
        if not isinstance(p, int | float) or math.isinf(p) or p <= 0:
            return NotImplemented
        size = self.elementwise(torch.abs, x)
        total = self.elementwise(lambda t: t.pow(p), size).sum(dims, keepdim=keepdim)
        return total if p == 1 else self.elementwise(lambda t: t.pow(1 / p), total)

    def on_linalg_vector_norm(
        self, input: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any
    ) -> Tensor:
        """The same."""
        return self.on_norm(input, ord, dim, keepdim, **kwargs)

    def on_linalg_norm(
        self, input: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, **kwargs: Any
    ) -> Any:
        """The same for vectors and "fro"; the norms of matrices have no rule."""
        vectors = isinstance(dim, int) or (dim is None and input.dim() == 1)
        if ord in (None, "fro") or vectors:
            return self.on_norm(input, ord, dim, keepdim, **kwargs)
        return NotImplemented

    def on_normalize(
        self, input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None
    ) -> Any:
        """x / |x|."""
        length = self.on_norm(input, p, dim, True)
        if length is NotImplemented:
            return length
        return self.divide(input, self.elementwise(lambda t: t.clamp_min(eps), length).expand_as(input))

    def on_cosine_similarity(self, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
        """The product of what `normalize` makes of both."""
        x1, x2 = torch.broadcast_tensors(x1, x2)
        sides = [
            self.on_normalize(x, 2.0, dim, eps) if live(x) else F.normalize(x, 2.0, dim, eps)
            for x in (x1, x2)
        ]
        return self.multiply(*sides).sum(dim)

    def on_pairwise_distance(
        self, x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
    ) -> Tensor:
        """The norm of the difference."""
        return self.on_norm(x1 - x2 + eps, p, -1, keepdim)

    def on_cdist(self, x1: Tensor, x2: Tensor, p: float = 2.0, *_: Any, **__: Any) -> Tensor:
        """The norm of every difference."""
        return self.on_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)

    def on_dist(self, input: Tensor, other: Tensor, p: float = 2) -> Tensor:
        """The norm of one difference."""
        return self.on_norm(input - other, p)

    def on_hypot(self, input: Tensor, other: Tensor) -> Tensor:
        """The norm of two."""
        return self.on_norm(torch.stack(torch.broadcast_tensors(input, other)), 2, 0)

    # ---- products of several ---------------------------------------------------------------

    def on_einsum(self, equation: str, *operands: Any) -> Any:
        """One product of all live operands; with one live one, a linear layer of the others."""
        parts = (
            list(operands[0]) if len(operands) == 1 and not isinstance(operands[0], Tensor) else [*operands]
        )
        moving = [i for i, part in enumerate(parts) if live(part)]

        def apply(*values: Tensor) -> Tensor:
            whole = list(parts)
            for i, value in zip(moving, values, strict=True):
                whole[i] = value
            return torch.einsum(equation, *whole)

        if len(moving) > 1:
            return self.product(apply, *(parts[i] for i in moving))
        if len(parts) == 1:
            return apply(*parts)
        (at,) = moving
        weights, read, result = _one_weight(equation, parts, at)
        return self.contract(lambda x, w: torch.einsum(f"{read}->{result}", x, w), parts[at], weights)

    def on_prod(self, input: Tensor, dim: int | None = None, keepdim: bool = False, **_: Any) -> Tensor:
        """By the rule."""
        if dim is None:
            return self.prod(input.flatten(), 0)
        y = self.prod(input, dim)
        return y.unsqueeze(dim) if keepdim else y

    def on_linalg_multi_dot(self, tensors: Any, **_: Any) -> Tensor:
        """From the left."""
        found, *rest = tensors
        for other in rest:
            found = self.contract(torch.matmul, found, other) if live(found) or live(other) else found @ other
        return found

    def on_chain_matmul(self, *matrices: Any, **_: Any) -> Tensor:
        """The same."""
        return self.on_linalg_multi_dot(matrices)

    def on_bilinear(self, input1: Tensor, input2: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
        """A product with weights between."""
        if live(input1) and live(input2):
            y = self.product(lambda a, b: F.bilinear(a, b, weight), input1, input2)
            return plus(y, bias)
        if not (live(input1) or live(input2)):
            return NotImplemented
        x, weights = (
            (input1, torch.einsum("kij,...j->...ki", weight, input2))
            if live(input1)
            else (input2, torch.einsum("kij,...i->...kj", weight, input1))
        )
        return self.linear(lambda x, w, c: plus(torch.einsum("...ki,...i->...k", w, x), c), x, weights, bias)

    def on_addcmul(self, input: Tensor, mat1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
        """x + value a b."""
        return input + value * self.multiply(mat1, tensor2)

    def on_addcdiv(self, input: Tensor, mat1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
        """x + value a / b."""
        return input + value * self.over(mat1, tensor2)

    def on_lerp(self, input: Tensor, end: Tensor, weight: Any) -> Tensor:
        """x + w (end - x)."""
        return input + self.multiply(end - input, weight)

    # ---- losses ----------------------------------------------------------------------------

    def on_cross_entropy_loss(
        self,
        input: Tensor,
        target: Tensor,
        weight: Any = None,
        reduction: int = 1,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
    ) -> Any:
        """The log softmax, entry by entry of the target."""
        if label_smoothing or target.is_floating_point():
            return NotImplemented
        found = self.on_log_softmax(input, 1 if input.dim() > 1 else 0)
        name = ("none", "mean", "sum")[reduction]
        return F.nll_loss(found, target, weight, ignore_index=ignore_index, reduction=name)

    def on_mse_loss(
        self, input: Tensor, target: Tensor, *_: Any, reduction: str = "mean", **__: Any
    ) -> Tensor:
        """The square of the difference."""
        found = self.elementwise(torch.square, input - target)
        return found if reduction == "none" else found.sum() if reduction == "sum" else found.mean()

    def on_l1_loss(
        self, input: Tensor, target: Tensor, *_: Any, reduction: str = "mean", **__: Any
    ) -> Tensor:
        """Its size."""
        found = self.elementwise(torch.abs, input - target)
        return found if reduction == "none" else found.sum() if reduction == "sum" else found.mean()

    # ---- attention -------------------------------------------------------------------------

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
        scores = self._mixed(query, key.transpose(-1, -2)) * scale
        if is_causal:
            shape = scores.shape[-2:]
            attn_mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min / 2)
        elif attn_mask is not None:
            scores = scores + attn_mask
        pattern = self.softmax(scores, -1) if live(scores) else scores.softmax(-1)
        return self._mixed(pattern, value)

    def _mixed(self, a: Tensor, b: Tensor) -> Tensor:
        return self.contract(torch.matmul, a, b) if live(a) or live(b) else a @ b


def _axis(x: Tensor, dim: int | None) -> int:
    """Where torch's softmax runs when it is not told: an old habit of its own."""
    return (0 if x.dim() in (0, 1, 3) else 1) if dim is None else dim


def _one_weight(equation: str, parts: list[Tensor], at: int) -> tuple[Tensor, str, str]:
    """The constants of an einsum as one, and how the operand at a place is read with it.

    Returns:
        The weight; "x,w", the subscripts of both; and those of the result.
    """
    reads, arrow, result = equation.replace(" ", "").partition("->")
    given = reads.split(",")
    if not arrow:  # what torch makes of it: the axes that occur once, in the order of the alphabet
        every = reads.replace("...", "").replace(",", "")
        result = "..." * ("..." in reads) + "".join(sorted(c for c in every if every.count(c) == 1))
    rest = [one for i, one in enumerate(given) if i != at]
    axes = "".join(dict.fromkeys("".join(rest).replace("...", "")))
    kept = "..." * any("..." in one for one in rest)
    kept += "".join(c for c in axes if c in given[at] or c in result)
    constants = [part for i, part in enumerate(parts) if i != at]
    return torch.einsum(f"{','.join(rest)}->{kept}", *constants), f"{given[at]},{kept}", result
