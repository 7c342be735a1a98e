"""A forward pass is an object: it owns its tokens, calls, edits and splices, in its own thread.

While at least one run is in place (`runs.py`), the wrapped module's gate is open: each forward of
the module then opens a `Pass`, which gathers what the runs of its thread want (outer first), puts
their hooks on, and takes them off again when the forward ends, however it ends. A forward inside a
hook is a pass of its own, without the runs of the pass it interrupts; a forward in another thread
never sees them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import ModelError
from interp.models.hooks import attention, modes
from interp.models.hooks.doubts import Doubts
from interp.models.hooks.frame import Frame
from interp.models.hooks.installers import install
from interp.models.hooks.sides import Seen, Side
from interp.models.hooks.sites import Site
from interp.models.hooks.splice import Splice
from interp.models.hooks.stack import checkpointed, under_way
from interp.models.hooks.taps import Request, Tap


class StopForward(BaseException):
    """Everything asked for has been seen: raised by a run with `stop`, suppressed around it."""


class Here(threading.local):
    """What is in place in this thread."""

    def __init__(self) -> None:
        self.runs: list[Wanted] = []
        self.passes: list[Pass] = []
        self.training = 0


here = Here()


@dataclass(eq=False)
class Wanted:
    """What somebody wants of the forwards that a `Run` stands around.

    Attributes:
        frame: The module.
        requests: What is wanted, by site name.
        splices: Coders in place, each once per pass however many runs bring it.
        stop: End the forward once every request has been answered, those of blocks around it, too.
        passes, completed: Forwards of the root that began; that came to their end.
        generating: Each pass adds tokens to one text: `hook.step` counts, positions mean the
            prompt's.
        given, order: The prompt as the user gave it, see `Side`.
    """

    frame: Frame
    requests: dict[str, Request] = field(default_factory=dict)
    splices: tuple[Splice, ...] = ()
    stop: bool = False
    generating: bool = False
    passes: int = 0
    completed: int = 0
    waiting: int = 0
    prompt: dict[str, Tensor] = field(default_factory=dict)
    given: int = 0
    order: Tensor | None = None


class Pass:
    """One forward of a wrapped module: the hooks of all runs in place, for this thread alone.

    Attributes:
        runs: Outer first.
        seen: The tokens, from the module's own arguments.
        step: Under `generate`, how many tokens came before; 0 elsewhere.
        direct: It was opened before torch was called, by whoever calls.
        evaluating: Modules are in evaluation mode.
        again: How many more forwards of the entry it began itself: a module that calls itself.
        error: What an edit raised; a module may have caught it.
        doubts: Edits whose numbers are read when the forward ends.
    """

    def __init__(
        self, frame: Frame, entry: nn.Module, runs: list[Wanted], seen: Seen, direct: bool = False
    ) -> None:
        self.frame = frame
        self.entry = entry
        self.runs = runs
        self.seen = seen
        self.direct = direct
        self.evaluating: bool = not here.training
        self.again = 0
        self.error: Exception | None = None
        self.doubts: Doubts = Doubts()
        self.thread: int = threading.get_ident()
        self.live: bool = False
        self.graph: bool = torch.is_grad_enabled()
        self.depth: int = len(here.runs)
        self.taps: dict[tuple[nn.Module, str, int], Tap] = {}
        self.slots: attention.Slots = {}
        self.at_entry: list[Any] = []
        self._undo: list[Any] = []
        self.generating: Wanted | None = None
        self.stopping: Wanted | None = None
        self.step: int = 0
        for run in runs:
            if run.generating:
                self.generating, self.step = run, run.passes
            if run.stop and self.stopping is None:
                self.stopping = run
            run.passes += entry is frame.root or entry not in run.frame.entries
            run.waiting = len(run.requests)
        if self.stopping is not None and seen.uses_cache:
            self.stopping = None  # ended early, the cache would be left half updated

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
        if found is None or run is None:
            return found
        if self.frame.two_sided and not decoder:
            return replace(found, given=run.given, order=run.order)
        key = "decoder" if decoder else "encoder"
        if self.step == 0:
            run.prompt.setdefault(key, found._lengths)
        prompt = run.prompt.get(key)
        if prompt is None:
            return found
        order = None if self.frame.two_sided else run.order
        return replace(found, prompt=prompt, later=self.step > 0, given=run.given, order=order)

    def answered(self, tap: Tap) -> None:
        """A tap has done its work; ends the forward after the last one that anybody asked for."""
        if self.stopping is None or not (tap.fired == 1 or tap.call is not None):
            return
        waiting = 0
        for run in self.runs:
            # By the request, not by its name: two coders' latents may have the same.
            run.waiting -= run.requests.get(tap.name) in tap.requests
            waiting = waiting or run.waiting
        if not waiting:
            self.doubts.settle()
            raise StopForward

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While a user's function runs: a forward that it starts is none of ours."""
        self.live = False
        try:
            yield
        finally:
            self.live = True

    def failed(self, error: Exception) -> None:
        """The first error of a hook: a module may catch it and go on."""
        self.error = self.error or error

    def refuse_recomputed(self, tap: Tap) -> None:
        """Gradient checkpointing runs this part again during backward, when no hook is in place.

        Raises:
            ModelError: Naming the site.
        """
        if self.graph and checkpointed():
            raise ModelError(
                f"{tap.name!r} lies in a part that is recomputed during backward",
                got="gradient checkpointing",
                expected="modules that keep what they computed: the edit would be lost in between",
                fix="model.module.gradient_checkpointing_disable(), or run under torch.no_grad()",
            )

    # --- life ----------------------------------------------------------------------------------

    def open(self) -> Pass:
        """Gather the requests, put hooks on; evaluation mode unless training was asked for."""
        here.passes.append(self)
        try:
            if self.evaluating:
                tree, rest = self.frame.tree, self.frame.gate.rest
                if not self.direct:  # there `Run.once` has just looked
                    tree.refresh()
                rest.enter(tree.training, tree.modules)
                self._undo.append(rest.leave)
            modes.evaluate(self.evaluating)
            self._gather()
            self._undo += install(self, self.taps.values())
            if self.entry._forward_hooks:
                # What is asked of the entry's own output comes before the end of the pass.
                there = tuple(self.entry._forward_hooks.items())  # other threads put theirs on
                for key in [k for k, hook in there if hook is end]:
                    self.entry._forward_hooks.move_to_end(key)  # type: ignore[attr-defined]
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

    def end(self) -> None:
        """The forward came to its end.

        Raises:
            Exception: What an edit raised, where the module went on regardless.
            NonFiniteError: An edit on an accelerator returned NaN or infinity.
        """
        if self.live:
            self.close()
            for run in self.runs:
                run.completed += 1
            if self.error is not None:
                raise self.error
            self.doubts.settle()

    def close(self) -> None:
        """Everything as it was before; what the taps saw goes to their requests."""
        self.live = False
        for undo in reversed(self._undo):
            undo()
        self._undo = []
        if self in here.passes:
            here.passes.remove(self)
        modes.evaluate(bool(here.passes) and here.passes[-1].evaluating)
        for tap in self.taps.values():
            fired = tap.fired
            if not fired:
                continue
            hit = fired > (tap.call or 0)
            for request in tap.requests:
                request.fired = max(request.fired, fired)
                request.reached |= hit
        # No cycle may keep activations alive until the collector happens to come by.
        self.taps, self.slots = {}, {}

    def tap(self, site: Site, name: str, call: int | None = None) -> Tap:
        """The one tap of this pass for a name; sites of one name in two views stay apart."""
        key = (site.module, name, id(site.partner) if site.kind == "splice" else 0)
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
                new.add(request)
        return new

    def known(self, site: Site) -> Tap | None:
        """The tap of a spliced site, if anybody asked for it."""
        partner = id(site.partner) if site.kind == "splice" else 0
        return self.taps.get((site.module, site.name, partner))

    def _gather(self) -> None:
        splices: dict[Splice, None] = {}
        for run in self.runs:
            for request in run.requests.values():
                self.tap(request.site, request.name, request.call).add(request)
            splices |= dict.fromkeys(run.splices)
        for splice in splices:
            splice.attach(self)


