"""From the taps of a pass to torch hooks, one way for each kind of site.

Every hook asks first whether its pass is the one that runs now: the same module may be running in
another thread, or inside a function that a hook called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from interp.core.errors import HookNotFired
from interp.models.adapters.norms import norm_parts
from interp.models.hooks.places import given, input_at, leaves, replaced, tensor_at, with_input
from interp.models.hooks.sites import Flattened, Heads
from interp.models.hooks.taps import Owner, Tap

Undo = Callable[[], None]


def install(owner: Owner, taps: Iterable[Tap]) -> list[Undo]:
    """Put the hooks of a pass on; returns what takes them off again."""
    groups: dict[tuple[nn.Module, str], list[Tap]] = {}
    flat: dict[int, Flattened] = {}
    for tap in taps:
        site = tap.site
        kind = "norm" if site.kind in ("scale", "normalized") else site.kind
        key = (site.module, kind)
        if key in groups:
            groups[key].append(tap)
        else:
            groups[key] = [tap]
        if isinstance(site.view, Flattened):
            flat[id(site.view)] = site.view
    undos: list[Undo] = []
    try:
        for view in flat.values():
            undos.append(_note_shape(owner, view))
        order = list(groups.items())
        if len(order) > 1:
            # What is inside a module comes before its output, in whatever order they were asked for.
            order.sort(key=lambda item: item[0][1] == "out")
        for (module, kind), group in order:
            undos += _INSTALL[kind](owner, module, group)
    except BaseException:
        for undo in reversed(undos):
            undo()
        raise
    return undos


def _through(taps: Sequence[Tap], raw: Tensor) -> Tensor:
    """Pass a raw tensor through the taps at its place; the same object if nothing changed."""
    for tap in taps:
        view = tap.site.view
        new = tap.fire(raw if view is None else view.read(raw))
        if new is not None:
            raw = new if view is None else view.write(raw, new)
    return raw


def _by_place(taps: Sequence[Tap]) -> dict[str, list[Tap]]:
    """Taps by the tensor that they mean among a module's inputs or outputs."""
    found: dict[str, list[Tap]] = {}
    for tap in taps:
        found.setdefault(tap.site.slot, []).append(tap)
    return found


def _first_only(places: dict[str, list[Tap]]) -> bool:
    """Whether a module's first tensor is all that is asked for: the common case, the short way."""
    first = places.get("")
    return first is not None and len(places) == 1 and not first[0].sweeping


def _and_further(
    owner: Owner, places: dict[str, list[Tap]], there: Iterable[tuple[str, Tensor]], known: set[str]
) -> Iterator[tuple[str, list[Tap]]]:
    """The places that were asked for; for a run that keeps all there is, then those not `known`."""
    yield from places.items()
    first = next((tap for tap in places.get("", ()) if tap.sweeping), None)
    if first is not None:
        for path in [path for path, _ in there if path not in known]:
            yield path, [owner.further(first, path)]


def _absent(taps: Sequence[Tap], there: Iterable[tuple[str, Tensor]]) -> None:
    """A module was reached that has no such tensor: an error, unless everything was asked for.

    Raises:
        HookNotFired: Naming the tensors that are there.
    """
    asked = [tap for tap in taps if not tap.sweeping or tap.editing]
    for tap in taps:
        tap.missed()
    if asked:
        tap = asked[0]
        found = ", ".join(repr(path) for path, _ in there)
        error = HookNotFired(
            f"{tap.name!r} was reached, but the module has no tensor there",
            got=f"tensors at {found}" if found else "no tensor at all",
            expected=f"a tensor at {tap.site.slot!r}" if tap.site.slot else "a tensor",
            fix="name one of those: '<module>.hook_out.<path>', '<module>.hook_in.<path>'"
            if found
            else "hook a module whose input and output are tensors",
        )
        tap.owner.failed(error)
        raise error


_GONE: dict[str, Any] = {}
"""Keywords of a call that came while another thread took this hook, which is its own, off."""


