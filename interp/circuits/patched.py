"""A forward pass in which every reader sees a stream of its own: some edges carry something else.

A reader's input is x − Σ m (a − a'), x the stream as it is now, a what a writer adds now, a' what
stands for it, m the share of the edge that is exchanged (1: ablated). Everything above stays live.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp.circuits.wires import Group, Wiring
from interp.models.stream.frozen import wide
from interp.models.stream.readers import Reader
from interp.models.stream.writers import Writer
from interp.models.text.batch import TokenBatch


def becomes(value: Tensor) -> Callable[..., Tensor]:
    """A hook after which a site holds `value`."""
    return lambda held, hook: value


class PatchedRun:
    """One run under a mask of edges.

    Args:
        exchanged: Share of each edge that carries `instead`, [writer reader]; it may want a gradient.
            With [run writer reader] the batch is that many blocks of rows, each under its own mask.
        instead: [writer batch pos d_model], of the whole batch or of each block alike.
    """

    def __init__(self, wires: Wiring, exchanged: Tensor, instead: Tensor) -> None:
        runs = exchanged if exchanged.dim() == 3 else exchanged[None]
        self.wires, self.exchanged, self.instead = wires, runs, instead
        self._seen: dict[str, Tensor] = {}
        self._apart: list[Tensor] = []

    def __call__(self, batch: TokenBatch) -> Any:
        """The model's output."""
        self._seen, self._apart = {}, []
        return self.wires.model.run_with_hooks(batch, self._hooks())

    def _hooks(self) -> list[tuple[str, Callable[..., Any]]]:
        """In the order in which they act where several stand at one site."""
        wires = self.wires
        hooks: list[tuple[str, Callable[..., Any]]] = []
        edited = [(r, g) for r, g in wires.readers if self._touches(g)]
        streams = {reader.stream for reader, _ in edited}
        for site in dict.fromkeys([*wires.sites, *streams]):
            hooks.append((site, partial(self._keep, site)))
        hooks += [(reader.site, partial(self._edit, reader, group)) for reader, group in edited]
        return hooks

    def _touches(self, group: Group) -> bool:
        share = self.exchanged[..., group.span]
        return share.requires_grad or bool(share.any())

    def _keep(self, site: str, value: Tensor, hook: Any) -> None:
        # Later edits of the same tensor must not reach what was seen here.
        self._seen[site] = value

    def _edit(self, reader: Reader, group: Group, value: Tensor, hook: Any) -> Tensor:
        n = self.wires.upstream(group)
        share = self.exchanged[:, :n, group.span].to(self.instead)
        self._until(n)
        apart = torch.cat(self._apart)[:n]
        blocks = apart.reshape(n, len(share), -1)
        missing = torch.einsum("gnr,ngx->rgx", share, blocks).reshape(-1, *apart.shape[1:])
        x = wide(self._seen[reader.stream])
        if not reader.of_heads:
            return reader.read(x - missing[0]).to(value.dtype)
        made = reader.read_apart(x - missing).to(value.dtype)
        if share.requires_grad:
            return made
        whole = (share == 0).all(1).repeat_interleave(len(value) // len(share), 0)
        return torch.where(whole[:, None, :, None], value, made)  # untouched heads stay bit for bit

    def _until(self, n: int) -> None:
        """a − a' of the first n writers, made once all of a place have written."""
        have = sum(len(part) for part in self._apart)
        places: list[tuple[int, int, Writer | str]] = [
            (i, 1, site) for i, site in enumerate(self.wires.embeddings)
        ]
        places += [(group.start, group.n, writer) for writer, group in self.wires.sources]
        for start, count, what in places:
            if start < have or start >= n:
                continue
            if isinstance(what, Writer):
                now = self.wires.written(what, self._seen)
            else:
                now = self.wires.embedded(what, self._seen)
            stands = self.instead[start : start + count]
            stands = stands.repeat(1, now.shape[1] // stands.shape[1], 1, 1)
            self._apart.append(now - stands)
            have += count
