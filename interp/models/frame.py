"""What passes share about one wrapped module: where forwards begin, and evaluation mode."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_training = attrgetter("training")


class Gate:
    """The hooks on one module's entries while any thread has a run in place for it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users: dict[nn.Module, int] = {}
        self.handles: dict[nn.Module, tuple[Any, Any]] = {}
        self.resting = 0
        self.woken: list[nn.Module] = []
        self.modules: list[nn.Module] = []
        self.children: tuple[list[Any], list[Any]] = ([], [])

    def enter(self, entries: Sequence[nn.Module], begin: Callable, end: Callable) -> None:
        """Watch these entries: `begin` before each forward, `end` after it, also if it raised."""
        with self.lock:
            for entry in entries:
                self.users[entry] = self.users.get(entry, 0) + 1
                if self.users[entry] == 1:
                    self.handles[entry] = (
                        entry.register_forward_pre_hook(begin, prepend=True, with_kwargs=True),
                        entry.register_forward_hook(end, always_call=True),
                    )

    def leave(self, entries: Sequence[nn.Module]) -> None:
        """Undo one `enter`."""
        with self.lock:
            for entry in entries:
                self.users[entry] -= 1
                if not self.users[entry]:
                    del self.users[entry]
                    for handle in self.handles.pop(entry):
                        handle.remove()

    def rest(self, root: nn.Module) -> None:
        """Evaluation mode until the last pass of any thread has ended."""
        with self.lock:
            self.resting += 1
            # At every pass, over all modules: the list is kept while each has the same children.
            now, then = self.children
            if not self.modules or now != then:
                self.modules = list(root.modules())
                now = [m._modules for m in self.modules]
                self.children = (now, [dict(m) for m in now])
            if any(map(_training, self.modules)):
                awake = [m for m in self.modules if m.training]
                self.woken += awake
                for module in awake:
                    module.training = False

    def wake(self) -> None:
        """Every module's own mode again."""
        with self.lock:
            self.resting -= 1
            if self.resting == 0:
                for module in self.woken:
                    module.training = True
                self.woken = []


_gates: WeakKeyDictionary[nn.Module, Gate] = WeakKeyDictionary()
_lock = threading.Lock()


def gate_of(root: nn.Module) -> Gate:
    """The one gate of a module, whoever wrapped it."""
    with _lock:
        gate = _gates.get(root)
        if gate is None:
            gate = _gates[root] = Gate()
        return gate


@dataclass(frozen=True, eq=False)
class Frame:
    """What passes need to know about one wrapped module.

    Attributes:
        root: The module.
        entries: Where a forward may begin: the root, its base model, its encoder.
        gate: Shared by every view of the root.
        configs, eager_float32: For `attention.switched`.
        two_sided: Sites whose names begin with "decoder" see other tokens than the rest.
    """

    root: nn.Module
    entries: tuple[nn.Module, ...]
    gate: Gate
    configs: Sequence[Any] = ()
    eager_float32: bool = False
    two_sided: bool = False

    @classmethod
    def of(
        cls,
        root: nn.Module,
        more: Iterable[nn.Module | None] = (),
        configs: Sequence[Any] = (),
        eager_float32: bool = False,
        two_sided: bool = False,
    ) -> Frame:
        """The frame of a module; `more` are the other modules at which a forward may begin."""
        entries = {id(root): root}
        entries |= {id(m): m for m in more if isinstance(m, nn.Module)}
        shared = gate_of(root)
        return cls(root, tuple(entries.values()), shared, configs, eager_float32, two_sided)
