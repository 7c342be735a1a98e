"""Interventions as values: zero, mean, resample, patch, add (steer), project_out, clamp.

Each is a frozen object that names its site and says what to do there; they compose by order:

    with model.hooks([zero("blocks.0.attn.hook_z", head=1), steer("blocks.2.hook_resid_post", v)]):
        model.generate("Once upon a time")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import EditError, ShapeError, TokenError
from interp.core.randomness import generator
from interp.models.hooks.sides import check_choice, whole_numbers
from interp.models.hooks.sites import Site
from interp.models.hooks.taps import Tap
from interp.models.hooks.vectors import Source, read_number, read_source, read_vector

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
            `generate` they refer to the prompt.
        index: Entries of the last axis to touch (neurons, latents; channels of an image); None
            for all. Heads, positions and entries are integers, a slice or a boolean mask.
    """

    site: Any
    name: str
    transform: Transform
    head: Any = None
    positions: Any = None
    index: Any = None
    pure: bool = False
    """Whether `transform` never writes into the value it is given (all of this file's): no copy."""

    def __post_init__(self) -> None:
        for what in ("head", "index", "positions"):
            choice = getattr(self, what)
            if choice is not None:
                check_choice(choice, f"{what}=")

    def __call__(self, value: Tensor, hook: Tap) -> Tensor:
        """The edited activation: `transform` where selected, untouched elsewhere."""
        new = self.transform(value, hook)
        if self.head is None and self.positions is None and self.index is None:
            # The model may write into what it goes on with: never into the source of a patch.
            return new.clone() if self.name in ("mean", "patch") else new
        return torch.where(self._chosen(value, hook), new, value)

    def __repr__(self) -> str:
        chosen = [f"{k}={getattr(self, k)!r}" for k in ("head", "positions", "index")]
        parts = [repr(self.site), *(c for c in chosen if not c.endswith("=None"))]
        return f"{self.name}({', '.join(parts)})"

    def check(self, site: Site) -> None:
        """Before anything runs: does the site have the axes that are chosen along?

        Raises:
            EditError: No head or position axis, or an entry beyond a known size.
        """
        axes = site.axes.split()
        sizes = dict(zip(axes, site.sizes, strict=False))
        if self.head is not None:
            if axes != ["..."] and not {"head", "kv_head"} & set(axes):
                raise _no_head(site.name)
            size = sizes.get("head", sizes.get("kv_head"))
            if size is not None:
                along(self.head, size, "head=", torch.device("cpu"))
        if self.positions is not None and "pos" not in axes:
            raise self._no_positions(site)
        if self.index is not None and axes:
            size = sizes.get("channel" if "channel" in axes else axes[-1])
            if size is not None:
                along(self.index, size, "index=", torch.device("cpu"))

    def _chosen(self, value: Tensor, hook: Tap) -> Tensor:
        """Boolean mask, broadcastable to `value`, of the entries to touch."""
        axes = hook.site.axes.split()
        mask = torch.ones([1] * value.dim(), dtype=torch.bool, device=value.device)
        if self.head is not None:
            axis = next((i for i, a in enumerate(axes) if a in ("head", "kv_head")), None)
            if axis is None:
                raise _no_head(hook.name)
            mask = mask & _along(value, axis, self.head, "head=")
        if self.positions is not None:
            if "pos" not in axes:
                raise self._no_positions(hook.site)
            axis = axes.index("pos")
            chosen = hook.chosen(self.positions, value, axis)
            shape = [1] * value.dim()
            shape[0], shape[axis] = chosen.shape
            mask = mask & chosen.view(shape)
        if self.index is not None:
            mask = mask & _along(value, _entries(value, axes, hook.name), self.index, "index=")
        return mask

    def _no_positions(self, site: Site) -> EditError:
        return EditError(
            f"{site.name!r} has no position axis",
            got=f"positions={self.positions!r}",
            expected=f"a site with positions; this one is {site.axes!r}",
        )


def _no_head(name: str) -> EditError:
    return EditError(
        f"{name!r} has no head axis", fix="choose head= at q, k, v, z, scores, pattern or result"
    )


