"""Where latents are active: the five products of a training step, over active entries only.

With Z [n, m] the latents, W [m, d] a matrix of one row per latent and G [n, d] one of one row per
sample, a step needs Z W, the entries of G W^T where Z has some, Z^T G and column sums of Z. Values
of entries are a vector in their order, so the same step runs on a few entries and on all of them.

Matryoshka: latents of group j decode into row j n + r, so that all groups' reconstructions are one
product, and gradients of row j n + r reach only latents of group j.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F


class Entries(Protocol):
    """Entries of an [n, m] matrix. A `value` has one number per entry, in their order."""

    def take(self, matrix: Float[Tensor, "n m"]) -> Tensor:
        """A matrix's values."""
        ...

    def spread(self, per_latent: Float[Tensor, "m"]) -> Tensor:
        """Each entry's share of a vector over latents."""
        ...

    def decode(self, values: Tensor, W: Float[Tensor, "m d"]) -> Float[Tensor, "rows d"]:
        """Z W, one row per sample, or per group and sample."""
        ...

    def dot(self, rows: Float[Tensor, "rows d"], W: Float[Tensor, "m d"]) -> Tensor:
        """G W^T."""
        ...

    def outer(self, values: Tensor, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "m d"]:
        """Z^T G; G has one row per sample, or per group and sample."""
        ...

    def sums(self, values: Tensor) -> Float[Tensor, "m"]:
        """Column sums of Z."""
        ...

    def fired(self, values: Tensor) -> Bool[Tensor, "m"]:
        """Latents with a value that is not zero."""
        ...


