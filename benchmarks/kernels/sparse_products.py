"""Triton kernels of the sparse products of a training step: what the package does in torch, fused.

Two kernels carry a step: weighted sums of rows (decoding; and, with entries in the order of their
columns, the decoder's and the encoder's gradients) and products of pairs of rows (the latents'
gradients). Sums are float32 for lower precisions. Triton is no dependency: torch's CUDA builds
bring it. They are no part of the package until a GPU has shown what they gain.
"""

from __future__ import annotations

from typing import Any

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Int
from torch import Tensor

WIDTH = tl.constexpr(128)
"""Columns of one program."""
ENTRIES = tl.constexpr(16)
"""Entries of one program of `dots`."""


@triton.jit
def _weighted_rows(
    index: tl.tensor, weights: tl.tensor, offsets: tl.tensor, matrix: tl.tensor, out: tl.tensor, d: tl.tensor
) -> None:
    kind = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    bag = tl.program_id(0)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < d
    total = tl.zeros((WIDTH,), kind)
    for entry in range(tl.load(offsets + bag), tl.load(offsets + bag + 1)):
        row = tl.load(index + entry).to(tl.int64)
        values = tl.load(matrix + row * d + column, mask=inside, other=0.0)
        total += tl.load(weights + entry).to(kind) * values.to(kind)
    place = bag.to(tl.int64) * d + column
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _dots(
    left: tl.tensor, right: tl.tensor, a: tl.tensor, b: tl.tensor, out: tl.tensor, n: tl.tensor, d: tl.tensor
) -> None:
    kind = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    there = entry < n
    i = tl.load(left + entry, mask=there, other=0).to(tl.int64)
    j = tl.load(right + entry, mask=there, other=0).to(tl.int64)
    total = tl.zeros((ENTRIES,), kind)
    for start in range(0, d, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = there[:, None] & (column < d)[None, :]
        x = tl.load(a + i[:, None] * d + column[None, :], mask=inside, other=0.0)
        y = tl.load(b + j[:, None] * d + column[None, :], mask=inside, other=0.0)
        total += tl.sum(x.to(kind) * y.to(kind), 1)
    tl.store(out + entry, total.to(out.dtype.element_ty), mask=there)


def weighted_rows(
    index: Int[Tensor, "nnz"],
    matrix: Float[Tensor, "m d"],
    offsets: Int[Tensor, "ends"],
    weights: Float[Tensor, "nnz"],
) -> Float[Tensor, "bag d"]:
    """Weighted sums of a matrix's rows, one per bag.

    Args:
        index: Rows of the matrix, bag after bag.
        matrix: Contiguous.
        offsets: Where bags begin, and the last one's end.
        weights: One per entry.
    """
    bags, d = len(offsets) - 1, matrix.shape[1]
    out = matrix.new_empty(bags, d)
    if bags:
        kernel: Any = _weighted_rows
        kernel[bags, triton.cdiv(d, WIDTH.value)](index, weights, offsets, matrix.contiguous(), out, d)
    return out


def dots(
    left: Int[Tensor, "nnz"], right: Int[Tensor, "nnz"], a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]
) -> Float[Tensor, "nnz"]:
    """a[left] · b[right], entry by entry, without the rows side by side in memory."""
    n, d = len(left), a.shape[1]
    out = a.new_empty(n)
    if n:
        kernel: Any = _dots
        kernel[(triton.cdiv(n, ENTRIES.value),)](left, right, a.contiguous(), b.contiguous(), out, n, d)
    return out
