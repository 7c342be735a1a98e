"""Where training rows come from: tensors, sites of a model, folders of stored activations.

Whatever it is, batch t is a function of t (and of fixed seeds), so a run that was killed reads the
same rows again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeGuard, cast

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.config import StreamConfig, TextConfig
from interp.activations.shards import ShardReader
from interp.activations.stream import ActivationStream
from interp.activations.text import TokenSequences, token_sequences
from interp.core.errors import ConfigError, ShapeError, SiteError
from interp.core.finite import check_finite
from interp.core.names import did_you_mean
from interp.core.provenance import Provenance
from interp.core.randomness import permutation

INPUT, OUTPUT = "input", "output"
"""Names of the two sides of tensors that come from no model."""


class Source(Protocol):
    """Rows at named sites: row i of a batch is the same token at all of them."""

    sites: list[str]

    def batch(self, t: int) -> Mapping[str, Tensor]:
        """Rows of batch t, `[row, width]` at every site."""
        ...

    def provenance(self) -> Provenance | None:
        """Which model and data they come from; None for bare tensors."""
        ...


class TensorRows:
    """Tensors in memory as a source: every epoch is a seeded permutation of their rows.

    Args:
        tensors: Name -> `[row, width]`; the same number of rows in each.
        batch_size: Rows per batch; what is left of an epoch begins the next one's first batch.
        seed: Of the permutations.

    Raises:
        ShapeError: Not matrices, or different numbers of rows.
        ConfigError: Fewer rows than one batch.
        NonFiniteError: A row holds a number that is not finite.
    """

    def __init__(self, tensors: Mapping[str, Tensor], batch_size: int, seed: int = 0) -> None:
        lengths = {len(x) if x.ndim else 0 for x in tensors.values()}
        if any(x.ndim != 2 for x in tensors.values()) or len(lengths) != 1:
            raise ShapeError(
                "a dictionary trains on rows",
                got=", ".join(f"{name}: {list(x.shape)}" for name, x in tensors.items()),
                expected="[row, width], as many rows on both sides",
            )
        self.rows: int = lengths.pop()
        if not 1 <= batch_size <= self.rows:
            raise ConfigError(
                "there are fewer rows than one batch",
                got=f"{self.rows} rows, batch_size={batch_size}",
                expected="1 <= batch_size <= rows",
            )
        for name, x in tensors.items():
            check_finite(x, f"training rows ({name})")
        self.tensors: dict[str, Tensor] = {name: x.detach() for name, x in tensors.items()}
        self.sites: list[str] = list(tensors)
        self.batch_size = batch_size
        self.seed = seed
        self._order = lru_cache(maxsize=2)(self._make_order)

    def batch(self, t: int) -> dict[str, Float[Tensor, "row d"]]:
        """Rows t * batch_size to (t + 1) * batch_size of the shuffled epochs, one after another."""
        first, parts = t * self.batch_size, []
        left = self.batch_size
        while left > 0:
            epoch, offset = divmod(first, self.rows)
            parts.append(self._order(epoch)[offset : offset + left])
            first, left = first + len(parts[-1]), left - len(parts[-1])
        chosen = torch.cat(parts)
        return {name: x[chosen.to(x.device)] for name, x in self.tensors.items()}

    def provenance(self) -> Provenance | None:
        """Bare tensors know no model."""
        return None

    def _make_order(self, epoch: int) -> Tensor:
        return permutation(self.rows, self.seed, "dictionaries/rows", epoch)


def sides(site: str, site_out: str, data: Any) -> tuple[str, str]:
    """Where a dictionary reads and what it reconstructs, for a config's (maybe empty) names."""
    into = site or INPUT
    return into, site_out or (OUTPUT if _is_pair(data) else into)