def _entries(value: Tensor, axes: list[str], name: str) -> int:
    """The axis that `index` counts along: channels of a map, else the last."""
    last = value.dim() - 1
    if "channel" in axes:
        # A map may come without its batch.
        last = axes.index("channel") - (0 if "..." in axes else len(axes) - value.dim())
        known = 0 <= last < value.dim()
    else:
        known = len(axes) == value.dim() or (axes[1:] != [] and axes[0] == "...")
        known = known or value.dim() < (4 if axes else 3)
    if not known:
        raise EditError(
            f"nothing says which axis of {name!r} holds its entries",
            got=f"index= on a value of shape {tuple(value.shape)}",
            expected="a site whose axes are known (the output of a convolution, a named site)",
            fix="edit it with a function: (site, lambda value, hook: ...)",
        )
    return last


def along(wanted: Any, size: int, what: str, device: torch.device) -> Tensor:
    """Boolean [size]: the entries that numbers, a slice or a boolean mask choose.

    Raises:
        EditError: Floats, an entry beyond the end, a mask of another length, nothing at all.
    """
    chosen = torch.zeros(size, dtype=torch.bool, device=device)
    if isinstance(wanted, slice):
        if not range(size)[wanted]:
            raise EditError(f"{what} selects nothing", got=wanted, expected=f"some of 0 to {size - 1}")
        chosen[wanted] = True
        return chosen
    index = whole_numbers(wanted, what)
    if index.dtype == torch.bool:
        if index.shape != (size,):
            raise EditError(f"{what} is a mask of another length", got=tuple(index.shape), expected=(size,))
        return index.to(device)
    index = index.reshape(-1)
    if bool(((index >= size) | (index < -size)).any()):
        raise EditError(
            f"{what} asks for an entry outside the activation",
            got=index.tolist()[:20],
            expected=f"{-size} to {size - 1}",
        )
    chosen[index.to(device)] = True
    return chosen


def _along(value: Tensor, axis: int, wanted: Any, what: str) -> Tensor:
    shape = [1] * value.dim()
    shape[axis] = value.shape[axis]
    return along(wanted, value.shape[axis], what, value.device).view(shape)


def _like(source: Tensor, value: Tensor, hook: Tap, what: str) -> Tensor:
    if source.is_complex() and not value.is_complex():
        raise EditError(
            f"{what} is complex, the activation at {hook.name!r} is real",
            got=source.dtype,
            expected=value.dtype,
            fix="vector.real",
        )
    source = hook.moved(source.to(value.device, value.dtype), value)
    try:
        return source.expand(value.shape)
    except RuntimeError:
        raise ShapeError(
            f"{what} does not fit the activation at {hook.name!r}",
            got=tuple(source.shape),
            expected=f"{tuple(value.shape)}, or something that broadcasts to it",
        ) from None


def _at(source: Source, hook: Tap) -> Tensor:
    if isinstance(source, Tensor):
        return source
    # One call of a module that runs several times is kept under that call's name.
    name = hook.name if hook.name in source else hook.site.name
    return read_vector(source[name], f"the source at {name!r}")


def zero(site: Any, *, head: Any = None, positions: Any = None, index: Any = None) -> Intervention:
    """Set the activation to zero."""
    return Intervention(site, "zero", lambda v, _: torch.zeros_like(v), head, positions, index, pure=True)


def mean(
    site: Any, source: Any, *, head: Any = None, positions: Any = None, index: Any = None
) -> Intervention:
    """Replace by the mean of a reference: an average vector, or Activations averaged here.

    Args:
        source: A tensor that broadcasts to the site (taken as the mean), or Activations of
            reference inputs, averaged over batch and real positions.
    """
    source = read_source(source, "the mean")

    def transform(value: Tensor, hook: Tap) -> Tensor:
        if isinstance(source, Tensor):
            average = source
        elif "pos" in hook.site.axes.split()[1:2] and hasattr(source, "flat"):
            average = source.flat(hook.site.name).mean(0)
        else:
            average = _at(source, hook).mean(0)
        return _like(average, value, hook, "the mean")

    return Intervention(site, "mean", transform, head, positions, index, pure=True)


