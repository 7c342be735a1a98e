"""How rooms meet without importing each other: shapes of objects, checked structurally."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Coder(Protocol):
    """A dictionary as a model sees it: reads `site_in`, writes an estimate of `site_out`.

    An SAE has one site for both, a transcoder two. `model.with_coder` splices any of these in.
    """

    @property
    def site_in(self) -> str:
        """Site read."""
        ...

    @property
    def site_out(self) -> str:
        """Site written."""
        ...

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_dict"]:
        """Encoder, one column per latent."""
        ...

    @property
    def W_dec(self) -> Float[Tensor, "d_dict d_out"]:
        """Decoder, one row per latent."""
        ...

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_dict"]:
        """Latents of activations."""
        ...

    def decode(self, z: Float[Tensor, "*batch d_dict"]) -> Float[Tensor, "*batch d_out"]:
        """Activations from latents, in the raw units of `site_out`."""
        ...


@runtime_checkable
class CoderOfSites(Protocol):
    """A dictionary that reads or writes several sites: a crosscoder, a cross-layer transcoder.

    One that writes a site before it has read all of its own also has `encode_at(site, x)` and
    `decode_at(site, {site read: latents})`, and `n_latents` for each site that it reads. One whose
    latents depend on other positions sets `reads_sequence`; `encode` may take the `mask` of real
    tokens [batch pos].
    """

    @property
    def sites_in(self) -> Sequence[str]:
        """Sites read."""
        ...

    @property
    def sites_out(self) -> Sequence[str]:
        """Sites written."""
        ...
