"""Shuffled activation batches that depend on (seed, t) alone.

An epoch is a seeded permutation of the sequences, cut into blocks of `buffer_sequences`; each
block is captured in one go and its rows are shuffled by a permutation of their own. The rows of
all blocks of all epochs, one after another, are the stream; batch t is rows t * B to (t + 1) * B.
So every row comes once per epoch, nothing is saved, and any batch can be asked for at any time
(in order it costs one forward pass per sequence; out of order, one block per batch).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.config import StreamConfig
from interp.activations.dtypes import dtype_of
from interp.activations.text import TokenSequences
from interp.core.errors import ConfigError, MemoryBudgetError, SiteError
from interp.core.provenance import Provenance
from interp.core.randomness import permutation


class Piece(NamedTuple):
    """Rows `start` to `stop` of the shuffled block `block` of `epoch`."""

    epoch: int
    block: int
    start: int
    stop: int


class RowOrder:
    """Which token position is row i of the stream: arithmetic and permutations, no model.

    Args:
        rows: `[sequence]`, how many rows each sequence gives.
        block_size: Sequences per block.
        seed: With (epoch, block) it decides every order.
    """

    def __init__(self, rows: Int[Tensor, " sequence"], block_size: int, seed: int) -> None:
        self.rows = rows
        self.block_size = block_size
        self.seed = seed
        self.per_epoch: int = int(rows.sum())
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._shuffle = lru_cache(maxsize=2)(self._make_shuffle)

    def sequences(self, epoch: int, block: int) -> Int[Tensor, " sequence"]:
        """Numbers of the sequences in a block."""
        order, _ = self._epoch(epoch)
        return order[block * self.block_size : (block + 1) * self.block_size]

    def shuffled(self, epoch: int, block: int) -> Int[Tensor, " row"]:
        """Position i of the shuffled block is this row of the block as captured."""
        return self._shuffle(epoch, block)

    def pieces(self, first: int, n: int) -> Iterator[Piece]:
        """Where rows `first` to `first + n` of the stream lie, in order."""
        while n > 0:
            epoch, offset = divmod(first, self.per_epoch)
            _, ends = self._epoch(epoch)
            block = int(torch.searchsorted(ends, offset, right=True))
            begins = int(ends[block - 1]) if block else 0
            taken = min(n, int(ends[block]) - offset)
            yield Piece(epoch, block, offset - begins, offset - begins + taken)
            first, n = first + taken, n - taken

    def _make_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The order of sequences, and the row at which each block ends."""
        order = permutation(len(self.rows), self.seed, "stream/sequences", epoch)
        totals = self.rows[order].cumsum(0)
        last = torch.arange(self.block_size, len(order) + self.block_size, self.block_size) - 1
        return order, totals[last.clamp(max=len(order) - 1)]

    def _make_shuffle(self, epoch: int, block: int) -> Tensor:
        n = int(self.rows[self.sequences(epoch, block)].sum())
        return permutation(n, self.seed, f"stream/rows/{epoch}", block)


