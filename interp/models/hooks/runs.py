"""A run: what somebody wants of a model for the length of one forward, or of a `with` block."""

from __future__ import annotations

from typing import Any

from interp.core.errors import EditError, HookNotFired
from interp.models.hooks.passes import Wanted, begin, end, here, open_pass
from interp.models.hooks.taps import Request


class Run(Wanted):
    """What is wanted for the length of a `with` block; every forward inside serves it."""

    def once(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One forward of the root with this run in place, and the run's end.

        Where nobody has a hook in the module, nothing but the module itself can begin a forward
        while this one is under way: the pass is opened here, and nothing has to watch for it.
        """
        root = self.frame.root
        if (here.passes and here.passes[-1].live) or self.frame.tree.hooked:
            with self:
                return root(*args, **kwargs)
        known = here.runs
        known.append(self)
        try:
            opened = open_pass(root, args, kwargs, direct=True)
            output = root(*args, **kwargs)
            if opened is not None:
                opened.end()
            return output
        finally:
            self._leave(known)

    def __enter__(self) -> Run:
        self._list = here.runs
        self._list.append(self)
        self.frame.gate.enter(self.frame.entries, begin, end)
        return self

    def __exit__(self, *error: object) -> None:
        self._leave(self._list)
        self.frame.gate.leave(self.frame.entries)

    def _leave(self, known: list[Wanted]) -> None:
        for stale in [p for p in here.passes if self in p.runs] if here.passes else ():
            stale.close()
        known.remove(self)

    def verify(self) -> None:
        """After the run: every request was answered, once.

        Raises:
            HookNotFired: Naming the site that never fired, or fired several times.
            EditError: A stored tensor was overwritten in place by a later module.
        """
        for request in self.requests.values():
            swept = request.sweep and not request.edits
            if not swept and (not request.reached or request.fired > 1):
                self._refuse_unanswered(request)
            if any(r.overwritten() and r.shares_memory() for r in (request, *request.earlier)):
                raise EditError(
                    f"the activation at {request.name!r} was overwritten in place after capture",
                    expected="the tensor to keep its value until the end of the run",
                    fix="pass clone=True to keep a copy (for example before ReLU(inplace=True))",
                )

    def _refuse_unanswered(self, request: Request) -> None:
        kind, fired = type(request.site.module).__name__, request.fired
        if not request.reached:
            raise HookNotFired(
                f"the hook at {request.name!r} did not fire",
                got=f"{fired} calls of {kind}",
                expected="the module to run in this forward pass",
                fix="ask for a site that this input reaches",
            )
        if request.call is None and not request.every:
            raise HookNotFired(
                f"the hook at {request.name!r} fired {fired} times in one forward pass",
                got=f"{fired} calls",
                expected="one",
                fix=f"name the call: '{request.name}#0' to '{request.name}#{fired - 1}', or edit "
                f"every one: '{request.name}#*'",
            )
