"""A forward pass is an object: it owns its tokens, calls, edits and splices, in its own thread.

A `Run` is what somebody wants for as long as a `with` block lasts. While at least one run is in
place, the wrapped module's gate is open: each forward of the module then opens a `Pass`, which
gathers the runs of its thread (outer first), puts their hooks on, and takes them off again when
the forward ends, however it ends. A forward inside a hook is a pass of its own, without the runs
of the pass it interrupts; a forward in another thread never sees them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from interp.core.errors import EditError, HookNotFired, ModelError
from interp.models import attention
from interp.models.installers import install
from interp.models.sides import Seen, Side
from interp.models.sites import Site
from interp.models.taps import Request, Tap

if TYPE_CHECKING:
    from interp.models.splice import Splice


class StopForward(BaseException):
    """Everything asked for has been seen: raised by a run with `stop`, suppressed around it."""


@dataclass(frozen=True, eq=False)
class Frame:
    """What passes need to know about one wrapped module.

    Attributes:
        root: The module.
        entries: Where a forward may begin: the root, its base model, its encoder.
        configs, eager_float32: For `attention.switched`.
        two_sided: Sites whose names begin with "decoder" see other tokens than the rest.
    """

    root: nn.Module
    entries: tuple[nn.Module, ...]
    configs: Sequence[Any] = ()
    eager_float32: bool = False
    two_sided: bool = False


class _Here(threading.local):
    """What is in place in this thread."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.passes: list[Pass] = []
        self.training = 0


_here = _Here()


class Gate:
    """The hooks on one module's entries while any thread has a run in place for it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users = 0
        self.handles: list[Any] = []
        self.resting = 0
        self.woken: list[nn.Module] = []

    def enter(self, frame: Frame) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                for entry in frame.entries:
                    begin = entry.register_forward_pre_hook(_begin, prepend=True, with_kwargs=True)
                    end = entry.register_forward_hook(_end, always_call=True)
                    self.handles += [begin, end]

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                for handle in self.handles:
                    handle.remove()
                self.handles = []

    def rest(self, root: nn.Module) -> None:
        """Evaluation mode until the last pass of any thread has ended."""
        with self.lock:
            self.resting += 1
            stack = [root]
            while stack:
                module = stack.pop()
                if module.training:
                    module.training = False
                    self.woken.append(module)
                stack.extend(m for m in module._modules.values() if m is not None)

    def wake(self) -> None:
        """Every module's own mode again."""
        with self.lock:
            self.resting -= 1
            if self.resting == 0:
                for module in self.woken:
                    module.training = True
                self.woken = []


_gates: WeakKeyDictionary[nn.Module, Gate] = WeakKeyDictionary()
_gates_lock = threading.Lock()


def gate_of(root: nn.Module) -> Gate:
    """The one gate of a module."""
    with _gates_lock:
        gate = _gates.get(root)
        if gate is None:
            gate = _gates[root] = Gate()
        return gate


@dataclass(eq=False)
class Run:
    """What is wanted for the length of a `with` block; every forward inside serves it.

    Attributes:
        frame: The module.
        requests: What is wanted, by site name.
        splices: Coders in place, each once per pass however many runs bring it.
        stop: End the forward once every request has been answered.
        many: Several passes may follow, and a site may be reached by some of them only.
        passes, completed: Forwards of the root that began; that came to their end.
        generating: Each pass adds tokens to one text: `hook.step` counts, positions mean the
            prompt's.
    """

    frame: Frame
    requests: dict[str, Request] = field(default_factory=dict)
    splices: tuple[Splice, ...] = ()
    stop: bool = False
    many: bool = False
    generating: bool = False
    passes: int = 0
    completed: int = 0
    waiting: int = 0
    prompt: dict[str, Tensor] = field(default_factory=dict)

    def __enter__(self) -> Run:
        self._list, self._gate = _here.runs, gate_of(self.frame.root)
        self._list.append(self)
        self._gate.enter(self.frame)
        return self

    def __exit__(self, *error: object) -> None:
        while stale := next((p for p in _here.passes if self in p.runs), None):
            stale.close()
        self._list.remove(self)
        self._gate.leave()

    def verify(self) -> None:
        """After the run: every request was answered, once.

        Raises:
            HookNotFired: Naming the site that never fired, or fired several times.
            EditError: A stored tensor was overwritten in place by a later module.
        """
        for request in self.requests.values():
            self._answered(request)
            if any(r.overwritten() and r.shares_memory() for r in (*request.earlier, request)):
                raise EditError(
                    f"the activation at {request.name!r} was overwritten in place after capture",
                    expected="the tensor to keep its value until the end of the run",
                    fix="pass clone=True to keep a copy (for example before ReLU(inplace=True))",
                )

    def _answered(self, request: Request) -> None:
        if request.sweep and not request.edits:
            return
        kind, fired = type(request.site.module).__name__, request.fired
        if not request.reached:
            raise HookNotFired(
                f"the hook at {request.name!r} did not fire",
                got=f"{fired} calls of {kind}",
                expected="the module to run in this forward pass",
                fix="ask for a site that this input reaches",
            )
        if fired > 1 and request.call is None and not self.many:
            raise HookNotFired(
                f"the hook at {request.name!r} fired {fired} times in one forward pass",
                got=f"{fired} calls",
                expected="one",
                fix=f"name the call: '{request.name}#0' to '{request.name}#{fired - 1}'",
            )


