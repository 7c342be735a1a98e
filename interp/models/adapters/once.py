"""What is found out about a model by whoever needs it first, once for everybody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from interp.core.errors import InterpError
from interp.models.hooks.frame import Frame
from interp.models.hooks.modes import evaluating
from interp.models.hooks.passes import apart


class Once:
    """A question about a model, answered when it is first asked.

    Other threads wait meanwhile; who asks from inside the finding goes on without the answer.
    A refusal stays: everybody who asks gets it.

    Args:
        find: Called with what `settle` is given; whether it learned anything (else asked again).
    """

    def __init__(self, find: Callable[[Any], bool]) -> None:
        self._find: Callable[[Any], bool] | None = find
        self._refusal: InterpError | None = None
        self._finding = False
        self._lock = threading.RLock()

    @property
    def open(self) -> bool:
        """Whether nobody has asked so far, or nothing could be learned."""
        return self._find is not None

    def settle(self, about: Any) -> None:
        """Find it out, unless somebody has.

        Raises:
            InterpError: What the finding refused, then or now.
        """
        if self._find is None:
            return
        with self._lock:
            if self._refusal is not None:
                raise self._refusal.with_traceback(None)
            if self._find is None or self._finding:
                return
            self._finding = True
            try:
                learned = self._find(about)
            except InterpError as refusal:
                self._refusal = refusal
                raise
            finally:
                self._finding = False
            if learned:
                self._find = None


@contextmanager
def undisturbed(frame: Frame, device: torch.device, hooks: frozenset[Any]) -> Iterator[None]:
    """As right after loading: evaluation mode, no gradients, full precision, and nothing seen of
    what is in place since, whoever asked first and wherever.

    Args:
        hooks: Keys of the torch hooks that were there at load: parts of the model, like the ones
            that make weights of two factors. Later ones are somebody's who looks on.
    """
    frame.tree.refresh()
    kind = device.type if torch.amp.is_autocast_available(device.type) else "cpu"
    exact = torch.autocast(kind, enabled=False)
    with apart(), evaluating(frame.gate.rest, frame.tree), torch.no_grad(), exact:
        rested = _rest(frame, hooks)
        try:
            yield
        finally:
            for there, key, hook in rested:
                if key in there:
                    there[key] = hook


def _rest(frame: Frame, hooks: frozenset[Any]) -> list[tuple[dict[Any, Any], Any, Any]]:
    """Torch hooks of others do nothing in this thread; what stood where, to put it back."""
    thread, rested = threading.get_ident(), []

    def elsewhere(hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: None if threading.get_ident() == thread else hook(*args, **kwargs)

    for there in frame.tree.hooks:
        for key, hook in tuple(there.items()):
            ours = str(getattr(hook, "__module__", "")).startswith("interp.")  # they know their threads
            if key not in hooks and not ours:
                there[key] = elsewhere(hook)
                rested.append((there, key, hook))
    return rested
