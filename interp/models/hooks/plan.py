"""From a request to what a run wants at each site, and from what was kept to `Activations`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.core.devices import read_dtype, read_target
from interp.core.errors import ConfigError, EditError, ModelError, NonFiniteError, SiteError, TokenError
from interp.core.finite import are_finite
from interp.core.settings import check_flags
from interp.models.hooks.doubts import check_activation, unmasked
from interp.models.hooks.frame import Frame
from interp.models.hooks.interventions import Intervention
from interp.models.hooks.sides import Seen, take
from interp.models.hooks.sites import Site, SiteMap
from interp.models.hooks.taps import Edit, Request, Tap
from interp.models.text.prepared import Prepared

Hook = Intervention | tuple[Any, Edit]
Keep = Callable[[Tensor, Tap], Tensor]


@dataclass(slots=True)
class Keeping:
    """How captured values are kept, as for `HookedModel.capture`; `sweep`: of every site.

    Raises:
        ConfigError: A flag that is no True and no False.
    """

    positions: Any = None
    to: Any = None
    dtype: Any = None
    grad: bool = False
    clone: bool = False
    max_bytes: int | None = None
    sweep: bool = False
    remove_batch_dim: bool = False

    def __post_init__(self) -> None:
        if not type(self.grad) is type(self.clone) is type(self.remove_batch_dim) is bool:
            check_flags(grad=self.grad, clone=self.clone, remove_batch_dim=self.remove_batch_dim)

    def form(self, dtype: str, device: torch.device) -> tuple[str, torch.device]:
        """In which dtype and where values of a model of this dtype and device are kept."""
        if self.to is None and self.dtype is None:
            return dtype, device
        to = None if self.to is None else read_target(self.to)
        cast = to if isinstance(to, torch.dtype) else None if self.dtype is None else read_dtype(self.dtype)
        return (
            dtype if cast is None else str(cast).removeprefix("torch."),
            to if isinstance(to, torch.device) else device,
        )


def keeper(positions: Any, to: Any, dtype: Any) -> Keep | None:
    """What to do to a value before it is kept; None to keep the tensor itself.

    Raises:
        ConfigError: No such dtype or device.
    """
    if positions is None and to is None and dtype is None:
        return None
    to = None if to is None else read_target(to)
    if dtype is not None and isinstance(to, torch.dtype):
        raise ConfigError("two dtypes are asked for", got=f"to={to}, dtype={dtype}", fix="dtype=")
    dtype = None if dtype is None else read_dtype(dtype)
    for kind in (dtype, to):
        if isinstance(kind, torch.dtype) and not kind.is_floating_point:
            raise ConfigError(
                "activations are kept in a floating-point dtype",
                got=kind,
                expected="float32, bfloat16, ...",
                fix="acts[site].to(...), if they are to be cut to whole numbers",
            )

    def keep(value: Tensor, tap: Tap) -> Tensor:
        kept = value if positions is None else _at_positions(value, tap, positions)
        kept = kept if to is None else kept.to(to)
        return kept if dtype is None else kept.to(dtype)

    return keep


def refuse_placeless(sites: SiteMap, names: Sequence[str], positions: Any) -> None:
    """Before the run: every site that is asked for at some positions has an axis of them.

    Raises:
        SiteError: Naming the first that has none.
    """
    if positions is None:
        return
    for name in names:
        if "pos" not in sites[name].axes.split():
            raise SiteError(
                f"{name!r} has no position axis to select from",
                got=f"positions={positions!r}",
                expected=f"a site with positions; this one is {sites[name].axes!r}",
            )


def _at_positions(value: Tensor, tap: Tap, positions: Any) -> Tensor:
    axis = tap.site.axes.split().index("pos")
    return take(value, axis, tap.index(positions, value, axis))


def requests(
    sites: SiteMap,
    names: Sequence[str],
    hooks: Any = (),
    *,
    grad: bool = False,
    keep: Keep | None = None,
    clone: bool = False,
    sweep: bool = False,
) -> dict[str, Request]:
    """One request per site that is asked for: edits first, in order, then the value is kept.

    Args:
        sweep: Nobody named these sites: those that fire are kept, at every call.

    Raises:
        SiteError: A hook's site matches nothing.
        EditError: A hook is no hook, or an intervention does not fit its site.
    """
    wanted: dict[str, Request] = {}
    for hook in hook_list(hooks):
        where, edit = (hook.site, hook) if isinstance(hook, Intervention) else hook
        if where is None:
            raise EditError(
                "a hook needs a site", got=f"None, for {edit!r}"[:80], fix="a name, or '*' for every site"
            )
        for name in sites.resolve(where):
            request = _request(wanted, sites, name)
            if isinstance(edit, Intervention):
                edit.check(request.site)
            request.edits = (*request.edits, edit)
    for name in names:
        request = _request(wanted, sites, name)
        if request.every:
            raise SiteError(
                "one call is kept at a time",
                got=name,
                fix=f"name the call: {name.replace('#*', '#0')!r}; an edit may have every call",
            )
        request.keep, request.on_path = True, grad
        request.transform, request.copy, request.sweep = keep, clone, sweep
    return wanted


def hook_list(hooks: Any) -> list[Hook]:
    """Hooks as a list: one intervention, one (site, function) pair, or several of either.

    Raises:
        EditError: Naming what is none of them.
    """
    if type(hooks) in (list, tuple) and not hooks:
        return []
    if isinstance(hooks, Intervention):
        return [hooks]
    pair = isinstance(hooks, tuple) and len(hooks) == 2 and callable(hooks[1])
    if pair and not isinstance(hooks[0], Intervention | tuple):
        hooks = [hooks]
    if isinstance(hooks, dict):
        hooks = list(hooks.items())
    if hooks is None or isinstance(hooks, str) or not hasattr(hooks, "__iter__"):
        raise _no_hook(hooks)
    found = list(hooks)
    for hook in found:
        if isinstance(hook, Intervention):
            continue
        if not (isinstance(hook, tuple | list) and len(hook) == 2 and callable(hook[1])):
            raise _no_hook(hook)
        _check_callable(hook[1])
    return [h if isinstance(h, Intervention) else (h[0], h[1]) for h in found]


def _check_callable(function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called as hooks are.

    Raises:
        EditError: It takes no `hook`, or wants more than a value and a hook.
    """
    code = getattr(function, "__code__", None)
    if code is not None and code.co_argcount == 2 and code.co_varnames[1] == "hook":
        return  # nearly all of them; asking for a signature costs ten times as much
    if isinstance(function, Intervention):
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built in: it tells nobody what it takes
        return
    try:
        signature.bind(None, hook=None)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise EditError(
            f"a hook is called with a value and hook=, which {name} does not take",
            got=f"{name}{signature}: {error}",
            expected="fn(value, hook)",
            fix="lambda value, hook: ...",
        ) from error