def _put_in(owner: Owner, module: nn.Module, hook: Any) -> Undo:
    if module is owner.entry and not owner.direct:
        # Its forward has begun already: torch would not look at a hook that comes now.
        owner.at_entry.append(hook)
        return owner.at_entry.clear
    # As register_forward_pre_hook(with_kwargs=True), which also makes a handle, a weak reference to
    # each dict and a number: at dozens of sites and every run that is most of what a hook costs.
    hooks: dict[Any, Any] = module._forward_pre_hooks
    read = module._forward_pre_hooks_with_kwargs
    key: Any = object()
    hooks[key], read[key] = hook, True

    def undo() -> None:
        hooks.pop(key, None)
        read.pop(key, None)

    return undo


def _put_out(module: nn.Module, hook: Any) -> Undo:
    """After the user's own hooks, before those with which transformers records outputs: what a
    model reports of itself is what it went on with, whether or not it was asked before."""
    hooks: dict[Any, Any] = module._forward_hooks
    key = object()
    hooks[key] = hook
    undo = partial(hooks.pop, key, None)
    if len(hooks) == 1:
        return undo
    recorders = [
        key
        for key, known in tuple(module._forward_hooks.items())  # other threads put theirs on
        if getattr(known, "__module__", "").startswith("transformers.")
    ]
    for key in recorders:
        module._forward_hooks.move_to_end(key)  # type: ignore[attr-defined]
    return undo


def _put_within(module: nn.Module, hook: Any) -> Undo:
    """Before every other hook, the user's own too: what is worked out from the module's input is held
    against what the module itself made of it."""
    hooks: Any = module._forward_hooks
    key = object()
    hooks[key] = hook
    hooks.move_to_end(key, last=False)
    return partial(hooks.pop, key, None)


def _install_in(owner: Owner, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    places = _by_place(taps)
    plain = places[""] if _first_only(places) else None

    def hook(mod: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] = _GONE) -> Any:
        if not owner.here:
            return None
        if plain is not None and args and isinstance(args[0], Tensor):
            new = _through(plain, args[0])
            return None if new is args[0] else ((new, *args[1:]), kwargs)
        changed, known = False, set[str]()
        for path, group in _and_further(owner, places, given(args, kwargs), known):
            raw, where = input_at(mod, args, kwargs, path)
            known.add(where)
            if raw is None:
                _absent(group, given(args, kwargs))
                continue
            new = _through(group, raw)
            if new is not raw:
                args, kwargs = with_input(args, kwargs, where, new)
                changed = True
        return (args, kwargs) if changed else None

    return [_put_in(owner, module, hook)]


def _install_in_place(owner: Owner, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    """Inputs that a residual branch holds too: write into the tensor, so both see the edit."""
    editing = any(tap.editing for tap in taps)

    def hook(mod: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] = _GONE) -> None:
        if not owner.here:
            return
        raw, _ = input_at(mod, args, kwargs, "")
        if raw is None:
            _absent(taps, given(args, kwargs))
            return
        # A copy goes to the edits: what they save for backward must not change under them.
        seen = raw.clone() if editing else raw
        new = _through(taps, seen)
        if editing and new is not seen:
            raw.copy_(new)

    return [_put_in(owner, module, hook)]


