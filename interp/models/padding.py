"""Padding proves itself: at load, a padded batch must equal its rows alone.

Padded on the left, on the right and with holes in the mask, in one batch; the real tokens' outputs
are compared with the same tokens alone. Where they differ that side is refused for this model, at
the moment somebody pads there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.models.adapters.proof import FirstRun, quiet
from interp.models.hooked import HookedModel
from interp.models.outputs import candidates, main_output
from interp.models.text.batch import TokenBatch
from interp.models.text.inputs import Intake
from interp.models.text.positions import SIDES
from interp.models.text.prepared import Padding, Prepared

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 6e-2, "float16": 1e-2}
REAL, PADS = 5, 2


def prove_padding(model: HookedModel, first: FirstRun | None = None) -> None:
    """Find out, on a few tokens, where this model may be padded and whose positions hold there.

    Tried in turn, until nothing differs: positions counted from the mask, the model's own; any id
    in the padding, its padding id. One passes at once in nearly every family.

    Args:
        first: A run without padding that was made before, perhaps of the same tokens.
    """
    intake = model._intake
    rows = intake.tokenization.d_vocab or 0
    columns = min(REAL + PADS, intake.tokenization.n_ctx or REAL + PADS)
    if not intake.reads_ids or rows < 2 or columns <= PADS:
        return
    ids = _probe(rows, columns - PADS, model.device)
    best: Padding | None = None
    known = None if first is None or _two_sided(model) else _alone(first, ids)
    with quiet(model), torch.no_grad():
        for padding in _ways(model, intake):
            trial = replace(intake, padding=padding)
            padding.refused.update(_differences(model, trial, ids, "", known))
            if _two_sided(model):
                padding.refused.update(_differences(model, trial, ids, "decoder "))
            if best is None or len(padding.refused) < len(best.refused):
                best = padding
            if not any(name.endswith(("left", "right")) for name in padding.refused):
                break  # holes are nobody's custom: no other way of counting mends a fixed window
    if best is not None:
        vars(intake.padding).update(vars(best) | {"alone": intake.padding.alone})


def _probe(rows: int, length: int, device: torch.device) -> Tensor:
    """Ids from the upper half of the vocabulary: special ones sit at the bottom."""
    return (rows // 2 + torch.arange(length, device=device) * 7 % max(rows - rows // 2, 1))[None]


def _ways(model: HookedModel, intake: Intake) -> Iterator[Padding]:
    own = getattr(getattr(model.module, "config", None), "pad_token_id", None)
    fills = [None] if own is None or not 0 <= own < (intake.tokenization.d_vocab or 0) else [None, own]
    for fill in fills:
        for placed in (True, False) if "position_ids" in intake.accepted else (True,):
            yield Padding(fill=fill, placed=placed)


def _two_sided(model: HookedModel) -> bool:
    return "decoder_attention_mask" in model._intake.accepted


def _padded(ids: Tensor) -> tuple[list[str], TokenBatch]:
    """One row for each side, all with the same real tokens; the padding is a token like others."""
    n, device = ids.shape[1], ids.device
    masks = {"left": [0] * PADS + [1] * n, "right": [1] * n + [0] * PADS}
    if n > 1:
        masks["holes"] = [1] + [0] * PADS + [1] * (n - 1)
    mask = torch.tensor(list(masks.values()), device=device).bool()
    # The padding is a token like others: nothing but the mask tells it from text.
    batch = ((ids[:, :1] + 3) % (ids.max() + 1)).repeat(len(masks), mask.shape[1])
    batch[mask] = ids.repeat(len(masks), 1).reshape(-1)
    return list(masks), TokenBatch(batch, mask)


def _alone(first: FirstRun, ids: Tensor) -> list[Tensor] | None:
    """What a run made of these tokens, if they were its first row."""
    tokens = first.ready.tokens
    if tokens is None or tokens.shape[1:] != ids.shape[1:] or not torch.equal(tokens[:1], ids):
        return None
    parts = _parts(first.raw)
    return (
        [part[:1] for part in parts]
        if all(part.dim() and len(part) == len(tokens) for part in parts)
        else None
    )


def _differences(
    model: HookedModel, intake: Intake, ids: Tensor, side: str, known: list[Tensor] | None = None
) -> dict[str, str]:
    """The sides on which padding changes what the real tokens give, with the reason."""
    names, batch = _padded(ids)
    try:
        alone = known or _run(model, _ready(model, intake, TokenBatch.of(ids), ids, side))
        together = _run(model, _ready(model, intake, batch, ids, side))
    except Exception as error:  # whatever a strange forward raises: then nobody may pad it
        told = str(error).strip().splitlines() or [type(error).__name__]
        return {side + name: f"this model cannot be padded: {told[0][:100]}" for name in SIDES}
    bad = {}
    tolerance = TOLERANCE.get(model.cfg.dtype, 6e-2)
    for i, name in enumerate(names):
        mask = batch.mask[i] if side or not _two_sided(model) else None
        rows = [_real(t[i], mask) for t in together]
        if not all(_same(a[0], row, tolerance) for a, row in zip(alone, rows, strict=True)):
            finite = all(bool(row.isfinite().all()) for row in rows)
            bad[side + name] = _reason(intake, name, finite)
    return bad


def _ready(model: HookedModel, intake: Intake, batch: TokenBatch, ids: Tensor, side: str) -> Prepared:
    if side:
        first = ids[:, :2].expand(len(batch), -1)
        extra = {"decoder_input_ids": batch.ids, "decoder_attention_mask": batch.mask}
        return intake.prepare(first, extra, None)
    if _two_sided(model):
        decoder = ids[:, :2].expand(len(batch), -1)
        return intake.prepare(batch, {"decoder_input_ids": decoder}, None)
    return intake.prepare(batch, {}, None)


def _run(model: HookedModel, ready: Prepared) -> list[Tensor]:
    return _parts(model.module(*ready.args, **ready.kwargs))


def _parts(raw: Any) -> list[Tensor]:
    output = main_output(raw)
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list):
        return [part for part in output[:1] if isinstance(part, Tensor)]
    return [output[name] for name in candidates(output)]


def _real(row: Tensor, mask: Tensor | None) -> Tensor:
    """A row's real tokens, where it runs along them."""
    return row[mask] if mask is not None and row.dim() and row.shape[0] == len(mask) else row


def _same(expected: Tensor, row: Tensor, tolerance: float) -> bool:
    if row.shape != expected.shape:
        return True  # no axis of rows or positions that could be compared
    scale = expected.abs().max().float().clamp(min=1e-6)
    return bool((row - expected).abs().max().float() / scale <= tolerance)


def _reason(intake: Intake, side: str, finite: bool) -> str:
    if not finite:
        where = "holes in the mask make" if side == "holes" else f"padding on the {side} makes"
        return f"{where} this model compute NaN or infinity for the real tokens"
    if side == "left" and "position_ids" not in intake.accepted:
        return "this model takes no position ids, so left padding would shift its positions"
    where = "holes in the mask change" if side == "holes" else f"padding on the {side} changes"
    return f"{where} what this model computes for the real tokens"
