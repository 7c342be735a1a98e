"""Coders inside a model: their latents and their error become ordinary sites.

For a coder from `site_in` to `site_out`: out = decode(latents) + error, where
error = activation - decode(encode(activation)) is held fixed while latents are edited. A coder
with a method `skip(x)` (a linear path around the latents) has that added to what it decodes.
Marks et al. 2024 (Sparse Feature Circuits), eq. 2; names as in SAELens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from interp.core.errors import ShapeError
from interp.core.protocols import Coder
from interp.models.sites import Site, SiteMap
from interp.models.taps import Tap

LATENTS, ERROR = "hook_sae_acts_post", "hook_sae_error"


@dataclass(frozen=True, eq=False)
class Splice:
    """One coder at its place; `error_term=False` lets the reconstruction stand alone."""

    coder: Coder
    site_in: Site
    site_out: Site
    error_term: bool

    @classmethod
    def of(cls, coder: Coder, sites: SiteMap, error_term: bool) -> Splice:
        """Find the coder's sites in a model.

        Raises:
            SiteError: The model has no such site.
            ShapeError: The coder's width is not the site's.
        """
        into, out = sites[coder.site_in], sites[coder.site_out]
        for site, width, which in (
            (into, coder.W_enc.shape[0], "W_enc"),
            (out, coder.W_dec.shape[1], "W_dec"),
        ):
            known = [n for n in site.sizes[2:] if n is not None]
            product = 1
            for n in known:
                product *= n
            if known and width not in (known[-1], product):
                raise ShapeError(
                    f"the coder does not fit {site.name!r}",
                    got=f"{which} of width {width}",
                    expected=f"{product} ({site.describe()})",
                )
        return cls(coder, into, out, error_term)

    @property
    def latents(self) -> str:
        """Name of the latents' site."""
        return f"{self.site_in.name}.{LATENTS}"

    @property
    def error(self) -> str:
        """Name of the error's site."""
        return f"{self.site_out.name}.{ERROR}"

    def insert(self, listed: dict[str, Site]) -> dict[str, Site]:
        """The site list with this coder's sites after the ones they sit on."""
        n_latents = int(self.coder.W_dec.shape[0])
        d_out = int(self.coder.W_dec.shape[1])
        new: dict[str, Site] = {}
        for name, site in listed.items():
            new[name] = site
            if name == self.site_in.name:
                new[self.latents] = self._site(self.latents, "batch pos latent", n_latents)
            if name == self.site_out.name and self.error_term:
                new[self.error] = self._site(self.error, "batch pos d_model", d_out)
        return new

    def attach(self, taps: dict[str, Tap], sites: SiteMap) -> None:
        """Add to a run what this coder needs: nothing while nobody asks for its sites."""
        latents, error = taps.get(self.latents), taps.get(self.error)
        if self.error_term and latents is None and error is None:
            return
        state: dict[str, Any] = {}

        def read(value: Tensor, hook: Tap) -> None:
            x = self._flat(value, self.coder.W_enc.shape[0])
            found = self.coder.encode(x)
            new = None if latents is None else _edited(latents, found)
            state.update(x=x, found=found, used=found if new is None else new)
            state["changed"] = new is not None

        def write(value: Tensor, hook: Tap) -> Tensor | None:
            out = self._decode(state["used"], state["x"])
            if self.error_term:
                target = self._flat(value, self.coder.W_dec.shape[1])
                rest = (target - self._decode(state["found"], state["x"])).detach()
                new = None if error is None else _edited(error, rest)
                if new is None and not state["changed"]:
                    return None
                out = out + (rest if new is None else new)
            return out.reshape(value.shape).to(value.dtype)

        self._tap(taps, sites, self.site_in.name).edits.insert(0, read)
        place = 1 if self.site_in.name == self.site_out.name else 0
        self._tap(taps, sites, self.site_out.name).edits.insert(place, write)

    def _decode(self, latents: Tensor, x: Tensor) -> Tensor:
        """The reconstruction, with the path around the latents where the coder has one."""
        path = getattr(self.coder, "skip", None)
        out = self.coder.decode(latents)
        return out if path is None else out + path(x)

    def _flat(self, value: Tensor, width: int) -> Tensor:
        """Heads side by side where the coder reads them so, in the coder's dtype."""
        x = value if value.shape[-1] == width else value.flatten(-2)
        return x.to(self.coder.W_enc.dtype)

    def _site(self, name: str, axes: str, width: int) -> Site:
        return Site(name, self.site_in.module, "splice", axes, (None, None, width), partner=self)

    @staticmethod
    def _tap(taps: dict[str, Tap], sites: SiteMap, name: str) -> Tap:
        if name not in taps:
            taps[name] = Tap(sites[name], name)
        return taps[name]


def _edited(tap: Tap, value: Tensor) -> Tensor | None:
    """What the hooks at a spliced site make of a value, None if nothing; in place counts, too."""
    given = value.clone() if tap.edits else value  # the value itself is still needed
    new = tap.fire(given)
    if new is None and tap.edits and (given.is_inference() or given._version):
        return given
    return new