def _install_out(owner: Owner, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    places = _by_place(taps)
    plain = places[""] if _first_only(places) else None

    def hook(mod: nn.Module, args: Any, output: Any) -> Any:
        if not owner.here:
            return None
        if plain is not None and isinstance(output, Tensor):
            new = _through(plain, output)
            return None if new is output else new
        changed, known = None, set(places)
        if not isinstance(output, Tensor):
            known.add(next((path for path, _ in leaves(output)), ""))
        for path, group in _and_further(owner, places, leaves(output), known):
            raw = tensor_at(output, path)
            if raw is None:
                _absent(group, leaves(output))
                continue
            new = _through(group, raw)
            if new is not raw:
                output = changed = replaced(output, path, new)
        return changed

    hook.owner = owner  # type: ignore[attr-defined]  # HookPoint.hooked asks whose it is
    return [_put_out(module, hook)]


def _install_norm(owner: Owner, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    parts = norm_parts(module)
    if parts is None:
        raise HookNotFired(f"{taps[0].name!r}: {type(module).__name__} is not a known norm")
    scales = [t for t in taps if t.site.kind == "scale"]
    normalized = [t for t in taps if t.site.kind == "normalized"]

    def hook(mod: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not owner.here:
            return None
        flat = taps[0].site.view
        shaped = args[0] if flat is None else flat.read(args[0])
        centred = parts.centre(shaped)
        scale = parts.scale(centred)
        before = centred / scale
        new_scale = _through(scales, scale)
        middle = before if new_scale is scale else centred / new_scale
        new = _through(normalized, middle)
        if new is before:
            return None
        # The module's own rounding (float32 inside a float64 model, fused kernels) stays: an edit
        # that changes nothing leaves its output bit for bit.
        rounding = (output - parts.finish(mod, before, output)).detach()
        return parts.finish(mod, new, output) + rounding

    return [_put_within(module, hook)]


def _install_attention(owner: Owner, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    slots = owner.slots.setdefault(id(module), {})
    by_slot: dict[str, list[Tap]] = {}
    for tap in taps:
        by_slot.setdefault(tap.site.slot, []).append(tap)
    for slot, group in by_slot.items():

        def fire(value: Tensor, group: list[Tap] = group) -> Tensor | None:
            if not owner.here:
                return None
            new = _through(group, value)
            return None if new is value else new

        slots[slot] = fire
    return []


def _install_result(owner: Owner, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    """Per-head outputs z @ W_O; their sum plus the bias is what the projection returns."""
    heads = cast("Heads", taps[0].site.view)
    weight = cast("Callable[[], Tensor]", taps[0].site.partner)

    def hook(mod: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not owner.here:
            return None
        result = torch.einsum("...hd,hdm->...hm", heads.read(args[0]), weight())
        new, changed = result, False
        for tap in taps:
            edited = tap.fire(new)
            new, changed = (new, changed) if edited is None else (edited, True)
        if not changed:
            return None
        if heads.factor != 1.0:
            return (new.sum(-2) + (output * heads.factor - result.sum(-2)).detach()) / heads.factor
        bias = (output - result.sum(-2)).detach()
        return new.sum(-2) + bias

    return [_put_within(module, hook)]


def _install_experts(owner: Owner, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    """What each chosen expert adds: the experts once more, one choice at a time."""
    flat = cast("Flattened", taps[0].site.view)

    def hook(mod: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not owner.here:
            return None
        x, chosen, weights = args
        one = [mod.forward(x, chosen[:, [j]], weights[:, [j]]) for j in range(chosen.shape[-1])]
        result = torch.stack(one, -2).reshape(*flat.leading, len(one), output.shape[-1])
        new, changed = result, False
        for tap in taps:
            edited = tap.fire(new)
            new, changed = (new, changed) if edited is None else (edited, True)
        if not changed:
            return None
        rounding = (output - result.sum(-2).reshape(output.shape)).detach()
        return new.sum(-2).reshape(output.shape) + rounding

    return [_put_within(module, hook)]


def _install_splice(owner: Owner, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    """A coder's own sites are fired by the edit that splices it in (splice.py)."""
    del owner, module, taps
    return []


_INSTALL: dict[str, Callable[[Any, nn.Module, Sequence[Tap]], list[Undo]]] = {
    "in": _install_in,
    "in_place": _install_in_place,
    "out": _install_out,
    "norm": _install_norm,
    "attention": _install_attention,
    "result": _install_result,
    "experts": _install_experts,
    "splice": _install_splice,
}


def _note_shape(owner: Owner, view: Flattened) -> Undo:
    def hook(mod: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] = _GONE) -> None:
        if owner.here:
            value, _ = input_at(mod, args, kwargs, "")
            if value is not None:
                view.leading = tuple(value.shape[:-1])

    return _put_in(owner, view.source, hook)
