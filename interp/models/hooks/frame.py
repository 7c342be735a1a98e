"""What passes share about one wrapped module: where forwards begin, and evaluation mode."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from interp.core.errors import ModelError
from interp.models.hooks.modes import Rest


class Gate:
    """The hooks on one module's entries while any thread has a run in place for it; its rest."""

    def __init__(self) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.users: dict[nn.Module, int] = {}
        self.handles: dict[nn.Module, tuple[Any, Any]] = {}
        self.rest: Rest = Rest()

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


_gates: WeakKeyDictionary[nn.Module, Gate] = WeakKeyDictionary()
_lock = threading.Lock()


def gate_of(root: nn.Module) -> Gate:
    """The one gate of a module, whoever wrapped it."""
    with _lock:
        gate = _gates.get(root)
        if gate is None:
            gate = _gates[root] = Gate()
        return gate


class Tree:
    """The modules under a root, listed again whenever one was added or taken away.

    All questions are asked at every run, and so answered by lists made beforehand.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.modules: list[nn.Module] = []
        """All of them, the root first, when `refresh` was called last."""
        self._children: list[Any] = []
        self._then: list[Any] = []
        self.hooks: list[dict[Any, Any]] = []
        """Where torch keeps the forward hooks of each."""
        self._flags: list[dict[str, Any]] = []
        self._computed: list[nn.Module] = []

    def refresh(self) -> list[nn.Module]:
        """The modules that are there now."""
        if not self.modules or self._children != self._then:
            self.modules = list(self.root.modules())
            self._children = [m._modules for m in self.modules]
            self._then = [dict(children.items()) for children in self._children]
            self.hooks = [m._forward_hooks for m in self.modules]
            self.hooks += [m._forward_pre_hooks for m in self.modules]
            self._flags = [vars(m) for m in self.modules if "training" in vars(m)]
            self._computed = [m for m in self.modules if "training" not in vars(m)]
        return self.modules

    @property
    def hooked(self) -> bool:
        """Whether anybody has a torch hook anywhere in it."""
        self.refresh()
        return any(self.hooks)

    @property
    def training(self) -> bool:
        """Whether any module of the last listing says that it is in training mode."""
        return any(map(_flag, self._flags)) or any(m.training for m in self._computed)


_flag = itemgetter("training")


@dataclass(frozen=True, eq=False)
class Frame:
    """What passes need to know about one wrapped module.

    Attributes:
        root: The module.
        entries: Where a forward may begin: the root, its base model, its encoder.
        gate: Shared by every view of the root.
        tree: The modules under the root.
        configs, eager_float32: For `attention.switched`.
        two_sided: Sites whose names begin with "decoder" see other tokens than the rest.
    """

    root: nn.Module
    entries: tuple[nn.Module, ...]
    gate: Gate
    tree: Tree
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
        entered = tuple(entries.values())
        return cls(root, entered, shared, Tree(root), configs, eager_float32, two_sided)

    def holds(self, root: nn.Module) -> bool:
        """Whether a view of `root` looks at a part of what runs here.

        Raises:
            ModelError: Of two sides, which count tokens of their own.
        """
        part = any(root is module for module in self.tree.refresh())
        if part and self.two_sided:
            raise ModelError(
                "hooks on a part of a model are in place while the whole of it runs",
                got=f"a view of {type(root).__name__}, part of {type(self.root).__name__}",
                expected="one view: an encoder-decoder's sites count two texts",
                fix="put the hooks on the view of the whole model",
            )
        return part
