"""The intake of a live module, and what a forward that did not come through it says."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from interp.models.adapters.adapter import Adapter
from interp.models.adapters.families import T5_TYPES
from interp.models.text.beside import Tables
from interp.models.text.inputs import Intake
from interp.models.text.keywords import keywords_read, named_parameters_of
from interp.models.text.positions import position_offset
from interp.models.text.tokens import Tokenization

_NOT_HERE = frozenset({"start_at_layer"})
"""TransformerLens's: its input is then no text but a residual stream, see `HookedModel.run_from`."""


def intake_of(module: nn.Module, adapter: Adapter, tokenization: Tokenization, **more: Any) -> Intake:
    """The intake of a raw module: what its forward reads, where its positions begin."""
    config: Any = getattr(module, "config", None)
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    order = named_parameters_of(module.forward)
    main = getattr(module, "main_input_name", None) or (order[0] if order else "input_ids")
    if adapter.inputs == "pixels":
        main = "pixel_values"
    if tokenization.d_vocab is None and adapter.inputs in ("tokens", "encoder_decoder", "choices"):
        tokenization.d_vocab = _embedding_rows(module)
    return Intake(
        kind=adapter.inputs,
        tokenization=tokenization,
        accepted=keywords_read(module) - _NOT_HERE,
        causal=adapter.cfg.causal,
        where=type(module).__name__,
        order=order,
        main=str(main),
        dtype=None if first is None else first.dtype,
        position_offset=position_offset(module),
        start=getattr(config, "decoder_start_token_id", None),
        shifts=adapter.inputs == "encoder_decoder" and getattr(config, "model_type", "") not in T5_TYPES,
        tables=Tables.of(module, tokenization.n_ctx),
        signature=_signature(module),
        **more,
    )


def _signature(module: nn.Module) -> inspect.Signature | None:
    try:
        return inspect.signature(module.forward)
    except (TypeError, ValueError):  # built in: it tells nobody what it takes
        return None


def _embedding_rows(module: Any) -> int | None:
    """How many ids a model's embedding can look up; None where nobody says."""
    try:
        table = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    rows = getattr(table, "num_embeddings", None)
    return int(rows) if rows else None