class SparseEntries:
    """Some entries, in the order of their rows.

    Args:
        flat: Positions row * m + column; rows ascend.
        n: Rows.
        m: Columns.
        groups: Ends of the column groups, () for one.
    """

    def __init__(self, flat: Int[Tensor, "nnz"], n: int, m: int, groups: tuple[int, ...] = ()) -> None:
        self.m = m
        row = flat // m
        column = flat - row * m
        if len(groups) > 1:
            ends = torch.tensor(groups, device=flat.device)
            row = torch.bucketize(column, ends, right=True) * n + row
            row, order = row.sort(stable=True)
            flat, column = flat[order], column[order]
        self.flat = flat
        self.column: Tensor = column.int()
        self.row: Tensor = row.int()
        starts = torch.arange(n * max(1, len(groups)) + 1, device=flat.device, dtype=torch.int32)
        self.offsets: Tensor = torch.searchsorted(self.row, starts, out_int32=True)

    def take(self, matrix: Float[Tensor, "n m"]) -> Float[Tensor, "nnz"]:
        return matrix.reshape(-1).index_select(0, self.flat)

    def spread(self, per_latent: Float[Tensor, "m"]) -> Float[Tensor, "nnz"]:
        return per_latent.index_select(0, self.column)

    def decode(self, values: Float[Tensor, "nnz"], W: Float[Tensor, "m d"]) -> Float[Tensor, "rows d"]:
        return _bags(self.column, W, self.offsets, values)

    def dot(self, rows: Float[Tensor, "rows d"], W: Float[Tensor, "m d"]) -> Float[Tensor, "nnz"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "CSR is in beta": no product that is used here
            wanted = torch.sparse_csr_tensor(
                self.offsets,
                self.column,
                rows.new_zeros(len(self.column)),
                size=(len(rows), self.m),
                check_invariants=False,
            )
        return torch.sparse.sampled_addmm(wanted, rows, W.T, beta=0).values()

    def outer(self, values: Float[Tensor, "nnz"], rows: Float[Tensor, "rows d"]) -> Float[Tensor, "m d"]:
        order, row, offsets = self._by_column
        if len(rows) < len(self.offsets) - 1:  # one row for all groups of a sample
            row = row % len(rows)
        return _bags(row, rows, offsets, values.index_select(0, order))

    def sums(self, values: Float[Tensor, "nnz"]) -> Float[Tensor, "m"]:
        order, _, offsets = self._by_column
        ordered = values.index_select(0, order)
        return torch.segment_reduce(ordered, "sum", offsets=offsets.long(), initial=0)

    def fired(self, values: Float[Tensor, "nnz"]) -> Bool[Tensor, "m"]:
        return self.sums((values != 0).to(values.dtype)) > 0

    @cached_property
    def _by_column(self) -> ByColumn:
        if self.column.is_cpu:
            return by_counting(self.column, self.offsets, self.m)
        return by_sorting(self.column, self.row, self.m)


class ByColumn(NamedTuple):
    """Entries by column, then row."""

    order: Int[Tensor, "nnz"]
    """Which entry comes when."""
    row: Int[Tensor, "nnz"]
    """Rows of the entries."""
    offsets: Int[Tensor, "ends"]
    """Where columns begin, and the last one's end."""


def by_counting(column: Int[Tensor, "nnz"], offsets: Int[Tensor, "ends"], m: int) -> ByColumn:
    """For the CPU: a counting sort, where torch's stable sort costs ten times as much."""
    count = torch.arange(len(column), dtype=torch.int32)
    shape = (len(offsets) - 1, m)
    turned = csr_array((count.numpy(), column.numpy(), offsets.numpy()), shape).tocsc()
    return ByColumn(*map(torch.from_numpy, (turned.data, turned.indices, turned.indptr)))


def by_sorting(column: Int[Tensor, "nnz"], row: Int[Tensor, "nnz"], m: int) -> ByColumn:
    """The same by torch alone, without a host sync."""
    column, order = column.sort(stable=True)
    starts = torch.arange(m + 1, device=column.device, dtype=torch.int32)
    return ByColumn(order, row[order], torch.searchsorted(column, starts, out_int32=True))


class DenseEntries:
    """All entries: values are [n, m] matrices."""

    def __init__(self, n: int, m: int, groups: tuple[int, ...] = ()) -> None:
        self.n = n
        ends = groups or (m,)
        self.spans: list[slice] = [slice(a, b) for a, b in zip((0, *ends[:-1]), ends, strict=True)]

    def take(self, matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        return matrix

    def spread(self, per_latent: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
        return per_latent

    def decode(self, values: Float[Tensor, "n m"], W: Float[Tensor, "m d"]) -> Float[Tensor, "rows d"]:
        return torch.cat([values[:, span] @ W[span] for span in self.spans])

    def dot(self, rows: Float[Tensor, "rows d"], W: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        found = rows.new_empty(self.n, len(W))
        for part, span in zip(rows.split(self.n), self.spans, strict=True):
            torch.mm(part, W[span].T, out=found[:, span])
        return found

    def outer(self, values: Float[Tensor, "n m"], rows: Float[Tensor, "rows d"]) -> Float[Tensor, "m d"]:
        if len(rows) == self.n:
            return values.T @ rows
        parts = zip(rows.split(self.n), self.spans, strict=True)
        return torch.cat([values[:, span].T @ part for part, span in parts])

    def sums(self, values: Float[Tensor, "n m"]) -> Float[Tensor, "m"]:
        return values.sum(0)

    def fired(self, values: Float[Tensor, "n m"]) -> Bool[Tensor, "m"]:
        return values.ne(0).any(0)


CROSSOVER = 0.16
"""Share of active entries above which dense products are used: measured, they win from about .2 on
(benchmarks/dictionary_step.py --crossover)."""


def where(mask: Bool[Tensor, "n m"], groups: tuple[int, ...] = ()) -> Entries:
    """The entries a mask marks, or all of them when they are many: values elsewhere must be 0.

    How many is counted in a sample of rows; it decides about speed only.
    """
    n, m = mask.shape
    sample = mask[:: max(1, n // 64)]
    if int(torch.count_nonzero(sample)) > CROSSOVER * sample.numel():
        return DenseEntries(n, m, groups)
    return SparseEntries(mask.view(-1).nonzero().squeeze(1), n, m, groups)


def strongest(scores: Float[Tensor, "n m"], count: int, mask: Bool[Tensor, "n m"]) -> Int[Tensor, "nnz"]:
    """Flat positions of the `count` largest positive scores of the matrix, ascending. Exact.

    A cutoff from a sample of rows leaves few candidates, so the matrix is read twice and never
    sorted. Where it was too high (rows that differ a lot), all positive scores are candidates.

    Args:
        scores: The matrix.
        count: Entries wanted; fewer come back if fewer are positive.
        mask: Overwritten.
    """
    n = len(scores)
    sample = scores[:: max(1, n // 64)]
    rank = min(sample.numel(), int(1.25 * count / n * len(sample)) + 8)
    cutoff = sample.flatten().topk(rank, sorted=False).values.min().clamp_min(0)
    flat = torch.gt(scores, cutoff, out=mask).view(-1).nonzero().squeeze(1)
    if len(flat) < count:
        flat = torch.gt(scores, 0, out=mask).view(-1).nonzero().squeeze(1)
    if len(flat) <= count:
        return flat
    values = scores.view(-1).index_select(0, flat)
    least = values.topk(count, sorted=False).values.min()
    above, tied = values > least, values == least
    return flat[above | (tied & (tied.cumsum(0) <= count - above.sum()))]


def _bags(
    index: Int[Tensor, "nnz"],
    matrix: Float[Tensor, "m d"],
    offsets: Int[Tensor, "ends"],
    weights: Float[Tensor, "nnz"],
) -> Float[Tensor, "b d"]:
    """Weighted sums of a matrix's rows, one per bag."""
    return F.embedding_bag(
        index, matrix, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
