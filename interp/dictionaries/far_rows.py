"""Rows far larger than the others, named before they decide everything.

A few positions of a language model (the first one, delimiters) can have activations thousands of
times as large as the rest: attention sinks, "massive activations" (Sun et al. 2024, arXiv
2402.17762). Scale, centre, FVU and losses are sums of squares, so such rows are most of them, and a
dictionary may look nearly perfect that has learned nothing but them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.stream import ActivationStream
from interp.activations.text import TokenSequences
from interp.core.errors import DataWarning

FAR = 10.0
"""A row is far when its norm is this many medians; at usual sites the largest is two to four."""
SHARE = 0.01
"""Far rows are named when they hold this share of the sum of squares."""
N_NAMED = 3
"""Rows that are named."""


class FarRows(NamedTuple):
    """Rows that are far larger than the median row."""

    n: int
    """Number of far rows."""
    of: int
    """Rows in all."""
    largest: float
    """Largest norm, in medians."""
    share: float
    """Share of the sum of all squared norms that far rows hold."""
    rows: tuple[int, ...]
    """Numbers of the largest far rows."""


def wide(x: Tensor) -> Tensor:
    """Float64 where the device has it (MPS has not), float32 elsewhere."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def norms_of(rows: Float[Tensor, "row d"]) -> Float[Tensor, " row"]:
    """Norm of each row, on the CPU."""
    return wide(rows.detach()).norm(dim=1).cpu()


def find_far(norms: Float[Tensor, " row"]) -> FarRows | None:
    """The far rows among all, if they count; zeros have no part in the median."""
    some = norms[norms > 0]
    if not len(some):
        return None
    usual = some.median()
    squares = norms.double().square()
    is_far = norms > FAR * usual
    share = float(squares[is_far].sum() / squares.sum())
    if share < SHARE:
        return None
    n = int(is_far.sum())
    first = norms.topk(min(n, N_NAMED)).indices.tolist()
    return FarRows(n, len(norms), float(norms.max() / usual), share, tuple(first))


def tell_far(found: FarRows, where: str, names: Sequence[str]) -> None:
    """Warn of far rows: how many, how large, which, and what to do."""
    more = ", …" if found.n > len(names) else ""
    told = (
        f"{found.n:,} of {found.of:,} {where} have norms more than {FAR:g} times the median (the largest "
        f"{found.largest:,.0f} times) and hold {found.share:.1%} of the sum of squares, which scale, FVU "
        f"and losses follow: {'; '.join(names)}{more}. Leave out what is no part of the question: "
        "exclude_bos=True for BOS, other positions by cutting the tokens or the rows"
    )
    warnings.warn(DataWarning(told), stacklevel=3)


def named_rows(source: Any, rows: Sequence[int], batch_size: int) -> list[str]:
    """Rows of a source's first batches by where they come from.

    Args:
        source: What the batches were asked of.
        rows: Their numbers, counted through batch 0, 1, ...
        batch_size: Rows per batch.
    """
    found = []
    for row in rows:
        t, i = divmod(row, batch_size)
        if isinstance(source, ActivationStream):
            sequence, position = source.origins(t)[i].tolist()
            found.append(named_token(source.model, source.tokens, sequence, position))
        elif hasattr(source, "origins"):
            found.append(f"row {int(source.origins(t)[i])}")
        else:
            found.append(f"row {i} of batch {t}")
    return found


def named_token(model: Any, tokens: TokenSequences, sequence: int, position: int) -> str:
    """A token by its place and, where there is a tokenizer, by what it is."""
    token = int(tokens.ids[sequence, position])
    written = str(token) if model.tokenizer is None else repr(model.tokenizer.convert_ids_to_tokens(token))
    return f"sequence {sequence}, position {position} (token {written})"