def _no_hook(hook: object) -> EditError:
    return EditError(
        "this is no hook",
        got=repr(hook)[:80],
        expected="an intervention, (site, function), or a list of them",
        fix='fwd_hooks=[("blocks.0.hook_resid_post", lambda value, hook: value * 0)]',
    )


def start_request(sites: SiteMap, name: str, values: Tensor) -> dict[str, Request]:
    """The one request of a run that starts at a site: it hands on any number of rows.

    Raises:
        SiteError: No such site, or a part of a tensor, which rows of its own cannot replace.
    """
    if not isinstance(values, Tensor) or values.dim() == 0 or len(values) == 0:
        raise EditError(
            f"a run from {name!r} needs the values that it holds, as a tensor",
            got=tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__,
            expected="[n ...], n rows, at least one",
            fix="torch.as_tensor(values)",
        )
    wanted = requests(sites, [], [(name, _pure(lambda value, hook: values))])
    if len(wanted) > 1:
        raise SiteError(
            "a run starts at one site",
            got=f"{name!r}, which matches {len(wanted)}",
            fix=f"name one: {next(iter(wanted))!r}",
        )
    for request in wanted.values():
        site = request.site
        if site.kind not in ("in", "out") or site.view is not None or site.slot:
            raise SiteError(
                f"a run cannot start at {site.name!r}",
                got="a part of a module's tensor",
                expected="the whole input or output of a module",
                fix="a site of the residual stream",
            )
        request.more_rows = True
    return wanted


def _request(wanted: dict[str, Request], sites: SiteMap, name: str) -> Request:
    request = wanted.get(name)
    if request is None:
        call, site = name.partition("#")[2], sites[name]
        request = wanted[name] = Request(
            site, name, call=int(call) if call.isdigit() else site.call, every=call == "*"
        )
    return request