def resample(
    site: Any,
    source: Any = None,
    *,
    seed: int = 0,
    head: Any = None,
    positions: Any = None,
    index: Any = None,
) -> Intervention:
    """Replace every row by another row: of `source`, or of the same batch when there is none.

    Rows are drawn by (seed, site), each from a different row where there are enough: every pass
    over the same rows draws alike, so that generating with a cache and without agree.

    Raises:
        EditError: During the run, for a batch of one row without a source.
    """
    source = None if source is None else read_source(source, "the rows to resample from")

    def transform(value: Tensor, hook: Tap) -> Tensor:
        pool = value if source is None else _at(source, hook).to(value.device, value.dtype)
        if pool.shape[1:] != value.shape[1:]:
            raise ShapeError(
                f"the rows to resample from do not fit {hook.name!r}",
                got=tuple(pool.shape),
                expected=f"(any, {', '.join(map(str, value.shape[1:]))})",
            )
        draw = generator(seed, f"resample {hook.name}")
        if source is None:
            rows = hook.prompts(value)
            if rows < 2:
                raise EditError(
                    f"the batch at {hook.name!r} has no other row to draw from",
                    got="one row",
                    fix="more rows, or resample(site, source=...) with rows of another run",
                )
            shift = 1 + int(torch.randint(rows - 1, (1,), generator=draw))
            return _rolled(value, hook, positions, shift * (len(pool) // rows))
        chosen = torch.randint(len(pool), (len(value),), generator=draw)
        return pool[chosen.to(pool.device)]

    return Intervention(site, "resample", transform, head, positions, index, pure=True)


def _rolled(value: Tensor, hook: Tap, positions: Any, shift: int) -> Tensor:
    """Each row's real tokens from another row of the batch, token by token."""
    axes = hook.site.axes.split()
    side = hook.side(value, axes.index("pos")) if "pos" in axes else None
    if side is None or side.mask is None:
        return value.roll(shift, 0)
    if positions is None:
        raise TokenError(
            "rows of different length cannot be resampled from each other token by token",
            got="a padded batch",
            fix="rows of one length, or positions=, which every row counts over its own tokens",
        )
    axis = axes.index("pos")
    index = side.index(positions, value.device)
    index = index.expand(len(value), -1) if index.dim() > 1 else index[None].expand(len(value), -1)
    shape = [1] * value.dim()
    shape[0], shape[axis] = index.shape
    where = index.reshape(shape).expand(
        [n if i in (0, axis) else size for i, (n, size) in enumerate(zip(shape, value.shape, strict=True))]
    )
    donors = value.gather(axis, where).roll(shift, 0)
    return value.scatter(axis, where, donors)


def patch(
    site: Any, source: Any, *, head: Any = None, positions: Any = None, index: Any = None
) -> Intervention:
    """Replace by the activation of another run (activation patching)."""
    source = read_source(source, "the patch")

    def transform(value: Tensor, hook: Tap) -> Tensor:
        return _like(_at(source, hook), value, hook, "the patch")

    return Intervention(site, "patch", transform, head, positions, index, pure=True)


def add(site: Any, vector: Any, scale: Any = 1.0, *, head: Any = None, positions: Any = None) -> Intervention:
    """Add `scale * vector` (activation addition, steering); a tensor, an array or a list."""
    vector = read_vector(vector, "the vector")
    scale = scale if isinstance(scale, Tensor) else read_number(scale, "scale=")

    def transform(value: Tensor, hook: Tap) -> Tensor:
        return value + scale * _like(vector, value, hook, "the vector")

    return Intervention(site, "add", transform, head, positions, pure=True)


steer = add


def project_out(site: Any, directions: Any, *, head: Any = None, positions: Any = None) -> Intervention:
    """Remove the span of `directions` ([d] or [n, d], any scale, need not be orthogonal)."""
    directions = read_vector(directions, "directions")
    if directions.dim() == 0 or directions.numel() == 0 or not bool(directions.isfinite().all()):
        raise EditError(
            "directions are finite vectors, [d] or [n, d]",
            got=f"shape {tuple(directions.shape)}" + (", not finite" if directions.numel() else ""),
        )

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

    return Intervention(site, "project_out", transform, head, positions, pure=True)


def clamp(
    site: Any, index: Any, value: Any = None, *, low: Any = None, high: Any = None, positions: Any = None
) -> Intervention:
    """Hold entries of the last axis (neurons, latents) at `value`, or between `low` and `high`."""
    if (value is None) == (low is None and high is None):
        raise EditError(
            "clamp needs either a value or bounds",
            got=f"value={value}, low={low}, high={high}",
            fix="clamp(site, index, 3.0) or clamp(site, index, low=0.0)",
        )
    value, low, high = (
        None if bound is None else read_number(bound, f"{what}=")
        for what, bound in (("value", value), ("low", low), ("high", high))
    )
    if low is not None and high is not None and low > high:
        raise EditError("clamp has no room between its bounds", got=f"low={low}, high={high}")

    def transform(old: Tensor, hook: Tap) -> Tensor:
        return torch.full_like(old, value) if value is not None else old.clamp(low, high)

    return Intervention(site, "clamp", transform, None, positions, index, pure=True)