class ActivationStream:
    """A model and text, seen as an endless sequence of shuffled activation batches.

    Streams over the same tokens with the same config give the same rows in the same order,
    whatever the model and sites (two models side by side, for model diffing).

    Args:
        model: A `HookedModel`.
        sites: Names, globs or predicates of sites `[batch pos ...]`; all come from one pass. What
            lies beyond the position (heads, say) is flattened.
        tokens: `TokenSequences`, or anything `TokenSequences.of` takes.
        config: Batch size, buffer, seed.

    Raises:
        SiteError: A site that does not exist or has no rows (attention patterns).
        ConfigError: Fewer rows than one batch, or settings that cannot be.
    """

    def __init__(self, model: Any, sites: Any, tokens: Any, config: StreamConfig | None = None) -> None:
        config = config or StreamConfig()
        self.config: StreamConfig = config
        self.model = model
        self.sites: list[str] = model.sites.resolve(sites)
        for site in self.sites:
            _require_rows(site, model.sites.shape(site))
        self.tokens: TokenSequences = TokenSequences.of(tokens)
        self.dtype: torch.dtype | None = dtype_of(config.dtype)
        self._bos = model.tokenization.bos_id if config.exclude_bos else None
        self.order: RowOrder = RowOrder(self._count_rows(), config.buffer_sequences, config.seed)
        if self.order.per_epoch < config.batch_size:
            raise ConfigError(
                "the text is shorter than one batch",
                got=f"{self.order.per_epoch} rows in {len(self.tokens)} sequences",
                expected=f"at least batch_size={config.batch_size}",
                fix="more text, or a smaller batch_size",
            )
        self._held: tuple[tuple[int, int], dict[str, Tensor]] | None = None

    def __len__(self) -> int:
        """Batches per epoch; what is left over goes into the first batch of the next."""
        return self.order.per_epoch // self.config.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The batches of the first epoch."""
        for t in range(len(self)):
            yield self.batch(t)

    def __repr__(self) -> str:
        return (
            f"ActivationStream({', '.join(self.sites[:3])}{', …' if len(self.sites) > 3 else ''}: "
            f"{self.order.per_epoch:,} rows per epoch in batches of {self.config.batch_size:,}, "
            f"{self.distinct_sequences(0):,} distinct sequences in the first)"
        )

    def batch(self, t: int) -> dict[str, Float[Tensor, "row d"]]:
        """Batch t at every site; row i is the same token at all of them.

        Raises:
            MemoryBudgetError: A block of `buffer_sequences` would exceed `max_bytes`.
        """
        parts: list[dict[str, Tensor]] = []
        for piece in self._pieces(t):
            held = self._block(piece.epoch, piece.block)
            chosen = self.order.shuffled(piece.epoch, piece.block)[piece.start : piece.stop]
            parts.append({site: rows[chosen.to(rows.device)] for site, rows in held.items()})
        if len(parts) == 1:
            return parts[0]
        return {site: torch.cat([part[site] for part in parts]) for site in self.sites}

    def origins(self, t: int) -> Int[Tensor, "row 2"]:
        """Which (sequence, position) each row of batch t comes from; runs no model."""
        found = []
        for piece in self._pieces(t):
            index = self._captured(piece.epoch, piece.block)
            found.append(index[self.order.shuffled(piece.epoch, piece.block)[piece.start : piece.stop]])
        return torch.cat(found)

    def distinct_sequences(self, t: int) -> int:
        """How many source sequences batch t draws from: the higher, the less correlated."""
        return int(self.origins(t)[:, 0].unique().numel())

    def provenance(self) -> Provenance:
        """Model, sites, dtype, data and BOS of these activations, as they are."""
        d_in = self.batch(0)[self.sites[0]].shape[1] if len(self.sites) == 1 else None
        known = self.model.provenance(self.sites)
        dtype = known.dtype if self.dtype is None else str(self.dtype).removeprefix("torch.")
        begins = self.tokens.prepend_bos(self.model.tokenization.bos_id)
        return dataclasses.replace(
            known, d_in=d_in, dtype=dtype, prepend_bos=begins, data_fingerprint=self.tokens.fingerprint
        )

    def plan(self) -> dict[str, Any]:
        """What decides the rows of every batch, as JSON values: a run that goes on compares it."""
        known = self.provenance()
        config = dataclasses.asdict(self.config)
        for where in ("max_bytes", "device"):  # neither changes a row
            del config[where]
        return config | {
            "source": "a model",
            "sites": list(self.sites),
            "model": known.model_fingerprint,
            "tokenizer": known.tokenizer_hash,
            "dtype": known.dtype,
            "prepend_bos": known.prepend_bos,
            "n_ctx": self.tokens.n_ctx,
            "sequences": len(self.tokens),
            "tokens": known.data_fingerprint,
        }

    def _pieces(self, t: int) -> Iterator[Piece]:
        if t < 0:
            raise ConfigError("a batch has a number from 0 on", got=t)
        return self.order.pieces(t * self.config.batch_size, self.config.batch_size)

    def _keep(self, chosen: Tensor) -> tuple[Any, Tensor]:
        """The sequences of these numbers and, `[sequence pos]`, which positions are rows."""
        batch = self.tokens.batch(chosen)
        keep = batch.mask if self._bos is None else batch.mask & (batch.ids != self._bos)
        return batch, keep

    def _count_rows(self) -> Tensor:
        step = max(1, 2**24 // self.tokens.n_ctx)  # bounds the memory of the masks
        parts = torch.arange(len(self.tokens)).split(step)
        return torch.cat([self._keep(part)[1].sum(1) for part in parts])

    def _forwards(self, epoch: int, block: int) -> tuple[Tensor, ...]:
        """A block's sequences, grouped for the model: by length, so that little is padding."""
        chosen = self.order.sequences(epoch, block)
        by_length = self.tokens.lengths[chosen].argsort(stable=True, descending=True)
        return chosen[by_length].split(self.config.forward_sequences)

    def _captured(self, epoch: int, block: int) -> Tensor:
        """`[row 2]`: (sequence, position) of a block's rows in the order of capture."""
        found = []
        for chosen in self._forwards(epoch, block):
            row, position = self._keep(chosen)[1].nonzero(as_tuple=True)
            found.append(torch.stack([chosen[row], position], 1))
        return torch.cat(found)

    def _block(self, epoch: int, block: int) -> dict[str, Tensor]:
        """The rows of a block in the order of capture; the last block asked for is kept."""
        if self._held is None or self._held[0] != (epoch, block):
            self._held = None  # its memory goes before the next block comes
            self._held = ((epoch, block), self._capture(epoch, block))
        return self._held[1]

    def _capture(self, epoch: int, block: int) -> dict[str, Tensor]:
        n_rows = len(self.order.shuffled(epoch, block))
        self._check_memory(n_rows, self._known_width())
        held: dict[str, Tensor] = {}
        filled = 0
        for chosen in self._forwards(epoch, block):
            batch, keep = self._keep(chosen)
            acts = self.model.capture(batch, self.sites, to=self.config.device, dtype=self.dtype)
            n = int(keep.sum())
            for site in self.sites:
                rows = self._rows(acts[site], keep, site)
                if site not in held:
                    self._check_memory(n_rows, rows.shape[1] * rows.element_size() * len(self.sites))
                    held[site] = rows.new_empty(n_rows, rows.shape[1])
                held[site][filled : filled + n] = rows
            filled += n
        return held

    def _rows(self, value: Tensor, keep: Tensor, site: str) -> Tensor:
        if value.shape[:2] != keep.shape:
            raise SiteError(
                f"{site!r} does not run along the tokens",
                got=list(value.shape),
                expected=f"[{keep.shape[0]}, {keep.shape[1]}, ...]",
            )
        return value[keep.to(value.device)].flatten(1)

    def _known_width(self) -> int:
        """Bytes of one row of all sites, as far as shapes are known before the model runs."""
        dtype = self.dtype or getattr(torch, self.model.cfg.dtype or "float32")
        volumes = [self.model.sites[site].volume for site in self.sites]
        return sum(dtype.itemsize * volume[0] for volume in volumes if volume is not None)

    def _check_memory(self, n_rows: int, width: int) -> None:
        """Before the model runs by what is known; by one site's width for all before a block is made."""
        needed = n_rows * width
        if needed > self.config.max_bytes:
            fits = self.config.buffer_sequences * self.config.max_bytes // needed
            raise MemoryBudgetError(
                "the shuffle buffer does not fit",
                got=f"{needed / 2**20:,.1f} MiB for {self.config.buffer_sequences} sequences",
                expected=f"at most max_bytes = {self.config.max_bytes / 2**20:,.1f} MiB",
                fix=f"buffer_sequences={fits}, fewer sites, or dtype='bfloat16'",
            )


def _require_rows(site: str, axes: str) -> None:
    """Refuse sites that are known not to run along batch and position; the rest is seen later."""
    names = [word.partition("=")[0] for word in axes.split()]
    if len(names) > 1 and names[:2] != ["batch", "pos"]:
        raise SiteError(f"{site!r} has no rows of its own per token", got=axes, expected="batch pos")