def collect(wanted: dict[str, Request], names: Sequence[str], ready: Prepared) -> dict[str, Tensor]:
    """What was kept, finite, with positions that all rows share spread over the batch.

    Raises:
        NonFiniteError: Naming the site and the first index.
    """
    tensors: dict[str, Tensor] = {}
    rows = 1 if ready.tokens is None else ready.tokens.shape[0]
    kept: list[tuple[str, Site, Tensor]] = []
    for name, request in _kept(wanted, names):
        if request.value is None:
            raise ModelError(f"nothing was kept at {name!r}")
        kept.append((name, request.site, request.value))
    # A mask's -inf is no fault, and would send every layer's scores to a closer look.
    seen = [value if value.is_cpu else unmasked(value, site) for _, site, value in kept]
    fine = are_finite(seen)
    for (name, site, value), plain in zip(kept, fine, strict=True):
        if not plain:
            _check_kept(value, site, ready)
        named = rows > 1 and bool(site.sizes) and site.axes.startswith("batch")
        if named and value.dim() == 3 and value.shape[0] == 1:
            value = value.expand(rows, -1, -1)
        tensors[name] = value
    return tensors


def _kept(wanted: dict[str, Request], names: Sequence[str]) -> Iterator[tuple[str, Request]]:
    """What was kept under which name: a sweep names calls, and tensors beside a module's first."""
    beside: dict[str, list[Request]] = {}
    for request in wanted.values():
        if request.first:
            beside.setdefault(request.first, []).append(request)
    for name in names:
        if not wanted[name].sweep:
            yield name, wanted[name]
            continue
        for request in (wanted[name], *beside.get(name, ())):
            if request.earlier:
                calls = enumerate((*request.earlier, request))
                yield from ((f"{request.name}#{i}", call) for i, call in calls)
            elif request.value is not None:
                yield request.name, request


def silent(wanted: dict[str, Request]) -> dict[str, str]:
    """Sites that a sweep did not see, and why."""
    return {
        name: "its module held no tensor there" if request.missed else "its module did not run"
        for name, request in wanted.items()
        if request.sweep and request.value is None
    }


def _check_kept(value: Tensor, site: Site, ready: Prepared) -> None:
    """Finite, or not finite at padding only, where nobody looks."""
    what = f"the activation at {site.name!r}"
    try:
        check_activation(value, site, what)
    except NonFiniteError:
        decoder = site.name.startswith("decoder") and ready.decoder_tokens is not None
        mask = ready.decoder_mask if decoder else ready.mask
        if mask is None or "pos" not in site.axes.split() or mask.shape != value.shape[:2]:
            raise
        check_activation(value[mask.to(value.device)], site, what)


def kept_positions(positions: Any, ready: Prepared, frame: Frame) -> dict[str, Tensor]:
    """Where captured tensors run along the tokens, by side; empty for inputs without tokens."""
    if positions is None:
        return {}
    seen = Seen(frame.root, ready.args, ready.kwargs)
    found: dict[str, Tensor] = {}
    for label, side in (("positions", seen.encoder), ("decoder_positions", seen.decoder)):
        if side is None or ready.tokens is None:
            continue
        try:
            found[label] = side.index(positions, ready.tokens.device)
        except TokenError:
            # Of the two sides only those of the captured sites need to have the positions, and
            # theirs were found during the pass.
            if not frame.two_sided:
                raise
    return found


def backward_hooks(hooks: Any) -> list[Hook]:
    """Backward hooks as forward edits that listen to the gradient of the value."""

    found = hook_list(hooks)
    if found:
        refuse_inference("backward hooks")

    def listen(fn: Callable[..., Any]) -> Edit:
        def edit(value: Tensor, hook: Tap) -> Tensor | None:
            if not value.requires_grad:
                value = value.detach().requires_grad_(True)
            seen = value.view_as(value)
            seen.register_hook(lambda gradient: fn(gradient, hook=hook))
            return seen

        return _pure(edit)

    return [(h[0], listen(h[1])) for h in found if not isinstance(h, Intervention)]


def refuse_inference(what: str) -> None:
    """Refuse what needs gradients where torch keeps none.

    Raises:
        ModelError: Inside torch.inference_mode.
    """
    if torch.is_inference_mode_enabled():
        raise ModelError(
            f"{what} need gradients, which torch.inference_mode does not keep",
            fix="torch.no_grad() outside, or none: what needs no gradient takes none here",
        )


def _pure(edit: Edit) -> Edit:
    """Mark an edit that never writes into what it is given: no copy is made for it."""
    edit.pure = True  # type: ignore[attr-defined]
    return edit
