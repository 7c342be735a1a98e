"""One site in one forward pass: the edits to make there, then where to put the value."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from interp.core.errors import EditError
from interp.models.hooks.doubts import Doubts
from interp.models.hooks.sides import Side, take
from interp.models.hooks.sites import Site

Edit = Callable[..., Tensor | None]
"""`fn(value, hook) -> Tensor | None`; None leaves the value as `fn` left it."""


@dataclass(eq=False)
class Request:
    """What one run wants at one site, in every pass that it lives through.

    Attributes:
        site: Where.
        name: The name as asked for (with its call index, if any).
        call: Which time the module runs in a pass; None when it runs once.
        every: Whether the request is for every time the module runs (edits only).
        edits: Functions applied in order.
        keep: Whether the value is stored in `value`.
        on_path: Whether the stored value must lie on the graph of the output.
        transform: (value, tap) -> what is stored; None for the tensor itself.
        copy: Store a copy, for modules that overwrite their input in place.
        more_rows: Whether an edit may hand on more rows than it got.
        sweep: Everything that fires was asked for: each call is kept, none is no error.
        first: The sweeping request whose module holds this tensor too, by name.
        fired: How often the site was reached in one pass, at most.
        reached: Whether any pass answered the request.
        missed: Calls of the module that held no tensor there.
        earlier: What a sweep kept of earlier calls.
        notes: What hooks at this site remember, see `Tap.ctx`.
    """

    site: Site
    name: str
    call: int | None = None
    every: bool = False
    # Hundreds are made for one run: what most of them leave alone stays an attribute of the class.
    edits: tuple[Edit, ...] = field(default=(), init=False)
    keep: bool = field(default=False, init=False)
    on_path: bool = field(default=False, init=False)
    transform: Callable[[Tensor, Tap], Tensor] | None = field(default=None, init=False)
    copy: bool = field(default=False, init=False)
    more_rows: bool = field(default=False, init=False)
    sweep: bool = field(default=False, init=False)
    first: str = field(default="", init=False)
    fired: int = field(default=0, init=False)
    reached: bool = field(default=False, init=False)
    missed: int = field(default=0, init=False)
    earlier: tuple[Request, ...] = field(default=(), init=False)
    value: Tensor | None = field(default=None, init=False)
    raw: Tensor | None = field(default=None, init=False)
    version: int = field(default=-1, init=False)
    notes: dict[str, Any] | None = field(default=None, init=False)

    def store(self, value: Tensor, tap: Tap) -> None:
        """Keep a value; shared with the model, its version tells whether somebody overwrites it."""
        if self.sweep and self.value is not None:
            self.earlier = (*self.earlier, self._alone())
        if not self.on_path:
            value = value.detach()
        self.value = value if self.transform is None else self.transform(value, tap)
        copied = self.sweep or self.copy or self.site.volatile
        if copied and not self.on_path and self.value.data_ptr() == value.data_ptr():
            # The model goes on with its own tensor: code that writes into it may count on that.
            self.value = self.value.clone()
        if not value.is_inference():
            self.raw, self.version = value, value._version

    def _alone(self) -> Request:
        """What was kept so far, as a request of its own."""
        past = copy(self)
        past.earlier = ()
        return past

    def beside(self, site: Site) -> Request:
        """The same wish for another tensor of the same module."""
        new = Request(site, site.name)
        new.keep = new.sweep = True
        new.on_path, new.transform, new.copy = self.on_path, self.transform, self.copy
        new.first = self.name
        return new

    def overwritten(self) -> bool:
        """Whether a later module changed, in place, the tensor that was stored."""
        return self.raw is not None and self.raw._version != self.version

    def shares_memory(self) -> bool:
        """Whether the stored value is the tensor that the model went on with."""
        kept, raw = self.value, self.raw
        return kept is not None and raw is not None and kept.data_ptr() == raw.data_ptr()


class Owner(Protocol):
    """What a tap asks of the pass it belongs to (`passes.Pass`)."""

    step: int
    """Under `generate`, how many tokens came before; 0 elsewhere."""
    stopping: Any
    """The run that ends the forward once it is answered, or None."""
    entry: nn.Module
    """The module whose forward this is."""
    direct: bool
    """Whether it was opened before torch was called."""
    at_entry: list[Any]
    """Hooks on the input of that module itself, called by the pass where torch is under way."""
    slots: dict[int, dict[str, Any]]
    """What is asked inside attention, see `attention.Slots`."""
    doubts: Doubts
    """Edits whose numbers are not read yet."""

    @property
    def here(self) -> bool:
        """Whether a torch hook that belongs to this pass may act now."""
        ...

    def side(self, site: Site) -> Side | None:
        """The tokens that a site runs along."""
        ...

    def answered(self, tap: Tap) -> None:
        """A tap has done its work."""
        ...

    def resting(self) -> AbstractContextManager[None]:
        """While a user's function runs: a forward that it starts is none of this pass."""
        ...

    def failed(self, error: Exception) -> None:
        """Keep an error, so that a module which catches it cannot make it go away."""
        ...

    def refuse_recomputed(self, tap: Tap) -> None:
        """Refuse an edit in a part that is run again during backward."""
        ...

    def tap(self, site: Site, name: str, call: int | None = None) -> Tap:
        """The one tap of this pass for a name."""
        ...

    def further(self, tap: Tap, path: str) -> Tap:
        """The tap of a further tensor at a tap's place."""
        ...

    def known(self, site: Site) -> Tap | None:
        """The tap of a spliced site, if anybody asked for it."""
        ...


