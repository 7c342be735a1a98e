"""Interventions as values: zero, mean, resample, patch, add (steer), project_out, clamp.

Each is a frozen object that names its site and says what to do there; they compose by order:

    with model.hooks([zero("blocks.0.attn.hook_z", head=1), steer("blocks.2.hook_resid_post", v)]):
        model.generate("Once upon a time")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import EditError, ShapeError
from interp.core.randomness import generator
from interp.models.inputs import position_index
from interp.models.taps import Tap

Transform = Callable[[Tensor, Tap], Tensor]


@dataclass(frozen=True)
class Intervention:
    """What happens at one site; call it as a hook or hand it to `hooks`, `run_with_hooks`, ...

    Attributes:
        site: A site name or glob.
        name: The verb, for `repr`.
        transform: (whole value, hook) -> new whole value.
        head: Heads to touch (attention sites), None for all.
        positions: Positions to touch, counted over each row's real tokens; None for all. Under
            `generate` they refer to the prompt, i.e. to step 0 only.
        index: Entries of the last axis to touch (neurons, latents); None for all.
    """

    site: Any
    name: str
    transform: Transform
    head: Any = None
    positions: Any = None
    index: Any = None

    def __call__(self, value: Tensor, hook: Tap) -> Tensor:
        """The edited activation: `transform` where selected, untouched elsewhere."""
        if self.positions is not None and hook.step > 0:
            return value
        new = self.transform(value, hook)
        if self.head is None and self.positions is None and self.index is None:
            return new
        return torch.where(self._chosen(value, hook), new, value)

    def __repr__(self) -> str:
        chosen = [f"{k}={getattr(self, k)!r}" for k in ("head", "positions", "index")]
        parts = [repr(self.site), *(c for c in chosen if not c.endswith("=None"))]
        return f"{self.name}({', '.join(parts)})"

    def _chosen(self, value: Tensor, hook: Tap) -> Tensor:
        """Boolean mask, broadcastable to `value`, of the entries to touch."""
        axes = hook.site.axes.split()
        if len(axes) != value.dim():
            axes = ["batch"] + ["?"] * (value.dim() - 2) + ["last"]
        mask = torch.ones([1] * value.dim(), dtype=torch.bool, device=value.device)
        if self.head is not None:
            axis = next((i for i, a in enumerate(axes) if a in ("head", "kv_head")), None)
            mask = mask & _along(value, axis, self.head, f"{hook.name!r} has no head axis")
        if self.positions is not None:
            mask = mask & self._at_positions(value, axes, hook)
        if self.index is not None:
            mask = mask & _along(value, value.dim() - 1, self.index, "")
        return mask

    def _at_positions(self, value: Tensor, axes: list[str], hook: Tap) -> Tensor:
        if "pos" not in axes:
            raise EditError(
                f"{hook.name!r} has no position axis",
                got=f"positions={self.positions!r}",
                expected=f"a site with positions; this one is {hook.site.axes!r}",
            )
        axis, batch = axes.index("pos"), value.shape[0]
        length = value.shape[axis]
        padding = hook.run.mask if hook.run is not None else None
        index = position_index(self.positions, length, batch, padding, value.device)
        rows = index if index.dim() == 2 else index.expand(batch, -1)
        chosen = torch.zeros(batch, length, dtype=torch.bool, device=value.device)
        chosen.scatter_(1, rows, True)
        shape = [1] * value.dim()
        shape[0], shape[axis] = batch, length
        return chosen.view(shape)


def _along(value: Tensor, axis: int | None, wanted: Any, missing: str) -> Tensor:
    if axis is None:
        raise EditError(missing, fix="choose head= at q, k, v, z, scores, pattern or result")
    size = value.shape[axis]
    index = torch.as_tensor(wanted, device=value.device).long().reshape(-1)
    if bool(((index >= size) | (index < -size)).any()):
        raise EditError(
            "an index outside the activation was asked for",
            got=index.tolist(),
            expected=f"{-size} to {size - 1}",
        )
    chosen = torch.zeros(size, dtype=torch.bool, device=value.device)
    chosen[index] = True
    shape = [1] * value.dim()
    shape[axis] = size
    return chosen.view(shape)


def _like(source: Tensor, value: Tensor, hook: Tap, what: str) -> Tensor:
    source = source.to(value.device, value.dtype)
    try:
        return source.expand(value.shape)
    except RuntimeError:
        raise ShapeError(
            f"{what} does not fit the activation at {hook.name!r}",
            got=tuple(source.shape),
            expected=f"{tuple(value.shape)}, or something that broadcasts to it",
        ) from None


def _at(source: Tensor | Mapping[str, Tensor], hook: Tap) -> Tensor:
    return source if isinstance(source, Tensor) else source[hook.site.name]


def zero(site: Any, *, head: Any = None, positions: Any = None, index: Any = None) -> Intervention:
    """Set the activation to zero."""
    return Intervention(site, "zero", lambda v, _: torch.zeros_like(v), head, positions, index)


def mean(
    site: Any,
    source: Tensor | Mapping[str, Tensor],
    *,
    head: Any = None,
    positions: Any = None,
    index: Any = None,
) -> Intervention:
    """Replace by the mean of a reference: an average vector, or Activations averaged here.

    Args:
        source: A tensor that broadcasts to the site (taken as the mean), or Activations of
            reference inputs, averaged over batch and real positions.
    """

    def transform(value: Tensor, hook: Tap) -> Tensor:
        if isinstance(source, Tensor):
            average = source
        elif "pos" in hook.site.axes.split()[1:2] and hasattr(source, "flat"):
            average = source.flat(hook.site.name).mean(0)  # type: ignore[attr-defined]
        else:
            average = source[hook.site.name].mean(0)
        return _like(average, value, hook, "the mean")

    return Intervention(site, "mean", transform, head, positions, index)


def resample(
    site: Any,
    source: Tensor | Mapping[str, Tensor] | None = None,
    *,
    seed: int = 0,
    head: Any = None,
    positions: Any = None,
    index: Any = None,
) -> Intervention:
    """Replace every row by another row: of `source`, or of the same batch when there is none.

    Rows are drawn by (seed, site, step), each from a different row where there are enough.
    """

    def transform(value: Tensor, hook: Tap) -> Tensor:
        pool = value if source is None else _at(source, hook).to(value.device, value.dtype)
        if pool.shape[1:] != value.shape[1:]:
            raise ShapeError(
                f"the rows to resample from do not fit {hook.name!r}",
                got=tuple(pool.shape),
                expected=f"(any, {', '.join(map(str, value.shape[1:]))})",
            )
        draw = generator(seed, f"resample {hook.name}", hook.step)
        if source is None:
            shift = 1 + int(torch.randint(max(len(pool) - 1, 1), (1,), generator=draw))
            return pool.roll(shift, 0)
        chosen = torch.randint(len(pool), (len(value),), generator=draw)
        return pool[chosen.to(pool.device)]

    return Intervention(site, "resample", transform, head, positions, index)


def patch(
    site: Any,
    source: Tensor | Mapping[str, Tensor],
    *,
    head: Any = None,
    positions: Any = None,
    index: Any = None,
) -> Intervention:
    """Replace by the activation of another run (activation patching)."""

    def transform(value: Tensor, hook: Tap) -> Tensor:
        return _like(_at(source, hook), value, hook, "the patch")

    return Intervention(site, "patch", transform, head, positions, index)


def add(
    site: Any, vector: Tensor, scale: float = 1.0, *, head: Any = None, positions: Any = None
) -> Intervention:
    """Add `scale * vector` (activation addition, steering)."""

    def transform(value: Tensor, hook: Tap) -> Tensor:
        return value + scale * _like(vector, value, hook, "the vector")

    return Intervention(site, "add", transform, head, positions)


steer = add


def project_out(
    site: Any, directions: Tensor, *, head: Any = None, positions: Any = None
) -> Intervention:
    """Remove the span of `directions` ([d] or [n, d], any scale, need not be orthogonal)."""

    def transform(value: Tensor, hook: Tap) -> Tensor:
        rows = directions.reshape(-1, directions.shape[-1]).to(value.device)
        if rows.shape[-1] != value.shape[-1]:
            raise ShapeError(
                f"the directions do not fit {hook.name!r}",
                got=f"width {rows.shape[-1]}",
                expected=f"width {value.shape[-1]}",
            )
        wide = rows.double() if value.dtype == torch.float64 else rows.float()
        # The right singular vectors, so that dependent directions are harmless.
        _, s, basis = torch.linalg.svd(wide, full_matrices=False)
        basis = basis[s > s.max() * 1e-6] if len(s) else basis
        exact = value.to(wide.dtype)
        return (exact - exact @ basis.T @ basis).to(value.dtype)

    return Intervention(site, "project_out", transform, head, positions)


def clamp(
    site: Any,
    index: Any,
    value: float | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    positions: Any = None,
) -> Intervention:
    """Hold entries of the last axis (neurons, latents) at `value`, or between `low` and `high`."""
    if (value is None) == (low is None and high is None):
        raise EditError(
            "clamp needs either a value or bounds",
            got=f"value={value}, low={low}, high={high}",
            fix="clamp(site, index, 3.0) or clamp(site, index, low=0.0)",
        )

    def transform(old: Tensor, hook: Tap) -> Tensor:
        return torch.full_like(old, value) if value is not None else old.clamp(low, high)

    return Intervention(site, "clamp", transform, None, positions, index)
