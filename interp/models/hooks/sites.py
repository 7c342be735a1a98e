"""Where an activation lives: one `Site` per name, and the ordered map of all of them.

A site is a place in a plain torch module (its input, its output, the inside of a norm or of the
registered attention function) together with the view that turns the raw tensor into the
activation the field means by the name, and back.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal

from torch import Tensor, nn

from interp.core.errors import SiteError
from interp.core.names import match, suggest

Kind = Literal["in", "in_place", "out", "scale", "normalized", "attention", "result", "experts", "splice"]
"""How a site is reached.

`in`/`out`: a module's input or output, its first tensor or the one that `slot` names. `in_place`:
an input that the residual branch shares, so an edit is written into the tensor itself.
`scale`/`normalized`: inside a norm. `attention`: inside the registered attention function.
`result`: per-head outputs at the output projection. `experts`: what each chosen expert adds.
`splice`: a coder's latents or error.
"""


class View:
    """The identity view; subclasses read an activation out of a raw tensor and write it back."""

    def read(self, raw: Tensor) -> Tensor:
        return raw

    def write(self, raw: Tensor, value: Tensor) -> Tensor:
        del raw
        return value


@dataclass(frozen=True)
class Scaled(View):
    """What a block multiplies before it adds it to the stream (Granite), as it is added."""

    factor: float

    def read(self, raw: Tensor) -> Tensor:
        return raw * self.factor

    def write(self, raw: Tensor, value: Tensor) -> Tensor:
        del raw
        return value / self.factor


@dataclass(frozen=True)
class Heads(View):
    """`[..., n * d]` seen as `[..., n, d]`; `factor` is on what a block adds of them (Granite)."""

    n: int
    d: int
    factor: float = 1.0

    def read(self, raw: Tensor) -> Tensor:
        return raw.unflatten(-1, (self.n, self.d))

    def write(self, raw: Tensor, value: Tensor) -> Tensor:
        del raw
        return value.flatten(-2)


@dataclass(frozen=True)
class Slice(View):
    """Columns `start:stop` of a fused projection, split into heads when `heads` is given."""

    start: int
    stop: int
    heads: Heads | None = None

    def read(self, raw: Tensor) -> Tensor:
        part = raw[..., self.start : self.stop]
        return part if self.heads is None else self.heads.read(part)

    def write(self, raw: Tensor, value: Tensor) -> Tensor:
        whole = raw.clone()
        whole[..., self.start : self.stop] = value if self.heads is None else value.flatten(-2)
        return whole


@dataclass(frozen=True)
class Interleaved(View):
    """Part `index` of `parts` inside every head of a fused projection (GPT-NeoX, Bloom)."""

    n: int
    d: int
    index: int
    parts: int = 3

    def read(self, raw: Tensor) -> Tensor:
        return raw.unflatten(-1, (self.n, self.parts, self.d))[..., self.index, :]

    def write(self, raw: Tensor, value: Tensor) -> Tensor:
        whole = raw.unflatten(-1, (self.n, self.parts, self.d)).clone()
        whole[..., self.index, :] = value
        return whole.flatten(-3)


class Flattened(View):
    """`[batch * pos, d]` seen as `[batch, pos, d]` (OPT's MLP half).

    `source` is the block whose input still has both axes; `taps.py` notes its shape on the way in.
    """

    def __init__(self, source: nn.Module) -> None:
        self.source = source
        self.leading: tuple[int, ...] = ()

    def read(self, raw: Tensor) -> Tensor:
        return raw.reshape(*self.leading, raw.shape[-1])

    def write(self, raw: Tensor, value: Tensor) -> Tensor:
        return value.reshape(raw.shape)


AXES = {
    "hook_q_input": "batch pos head d_model",
    "hook_k_input": "batch pos kv_head d_model",
    "hook_v_input": "batch pos kv_head d_model",
    "hook_q": "batch pos head d_head",
    "hook_k": "batch pos kv_head d_head",
    "hook_v": "batch pos kv_head d_head",
    "hook_rot_q": "batch pos head d_head",
    "hook_rot_k": "batch pos kv_head d_head",
    "hook_z": "batch pos head d_head",
    "hook_result": "batch pos head d_model",
    "hook_attn_scores": "batch head pos key_pos",
    "hook_pattern": "batch head pos key_pos",
    "hook_scale": "batch pos 1",
    "hook_normalized": "batch pos d_model",
    "hook_pre": "batch pos d_mlp",
    "hook_pre_linear": "batch pos d_mlp",
    "hook_mid": "batch pos d_mlp",
    "hook_post": "batch pos d_mlp",
}
"""Axes by the last part of a TransformerLens name; the residual stream is the rest."""


_PLACE = re.compile(
    r"(?P<first>(?:(?P<path>.+)\.)?(?P<end>hook_in|hook_out))(?:\.(?P<tensor>[^*?\[]+))?", re.DOTALL
)
"""The tensors of a module by its path: the first of its inputs or outputs, or the one named."""


def axes_of(name: str) -> str:
    """Axis names of a TransformerLens hook point, from its name alone."""
    last = name.rpartition(".")[2]
    if last in ("hook_scale", "hook_normalized") and ".mlp." in name:
        return ""
    return AXES.get(last, "batch pos d_model" if last.startswith("hook_") else "")


@dataclass(frozen=True, eq=False)
class Site:
    """One named activation.

    Attributes:
        name: TransformerLens's name, or `<module path>.hook_in` / `.hook_out`.
        module: The torch module at which the hook sits.
        kind: How it is reached, see `Kind`.
        axes: Axis names, e.g. "batch pos d_model".
        sizes: Known size per axis; None where the input decides.
        view: From the raw tensor to the activation and back; None for the tensor itself.
        slot: For attention sites, which quantity ("rot_q", "rot_k", "scores", "sink", "pattern");
            for inputs and outputs, which of several tensors (places.py), empty for the first.
        partner: What else the site needs: W_O for per-head results, the coder for its latents.
    """

    name: str
    module: nn.Module
    kind: Kind
    axes: str = ""
    sizes: tuple[int | None, ...] = ()
    view: View | None = None
    slot: str = ""
    partner: object = None
    call: int | None = None
    """Which run of the module this is, where several blocks share one (ALBERT); None for its only one."""
    volatile: bool = False
    """A later module overwrites this tensor in place (the proof finds out): pass on a copy."""

    def further(self, path: str) -> Site:
        """Another tensor of the same module's input or output (places.py)."""
        return Site(f"{self.name}.{path}", self.module, self.kind, "...", slot=path)

    @property
    def layer(self) -> int | None:
        """The block number in the name, or None."""
        found = re.search(r"blocks\.(\d+)\.", self.name)
        return int(found.group(1)) if found else None

    @cached_property
    def volume(self) -> tuple[int, int, int] | None:
        """Numbers per (row, position), and how often the axes count rows and positions.

        None where the axes' sizes are not known before the input.
        """
        axes = self.axes.split()
        if len(axes) != len(self.sizes):
            return None
        open_axes = [a for a, size in zip(axes, self.sizes, strict=True) if size is None]
        known = prod(size for size in self.sizes if size is not None)
        return known, open_axes.count("batch"), open_axes.count("pos") + open_axes.count("key_pos")

    @property
    def unexplored(self) -> bool:
        """A module's own tensor: nobody has looked whether later modules write into it."""
        return self.kind in ("in", "out") and "pos" not in self.axes.split()

    @property
    def short(self) -> str:
        """The part of the name after the block, e.g. `attn.hook_z`."""
        return re.sub(r"^.*blocks\.\d+\.", "", self.name)

    def describe(self) -> str:
        """Axes with their known sizes: `batch pos head=4 d_head=16`."""
        named = self.axes.split()
        if len(named) != len(self.sizes):
            return self.axes
        return " ".join(
            a if n is None or a == "1" else f"{a}={n}" for a, n in zip(named, self.sizes, strict=True)
        )


@dataclass
class SiteMap(Mapping[str, Site]):
    """The sites of one model, in the order in which they fire.

    Iterating gives the listed names. Looking up also resolves any `<module path>.hook_in/.hook_out`
    of the raw module and a call index (`cell.hook_out#3` is the fourth time that module runs, `#*`
    every time).
    """

    listed: dict[str, Site]
    root: nn.Module
    where: str = "this model"
    refused: dict[str, str] = field(default_factory=dict)
    """Names the field would expect here, with the reason they are not offered."""
    unlisted: dict[str, Site] = field(default_factory=dict)
    """Sites that cost much or change how the model computes: only for who names them."""
    _modules: dict[str, nn.Module] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __getitem__(self, name: str) -> Site:
        site = self._find(name)
        if site is None:
            raise self.unknown(name)
        return site

    def shape(self, name: str) -> str:
        """Axes and sizes of a site, e.g. `batch pos d_model=64`."""
        return self[name].describe()

    def learn(self, found: Iterable[Site]) -> None:
        """Sites that a run came across: from now on they are suggested, and match globs."""
        new = {s.name: s for s in found if self.unlisted.get(s.name) is None}
        if new:  # a dict of its own: another thread may be reading the old one
            self.unlisted = {**self.unlisted, **new}

    def resolve(self, wanted: object) -> list[str]:
        """Names, globs, predicates or an iterable of them -> site names, before anything runs.

        Args:
            wanted: A name, a glob (`blocks.*.hook_resid_post`), a predicate over names, an
                iterable of these, or None for every listed site.

        Raises:
            SiteError: Naming what matched nothing and the three nearest names.
        """
        if wanted is None:
            return list(self.listed)
        if isinstance(wanted, str):
            if wanted in self.listed:
                return [wanted]
            return self._resolve_text(wanted)
        if callable(wanted):
            return match(lambda n: bool(wanted(n)), list(self.listed), where=self.where)
        if not isinstance(wanted, Iterable):
            raise SiteError(
                f"cannot read {type(wanted).__name__} as a choice of sites",
                got=repr(wanted),
                expected="a name, a glob, a predicate, or a list of them",
            )
        names: dict[str, None] = {}
        for part in wanted:
            names.update(dict.fromkeys(self.resolve(part)))
        if not names:
            raise SiteError(
                f"no site was asked for in {self.where}",
                got="an empty list",
                expected="at least one site name or glob",
                fix="list(model.sites) shows them all",
            )
        return list(names)

    def unknown(self, name: str) -> SiteError:
        """The error for a name that is not here, with the reason if it was refused."""
        bare = name.partition("#")[0]
        if bare in self.refused:
            return SiteError(
                f"{self.where} does not offer {bare!r}: {self.refused[bare]}",
                got=name,
                fix="list(model.sites) shows the sites that really work here",
            )
        near = suggest(bare, [*self.listed, *self.unlisted])
        fix = "did you mean " + " or ".join(repr(n) for n in near) + "?" if near else None
        return SiteError(f"no site {name!r} in {self.where}", got=name, fix=fix)

    def _resolve_text(self, text: str) -> list[str]:
        if self._find(text) is not None:
            return [text]
        if any(c in text for c in "*?["):
            hidden = fnmatch.filter(self.unlisted, text)
            if hidden and not fnmatch.filter(self.listed, text):
                return hidden
            return match(text, list(self.listed), where=self.where)
        if text in self.refused:
            raise self.unknown(text)
        return match(text, list(self.listed), where=self.where)

    def _find(self, name: str) -> Site | None:
        site = self.listed.get(name) or self.unlisted.get(name)
        if site is not None:
            return site
        bare, hash_, call = name.partition("#")
        if hash_ and not (call.isdigit() or call == "*"):
            return None
        if hash_:
            site = self.listed.get(bare) or self.unlisted.get(bare)
        return site or self._module_site(bare)

    def _module_site(self, name: str) -> Site | None:
        """Any module of the raw model is addressable by its own path, any tensor by its own."""
        found = _PLACE.fullmatch(name)
        if found is None:
            return None
        first, path, end, tensor = found.group("first", "path", "end", "tensor")
        site = self.listed.get(first) or self.unlisted.get(first)
        if site is None or site.kind not in ("in", "out") or site.slot:
            if self._modules is None:
                self._modules = dict(self.root.named_modules())
            module = self._modules.get(path or "")  # the root's own input and output, too
            if module is None:
                return None
            site = Site(first, module, "in" if end == "hook_in" else "out", "...")
        return site if tensor is None else site.further(tensor)
