"""How good a dictionary is: sparsity, reconstruction, and what the model loses by it.

```python
report = evaluate(dictionary, model, texts)        # or evaluate(dictionary, None, rows)
report.summary()                                   # l0, fvu, ce_recovered, dead, ...
report.plot()                                      # density histogram
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.rows import dense_numbers, holds_floats
from interp.activations.text import TokenSequences
from interp.core.errors import ConfigError, ShapeError
from interp.core.provenance import Provenance
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.far_rows import named_token, tell_far
from interp.dictionaries.result import CONDITIONS, DictionaryReport
from interp.dictionaries.scores.config import EvaluationConfig
from interp.dictionaries.scores.splicing import Losses, losses
from interp.dictionaries.scores.tallies import CodingTally
from interp.dictionaries.sources import require_made_for, sequences
from interp.models.text.batch import TokenBatch

COPIES = 4  # of a block of latents that encoding and counting hold at once


@torch.no_grad()
def evaluate(
    dictionary: Dictionary,
    model: Any,
    data: Any,
    config: EvaluationConfig | None = None,
    *,
    targets: Float[Tensor, "row d_out"] | None = None,
) -> DictionaryReport:
    """Sparsity, reconstruction and, in a language model, the loss under splice.

    FVU is the sum of squared errors over the sum of squares around the mean of all tokens (not a
    mean of ratios per token or batch). BOS keeps its own activation and counts in nothing. Sums
    are float64, losses float32, whatever the model computes in. Two passes over the data, of which
    one number per token is kept. Rows far larger than the others are named in a `DataWarning`.

    Args:
        dictionary: SAE, transcoder or skip transcoder.
        model: The `HookedModel` it belongs to, or None for bare rows.
        data: With a model: texts, a path that `read_texts` reads, ids, a `TokenBatch` or
            `TokenSequences`. Without one: rows [row d_in].
        config: Lengths, batch sizes, thresholds.
        targets: Rows a transcoder should give [row d_out]; only without a model.

    Raises:
        ConfigError, ShapeError: Data that do not fit.
        ProvenanceError: Another model than the one it was trained on (`config.strict`).
    """
    config = config or EvaluationConfig()
    if model is None:
        tally = _tally_rows(dictionary, data, targets, config)
        _tell_far(tally, "targets", lambda row: f"row {row}")
        return _report(dictionary, tally, None, dictionary.provenance, config)
    if targets is not None:
        raise ConfigError("targets come from the model's own site", got="targets and a model")
    tokens = sequences(model, data, config.n_ctx, config.max_sequences)
    provenance = require_made_for(dictionary, model, tokens, config.strict)
    tally, places = CodingTally(), []
    for batch, keep in _batches(model, tokens, config):
        places.append(keep.nonzero().cpu())
        found = model.capture(batch, list({dictionary.site_in, dictionary.site_out}))
        x = found[dictionary.site_in][keep.to(model.device)].flatten(1)
        y = found[dictionary.site_out][keep.to(model.device)].flatten(1)
        _take_in(tally, dictionary, x, y, config)
    if not tally.sums:
        raise ConfigError("no token is left to evaluate on", got=repr(tokens), fix="longer texts")
    _tell_far(tally, f"rows at {dictionary.site_out}", partial(_name, model, tokens, places, config))
    found_losses = _losses(dictionary, model, tokens, tally, config)
    return _report(dictionary, tally, found_losses, provenance, config)


def _tally_rows(
    dictionary: Dictionary, rows: Any, targets: Tensor | None, config: EvaluationConfig
) -> CodingTally:
    """Statistics over bare rows."""
    rows = dense_numbers(rows, "evaluate") if holds_floats(rows) else rows
    if not isinstance(rows, Tensor) or not rows.is_floating_point() or rows.ndim != 2:
        raise ConfigError(
            "without a model, data are rows [row d_in]",
            got=f"{type(rows).__name__} {list(getattr(rows, 'shape', []))}",
            fix="give the model, or a float tensor",
        )
    if dictionary.config.is_transcoder and targets is None:
        raise ConfigError("a transcoder needs targets", fix="targets=rows [row d_out]")
    targets = rows if targets is None else dense_numbers(targets, "targets of evaluate")
    wanted = (len(rows), dictionary.config.width_out)
    if not len(rows) or tuple(targets.shape) != wanted:
        raise ShapeError("targets do not fit", got=list(targets.shape), expected=list(wanted))
    tally = CodingTally()
    _take_in(tally, dictionary, rows, targets, config)
    return tally


def _name(
    model: Any, tokens: TokenSequences, places: Sequence[Tensor], config: EvaluationConfig, row: int
) -> str:
    """A row of those that count, by its token; `places` are their (sequence, position) in each batch."""
    for number, there in enumerate(places):
        if row < len(there):
            sequence, position = there[row].tolist()
            return named_token(model, tokens, number * config.batch_sequences + sequence, position)
        row -= len(there)
    return f"row {row}"  # pragma: no cover - every row has its place


def _tell_far(tally: CodingTally, where: str, name: Callable[[int], str]) -> None:
    if (found := tally.far()) is not None:
        tell_far(found, where, [name(row) for row in found.rows])


def _take_in(
    tally: CodingTally, dictionary: Dictionary, x: Tensor, y: Tensor, config: EvaluationConfig
) -> None:
    """Encode and count rows, in blocks that fit the memory allowed."""
    weight = dictionary.W_dec
    size = config.max_bytes // (COPIES * dictionary.config.d_sae * weight.element_size())
    for rows, target in zip(x.split(max(1, size)), y.split(max(1, size)), strict=True):
        if not len(rows):
            continue
        rows = rows.to(weight)
        latents = dictionary.encode(rows)
        output = dictionary.decode(latents)
        if dictionary.config.skip:
            output = output + dictionary.skip(rows)
        tally.update(target.to(output.device), latents, output)


def _batches(
    model: Any, tokens: TokenSequences, config: EvaluationConfig
) -> Iterator[tuple[TokenBatch, Bool[Tensor, "batch pos"]]]:
    """Batches with the positions that count."""
    bos = model.tokenization.bos_id if config.exclude_bos else None
    for part in torch.arange(len(tokens)).split(config.batch_sequences):
        batch = tokens.batch(part)
        yield batch, batch.mask if bos is None else batch.mask & (batch.ids != bos)


def _losses(
    dictionary: Dictionary, model: Any, tokens: TokenSequences, tally: CodingTally, config: EvaluationConfig
) -> Losses | None:
    """Losses over all sequences; None where the model predicts no next token."""
    mean = tally.variance.mean
    is_lm = model.cfg.causal and model.has_head
    if not config.splice or not is_lm or tokens.n_ctx < 2 or mean is None:
        return None
    parts = [losses(dictionary, model, batch, keep, mean) for batch, keep in _batches(model, tokens, config)]
    if not sum(int(part.predictions.sum()) for part in parts):
        return None
    return Losses(
        torch.cat([p.ce for p in parts], 1),
        torch.cat([p.kl for p in parts], 1),
        torch.cat([p.predictions for p in parts]),
    )


def _report(
    dictionary: Dictionary,
    tally: CodingTally,
    found: Losses | None,
    provenance: Provenance | None,
    config: EvaluationConfig,
) -> DictionaryReport:
    far = tally.far()
    kind = "transcoder" if dictionary.config.is_transcoder else "SAE"
    kind = f"skip {kind}" if dictionary.config.skip else kind
    return DictionaryReport(
        **tally.finish(),
        ce=None if found is None else found.ce,
        kl=None if found is None else found.kl,
        predictions=None if found is None else found.predictions,
        n_tokens=int(tally.sums["rows"]),
        n_far=0 if far is None else far.n,
        far_share=0.0 if far is None else far.share,
        dense_above=config.dense_above,
        architecture=f"{dictionary.config.activation} {kind}",
        site_in=dictionary.site_in,
        site_out=dictionary.site_out,
        labels={} if found is None else {"condition": list(CONDITIONS)},
        provenance=provenance,
    )
