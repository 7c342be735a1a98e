"""Programs drawn by hypothesis: which model, which texts, which blocks, calls and edits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.models.program.edits import HEAD_AXIS, TOKEN_AXIS, Edit
from tests.models.program.naive import ERROR, LATENTS, Text, View, Writing
from tests.models.program.subjects import ROUNDED, Subject, subject

FORMS = ("tensor", "batch", "dict", "keyword")
STYLES = ("whole", "copy", "idiom", "silent", "data")
ERRORS = (ValueError, KeyboardInterrupt, SystemExit)


@dataclass(eq=False)
class Open:
    """Enter a `hooks()` block."""

    view: View
    edits: list[Edit]


@dataclass(eq=False)
class Close:
    """Leave one of the open blocks, not always the newest."""

    which: int


@dataclass(eq=False)
class Run:
    """One forward.

    Attributes:
        how: call, raw (the module itself), hooks, capture, cache, hidden (what the raw module
            reports of itself), stop (before a layer), begun (with keys of all but the last token).
        layer: For `hidden` and `stop`.
        mode: no_grad, grad, inference.
        fault: What a hook raises, for `hooks` and `capture`.
    """

    view: View
    how: str
    edits: list[Edit]
    keep: list[str]
    positions: Any = None
    mode: str = "no_grad"
    fault: type[BaseException] | None = None
    layer: int = 0


@dataclass(eq=False)
class Write:
    """Continue the texts."""

    view: View
    edits: list[Edit]
    how: Writing
    cache: bool = True
    stop_at: int | None = None


@dataclass(eq=False)
class Program:
    """What hypothesis prints when a difference is found."""

    name: str
    dtype: str
    copied: str
    train: bool
    text: Text
    form: str
    side: str
    steps: list[Open | Close | Run | Write]

    @property
    def model(self) -> Subject:
        return subject(self.name, self.dtype, self.copied)

    def __repr__(self) -> str:
        head = [self.name, self.dtype, self.copied or "as wrapped", "train" if self.train else ""]
        lines = [" ".join(head), f"  {self.form}, padded on the {self.side}: {self.text}"]
        return "\n".join([*lines, *(f"  {type(s).__name__} {vars(s)}" for s in self.steps)])


@st.composite
def programs(draw: Any, name: str) -> Program:
    """A batch for a model, and two to five statements."""
    exact = name not in ROUNDED or draw(st.integers(0, 9)) < 8
    dtype = "float64" if exact else draw(st.sampled_from(["float32", "bfloat16"]))
    copied = draw(st.sampled_from(["", "", "", "", "deepcopy", "to"])) if exact else ""
    model = subject(name)  # sizes and names are those of every copy
    writes = exact and model.generates and draw(st.integers(0, 2)) == 0
    text, form, side = draw(_texts(model, exact))
    maker = _Maker(draw, model, text, exact, writes)
    steps: list[Any] = [maker.step() for _ in range(draw(st.integers(1, 4)))]
    steps.append(maker.write() if writes else maker.run())
    return Program(name, dtype, copied, draw(st.booleans()), text, form, side, steps)


@st.composite
def _texts(draw: Any, model: Subject, exact: bool) -> tuple[Text, str, str]:
    if model.kind in ("pixels", "rows"):
        seeds = draw(st.lists(st.integers(0, 99), min_size=1, max_size=3))
        length = 10 if model.kind == "pixels" else model.row[0]
        columns = [list(range(length))] * len(seeds)
        return Text([[s] * length for s in seeds], columns, length), "tensor", "none"
    tokens = st.integers(5, 100)
    ragged = model.name != "guest" and draw(st.booleans())
    sides = ["right", "left", "both"] if model.left and exact else ["right"]
    side = draw(st.sampled_from(sides)) if ragged else "none"
    n = draw(st.integers(2, 6))
    low = 1 if ragged else n
    rows = draw(st.lists(st.lists(tokens, min_size=low, max_size=n), min_size=1, max_size=3))
    longest = max(map(len, rows)) + (1 if side == "both" else 0)
    columns = []
    for row in rows:
        start = {"right": 0, "none": 0, "left": longest - len(row)}.get(side)
        start = draw(st.integers(0, longest - len(row))) if start is None else start
        columns.append(list(range(start, start + len(row))))
    form = draw(st.sampled_from(FORMS)) if ragged else draw(st.sampled_from(("tensor", "batch")))
    decoder = None
    if model.kind == "sides":
        form = "dict"
        count = draw(st.integers(1, 4))
        more = [draw(st.lists(tokens, min_size=1, max_size=count)) for _ in rows]
        decoder = Text(more, [list(range(len(r))) for r in more], max(map(len, more)))
    return (Text(rows, columns, longest, decoder), "batch" if form == "tensor" and ragged else form, side)


class _Maker:
    """Draws statements that fit one model and one batch."""

    def __init__(self, draw: Any, model: Subject, text: Text, exact: bool, writes: bool) -> None:
        self.draw, self.model, self.text = draw, model, text
        self.exact, self.writes = exact, writes
        self.shapes = model.coder_shapes if exact else []

    def step(self) -> Open | Close | Run:
        kind = self.draw(st.sampled_from(["open", "open", "run", "run", "close"]))
        if kind == "open":
            view = self.view()
            return Open(view, self.edits(view, 1, 2))
        return Close(self.draw(st.integers(0, 3))) if kind == "close" else self.run()

    def view(self) -> View:
        if not self.shapes or self.draw(st.integers(0, 2)):
            return None
        return self.draw(st.sampled_from(self.shapes)), self.draw(st.booleans())

    def run(self) -> Run:
        if self.draw(st.integers(0, 2)) == 0 and (kinds := self.special()):
            return self.special_run(self.draw(st.sampled_from(kinds)))
        view = self.view()
        how = self.draw(st.sampled_from(["call", "raw", "hooks", "capture", "cache"]))
        if how == "raw":
            view = None
        edits = [] if how in ("call", "raw") else self.edits(view, 1 if how == "hooks" else 0, 3)
        keep: list[str] = []
        if how in ("capture", "cache"):
            names = self.names(view)
            keep = self.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        positions = None
        if keep and all(self.axes(n, view) in "dh1" for n in keep) and self.one_side(keep):
            positions = self.positions(keep[0], selecting=True)
        mode = self.draw(st.sampled_from(["no_grad", "grad", "inference"]))
        fault = None
        if how in ("hooks", "capture") and self.draw(st.integers(0, 6)) == 0:
            fault = self.draw(st.sampled_from(ERRORS))
            site = self.draw(st.sampled_from(self.names(view)))
            edits.append(Edit(site, self.axes(site, view), "raise", "raise"))
        elif how == "hooks" and self.draw(st.integers(0, 6)) == 0:
            site = self.draw(st.sampled_from(self.names(view)))
            edits.append(Edit(site, self.axes(site, view), "call", "call"))
        return Run(view, how, edits, keep, positions, mode, fault)

    def special(self) -> list[str]:
        """Further ways to run that this model and batch have."""
        model, found = self.model, []
        if not self.exact or model.kind != "tokens":
            return found
        if model.own_generate:
            found.append("hidden")
            whole = all(len(row) == self.text.length > 1 for row in self.text.rows)
            if whole and model.generates:
                found.append("begun")
        return found if model.name == "guest" else [*found, "stop"]

    def special_run(self, how: str) -> Run:
        model, view = self.model, None if how == "hidden" else self.view()
        layers = sum(n.endswith("hook_resid_pre") for n in model.places)
        layer = self.draw(st.integers(0, layers - (2 if how == "hidden" else 1)))
        if how == "begun":
            writes, self.writes = self.writes, True  # no columns: there are two passes
            edits = [replace(e, positions=None) for e in self.edits(view, 0, 2)]
            self.writes = writes
            return Run(view, how, edits, [])
        if how == "stop":
            return Run(view, how, [], [f"blocks.{layer}.hook_resid_pre"], layer=layer)
        ends = (f"blocks.{layer}.hook_normalized_resid_post", f"blocks.{layer}.hook_resid_post")
        return Run(None, how, [], [next(n for n in ends if n in model.places)], layer=layer)

    def write(self) -> Write:
        view = self.view()
        n = self.draw(st.integers(1, 4))
        beams = 1
        temperature = self.draw(st.sampled_from([0.0, 0.0, 0.8]))
        if self.model.own_generate and not temperature and self.draw(st.integers(0, 3)) == 0:
            beams = self.draw(st.integers(2, 3))
        stop_at = self.draw(st.sampled_from([None, 0, 1])) if beams == 1 else None
        samples = self.draw(st.sampled_from([1, 1, 2])) if temperature else 1
        top_k = self.draw(st.sampled_from([0, 0, 5])) if temperature else 0
        how = Writing(n, temperature, self.draw(st.integers(0, 5)), (), beams, samples, top_k)
        return Write(view, self.edits(view, 0, 3), how, self.draw(st.booleans()), stop_at)

    # --- edits ---------------------------------------------------------------------------------

    def names(self, view: View) -> list[str]:
        names = list(self.model.places)
        names += [n for n in names if n.startswith("decoder")]
        if not self.exact:
            # Elsewhere our arithmetic is another than the raw module's, and rounds differently.
            names = [n for n in names if self.model.places[n].how in ("in", "out", "mid")]
            names = [n for n in names if not n.endswith((*SCORES, *INSIDE))]
        if view is None:
            return names
        return [*names, *self.own(view) * 6]

    def own(self, view: View) -> list[str]:
        assert view is not None
        coder, error_term = self.model.view(view)[1], view[1]
        into = getattr(coder, "sites_in", None) or (coder.site_in,)
        out = getattr(coder, "sites_out", None) or (coder.site_out,)
        latents = into if view[0] == "staged" else into[-1:]
        errors = out if error_term else ()
        return [f"{s}.{LATENTS}" for s in latents] + [f"{s}.{ERROR}" for s in errors]

    def axes(self, site: str, view: View) -> str:
        return "d" if "hook_sae" in site else self.model.places[site].axes

    def width(self, site: str, view: View) -> int:
        if site.endswith(LATENTS):
            return 11
        if site.endswith(ERROR):
            shape = self.model.shapes[site.rpartition(".")[0]]
            return shape[0] * shape[1] if len(shape) == 2 else shape[0]
        return self.model.shapes[site][-1]

    def one_side(self, names: list[str]) -> bool:
        return len({n.startswith("decoder") for n in names}) == 1

    def edits(self, view: View, low: int, high: int) -> list[Edit]:
        return [self.edit(view) for _ in range(self.draw(st.integers(low, high)))]

    def edit(self, view: View) -> Edit:
        site = self.draw(st.sampled_from(self.names(view)))
        axes = self.axes(site, view)
        style = self.draw(st.sampled_from(["intervention"] * 4 + [*STYLES, "nothing"]))
        if style == "nothing":
            return Edit(site, axes, "nothing", "nothing")
        if style != "intervention" or axes == "1" or site.endswith(SCORES):
            style = style if style != "intervention" else "whole"
            column = None
            if style != "whole" and not self.writes and axes in TOKEN_AXIS:
                column = self.column(site)
            return Edit(site, axes, "dent", style, column=column)
        return self.intervention(site, axes, view)

    def column(self, site: str) -> int | None:
        length = self.side(site).length
        return self.draw(st.one_of(st.none(), st.integers(-length, length - 1)))

    def side(self, site: str) -> Text:
        text = self.text.decoder if site.startswith("decoder") else self.text
        assert text is not None
        return text

    def intervention(self, site: str, axes: str, view: View) -> Edit:
        verbs = ["zero", "mean", "patch", "add", "clamp", "bounds"]
        if axes == "a":
            verbs = ["zero"]
        elif self.exact and axes != "c" and self.width(site, view) > 2:
            verbs.append("project_out")
        elif axes == "c":
            verbs = ["zero", "clamp", "bounds"]
        verb = self.draw(st.sampled_from(verbs))
        more: dict[str, Any] = {}
        if verb in ("mean", "patch", "add", "project_out"):
            shape = (2, self.width(site, view)) if verb == "project_out" else (self.width(site, view),)
            source = torch.Generator().manual_seed(self.draw(st.integers(0, 99)))
            more["vector"] = torch.randn(shape, generator=source, dtype=torch.float64)
        if verb not in ("clamp", "bounds") and axes in HEAD_AXIS and self.draw(st.booleans()):
            heads = self.model.shapes[site][0]
            more["head"] = self.choice(heads)
        if axes in TOKEN_AXIS and self.draw(st.integers(0, 2)):
            more["positions"] = self.positions(site)
        may_index = verb not in ("add", "project_out") and axes not in "?a"
        if axes == "c" and "channel" not in self.model.hooked.sites[site].axes:
            axes = "?"  # refused, since nothing says which axis holds the channels
        if verb in ("clamp", "bounds") or (may_index and self.draw(st.booleans())):
            if axes == "?":
                return Edit(site, axes, "zero")
            size = self.model.shapes[site][0] if axes == "c" else self.width(site, view)
            more["index"] = self.choice(size)
        return Edit(site, axes, verb, **more)

    def choice(self, size: int) -> Any:
        """Entries of an axis, said in every way that is allowed."""
        kind = self.draw(st.sampled_from(["int", "list", "mask", "slice", "tensor"]))
        entry = st.integers(-size, size - 1)
        if kind == "int":
            return self.draw(entry)
        if kind == "slice":
            return slice(self.draw(st.integers(0, size - 1)), None)
        if kind == "mask":
            mask = self.draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
            return mask if self.draw(st.booleans()) else torch.tensor(mask)
        found = self.draw(st.lists(entry, min_size=1, max_size=3))
        return found if kind == "list" else torch.tensor(found)

    def positions(self, site: str, selecting: bool = False) -> Any:
        """Positions that every row has; `selecting` for what `capture` keeps."""
        text = self.side(site)
        lengths = [len(columns) for columns in text.columns]
        begins = self.writes and site.startswith("decoder")  # its prompt is then one token
        n = 1 if begins else min(lengths)
        kinds = ["int", "int", "list", "tensor"]
        if not selecting and not (begins and text.length > 1):
            kinds += ["mask", "grid", *(["slice"] if len(set(lengths)) == 1 else [])]
        entry = st.integers(-n, n - 1)
        kind = self.draw(st.sampled_from(kinds))
        if kind == "int":
            return self.draw(entry)
        if kind == "list":
            return self.draw(st.lists(entry, min_size=1, max_size=3))
        if kind == "slice":
            return slice(self.draw(st.integers(0, n - 1)), None)
        if kind == "mask":
            mask = self.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
            return mask if self.draw(st.booleans()) else torch.tensor(mask)
        if kind == "grid":
            return self.grid(text)
        count = self.draw(st.integers(1, 3))
        row = st.lists(entry, min_size=count, max_size=count)
        return torch.tensor([self.draw(row) for _ in lengths])

    def grid(self, text: Text) -> Tensor:
        flips = st.lists(st.booleans(), min_size=text.length, max_size=text.length)
        grid = torch.tensor([self.draw(flips) for _ in text.rows]) & text.mask
        return grid if bool(grid.any()) else text.mask.clone()  # a choice of nothing is refused


SCORES = ("hook_attn_scores", "hook_pattern")
INSIDE = ("hook_result", "hook_normalized", "hook_scale", "hook_rot_q", "hook_rot_k")