class Tap:
    """All requests of one pass for one site; also the `hook` argument that edits receive.

    Attributes:
        site, name, call: As in `Request`.
        requests: Outer contexts first; their edits apply in this order, then values are kept.
        before, after: Splices: coders that write here, and coders that read what the edits made.
        fired: How often the site has been reached in this pass.
        sweeping: Somebody wants whatever there is at this place, once or several times.
    """

    __slots__ = tuple(
        """
        after before call edits fired keepers name on_path owner requests site sweeping
    """.split()
    )

    def __init__(self, site: Site, name: str, call: int | None, owner: Owner) -> None:
        self.site: Site = site
        self.name: str = name
        self.call: int | None = call
        self.owner: Owner = owner
        self.requests: list[Request] = []
        self.edits: list[tuple[Edit, bool]] = []
        self.keepers: list[Request] = []
        self.before: tuple[Edit, ...] = ()
        self.after: tuple[Edit, ...] = ()
        self.fired: int = 0
        self.on_path: bool = False
        self.sweeping: bool = False

    def add(self, request: Request) -> None:
        """One more run's request for this place."""
        self.requests.append(request)
        self.sweeping |= request.sweep
        for edit in request.edits:
            self.edits.append((edit, request.more_rows))
        if request.keep:
            self.keepers.append(request)
            self.on_path |= request.on_path

    def __repr__(self) -> str:
        return f"hook at {self.name!r} ({self.site.describe()}), step {self.step}"

    def layer(self) -> int | None:
        """The block number, as TransformerLens's HookPoint.layer()."""
        return self.site.layer

    @property
    def ctx(self) -> dict[str, Any]:
        """TransformerLens's `ctx`: what hooks at this site remember while their run or block lasts."""
        first = self.requests[0]
        if first.notes is None:
            first.notes = {}
        return first.notes

    @property
    def step(self) -> int:
        """The number of the new token under `generate`, 0 everywhere else."""
        return self.owner.step

    def chosen(self, positions: Any, value: Tensor, axis: int) -> Tensor:
        """Boolean [batch or 1, pos]: where `positions` lie along the token axis of `value`."""
        grid = self.side(value, axis).chosen(positions, value.device)
        # A sliding window keeps the last keys only.
        return grid[:, -value.shape[axis] :] if self.site.slot == "rot_k" else grid

    def index(self, positions: Any, value: Tensor, axis: int) -> Tensor:
        """`positions` as an index along `axis`, [kept] or [batch, kept]."""
        return self.side(value, axis).index(positions, value.device)

    def side(self, value: Tensor, axis: int) -> Side:
        """The tokens that `value` runs along."""
        side = self.owner.side(self.site)
        if side is not None and side.cached and self.site.slot == "rot_k":
            # Rotated keys come with the cached ones in front.
            return replace(side, length=side.cached + side.length, cached=0)
        if side is None or side.length != value.shape[axis]:
            # Patches, or a module that shortens its text: nothing is known to be padding.
            return Side(value.shape[0], value.shape[axis])
        return side

    def prompts(self, value: Tensor) -> int:
        """How many of the rows were given: `generate` repeats each for its beams and samples."""
        side = self.owner.side(self.site)
        return side.given if side is not None and side.given else len(value)

    def moved(self, source: Tensor, value: Tensor) -> Tensor:
        """A source with a row for each prompt, and a column for each token, as `generate` has them.

        Rows are repeated with those of their prompt; columns follow a prompt whose padding was
        moved in front.
        """
        side = self.owner.side(self.site)
        if side is None or not side.given or source.dim() != value.dim():
            return source
        axes = self.site.axes.split()
        axis = axes.index("pos") if "pos" in axes else None
        if side.order is not None and axis is not None and axis > 0:
            order = side.order.to(source.device)
            rows = len(source) in (1, side.given)
            if rows and source.shape[axis] == order.shape[1] and source.shape[axis] > 1:
                source = take(source, axis, order)
        if len(source) == side.given and len(value) % side.given == 0:
            source = source.repeat_interleave(len(value) // side.given, 0)
        return source

    @property
    def editing(self) -> bool:
        """Whether anything here may change the value."""
        return bool(self.edits or self.on_path or self.before or self.after)

    def missed(self) -> None:
        """The module ran and held no tensor here."""
        for request in self.requests:
            request.missed += 1

    def fire(self, value: Tensor) -> Tensor | None:
        """Apply the edits and keep the value; the new value, or None if nothing changed."""
        self.fired += 1
        if self.call is not None and self.fired - 1 != self.call:
            return None
        given = value
        if self.edits or self.before or self.after:
            try:
                value = self._edited(value)
            except Exception as error:
                self.owner.failed(error)
                raise
        if self.on_path:
            if not value.requires_grad and value.is_floating_point():
                # Frozen weights: the first tensor asked about begins the graph.
                value = value.detach().requires_grad_(True)
            elif value is given:
                # Views are made anew by whoever reads them: this one must be on the path.
                value = value.view_as(value)
        for request in self.keepers:
            request.store(value, self)
            if request.on_path and (request.copy or self.site.volatile):
                # A later module will write into what we pass on: let that be a copy.
                value = value.clone()
        if self.owner.stopping is not None:
            self.owner.answered(self)
        return None if value is given else value

    def _edited(self, value: Tensor) -> Tensor:
        self.owner.refuse_recomputed(self)
        for edit in self.before:
            value = self._apply(edit, value)
        for edit, more_rows in self.edits:
            value = self._apply(edit, value, more_rows)
        for edit in self.after:
            value = self._apply(edit, value)
        return value

    def _apply(self, edit: Edit, value: Tensor, more_rows: bool = False) -> Tensor:
        if getattr(edit, "pure", False):
            new = edit(value, hook=self)
        else:
            new = self._ask(edit, value)
        if new is None or new is value:
            return value
        check_edit(self, value, new, more_rows)
        return new

    def _ask(self, edit: Edit, value: Tensor) -> Any:
        """What a user's function makes of a value: returned, or written into what it was given.

        It gets a copy, so that an edit in place reaches only what follows this site; whether it
        wrote is told by the tensor's version, or by comparison where that says nothing
        (`torch.inference_mode`, edits through `.data`).
        """
        own = value.clone()
        version = -1 if own.is_inference() else own._version
        with self.owner.resting():
            new = edit(own, hook=self)
        if new is not None and new is not own:
            # Where a later module may write in place, it must not be into the user's own tensor.
            writes = self.site.volatile or self.site.unexplored
            return new.clone() if writes and isinstance(new, Tensor) else new
        if version >= 0 and own._version != version:
            return own
        return None if _same(own, value) else own


def check_edit(tap: Tap, old: Tensor, new: object, more_rows: bool = False) -> None:
    """Refuse what cannot stand for the activation it replaces.

    Raises:
        EditError: Not a tensor, or another shape, dtype or device.
        NonFiniteError: NaN or infinity; on an accelerator when the pass ends.
    """
    if not isinstance(new, Tensor):
        raise EditError(
            f"the hook at {tap.name!r} returned {type(new).__name__}",
            got=repr(new)[:80],
            expected=f"a tensor of shape {tuple(old.shape)}, or None to leave it alone",
        )
    for what in ("shape", "dtype", "device"):
        before, after = getattr(old, what), getattr(new, what)
        if what == "shape" and more_rows:
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
    tap.owner.doubts.check(new, old, tap.site, f"the value that the hook at {tap.name!r} returned")


def _same(a: Tensor, b: Tensor) -> bool:
    with torch.no_grad():
        if torch.equal(a, b):
            return True
        if a.shape != b.shape or a.dtype != b.dtype or not a.is_floating_point():
            return False
        return bool(((a == b) | (a.isnan() & b.isnan())).all())
