"""One run: hooks go on, every request is answered exactly once, hooks come off.

A `Tap` is one site in one run: the edits to make there, then where to put the value. `Run`
installs all taps, counts what fired, stops the forward pass once nothing more is wanted, and
leaves the model as it was whatever happens in between.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from interp.core.errors import EditError, HookNotFired
from interp.core.finite import check_finite
from interp.models import attention
from interp.models.norms import norm_parts
from interp.models.sites import Flattened, Heads, Site

Edit = Callable[..., Tensor | None]
"""`fn(value, hook) -> Tensor | None`; None leaves the value alone."""


class StopForward(BaseException):
    """Everything asked for has been seen: raised by a run with `stop`, suppressed around it."""


@dataclass(eq=False)
class Tap:
    """One site in one run; also the `hook` argument that edits receive.

    Attributes:
        site: Where.
        name: The name as asked for (with its call index, if any).
        edits: Functions applied in order.
        keep: Whether the value is stored in `value`.
        more_rows: Whether an edit may hand on more rows than it got.
        fired: How often the site has been reached in this run; 0 is the first generated step.
    """

    site: Site
    name: str
    edits: list[Edit] = field(default_factory=list)
    keep: bool = False
    more_rows: bool = False
    on_path: bool = False
    transform: Callable[[Tensor, Site], Tensor] | None = None
    call: int | None = None
    fired: int = 0
    value: Tensor | None = None
    copy: bool = False
    version: int = -1
    raw: Tensor | None = None
    run: Run | None = None

    def layer(self) -> int | None:
        """The block number, as TransformerLens's HookPoint.layer()."""
        return self.site.layer

    @property
    def step(self) -> int:
        """Forward passes seen before this one: 0 for a plain run, the step under `generate`."""
        return self.fired - 1

    def fire(self, value: Tensor) -> Tensor | None:
        """Apply the edits and keep the value; the new value, or None if nothing changed."""
        self.fired += 1
        if self.call is not None and self.fired - 1 != self.call:
            return None
        changed = self.on_path
        if self.on_path and not value.requires_grad and value.is_floating_point():
            # Frozen weights: the first tensor asked about begins the graph.
            value = value.detach().requires_grad_(True)
        for edit in self.edits:
            new = edit(value, hook=self)
            if new is not None and new is not value:
                _check_edit(self, value, new)
                value, changed = new, True
        if self.keep:
            self._store(value)
            if self.copy or self.site.volatile:
                # A later module will write into what we pass on: let that be a copy.
                value, changed = value.clone(), True
        if self.run is not None:
            self.run.answered(self)
        return value if changed else None

    def _store(self, value: Tensor) -> None:
        if not self.on_path:
            value = value.detach()
        self.value = value if self.transform is None else self.transform(value, self.site)
        if not value.is_inference():
            # Shared with the model: remember the version to notice overwriting.
            self.raw, self.version = value, value._version

    def overwritten(self) -> bool:
        """Whether a later module changed, in place, the tensor that was stored."""
        return self.raw is not None and self.raw._version != self.version

    def shares_memory(self) -> bool:
        """Whether the stored value is the tensor that the model went on with."""
        kept, raw = self.value, self.raw
        return kept is not None and raw is not None and kept.data_ptr() == raw.data_ptr()


def _check_edit(tap: Tap, old: Tensor, new: object) -> None:
    if not isinstance(new, Tensor):
        raise EditError(
            f"the hook at {tap.name!r} returned {type(new).__name__}",
            got=repr(new)[:80],
            expected=f"a tensor of shape {tuple(old.shape)}, or None to leave it alone",
        )
    for what in ("shape", "dtype", "device"):
        before, after = getattr(old, what), getattr(new, what)
        if what == "shape" and tap.more_rows:
            before, after = ("any", *before[1:]), ("any", *after[1:])
        if before != after:
            show = tuple if what == "shape" else str
            raise EditError(
                f"the hook at {tap.name!r} returned another {what}",
                got=show(after),
                expected=show(before),
                fix=f"return a tensor with the activation's own {what}"
                + ("" if what == "shape" else f" (value.to(old.{what}))"),
            )
    check_activation(new, tap.site, f"the value that the hook at {tap.name!r} returned")