def begin(entry: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """Before a forward of an entry: open a pass, if this thread has anything in place."""
    if not here.runs or kwargs is None:  # another thread is taking its hooks off
        return None
    opened = open_pass(entry, args, kwargs)
    if opened is None or not opened.at_entry:
        return None
    given = (args, kwargs)
    for hook in opened.at_entry:
        new = hook(entry, *given)
        given = given if new is None else new
    return given


def open_pass(
    entry: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], direct: bool = False
) -> Pass | None:
    """The pass of a forward that begins; None where none of this thread's runs is about it."""
    inner = None
    for found in reversed(here.passes):
        if entry in found.frame.entries:
            inner = found
            break
    start = 0
    if inner is not None:
        if not inner.live:
            start = inner.depth  # called by an edit: only what was put in place since counts
        elif _goes_on(inner, entry):
            return None
        else:
            inner.close()  # an interrupt left it open
    runs = here.runs[start:]
    frame = next((r.frame for r in reversed(runs) if entry in r.frame.entries), None)
    if frame is None:
        return None
    runs = [r for r in runs if entry in r.frame.entries or frame.holds(r.frame.root)]
    return Pass(frame, entry, runs, Seen(entry, args, kwargs), direct).open()


def _goes_on(inner: Pass, entry: nn.Module) -> bool:
    """Whether a forward that begins belongs to the pass that is live; False if that one is dead.

    Raises:
        ModelError: A torch hook of the user's own runs the model inside its own forward.
    """
    way = under_way(entry, inner.entry)
    if way == "hook":
        raise ModelError(
            "a torch hook runs the model while a forward of it is under way",
            got=f"a forward of {type(entry).__name__} begun by a hook in it",
            expected="one forward at a time: whose activations these are could not be told",
            fix="run it inside one of our hooks (fwd_hooks=), where it is a pass of its own",
        )
    if way == "forward":
        inner.again += entry is inner.entry
        return True
    # The base model in a forward of the whole; or the forward that a run has opened this pass for.
    return entry is not inner.entry or inner.direct


def end(entry: nn.Module, args: Any, output: Any) -> None:
    """After a forward of an entry, also one that raised."""
    if here.passes:
        newest = here.passes[-1]
        if newest.entry is entry and newest.live:
            if newest.again:
                newest.again -= 1
            elif output is None:
                newest.close()
            else:
                newest.end()


@contextmanager
def training() -> Iterator[None]:
    """Passes of this thread leave every module in its own mode: dropout acts."""
    here.training += 1
    try:
        yield
    finally:
        here.training -= 1


@contextmanager
def apart() -> Iterator[None]:
    """Forwards inside see nothing of what this thread has in place around it."""
    known = here.runs, here.training
    here.runs, here.training = [], 0
    try:
        yield
    finally:
        here.runs, here.training = known


def active() -> bool:
    """Whether this thread has a run or a pass in place."""
    return bool(here.runs or here.passes)
