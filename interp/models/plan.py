"""From a request to taps, and from fired taps to `Activations`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ModelError, SiteError
from interp.models.inputs import Prepared, position_index, take
from interp.models.interventions import Intervention
from interp.models.sites import Site, SiteMap
from interp.models.taps import Edit, Tap, check_activation

Hook = Intervention | tuple[Any, Edit]
Keep = Callable[[Tensor, Site], Tensor]


def keeper(ready: Prepared, positions: Any, to: Any, dtype: Any) -> Keep | None:
    """What to do to a value before it is kept; None to keep the tensor itself."""
    if positions is None and to is None and dtype is None:
        return None
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)

    def keep(value: Tensor, site: Site) -> Tensor:
        kept = value if positions is None else _at_positions(value, site, positions, ready)
        kept = kept if to is None else kept.to(to)
        return kept if dtype is None else kept.to(dtype)

    return keep


def _at_positions(value: Tensor, site: Site, positions: Any, ready: Prepared) -> Tensor:
    axes = site.axes.split()
    if "pos" not in axes:
        raise SiteError(
            f"{site.name!r} has no position axis to select from",
            got=f"positions={positions!r}",
            expected=f"a site with positions; this one is {site.axes!r}",
        )
    axis = axes.index("pos")
    batch = value.shape[0] if ready.tokens is None else ready.tokens.shape[0]
    index = position_index(positions, value.shape[axis], batch, ready.mask, value.device)
    return take(value, axis, index)


def make_taps(
    sites: SiteMap,
    names: Sequence[str],
    hooks: Sequence[Hook] = (),
    *,
    grad: bool = False,
    keep: Keep | None = None,
    clone: bool = False,
) -> dict[str, Tap]:
    """One tap per site that is asked for: edits first, in order, then the value is kept.

    Raises:
        SiteError: A hook's site matches nothing.
    """
    taps: dict[str, Tap] = {}
    for hook in hooks:
        wanted, edit = (hook.site, hook) if isinstance(hook, Intervention) else hook
        for name in sites.resolve(wanted):
            _tap(taps, sites, name).edits.append(edit)
    for name in names:
        tap = _tap(taps, sites, name)
        tap.keep, tap.on_path, tap.transform, tap.copy = True, grad, keep, clone
    return taps


def start_tap(sites: SiteMap, name: str, values: Tensor) -> dict[str, Tap]:
    """The one tap of a run that starts at a site: it hands on any number of rows.

    Raises:
        SiteError: No such site, or a part of a tensor, which rows of its own cannot replace.
    """
    taps = make_taps(sites, [], [(name, lambda value, hook: values)])
    for tap in taps.values():
        site = tap.site
        if site.kind not in ("in", "out") or site.view is not None or site.slot:
            raise SiteError(
                f"a run cannot start at {site.name!r}",
                got="a part of a module's tensor",
                expected="the whole input or output of a module",
                fix="a site of the residual stream",
            )
        tap.more_rows = True
    return taps


def _tap(taps: dict[str, Tap], sites: SiteMap, name: str) -> Tap:
    tap = taps.get(name)
    if tap is None:
        call = int(name.rpartition("#")[2]) if "#" in name else None
        tap = taps[name] = Tap(sites[name], name, call=call)
    return tap


def collect(taps: dict[str, Tap], names: Sequence[str], ready: Prepared) -> dict[str, Tensor]:
    """What the taps kept, finite, with positions that all rows share spread over the batch.

    Raises:
        NonFiniteError: Naming the site and the first index.
    """
    tensors: dict[str, Tensor] = {}
    for name in names:
        tap = taps[name]
        value = tap.value
        if value is None:
            raise ModelError(f"nothing was kept at {name!r}")
        check_activation(value, tap.site, f"the activation at {name!r}")
        shared = value.dim() == 3 and value.shape[0] == 1 and bool(tap.site.sizes)
        if shared and ready.tokens is not None and len(ready.tokens) > 1:
            value = value.expand(ready.tokens.shape[0], -1, -1)
        tensors[name] = value
    return tensors


def backward_hooks(hooks: Sequence[tuple[Any, Callable[..., Any]]]) -> list[Hook]:
    """Backward hooks as forward edits that listen to the gradient of the value."""

    def listen(fn: Callable[..., Any]) -> Edit:
        def edit(value: Tensor, hook: Tap) -> Tensor | None:
            if not value.requires_grad:
                value = value.detach().requires_grad_(True)
            seen = value.view_as(value)
            seen.register_hook(lambda gradient: fn(gradient, hook=hook))
            return seen

        return edit

    return [(name, listen(fn)) for name, fn in hooks]