def check_activation(value: Tensor, site: Site, what: str) -> None:
    """Finite numbers only; attention scores may be -inf, which is how a mask is written.

    Raises:
        NonFiniteError: Naming the site and the first index.
    """
    if site.slot == "scores" or site.name.endswith("hook_attn_scores"):
        value = value.masked_fill(value == -torch.inf, 0.0)
    check_finite(value, what)


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


def _install_in(module: nn.Module, taps: Sequence[Tap]) -> list[Any]:
    def hook(mod: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value, keyword = _first_input(mod, args, kwargs)
        raw = _need_tensor(value, taps)
        new = _through(taps, raw)
        if new is raw:
            return None
        return (args, {**kwargs, keyword: new}) if keyword else ((new, *args[1:]), kwargs)

    return [module.register_forward_pre_hook(hook, with_kwargs=True)]


def _install_in_place(module: nn.Module, taps: Sequence[Tap]) -> list[Any]:
    """Inputs that a residual branch holds too: write into the tensor, so both see the edit."""

    def hook(mod: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value, _ = _first_input(mod, args, kwargs)
        raw = _need_tensor(value, taps)
        editing = any(tap.edits or tap.on_path for tap in taps)
        # A copy goes to the edits: what they save for backward must not change under them.
        seen = raw.clone() if editing else raw
        new = _through(taps, seen)
        if editing and (new is not seen or any(tap.on_path for tap in taps)):
            raw.copy_(new)

    return [module.register_forward_pre_hook(hook, with_kwargs=True)]


def _install_out(module: nn.Module, taps: Sequence[Tap]) -> list[Any]:
    by_index: dict[int, list[Tap]] = {}
    for tap in taps:
        by_index.setdefault(int(tap.site.slot or 0), []).append(tap)

    def hook(mod: nn.Module, args: Any, output: Any) -> Any:
        changed = None
        for index, group in by_index.items():
            raw = _need_tensor(_output_at(output, index), group)
            new = _through(group, raw)
            if new is not raw:
                output = changed = _replaced(output, index, new)
        return changed

    return [module.register_forward_hook(hook)]


def _install_norm(module: nn.Module, taps: Sequence[Tap]) -> list[Any]:
    parts, on_path = norm_parts(module), any(tap.on_path for tap in taps)
    if parts is None:
        raise HookNotFired(f"{taps[0].name!r}: {type(module).__name__} is not a known norm")

    def hook(mod: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        flat = taps[0].site.view
        shaped = args[0] if flat is None else flat.read(args[0])
        centred = parts.centre(shaped)
        scale = parts.scale(centred)
        before = centred / scale
        new_scale = _through([t for t in taps if t.site.kind == "scale"], scale)
        middle = before if new_scale is scale and not on_path else centred / new_scale
        new = _through([t for t in taps if t.site.kind == "normalized"], middle)
        if new is before:
            return None
        # The module's own rounding (float32 inside a float64 model, fused kernels) stays: an edit
        # that changes nothing leaves its output bit for bit.
        rounding = (output - parts.finish(mod, before, output)).detach()
        return parts.finish(mod, new, output) + rounding

    return [module.register_forward_hook(hook)]


def _install_attention(module: nn.Module, taps: Sequence[Tap]) -> list[Any]:
    by_slot: dict[str, list[Tap]] = {}
    for tap in taps:
        by_slot.setdefault(tap.site.slot, []).append(tap)
    undos = []
    for slot, group in by_slot.items():

        def fire(value: Tensor, group: list[Tap] = group) -> Tensor | None:
            new = _through(group, value)
            return None if new is value else new

        undos.append(_Undo(attention.activate(module, slot, fire)))
    return undos


def _install_result(module: nn.Module, taps: Sequence[Tap]) -> list[Any]:
    """Per-head outputs z @ W_O; their sum plus the bias is what the projection returns."""

    def hook(mod: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        heads, weight = (
            cast("Heads", taps[0].site.view),
            cast("Callable[[], Tensor]", taps[0].site.partner),
        )
        result = torch.einsum("...hd,hdm->...hm", heads.read(args[0]), weight())
        new, changed = result, False
        for tap in taps:
            edited = tap.fire(new)
            new, changed = (new, changed) if edited is None else (edited, True)
        if not changed:
            return None
        bias = (output - result.sum(-2)).detach()
        return new.sum(-2) + bias

    return [module.register_forward_hook(hook)]


@dataclass
class _Undo:
    """Makes a plain callable look like torch's removable handle."""

    undo: Callable[[], None]

    def remove(self) -> None:
        self.undo()


_INSTALL = {
    "in": _install_in,
    "in_place": _install_in_place,
    "out": _install_out,
    "norm": _install_norm,
    "attention": _install_attention,
    "result": _install_result,
    # A coder's own sites are fired by the edit that splices it in (splice.py).
    "splice": lambda module, taps: [],
}


def _note_shape(view: Flattened) -> Any:
    def hook(mod: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value, _ = _first_input(mod, args, kwargs)
        view.leading = tuple(value.shape[:-1])

    return view.source.register_forward_pre_hook(hook, with_kwargs=True)


class Run:
    """Installs taps for the length of a `with` block.

    Args:
        taps: One per requested site.
        configs, eager_float32: For `attention.switched`, when a tap lies inside attention.
        stop: Whether to end the forward pass once every tap has been answered.
        repeat: Whether several forward passes happen inside (a `hooks` block, `generate`).
        mask: [batch, pos], True = real token, for edits that count positions; None: no padding.
    """

    def __init__(
        self,
        taps: Iterable[Tap],
        *,
        configs: Sequence[Any] = (),
        eager_float32: bool = False,
        stop: bool = False,
        repeat: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        self.taps = list(taps)
        self.mask = mask
        self.switch = (configs, eager_float32)
        self.stop = stop
        self.repeat = repeat
        self._waiting = len(self.taps)
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        try:
            self._install()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        for tap in self.taps:
            # No cycle may keep activations alive until the collector happens to come by.
            tap.run = None

    def answered(self, tap: Tap) -> None:
        """Called by a tap that has done its work; ends the forward pass after the last one."""
        if tap.fired == 1 or tap.call is not None:
            self._waiting -= 1
            if self._waiting == 0 and self.stop:
                raise StopForward

    def _install(self) -> None:
        groups: dict[tuple[nn.Module, str], list[Tap]] = {}
        for tap in self.taps:
            tap.run = self
            kind = "norm" if tap.site.kind in ("scale", "normalized") else tap.site.kind
            groups.setdefault((tap.site.module, kind), []).append(tap)
        if any(kind == "attention" for _, kind in groups):
            self._stack.enter_context(attention.switched(*self.switch))
        noted: set[int] = set()
        for (module, kind), taps in groups.items():
            for tap in taps:
                view = tap.site.view
                if isinstance(view, Flattened) and id(view) not in noted:
                    noted.add(id(view))
                    self._stack.callback(_note_shape(view).remove)
            for handle in _INSTALL[kind](module, taps):
                self._stack.callback(handle.remove)

    def verify(self) -> None:
        """After the run: every request was answered, once.

        Raises:
            HookNotFired: Naming the site that never fired, or fired several times.
            EditError: A stored tensor was overwritten in place by a later module.
        """
        for tap in self.taps:
            if tap.fired == 0 or (tap.call is not None and tap.fired <= tap.call):
                raise HookNotFired(
                    f"the hook at {tap.name!r} did not fire",
                    got=f"{tap.fired} calls of {type(tap.site.module).__name__}",
                    expected="the module to run in this forward pass",
                    fix="ask for a site that this input reaches",
                )
            if tap.fired > 1 and tap.call is None and not self.repeat:
                raise HookNotFired(
                    f"the hook at {tap.name!r} fired {tap.fired} times in one forward pass",
                    got=f"{tap.fired} calls",
                    expected="one",
                    fix=f"name the call: '{tap.name}#0' to '{tap.name}#{tap.fired - 1}'",
                )
            if tap.overwritten() and tap.shares_memory():
                raise EditError(
                    f"the activation at {tap.name!r} was overwritten in place after capture",
                    expected="the tensor to keep its value until the end of the run",
                    fix="pass clone=True to keep a copy (for example before ReLU(inplace=True))",
                )
