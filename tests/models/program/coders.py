"""Coders of every shape that a model can carry, small and random; they belong to the tests."""

from __future__ import annotations

import torch
from torch import Tensor


def _draw(seed: int, *shape: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=source, dtype=torch.float64) / shape[0] ** 0.5


class Plain:
    """Reads one site, writes one: a dictionary where they are the same, else a transcoder."""

    def __init__(self, site_in: str, site_out: str, width_in: int, width_out: int) -> None:
        self.site_in, self.site_out = site_in, site_out
        self.W_enc, self.W_dec = _draw(1, width_in, 11), _draw(2, 11, width_out)
        self.b = _draw(3, 11)
        self.n_latents = 11

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.W_enc.to(x) + self.b.to(x))

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.W_dec.to(z)


class Skipping(Plain):
    """With a linear path around the latents."""

    def skip(self, x: Tensor) -> Tensor:
        return x @ _draw(4, x.shape[-1], self.W_dec.shape[1]).to(x)


class Several:
    """Reads two sites at once and writes two later ones, from one set of latents."""

    def __init__(self, into: tuple[str, ...], out: tuple[str, ...], width_in: int, width_out: int) -> None:
        self.sites_in, self.sites_out = into, out
        self.enc = {s: _draw(10 + i, width_in, 11) for i, s in enumerate(into)}
        self.dec = {s: _draw(20 + i, 11, width_out) for i, s in enumerate(out)}
        self.n_latents = 11
        # What every coder of the package carries; a coder of several sites has no one of each.
        self.site_in, self.site_out = into[-1], out[-1]
        self.W_enc, self.W_dec = self.enc[into[-1]], self.dec[out[-1]]

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        return torch.relu(sum(x[s] @ w.to(x[s]) for s, w in self.enc.items()))  # type: ignore[arg-type]

    def decode(self, z: Tensor) -> dict[str, Tensor]:
        return {s: z @ w.to(z) for s, w in self.dec.items()}


class Staged:
    """Reads and writes site by site: what it writes depends on everything read so far."""

    def __init__(self, into: tuple[str, ...], out: tuple[str, ...], width_in: int, width_out: int) -> None:
        self.sites_in, self.sites_out = into, out
        self.enc = {s: _draw(30 + i, width_in, 11) for i, s in enumerate(into)}
        self.dec = {
            (a, b): _draw(40 + 7 * i + j, 11, width_out)
            for i, a in enumerate(into)
            for j, b in enumerate(out)
        }
        self.n_latents = dict.fromkeys(into, 11)
        self.site_in, self.site_out = into[-1], out[-1]
        self.W_enc, self.W_dec = self.enc[into[-1]], self.dec[into[-1], out[-1]]

    def encode(self, x: Tensor) -> Tensor:
        raise NotImplementedError("site by site")

    def decode(self, z: Tensor) -> Tensor:
        raise NotImplementedError("site by site")

    def encode_at(self, site: str, x: Tensor) -> Tensor:
        return torch.relu(x @ self.enc[site].to(x))

    def decode_at(self, site: str, latents: dict[str, Tensor]) -> Tensor:
        return sum(z @ self.dec[s, site].to(z) for s, z in latents.items())  # type: ignore[return-value]


Coder = Plain | Several | Staged
