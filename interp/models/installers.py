"""From the taps of a pass to torch hooks, one way for each kind of site.

Every hook asks first whether its pass is the one that runs now: the same module may be running in
another thread, or inside a function that a hook called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from interp.core.errors import HookNotFired
from interp.models.norms import norm_parts
from interp.models.sites import Flattened, Heads
from interp.models.taps import Tap

if TYPE_CHECKING:
    from interp.models.passes import Pass

Undo = Callable[[], None]


def install(owner: Pass, taps: Iterable[Tap]) -> list[Undo]:
    """Put the hooks of a pass on; returns what takes them off again."""
    groups: dict[tuple[nn.Module, str], list[Tap]] = {}
    for tap in taps:
        kind = "norm" if tap.site.kind in ("scale", "normalized") else tap.site.kind
        groups.setdefault((tap.site.module, kind), []).append(tap)
    undos: list[Undo] = []
    noted: set[int] = set()
    try:
        for (module, kind), group in groups.items():
            for tap in group:
                view = tap.site.view
                if isinstance(view, Flattened) and id(view) not in noted:
                    noted.add(id(view))
                    undos.append(_note_shape(owner, view))
            undos += _INSTALL[kind](owner, module, group)
    except BaseException:
        for undo in reversed(undos):
            undo()
        raise
    return undos


@lru_cache(maxsize=512)
def _first_parameter(kind: type[nn.Module]) -> str:
    """The name under which a caller may pass a module's first input."""
    return list(inspect.signature(kind.forward).parameters)[1]


def _first_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, str]:
    """The module's first input and, when it came by keyword, that keyword."""
    if args:
        return args[0], ""
    name = _first_parameter(type(module))
    return kwargs.get(name), name


def _output_at(output: Any, index: int) -> Any:
    """The tensor meant by an output site: the output itself, a tuple's element, or the first
    tensor of a ModelOutput or dict."""
    if isinstance(output, tuple | list):
        return output[index] if index < len(output) else None
    if hasattr(output, "keys"):
        return next((v for v in output.values() if isinstance(v, Tensor)), None)
    return output


def _replaced(output: Any, index: int, new: Tensor) -> Any:
    if isinstance(output, Tensor):
        return new
    if isinstance(output, tuple | list):
        parts = [*output[:index], new, *output[index + 1 :]]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    key = next(k for k, v in output.items() if isinstance(v, Tensor))
    return type(output)(**{**output, key: new})


def _through(taps: Sequence[Tap], raw: Tensor) -> Tensor:
    """Pass a raw tensor through the taps at its place; the same object if nothing changed."""
    for tap in taps:
        view = tap.site.view
        new = tap.fire(raw if view is None else view.read(raw))
        if new is not None:
            raw = new if view is None else view.write(raw, new)
    return raw


def _need_tensor(value: object, taps: Sequence[Tap]) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise HookNotFired(
        f"{taps[0].name!r} was reached, but the module gave no tensor there",
        got=type(value).__name__,
        expected="a tensor (or a tuple or ModelOutput that begins with one)",
        fix="hook a module whose input and output are tensors",
    )


def _put_in(module: nn.Module, hook: Any) -> Undo:
    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _put_out(module: nn.Module, hook: Any) -> Undo:
    """After the user's own hooks, before those with which transformers records outputs: what a
    model reports of itself is what it went on with, whether or not it was asked before."""
    handle = module.register_forward_hook(hook)
    recorders = [
        key
        for key, known in tuple(module._forward_hooks.items())  # other threads put theirs on
        if getattr(known, "__module__", "").startswith("transformers.")
    ]
    for key in recorders:
        module._forward_hooks.move_to_end(key)  # type: ignore[attr-defined]
    return handle.remove


def _install_in(owner: Pass, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    def hook(mod: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not owner.here:
            return None
        value, keyword = _first_input(mod, args, kwargs)
        raw = _need_tensor(value, taps)
        new = _through(taps, raw)
        if new is raw:
            return None
        return (args, {**kwargs, keyword: new}) if keyword else ((new, *args[1:]), kwargs)

    return [_put_in(module, hook)]


def _install_in_place(owner: Pass, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    """Inputs that a residual branch holds too: write into the tensor, so both see the edit."""
    editing = any(tap.editing for tap in taps)

    def hook(mod: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not owner.here:
            return
        value, _ = _first_input(mod, args, kwargs)
        raw = _need_tensor(value, taps)
        # A copy goes to the edits: what they save for backward must not change under them.
        seen = raw.clone() if editing else raw
        new = _through(taps, seen)
        if editing and new is not seen:
            raw.copy_(new)

    return [_put_in(module, hook)]


def _install_out(owner: Pass, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
    by_index: dict[int, list[Tap]] = {}
    for tap in taps:
        by_index.setdefault(int(tap.site.slot or 0), []).append(tap)

    def hook(mod: nn.Module, args: Any, output: Any) -> Any:
        if not owner.here:
            return None
        changed = None
        for index, group in by_index.items():
            raw = _need_tensor(_output_at(output, index), group)
            new = _through(group, raw)
            if new is not raw:
                output = changed = _replaced(output, index, new)
        return changed

    hook.owner = owner  # type: ignore[attr-defined]  # HookPoint.hooked asks whose it is
    return [_put_out(module, hook)]


def _install_norm(owner: Pass, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
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

    return [_put_out(module, hook)]


def _install_attention(owner: Pass, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
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


def _install_result(owner: Pass, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
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
        bias = (output - result.sum(-2)).detach()
        return new.sum(-2) + bias

    return [_put_out(module, hook)]


def _install_splice(owner: Pass, module: nn.Module, taps: Sequence[Tap]) -> list[Undo]:
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
    "splice": _install_splice,
}


def _note_shape(owner: Pass, view: Flattened) -> Undo:
    def hook(mod: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if owner.here:
            value, _ = _first_input(mod, args, kwargs)
            view.leading = tuple(value.shape[:-1])

    return _put_in(view.source, hook)