class Pass:
    """One forward of a wrapped module: the hooks of all runs in place, for this thread alone.

    Attributes:
        runs: Outer first.
        seen: The tokens, from the module's own arguments.
        step: Under `generate`, how many tokens came before; 0 elsewhere.
    """

    def __init__(self, frame: Frame, entry: nn.Module, runs: list[Run], seen: Seen) -> None:
        self.frame, self.entry, self.runs, self.seen = frame, entry, runs, seen
        self.thread = threading.get_ident()
        self.live = False
        self.graph = torch.is_grad_enabled()
        self.depth = len(_here.runs)
        self.taps: dict[tuple[str, int], Tap] = {}
        self.slots: attention.Slots = {}
        self.finished = False
        self._undo: list[Any] = []
        generating = next((r for r in reversed(runs) if r.generating), None)
        self.generating = generating
        whole = entry is frame.root
        self.step = generating.passes if generating is not None else 0
        for run in runs:
            run.passes += whole
            run.waiting = len(run.requests)
        self._stopping = next((r for r in runs if r.stop), None)
        if self._stopping is not None and seen.uses_cache:
            self._stopping = None  # ended early, the cache would be left half updated

    # --- what hooks ask ------------------------------------------------------------------------

    @property
    def here(self) -> bool:
        """Whether a torch hook that belongs to this pass may act now."""
        return self.live and self.thread == threading.get_ident()

    def side(self, site: Site) -> Side | None:
        """The tokens that a site runs along."""
        decoder = self.frame.two_sided and site.name.startswith("decoder")
        found = self.seen.decoder if decoder else self.seen.encoder
        run = self.generating
        if found is None or run is None or (self.frame.two_sided and not decoder):
            return found
        key = "decoder" if decoder else "encoder"
        if self.step == 0:
            run.prompt.setdefault(key, found._lengths(torch.device("cpu")))
        prompt = run.prompt.get(key)
        if prompt is None:
            return found
        return Side(
            found.batch, found.length, found.cached, found.mask, prompt, later=self.step > 0
        )

    def answered(self, tap: Tap) -> None:
        """A tap has done its work; ends the forward after the last one that was asked for."""
        run = self._stopping
        if run is None:
            return
        if (tap.fired == 1 or tap.call is not None) and tap.name in run.requests:
            run.waiting -= 1
            if run.waiting == 0:
                self.finished = True
                raise StopForward

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While a user's function runs: a forward that it starts is none of ours."""
        self.live = False
        try:
            yield
        finally:
            self.live = True

    def refuse_recomputed(self, tap: Tap) -> None:
        """Gradient checkpointing runs this part again during backward, when no hook is in place.

        Raises:
            ModelError: Naming the site.
        """
        if self.graph and _checkpointed():
            raise ModelError(
                f"{tap.name!r} lies in a part that is recomputed during backward",
                got="gradient checkpointing",
                expected="modules that keep what they computed: the edit would be lost in between",
                fix="model.module.gradient_checkpointing_disable(), or run under torch.no_grad()",
            )

    # --- life ----------------------------------------------------------------------------------

    def open(self) -> Pass:
        """Gather the requests, put hooks on; evaluation mode unless training was asked for."""
        _here.passes.append(self)
        try:
            if not _here.training:
                gate = gate_of(self.frame.root)
                gate.rest(self.frame.root)
                self._undo.append(gate.wake)
            self._gather()
            self._undo += install(self, self.taps.values())
            if self.slots:
                switch = attention.switched(self.frame.configs, self.frame.eager_float32)
                switch.__enter__()
                self._undo.append(lambda: switch.__exit__(None, None, None))
                attention.listen(self.slots)
                self._undo.append(lambda: attention.forget(self.slots))
        except BaseException:
            self.close()
            raise
        self.live = True
        return self

    def close(self) -> None:
        """Everything as it was before; what the taps saw goes to their requests."""
        self.live = False
        for undo in reversed(self._undo):
            undo()
        self._undo = []
        if self in _here.passes:
            _here.passes.remove(self)
        for tap in self.taps.values():
            hit = tap.fired > 0 if tap.call is None else tap.fired > tap.call
            for request in tap.requests:
                request.fired = tap.fired
                request.reached |= hit
        # No cycle may keep activations alive until the collector happens to come by.
        self.taps = {}

    def tap(self, site: Site, name: str, call: int | None = None) -> Tap:
        """The one tap of this pass for a name; two coders' sites of one name stay apart."""
        key = (name, id(site.partner) if site.kind == "splice" else 0)
        found = self.taps.get(key)
        if found is None:
            found = self.taps[key] = Tap(site, name, call, self)
        return found

    def further(self, tap: Tap, path: str) -> Tap:
        """The tap of another tensor of the same call, for the runs that keep all there is."""
        name = f"{tap.site.name}.{path}"
        new = self.tap(tap.site.further(path), name)
        for run in self.runs if not new.requests else ():
            first = run.requests.get(tap.name)
            if first is not None and first.sweep:
                request = run.requests[name] = first.beside(new.site)
                new.requests.append(request)
                new.on_path |= request.on_path
        return new

    def known(self, site: Site) -> Tap | None:
        """The tap of a spliced site, if anybody asked for it."""
        return self.taps.get((site.name, id(site.partner) if site.kind == "splice" else 0))

    def _gather(self) -> None:
        splices: dict[int, Splice] = {}
        for run in self.runs:
            for request in run.requests.values():
                tap = self.tap(request.site, request.name, request.call)
                tap.requests.append(request)
                tap.on_path |= request.on_path
            splices.update((id(s), s) for s in run.splices)
        for splice in splices.values():
            splice.attach(self)


