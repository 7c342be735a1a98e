"""Where training rows come from: tensors, sites of a model, folders of stored activations.

Whatever it is, batch t is a function of t (and of fixed seeds), so a run that was killed reads the
same rows again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeGuard, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.config import StreamConfig, TextConfig
from interp.activations.rows import dense_numbers, holds_floats
from interp.activations.shards import ShardReader
from interp.activations.stream import ActivationStream
from interp.activations.text import TokenSequences, given_sequences, token_sequences
from interp.core.errors import ConfigError, ShapeError, SiteError
from interp.core.finite import check_finite
from interp.core.names import did_you_mean
from interp.core.provenance import Provenance, fingerprint_state
from interp.core.randomness import permutation
from interp.dictionaries.train_config import TrainConfig
from interp.models.budget import refuse_parts
from interp.models.hooks.splice import Splice
from interp.models.text.forms import holds_ids

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

    # A method `plan()` may give, as JSON values, everything that decides what the batches hold: a
    # run that goes on compares it. Without one the rows of batch 0 stand for all of them.


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
        chosen = self.origins(t)
        return {name: x[chosen.to(x.device)] for name, x in self.tensors.items()}

    def origins(self, t: int) -> Int[Tensor, " row"]:
        """Which row of the tensors each row of batch t is."""
        first, parts = t * self.batch_size, []
        left = self.batch_size
        while left > 0:
            epoch, offset = divmod(first, self.rows)
            parts.append(self._order(epoch)[offset : offset + left])
            first, left = first + len(parts[-1]), left - len(parts[-1])
        return torch.cat(parts)

    def provenance(self) -> Provenance | None:
        """Bare tensors know no model."""
        return None

    def plan(self) -> dict[str, Any]:
        """What decides the rows of every batch."""
        return {
            "source": "tensors",
            "batch_size": self.batch_size,
            "seed": self.seed,
            "rows": fingerprint_state(self.tensors, {}),
        }

    def _make_order(self, epoch: int) -> Tensor:
        return permutation(self.rows, self.seed, "dictionaries/rows", epoch)


def read_data(data: Any) -> Any:
    """Rows in any form as tensors; text, ids, streams and folders as they are.

    Raises:
        ShapeError: Rows that are no matrix of real numbers.
    """
    if isinstance(data, Mapping) and data and all(map(holds_floats, data.values())):
        return {site: dense_numbers(x, f"rows at {site}") for site, x in data.items()}
    if isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_matrix, data)):
        return tuple(dense_numbers(x, "training rows") for x in data)
    return dense_numbers(data, "training rows") if holds_floats(data) else data


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
    tokens = given_sequences(model, data)
    if tokens is None:
        text = TextConfig(n_ctx=n_ctx, pack=False, max_sequences=max_sequences)
        tokens = token_sequences(model, data, text)
    n, width = max_sequences or len(tokens), n_ctx or tokens.n_ctx
    return TokenSequences(tokens.ids[:n, :width], tokens.lengths[:n].clamp(max=width))


def plan_of(source: Source) -> dict[str, Any]:
    """Everything that decides the rows of every batch, for the record of a run.

    Raises:
        ConfigError: A `plan()` of its own that gives no JSON values by name.
    """
    plan: Any = getattr(source, "plan", None)
    if not callable(plan):
        known, rows = source.provenance(), source.batch(0)
        first = fingerprint_state({site: rows[site] for site in source.sites}, {})
        told = {} if known is None else known.to_json()
        told.pop("versions", None)
        return {"source": "one of its own", "sites": list(source.sites), "batch 0": first, "provenance": told}
    found = plan()
    try:
        if isinstance(found, Mapping):
            return json.loads(json.dumps(dict(found), allow_nan=False))
        why = type(found).__name__
    except (TypeError, ValueError) as error:
        why = str(error)
    raise ConfigError(
        f"plan() of this {type(source).__name__} cannot be recorded",
        got=why,
        expected="JSON values by name that decide what the batches hold",
    )


def own_settings(source: Any) -> dict[str, Any]:
    """What a source has by itself of a `TrainConfig`, by `block.setting`: order, BOS, context."""
    made = source.index.get("stream", {}) if isinstance(source, ShardReader) else {}
    config = getattr(source, "config", None)
    own = {
        f"stream.{name}": made.get(name, getattr(config, name, None))
        for name in ("exclude_bos", "buffer_sequences", "forward_sequences")
    }
    if isinstance(source, ActivationStream):
        own |= {f"stream.{name}": getattr(config, name) for name in ("dtype", "device", "max_bytes")}
    tokens = getattr(source, "tokens", None)
    own["text.n_ctx"] = tokens.n_ctx if isinstance(tokens, TokenSequences) else None
    own["stream.seed"] = getattr(source, "seed", getattr(config, "seed", None))
    return {name: value for name, value in own.items() if value is not None}


def require_made_for(dictionary: Any, model: Any, tokens: TokenSequences, strict: bool) -> Provenance:
    """Refuse another model than a dictionary's own; where and on what it is applied.

    BOS is what the tokens have: a dictionary of sequences without it fits such sequences, whatever
    the model does with text.

    Raises:
        SiteError, ShapeError, ProvenanceError: As for `Dictionary.for_model`.
    """
    sites = dict.fromkeys((dictionary.site_in, dictionary.site_out))
    begins = tokens.prepend_bos(model.tokenization.bos_id)
    here = dataclasses.replace(
        model.provenance(sites), prepend_bos=begins, data_fingerprint=tokens.fingerprint
    )
    mine = dictionary.provenance
    if mine is None or mine.prepend_bos != begins:
        dictionary.for_model(model, strict=strict)
        if mine is not None and None not in (mine.prepend_bos, begins):
            told = f"prepend_bos: made for {mine.prepend_bos}, applied to {begins}"
            here = dataclasses.replace(here, notes=(*here.notes, told))
        return here
    Splice.of(dictionary, model.sites, True)
    width = {"d_in": mine.d_in, "normalisation": mine.normalisation}  # the splice has seen the width
    dictionary.for_model(dataclasses.replace(here, **width), strict=strict)
    return here


def provenance_at(source: Source, site_in: str, site_out: str, d_in: int) -> Provenance | None:
    """The source's provenance narrowed to what one dictionary reads and writes."""
    known = source.provenance()
    if known is None:
        return None
    sites = (site_in,) if site_in == site_out else (site_in, site_out)
    return dataclasses.replace(known, sites=sites, d_in=d_in)


