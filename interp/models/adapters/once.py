"""What is found out about a model by whoever needs it first, once for everybody, in a thread of its own.

A thread that has just begun has nothing in place: no pass under way, no hooks block, no autocast, no
inference or fake mode, no transform of torch.func, no counter of operations. So an answer does not
depend on where it was asked for, and nobody's forward is disturbed.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from interp.core.errors import AdapterError
from interp.models.hooks.frame import Frame
from interp.models.hooks.modes import evaluating
from interp.models.hooks.passes import apart


class Once:
    """A question about a model, answered when it is first asked.

    Other threads wait meanwhile. An AdapterError is an answer: everybody who asks gets it. Any other
    error is the asker's, and the question stays open.

    Args:
        find: Called with what `settle` is given; whether it learned anything (else asked again).
        module: The raw model.
    """

    def __init__(self, find: Callable[[Any], bool], module: nn.Module) -> None:
        self._find, self._module = find, module
        self._answered = False
        self._refusal: AdapterError | None = None
        self._finder = 0
        self._lock, self._process = threading.Lock(), os.getpid()

    def __deepcopy__(self, memo: dict[int, Any]) -> Once:
        fresh = Once(self._find, self._module)
        fresh._answered, fresh._refusal = self._answered, copy.copy(self._refusal)
        return fresh

    @property
    def open(self) -> bool:
        """Whether nobody has asked so far, or nothing could be learned."""
        return not self._answered

    def settle(self, about: Any) -> bool:
        """Find it out, unless somebody has; True if it is known, or this thread is finding it out.

        Raises:
            AdapterError: What the finding refused, then or now.
            Exception: Whatever stopped the finding this time.
        """
        if self._answered:
            if self._refusal is not None:
                raise copy.copy(self._refusal)  # its traceback would keep alive what is on the way
            return True
        if self._finder == threading.get_ident():
            return True
        if self._process != os.getpid():  # the thread that held the lock did not come along
            self._lock, self._process, self._finder = threading.Lock(), os.getpid(), 0
        with self._lock:
            if not self._answered:
                try:
                    self._answered = alone(self._module, self._asked, about)
                except AdapterError as refusal:
                    self._answered, self._refusal = True, refusal.with_traceback(None)
        return self.settle(about) if self._answered else False

    def _asked(self, about: Any) -> bool:
        self._finder = threading.get_ident()
        try:
            return self._find(about)
        finally:
            self._finder = 0


def alone(module: nn.Module, run: Callable[..., Any], *args: Any) -> Any:
    """What a function that runs a module gives in a thread that has nothing else in place.

    Weights of other kinds than torch's own may be nothing without a mode of the thread that has them:
    with those it stays in that thread, apart from hooks.

    Raises:
        BaseException: What it raised; an interrupt meanwhile, once it has ended.
    """
    if any(type(weight) not in (torch.Tensor, nn.Parameter) for weight in module.parameters()):
        with apart():
            return run(*args)
    given: list[Any] = []
    raised: list[BaseException] = []

    def go() -> None:
        try:
            given.append(run(*args))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=go, name="interp: proof", daemon=True)
    thread.start()
    interrupt: BaseException | None = None
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
    if raised:
        raise raised[0]
    return given[0]


def numberless(module: nn.Module) -> bool:
    """Whether its weights are shapes alone, or those of a transform of torch.func that is under way."""
    inside: Any = torch._C
    wrapped = inside._functorch.is_functorch_wrapped_tensor
    return any(isinstance(weight, FakeTensor) or wrapped(weight) for weight in module.parameters())


def run_plain(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A forward of the module as its author wrote it, compiled or not."""
    return module._call_impl(*args, **kwargs)


@contextmanager
def undisturbed(frame: Frame, hooks: frozenset[Any]) -> Iterator[None]:
    """As right after loading: evaluation mode, no gradients, and later torch hooks see nothing.

    Args:
        hooks: Keys of the torch hooks that were there at load: parts of the model, like the ones
            that make weights of two factors. Later ones are somebody's who looks on.
    """
    frame.tree.refresh()
    drawn = torch.get_rng_state()
    with evaluating(frame.gate.rest, frame.tree), torch.no_grad(), _resting(frame, hooks):
        try:
            yield
        finally:
            if not torch.equal(torch.get_rng_state(), drawn):  # a model that draws in evaluation
                torch.set_rng_state(drawn)


class _Resting:
    """A torch hook of somebody else, which does nothing in some threads."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook, self.threads = hook, set[int]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None if threading.get_ident() in self.threads else self.hook(*args, **kwargs)


_changing = threading.Lock()


@contextmanager
def _resting(frame: Frame, hooks: frozenset[Any]) -> Iterator[None]:
    here, rested = threading.get_ident(), list[tuple[dict[Any, Any], Any, _Resting]]()
    everywhere: Any = nn.modules.module
    places = [everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks, *frame.tree.hooks]
    with _changing:
        for there in places:
            for key, hook in tuple(there.items()):
                # Ours know their threads.
                if key in hooks or str(getattr(hook, "__module__", "")).startswith("interp.models.hooks"):
                    continue
                stand = hook if isinstance(hook, _Resting) else _Resting(hook)
                stand.threads.add(here)
                there[key] = stand
                rested.append((there, key, stand))
    try:
        yield
    finally:
        with _changing:
            for there, key, stand in rested:
                stand.threads.discard(here)
                if not stand.threads and there.get(key) is stand:
                    there[key] = stand.hook
