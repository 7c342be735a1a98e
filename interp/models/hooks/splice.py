"""Coders inside a model: their latents and their errors become ordinary sites.

For a coder that reads some sites and writes others: out = decode(latents) + error at each site it
writes, where error = activation - decode(encode(activations)) is held fixed while latents are
edited. A coder with a method `skip(x)` (a linear path around the latents) has that added to what
it decodes. Marks et al. 2024 (Sparse Feature Circuits), eq. 2; names as in SAELens.

Latents are made where the last of their inputs is reached. A coder that writes before it has read
everything (a cross-layer transcoder) encodes and decodes site by site: `encode_at`, `decode_at`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import EditError, ModelError, ShapeError, SiteError
from interp.models.hooks.sites import Site, SiteMap
from interp.models.hooks.taps import Owner, Tap

LATENTS, ERROR = "hook_sae_acts_post", "hook_sae_error"


@dataclass(frozen=True, eq=False)
class Splice:
    """One coder at its places; `error_term=False` lets the reconstruction stand alone.

    Attributes:
        into, out: The sites read and written (never none), in the order in which they run.
        staged: Whether the coder works site by site.
    """

    coder: Any
    into: list[Site]
    out: list[Site]
    error_term: bool
    staged: bool = False

    @classmethod
    def of(cls, coder: Any, sites: SiteMap, error_term: bool) -> Splice:
        """Find the coder's sites in a model.

        Raises:
            ModelError: It is no coder.
            SiteError: The model has no such site, or one is written before everything is read.
            ShapeError: The coder's width is not the site's.
        """
        _refuse_stranger(coder)
        order = {name: i for i, name in enumerate(sites)}

        def found(names: Sequence[str]) -> list[Site]:
            return sorted((sites[n] for n in names), key=lambda s: order.get(s.name, 0))

        made = cls(
            coder,
            found(getattr(coder, "sites_in", None) or (coder.site_in,)),
            found(getattr(coder, "sites_out", None) or (coder.site_out,)),
            error_term,
            staged=hasattr(coder, "encode_at") and hasattr(coder, "decode_at"),
        )
        made._check_widths()
        made._check_order(order)
        return made

    @property
    def reads_sequence(self) -> bool:
        """Whether a latent depends on other positions, so that a cache hides what it needs."""
        return bool(getattr(self.coder, "reads_sequence", False))

    def insert(self, listed: dict[str, Site]) -> dict[str, Site]:
        """The site list with this coder's sites after the ones they sit on.

        Raises:
            SiteError: Another coder's latents or error have the same name.
        """
        own = self._own_sites()
        for name in own:
            if name in listed:
                raise SiteError(
                    "another coder has its sites there already",
                    got=name,
                    fix="splice each coder into a view of its own: model.with_coder(one)",
                )
        after: dict[str, list[Site]] = {}
        for site in own.values():
            after.setdefault(site.name.rpartition(".")[0], []).append(site)
        new: dict[str, Site] = {}
        for name, site in listed.items():
            new[name] = site
            new.update((s.name, s) for s in after.pop(name, ()))
        # Sites known only by name (a large one such as hook_result): at the end, but there.
        new.update((s.name, s) for rest in after.values() for s in rest)
        return new

    def attach(self, owner: Owner) -> None:
        """Add to a pass what this coder needs: nothing while nobody asks for its sites."""
        known = {n: t for n, s in self._own_sites().items() if (t := owner.known(s)) is not None}
        if self.error_term and not known:
            return
        spliced = _Spliced(self, owner, known)
        both = {s.name for s in self.into} & {s.name for s in self.out}
        for site in self.into:
            tap = owner.tap(site, site.name)
            if site.name in both:
                tap.before = (*tap.before, spliced.read)
            else:
                tap.after = (*tap.after, spliced.read)
        for site in self.out:
            written = owner.tap(site, site.name)
            written.before = (*written.before, spliced.write)

    # --- names and sizes -----------------------------------------------------------------------

    def latents_at(self, site: str) -> str:
        """The name of the latents that are complete once `site` is reached."""
        return f"{site if self.staged else self.into[-1].name}.{LATENTS}"

    def _own_sites(self) -> dict[str, Site]:
        places = self.into if self.staged else self.into[-1:]
        found: dict[str, Site] = {}
        for place in places:
            name = f"{place.name}.{LATENTS}"
            sizes = (None, None, self._n_latents(place.name))
            found[name] = self._site(place, name, "batch pos latent", sizes)
        for place in self.out if self.error_term else ():
            name = f"{place.name}.{ERROR}"
            sizes = (None, None, _width(place))
            found[name] = self._site(place, name, "batch pos d_model", sizes)
        return found

    def _site(self, place: Site, name: str, axes: str, sizes: tuple[int | None, ...]) -> Site:
        return Site(name, place.module, "splice", axes, sizes, partner=self)

    def _n_latents(self, site: str) -> int | None:
        count = getattr(self.coder, "n_latents", None)
        if isinstance(count, Mapping):
            count = count[site]
        if count is None and getattr(self.coder, "W_dec", None) is not None:
            count = self.coder.W_dec.shape[0]
        return None if count is None else int(count)

    def _check_widths(self) -> None:
        if len(self.into) > 1 or len(self.out) > 1:
            return
        for site, width, which in (
            (self.into[0], self.coder.W_enc.shape[0], "W_enc"),
            (self.out[0], self.coder.W_dec.shape[1], "W_dec"),
        ):
            known = [n for n in site.sizes[2:] if n is not None]
            if known and width not in (known[-1], prod(known)):
                raise ShapeError(
                    f"the coder does not fit {site.name!r}",
                    got=f"{which} of width {width}",
                    expected=f"{prod(known)} ({site.describe()})",
                )

    def _check_order(self, order: Mapping[str, int]) -> None:
        last, first = self.into[-1].name, self.out[0].name
        early = last in order and first in order and order[first] < order[last]
        if early and not self.staged and not self.error_term:
            raise SiteError(
                f"{first!r} is written before {last!r} is read",
                got="a coder without encode_at and decode_at, and error_term=False",
                fix="error_term=True, which only reads until a latent is edited",
            )


class _Spliced:
    """One coder in one pass: what it has read, what its latents became."""

    def __init__(self, splice: Splice, owner: Owner, known: Mapping[str, Tap]) -> None:
        self.splice, self.coder, self.owner, self.known = splice, splice.coder, owner, known
        self.x: dict[str, Tensor] = {}
        self.found: dict[str, Tensor] = {}
        self.used: dict[str, Tensor] = {}
        self.edited = False
        self.missed: list[str] = []
        self.rebuilt: dict[str, dict[str, Tensor]] = {"found": {}, "used": {}}

    def read(self, value: Tensor, hook: Tap) -> None:
        """Take in one site; make the latents once everything they need is there."""
        self._refuse_cached(hook)
        name, splice = hook.site.name, self.splice
        self.x[name] = self._flat(value, hook.site, self._width("W_enc", 0))
        if splice.staged:
            latents = self.coder.encode_at(name, self.x[name])
        elif len(self.x) < len(splice.into):
            return
        else:
            given = self.x if len(splice.into) > 1 or len(splice.out) > 1 else self.x[name]
            latents = self.coder.encode(given, **self._mask(hook))
        tap = self.known.get(splice.latents_at(name))
        new = None if tap is None else tap.fire(latents)
        self.found[name] = latents
        self.used[name] = latents if new is None else new
        self.edited |= new is not None
        if new is not None and self.missed:
            raise EditError(
                f"the latents at {name!r} were edited after a site they write had been passed",
                got=", ".join(self.missed),
                fix="a coder that writes site by site (encode_at, decode_at)",
            )

    def write(self, value: Tensor, hook: Tap) -> Tensor | None:
        """What stands at a site that the coder writes; None while nothing differs."""
        splice, site = self.splice, hook.site
        ready = bool(self.found) if splice.staged else len(self.x) == len(splice.into)
        if not ready:
            if not splice.error_term:
                raise ModelError(
                    f"{site.name!r} was reached before its coder had read anything",
                    expected=f"{', '.join(s.name for s in splice.into)} to run first",
                )
            self.missed.append(site.name)
            return None
        out = self._decode(self.used, "used", site.name)
        if splice.error_term:
            target = self._flat(value, site, self._width("W_dec", 1))
            rest = (target - self._decode(self.found, "found", site.name)).detach()
            tap = self.known.get(f"{site.name}.{ERROR}")
            new = None if tap is None else tap.fire(rest)
            if new is None and not self.edited:
                return None
            out = out + (rest if new is None else new)
        return out.reshape(value.shape).to(value.dtype)

    def _decode(self, latents: dict[str, Tensor], which: str, site: str) -> Tensor:
        """The reconstruction, with the path around the latents where the coder has one."""
        splice = self.splice
        if splice.staged:
            return self.coder.decode_at(site, latents)
        last = latents[next(reversed(latents))]
        if len(splice.into) > 1 or len(splice.out) > 1:
            if not self.rebuilt[which]:
                self.rebuilt[which] = dict(self.coder.decode(last))
            return self.rebuilt[which][site]
        out, path = self.coder.decode(last), getattr(self.coder, "skip", None)
        return out if path is None else out + path(self.x[splice.into[0].name])

    def _width(self, matrix: str, axis: int) -> int | None:
        if len(self.splice.into) > 1 or len(self.splice.out) > 1 or self.splice.staged:
            return None
        return int(getattr(self.coder, matrix).shape[axis])

    def _flat(self, value: Tensor, site: Site, width: int | None) -> Tensor:
        """Heads side by side where the coder reads them so, in the coder's dtype."""
        heads = value.dim() == 4 and site.axes.split()[-2:-1] != ["pos"]
        x = value.flatten(-2) if heads and value.shape[-1] != width else value
        dtype = _dtype(self.coder)
        return x if dtype is None else x.to(dtype)

    def _mask(self, hook: Tap) -> dict[str, Any]:
        if "mask" not in inspect.signature(self.coder.encode).parameters:
            return {}
        side = self.owner.side(hook.site)
        return {"mask": None if side is None else side.mask}

    def _refuse_cached(self, hook: Tap) -> None:
        side = self.owner.side(hook.site) if self.splice.reads_sequence else None
        if side is not None and side.cached:
            raise ModelError(
                "this coder reads whole sequences, and this pass computes only their end",
                got=f"{side.cached} tokens in the cache",
                fix="use_cache=False",
            )