def _is_rows(data: Any) -> bool:
    return isinstance(data, Tensor) and data.is_floating_point()


def _is_matrix(data: Any) -> bool:
    """One of two sides: a list of two rows is no pair."""
    axes = getattr(data, "ndim", 2 if isinstance(data, list | tuple) and holds_floats(data) else 0)
    return axes == 2 and holds_floats(data)


def is_stored(data: Any) -> TypeGuard[str | Path]:
    """Whether data name a folder of stored activations."""
    if not isinstance(data, str | Path):
        return False
    try:
        return any((Path(data) / mark).exists() for mark in ("index", "plan.json"))
    except OSError:  # text, which is too long for a name
        return False


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
        numbers = isinstance(data, Tensor) or holds_ids(data)
        raise ConfigError(
            "text and a model make activations; one of them is missing",
            got="no data" if data is None else f"{type(data).__name__} without a model",
            expected="train(config, text, model=model), rows [n, d], or a folder of write_shards",
            fix="rows are floats: x.float(); token ids need model=" if numbers else None,
        )
    return ActivationStream(model, sites, token_sequences(model, data, text), stream)


def refuse_unaffordable(configs: Sequence[TrainConfig], places: Sequence[Sequence[str]], source: Any) -> None:
    """Refuse a training that takes more memory than is free, before the model runs for a row of it.

    Weights, their gradients, Adam's two moments and one copy while they are updated; and the latents of
    one batch, forth and back.

    Raises:
        MemoryBudgetError: With the size, the largest part and the settings that make it smaller.
    """
    weights = latents = 0.0
    for config, pair in zip(configs, places, strict=True):
        weights += 5 * 4.0 * config.d_sae * sum(_width(source, site) for site in pair)
        latents += 3 * 4.0 * config.d_sae * config.batch_size
    model = getattr(source, "model", None)
    device = torch.device("cpu") if model is None else model.device
    parts = {"weights, gradients and moments": weights, "latents of a batch": latents}
    refuse_parts(
        "this training", parts, device, "a smaller d_sae or batch_size, or fewer dictionaries at once"
    )


def _width(source: Any, site: str) -> int:
    """Numbers per row at a site; of a model's stream, from its shapes alone (0 where only a run tells)."""
    model = getattr(source, "model", None)
    if model is None:
        return source.batch(0)[site].shape[1]
    return (model.sites[site].volume or (0,))[0]
