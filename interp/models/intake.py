"""The intake of a live module, and what a forward that did not come through it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import TokenError
from interp.models.adapter import Adapter
from interp.models.inputs import Intake, Prepared
from interp.models.keywords import keywords_read, named_parameters_of
from interp.models.masks import cached_keys, read_mask
from interp.models.positions import position_offset
from interp.models.tokens import Tokenization


def intake_of(
    module: nn.Module, adapter: Adapter, tokenization: Tokenization, **more: Any
) -> Intake:
    """The intake of a raw module: what its forward reads, where its positions begin."""
    config: Any = getattr(module, "config", None)
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    order = named_parameters_of(module.forward)
    main = getattr(module, "main_input_name", None) or (order[0] if order else "input_ids")
    if adapter.inputs == "pixels":
        main = "pixel_values"
    if tokenization.d_vocab is None and adapter.inputs in ("tokens", "encoder_decoder"):
        tokenization.d_vocab = _embedding_rows(module)
    return Intake(
        kind=adapter.inputs,
        tokenization=tokenization,
        accepted=keywords_read(module),
        causal=adapter.cfg.causal,
        where=type(module).__name__,
        order=order,
        main=str(main),
        dtype=None if first is None else first.dtype,
        position_offset=position_offset(module),
        start=getattr(config, "decoder_start_token_id", None),
        **more,
    )


def _embedding_rows(module: Any) -> int | None:
    """How many ids a model's embedding can look up; None where nobody says."""
    try:
        table = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    rows = getattr(table, "num_embeddings", None)
    return int(rows) if rows else None


def seen(intake: Intake, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prepared:
    """What a raw module's own arguments say: ids, mask, the decoder's, and cached keys.

    For forwards that did not come through `prepare`. Refuses nothing: the call is the user's own;
    what cannot be read counts as not given.
    """
    bound = {**dict(zip(intake.order, args, strict=False)), **kwargs}
    ready = Prepared(args, dict(kwargs), cached=cached_keys(bound))
    ids = bound.get("input_ids")
    if ids is None and intake.kind == "tokens" and not intake.huggingface and args:
        ids = args[0]
    decoder = bound.get("decoder_input_ids")
    ready.tokens = ids if _is_ids(ids) else None
    ready.decoder_tokens = decoder if _is_ids(decoder) else None
    two_sided = intake.kind == "encoder_decoder" or ready.decoder_tokens is not None
    shape = _shape(ready.tokens, bound.get("inputs_embeds"))
    before = 0 if two_sided else ready.cached
    ready.mask = _seen_mask(bound.get("attention_mask"), shape, before, intake)
    other = _shape(ready.decoder_tokens, bound.get("decoder_inputs_embeds"))
    ready.decoder_mask = _seen_mask(
        bound.get("decoder_attention_mask"), other, ready.cached, intake
    )
    return ready


def _is_ids(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point()


def _shape(ids: Tensor | None, embeds: Any) -> torch.Size | None:
    if ids is not None:
        return ids.shape
    return embeds.shape[:2] if isinstance(embeds, Tensor) and embeds.dim() == 3 else None


def _seen_mask(mask: Any, shape: torch.Size | None, cached: int, intake: Intake) -> Tensor | None:
    if not isinstance(mask, Tensor) or shape is None:
        return None
    try:
        full, _ = read_mask(mask, shape, cached, intake)
    except TokenError:
        return None
    real = full[:, full.shape[1] - shape[1] :]
    return None if bool(real.all()) else real