def source_of(data: Any, model: Any, sites: Sequence[str], stream: StreamConfig, text: TextConfig) -> Source:
    """Anything a dictionary can be trained on, as a `Source` of these sites.

    Args:
        data: `[row, d]`; a pair of such (input, output); a mapping of them by site; a stream or
            shard reader; a folder of `write_shards`; with a model, text (as `tokenize_texts`
            reads it) or token sequences.
        model: The `HookedModel` that text runs through, or None.
        sites: Sites that are read; bare tensors take these names in this order.
        stream: Batch size, shuffling, BOS, seed.
        text: How text is cut into sequences.

    Raises:
        ConfigError: Nothing to read, text without a model, or too little of it.
        SiteError: A site the model or the source does not have.
        ShapeError: Tensors that are not rows.
        StorageError: An unfinished folder of activations.
    """
    wanted = list(dict.fromkeys(sites))
    found = _stored(data, wanted, stream)
    if found is None:
        return _from_model(data, model, wanted, stream, text)
    for site in wanted:
        if site not in found.sites:
            raise SiteError(
                f"the data has no rows at {site!r}",
                got=", ".join(found.sites),
                fix=did_you_mean(site, found.sites) or None,
            )
    size = getattr(getattr(found, "config", found), "batch_size", stream.batch_size)
    if size != stream.batch_size:
        raise ConfigError(
            "the source has batches of another size",
            got=size,
            expected=f"batch_size={stream.batch_size}, as the training config says",
        )
    return found


def sequences(
    model: Any, data: Any, n_ctx: int | None = None, max_sequences: int | None = None
) -> TokenSequences:
    """One sequence per text, for what needs predictions and not only activations.

    Args:
        model: Has the tokenizer.
        data: Text (whatever `tokenize_texts` reads), token ids [sequence pos], `TokenSequences`.
        n_ctx: Sequences are cut off after so many tokens; None keeps the model's context.
        max_sequences: The first so many; None all.

    Raises:
        ConfigError: Rows of activations.
    """
    if isinstance(data, Tensor) and data.is_floating_point():
        raise ConfigError("with a model, data are text or token ids", got=f"rows of {data.dtype}")
    text = TextConfig(n_ctx=n_ctx, pack=False, max_sequences=max_sequences)
    tokens = token_sequences(model, data, text)
    n, width = max_sequences or len(tokens), n_ctx or tokens.n_ctx
    return TokenSequences(tokens.ids[:n, :width], tokens.lengths[:n].clamp(max=width))


def provenance_at(source: Source, site_in: str, site_out: str, d_in: int) -> Provenance | None:
    """The source's provenance narrowed to what one dictionary reads and writes."""
    known = source.provenance()
    if known is None:
        return None
    sites = (site_in,) if site_in == site_out else (site_in, site_out)
    return dataclasses.replace(known, sites=sites, d_in=d_in)


def _is_rows(data: Any) -> bool:
    return isinstance(data, Tensor) and data.is_floating_point()


def is_stored(data: Any) -> TypeGuard[str | Path]:
    """Whether data name a folder of stored activations."""
    marks = ("index", "plan.json")
    return isinstance(data, str | Path) and any((Path(data) / mark).exists() for mark in marks)


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_rows, data))


def _stored(data: Any, sites: list[str], stream: StreamConfig) -> Source | None:
    """The data as a source if it holds activations already, None if a model must make them."""
    if _is_rows(data) or _is_pair(data):
        given = [data] if isinstance(data, Tensor) else list(data)
        if len(given) != len(sites):
            raise ConfigError(
                "the tensors do not match what is read",
                got=f"{len(given)} tensor(s) for {', '.join(sites)}",
                expected="one tensor for an SAE, (input, output) for a transcoder",
                fix="a mapping {site: rows} for dictionaries at several sites",
            )
        data = dict(zip(sites, given, strict=True))
    if isinstance(data, Mapping) and data and all(map(_is_rows, data.values())):
        return TensorRows(data, stream.batch_size, stream.seed)
    if is_stored(data):
        return ShardReader(data, batch_size=stream.batch_size, sites=sites, seed=stream.seed)
    if hasattr(data, "batch") and hasattr(data, "sites"):
        return cast(Source, data)
    return None


def _from_model(data: Any, model: Any, sites: list[str], stream: StreamConfig, text: TextConfig) -> Source:
    if data is None or model is None:
        raise ConfigError(
            "text and a model make activations; one of them is missing",
            got="no data" if data is None else f"{type(data).__name__} without a model",
            expected="train(config, text, model=model), rows [n, d], or a folder of write_shards",
        )
    return ActivationStream(model, sites, token_sequences(model, data, text), stream)
