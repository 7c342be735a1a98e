"""Maxima, order statistics, pooling and masks: operations that pass on some of their entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.attribution.methods.primitives import Primitives, flat, live, spread

_LARGEST, _SMALLEST, _RANKED = 1, -1, 0


class Selections(Primitives):
    """One method per selection, with torch's arguments."""

    # ---- largest and smallest --------------------------------------------------------------

    def on_max(self, input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        """Of everything, along an axis, or of two tensors."""
        return self._extreme(torch.max, input, dim, keepdim, other, _LARGEST)

    def on_min(self, input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        """The same for the smallest."""
        return self._extreme(torch.min, input, dim, keepdim, other, _SMALLEST)

    def on_amax(self, input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        """Along one axis or several."""
        return self._along(torch.max, input, dim, keepdim, _LARGEST)

    def on_amin(self, input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        """The same for the smallest."""
        return self._along(torch.min, input, dim, keepdim, _SMALLEST)

    def on_aminmax(self, input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
        """Both."""
        dims: Any = () if dim is None else dim
        low, high = self.on_amin(input, dims, keepdim), self.on_amax(input, dims, keepdim)
        return torch.return_types.aminmax((low, high))

    def on_maximum(self, input: Any, other: Any) -> Tensor:
        """The larger of two, entry by entry."""
        return self._larger(torch.max, input, other, _LARGEST)

    def on_minimum(self, input: Any, other: Any) -> Tensor:
        """The smaller of two."""
        return self._larger(torch.min, input, other, _SMALLEST)

    def on_fmax(self, input: Any, other: Any) -> Tensor:
        """The same: nothing here is NaN."""
        return self.on_maximum(input, other)

    def on_fmin(self, input: Any, other: Any) -> Tensor:
        """The same: nothing here is NaN."""
        return self.on_minimum(input, other)

    def on_clamp(self, input: Any, min: Any = None, max: Any = None) -> Any:
        """Bounded by constants it is entrywise, by live tensors a maximum of a minimum."""
        if not any(live(value) for value in (min, max)):
            return self.elementwise(lambda t: torch.clamp(t, min, max), spread(input, min, max))
        found = input if min is None else self.on_maximum(input, torch.as_tensor(min).to(input))
        return found if max is None else self.on_minimum(found, torch.as_tensor(max).to(input))

    def on_clip(self, input: Any, min: Any = None, max: Any = None) -> Any:
        """Its other name."""
        return self.on_clamp(input, min, max)

    def on_cummax(self, input: Tensor, dim: int) -> Any:
        """The largest so far."""
        found = self.select(lambda t: torch.cummax(t, dim), input, dim, _LARGEST)
        return torch.return_types.cummax(found)

    def on_cummin(self, input: Tensor, dim: int) -> Any:
        """The smallest so far."""
        found = self.select(lambda t: torch.cummin(t, dim), input, dim, _SMALLEST)
        return torch.return_types.cummin(found)

    def _extreme(
        self, op: Callable[..., Any], x: Tensor, dim: Any, keepdim: bool, other: Any, extreme: int
    ) -> Any:
        if isinstance(dim, Tensor) or other is not None:
            return self._larger(op, x, dim if other is None else other, extreme)
        if dim is None:
            return self._along(op, x, (), False, extreme)
        axis: int = dim
        y, place = self.select(lambda t: op(t, axis, True), x, axis, extreme)
        pair = (y, place) if keepdim else (y.squeeze(axis), place.squeeze(axis))
        return getattr(torch.return_types, op.__name__)(pair)

    def _larger(self, op: Callable[..., Any], a: Any, b: Any, extreme: int) -> Tensor:
        both = torch.stack(torch.broadcast_tensors(a, b))
        return self.select(lambda t: op(t, 0, True), both, 0, extreme)[0].squeeze(0)

    def _along(self, op: Callable[..., Any], x: Tensor, dim: Any, keepdim: bool, extreme: int) -> Tensor:
        dims = [d % max(1, x.dim()) for d in ((dim,) if isinstance(dim, int) else tuple(dim))]
        dims = dims or list(range(x.dim()))
        rest = [d for d in range(x.dim()) if d not in dims]
        table = x.permute(*rest, *dims).reshape(*(x.shape[d] for d in rest), -1)
        y = self.select(lambda t: op(t, -1, True), table, -1, extreme)[0].squeeze(-1)
        if keepdim:
            for d in sorted(dims):
                y = y.unsqueeze(d)
        return y

    # ---- ranks -----------------------------------------------------------------------------

    def on_sort(
        self, input: Tensor, dim: Any = -1, descending: bool = False, *, stable: bool | None = None
    ) -> Any:
        """Every rank."""
        if isinstance(dim, bool):  # sort(x, descending)
            dim, descending = -1, dim
        found = self.select(
            lambda t: torch.sort(t, dim=dim, descending=descending, stable=bool(stable)), input, dim, _RANKED
        )
        return torch.return_types.sort(found)

    def on_msort(self, input: Tensor) -> Tensor:
        """Along the first axis."""
        return self.on_sort(input, 0)[0]

    def on_topk(self, input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
        """The first ranks."""
        found = self.select(lambda t: torch.topk(t, k, dim, largest, True), input, dim, _RANKED)
        return torch.return_types.topk(found)

    def on_kthvalue(self, input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
        """One rank."""
        y, place = self.select(lambda t: torch.kthvalue(t, k, dim, True), input, dim, _RANKED)
        pair = (y, place) if keepdim else (y.squeeze(dim), place.squeeze(dim))
        return torch.return_types.kthvalue(pair)

    def on_median(self, input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
        """The middle rank."""
        if dim is None:
            return self.on_kthvalue(input.flatten(), (input.numel() + 1) // 2)[0]
        pair = self.on_kthvalue(input, (input.shape[dim] + 1) // 2, dim, keepdim)
        return torch.return_types.median(tuple(pair))

    # ---- pooling ---------------------------------------------------------------------------

    def on_max_pool1d(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The largest of each window."""
        return self._pooled(F.max_pool1d_with_indices, 1, input, args, kwargs)

    def on_max_pool2d(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The same in two dimensions."""
        return self._pooled(F.max_pool2d_with_indices, 2, input, args, kwargs)

    def on_max_pool3d(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The same in three."""
        return self._pooled(F.max_pool3d_with_indices, 3, input, args, kwargs)

    def on_adaptive_max_pool1d(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The same with windows that fit."""
        return self._pooled(F.adaptive_max_pool1d_with_indices, 1, input, args, kwargs)

    def on_adaptive_max_pool2d(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The same in two dimensions."""
        return self._pooled(F.adaptive_max_pool2d_with_indices, 2, input, args, kwargs)

    def on_adaptive_max_pool3d(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The same in three."""
        return self._pooled(F.adaptive_max_pool3d_with_indices, 3, input, args, kwargs)

    def on_max_pool1d_with_indices(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """With its places."""
        return self.on_max_pool1d(input, *args, **{**kwargs, "return_indices": True})

    def on_max_pool2d_with_indices(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """With its places."""
        return self.on_max_pool2d(input, *args, **{**kwargs, "return_indices": True})

    def on_max_pool3d_with_indices(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """With its places."""
        return self.on_max_pool3d(input, *args, **{**kwargs, "return_indices": True})

    def _pooled(
        self, op: Callable[..., Any], n: int, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Places are those in the flattened axes that are pooled."""
        wanted = kwargs.pop("return_indices", False)
        if args and isinstance(args[-1], bool) and len(args) == (2 if op.__name__.startswith("adap") else 6):
            wanted, args = args[-1], args[:-1]
        args = tuple(None if part == [] else part for part in args)
        shape: list[torch.Size] = []

        def pick(t: Tensor) -> tuple[Tensor, Tensor]:
            y, place = op(t.unflatten(-1, x.shape[-n:]), *args, **kwargs)
            shape[:] = [y.shape[-n:]]
            return y.flatten(-n), place.flatten(-n)

        y, place = self.select(pick, x.flatten(-n), -1, _LARGEST)
        y, place = y.unflatten(-1, shape[0]), place.unflatten(-1, shape[0])
        return (y, place) if wanted else y

    # ---- masks -----------------------------------------------------------------------------

    def on_where(self, condition: Any, input: Any = None, other: Any = None) -> Any:
        """One of two, entry by entry; as a method it stands between them."""
        if not isinstance(condition, Tensor) or condition.dtype != torch.bool:
            condition, input = input, condition
        if not isinstance(condition, Tensor) or all(value is None for value in flat((input, other))):
            return NotImplemented
        return self.choose(condition, input, other)

    def on_masked_fill(self, input: Tensor, mask: Tensor, value: Any) -> Any:
        """The value where the mask holds."""
        return self.choose(mask, value, input)
