"""Evaluation mode for one thread: a pass looks at a model, another thread may be training it.

A module keeps its own `training` flag. While anybody evaluates, modules in training mode answer a
thread that evaluates with False and every other thread with their own flag; nothing is written.
"""

from __future__ import annotations

import copyreg
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import nn


class _Here(threading.local):
    """Whether the innermost pass of this thread evaluates."""

    def __init__(self) -> None:
        self.evaluating = False
        self.always = 0


_here = _Here()


def evaluate(now: bool) -> None:
    """What modules answer this thread from now on."""
    _here.evaluating = now or _here.always > 0


@contextmanager
def evaluating(rest: Rest, tree: Any) -> Iterator[None]:
    """The modules of a tree in evaluation mode for this thread, in passes and between them.

    Args:
        tree: A `Tree` that was just refreshed.
    """
    before = _here.evaluating
    rest.enter(tree.training, tree.modules)
    _here.always += 1
    evaluate(True)
    try:
        yield
    finally:
        _here.always -= 1
        evaluate(before)
        rest.leave()


class Rest:
    """The modules of one tree that were in training mode when somebody began to evaluate."""

    def __init__(self) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.users: int = 0
        self.asked: list[tuple[nn.Module, type]] = []
        self.written: list[nn.Module] = []

    def enter(self, training: bool, modules: Sequence[nn.Module]) -> None:
        """These modules answer by thread until the last user has left.

        Args:
            training: Whether one of them is in training mode.
        """
        with self.lock:
            self.users += 1
            if training:
                for module in modules:
                    if module.training:
                        self._ask(module)

    def leave(self) -> None:
        """Undo one `enter`."""
        with self.lock:
            self.users -= 1
            if self.users == 0:
                for module, kind in self.asked:
                    module.__class__ = kind
                for module in self.written:
                    module.training = True
                self.asked, self.written = [], []

    def _ask(self, module: nn.Module) -> None:
        kind = type(module)
        if kind in _ORIGINAL:
            return
        try:
            if isinstance(module, torch.jit.ScriptModule):
                raise TypeError("compiled code reads its flag by itself")
            module.__class__ = _by_thread(kind)
        except TypeError:  # a class that takes no subclass: the flag itself
            module.training = False
            self.written.append(module)
        else:
            self.asked.append((module, kind))


_ORIGINAL: dict[type, type] = {}


def original(kind: type) -> type:
    """The class of a module as its author wrote it."""
    return _ORIGINAL.get(kind, kind)


@lru_cache(maxsize=1024)
def _by_thread(kind: type) -> type:
    """The same class, its `training` flag depending on the thread that asks."""

    def read(self: Any) -> bool:
        return not _here.evaluating and self.__dict__["training"]

    def write(self: Any, value: bool) -> None:
        self.__dict__["training"] = value

    def reduced(self: Any, protocol: int) -> Any:
        # Copies and files hold the author's class.
        found = list(super(made, self).__reduce_ex__(protocol))
        if found[0] is copyreg.__newobj__ and found[1] and found[1][0] is made:  # type: ignore[attr-defined]
            found[1] = (kind, *found[1][1:])
        return tuple(found)

    body = {
        "training": property(read, write),
        "__reduce_ex__": reduced,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    made: Any = type(kind)(kind.__name__, (kind,), body)
    _ORIGINAL[made] = kind
    return made