def _begin(entry: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a forward of an entry: open a pass, if this thread has anything in place."""
    if not _here.runs:
        return
    inner = None
    for found in reversed(_here.passes):
        if entry in found.frame.entries:
            inner = found
            break
    start = 0
    if inner is not None:
        if inner.live and entry is not inner.frame.root:
            return  # the base model inside a forward of the whole
        if inner.live:
            inner.close()  # an interrupt left it open
        else:
            start = inner.depth  # called by a hook: only what was put in place since counts
    runs = [r for r in _here.runs[start:] if entry in r.frame.entries]
    if not runs:
        return
    frame = runs[-1].frame
    Pass(frame, entry, runs, Seen(entry, args, kwargs)).open()


def _end(entry: nn.Module, args: Any, output: Any) -> None:
    """After a forward of an entry, also one that raised."""
    if _here.passes:
        newest = _here.passes[-1]
        if newest.entry is entry and newest.live:
            newest.close()
            for run in newest.runs:
                run.completed += output is not None


@contextmanager
def training() -> Iterator[None]:
    """Passes of this thread leave every module in its own mode: dropout acts."""
    _here.training += 1
    try:
        yield
    finally:
        _here.training -= 1


def active() -> bool:
    """Whether this thread has a run or a pass in place."""
    return bool(_here.runs or _here.passes)


def _checkpointed() -> bool:
    """Whether this is the first run of a part that torch will run again during backward."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)  # type: ignore[attr-defined]
    if hooks is not None and getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint":
        return True
    if torch.is_grad_enabled():
        return False
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def entries_of(root: nn.Module, extra: Iterable[nn.Module | None] = ()) -> tuple[nn.Module, ...]:
    """The modules at which a forward of `root` may begin, each once."""
    found: dict[int, nn.Module] = {id(root): root}
    for module in extra:
        if isinstance(module, nn.Module):
            found[id(module)] = module
    return tuple(found.values())