def _width(site: Site) -> int | None:
    known = site.sizes[2:]
    return prod(n for n in known if n is not None) if known and None not in known else None


def _refuse_stranger(coder: Any) -> None:
    """Refuse what has no sites to read and write, or cannot encode and decode.

    Raises:
        ModelError: Naming what is missing; how to bring in an SAE of sae-lens.
    """
    parts = ("encode_at", "decode_at") if hasattr(coder, "encode_at") else ("encode", "decode")
    placed = all(hasattr(coder, s) or hasattr(coder, f"{s[:4]}s{s[4:]}") for s in ("site_in", "site_out"))
    if placed and not isinstance(coder, type) and all(callable(getattr(coder, p, None)) for p in parts):
        return
    theirs = any(kind.__module__.partition(".")[0] == "sae_lens" for kind in type(coder).__mro__)  # pyright: ignore
    raise ModelError(
        "this is no coder that a model could be given",
        got=repr(coder)[:80],
        expected="an object with encode, decode, site_in and site_out, such as a Dictionary",
        fix="with_coder(interp.dictionaries.from_saelens(sae))"
        if theirs
        else "interp.dictionaries.load(folder)",
    )


def _dtype(coder: Any) -> torch.dtype | None:
    weight = getattr(coder, "W_enc", None)
    if isinstance(weight, Tensor):
        return weight.dtype
    parameters: Any = getattr(coder, "parameters", None) or list
    first: Any = next(iter(parameters()), None)
    return None if first is None else first.dtype
