"""Padding proves itself: a padded batch must equal its rows alone, or nobody may pad.

Padded on the left, on the right and with holes in the mask, in one batch; the real tokens' outputs
are compared with the same tokens alone. Where they differ that side is refused for this model.
Nobody waits for it who pads nothing: the first padded batch runs the proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp.models.adapters.once import numberless, run_plain, undisturbed
from interp.models.adapters.proof import close
from interp.models.hooks.frame import Frame
from interp.models.outputs import candidates, main_output
from interp.models.text.batch import TokenBatch
from interp.models.text.inputs import Intake
from interp.models.text.positions import SIDES
from interp.models.text.prepared import Padding, Prepared

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 6e-2, "float16": 1e-2}
REAL, PADS = 5, 2


def prove_padding(module: nn.Module, frame: Frame, dtype: str, hooks: frozenset[Any], intake: Intake) -> bool:
    """Find out, on a few tokens, where this model may be padded and whose positions hold there.

    Tried in turn, until nothing differs: positions counted from the mask, the model's own; any id
    in the padding, its padding id. One passes at once in nearly every family.

    Returns:
        Whether anything was learned: not of a model that gives no numbers (NaN, infinity).
    """
    rows = intake.tokenization.d_vocab or 0
    columns = min(REAL + PADS, intake.tokenization.n_ctx or REAL + PADS)
    if not intake.reads_ids or rows < 2 or columns <= PADS:
        return True
    if numberless(module):
        return False
    trial = _Trial(module, intake, _probe(rows, columns - PADS, intake.device), TOLERANCE.get(dtype, 6e-2))
    best: Padding | None = None
    with undisturbed(frame, hooks):
        for padding in _ways(module, intake):
            refused = _refused(trial._replace(intake=replace(intake, padding=padding)))
            if refused is None:
                return False
            padding.refused.update(refused)
            if best is None or len(padding.refused) < len(best.refused):
                best = padding
            if not any(name.endswith(("left", "right")) for name in padding.refused):
                break  # holes are nobody's custom: no other way of counting mends a fixed window
    if best is not None:
        known = {"alone": intake.padding.alone, "proof": intake.padding.proof}
        vars(intake.padding).update(vars(best) | known)
    return True


class _Trial(NamedTuple):
    """One way of padding, and what it is tried on."""

    module: nn.Module
    intake: Intake
    ids: Tensor
    tolerance: float


def _refused(trial: _Trial) -> dict[str, str] | None:
    """The sides that this way of padding does not hold on; None where nothing can be said."""
    found = _differences(trial, "")
    if found is not None and _two_sided(trial.intake):
        more = _differences(trial, "decoder ")
        found = None if more is None else found | more
    return found


def _probe(rows: int, length: int, device: torch.device) -> Tensor:
    """Ids from the upper half of the vocabulary: special ones sit at the bottom."""
    return (rows // 2 + torch.arange(length, device=device) * 7 % max(rows - rows // 2, 1))[None]


def _ways(module: nn.Module, intake: Intake) -> Iterator[Padding]:
    own = getattr(getattr(module, "config", None), "pad_token_id", None)
    fills = [None] if own is None or not 0 <= own < (intake.tokenization.d_vocab or 0) else [None, own]
    for fill in fills:
        for placed in (True, False) if "position_ids" in intake.accepted else (True,):
            yield Padding(fill=fill, placed=placed)


def _two_sided(intake: Intake) -> bool:
    return "decoder_attention_mask" in intake.accepted


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


def _differences(trial: _Trial, side: str) -> dict[str, str] | None:
    """The sides on which padding changes what the real tokens give, with the reason."""
    names, batch = _padded(trial.ids)
    try:
        alone = _run(trial, TokenBatch.of(trial.ids), side)
        together = _run(trial, batch, side)
    except (torch.OutOfMemoryError, MemoryError):
        raise  # says nothing about padding
    except Exception as error:  # whatever a strange forward raises: then nobody may pad it
        told = str(error).strip().splitlines() or [type(error).__name__]
        return {side + name: f"this model cannot be padded: {told[0][:100]}" for name in SIDES}
    if not all(bool(row.isfinite().any()) for row in alone):
        return None
    bad = {}
    for i, name in enumerate(names):
        mask = batch.mask[i] if side or not _two_sided(trial.intake) else None
        rows = [_real(t[i], mask) for t in together]
        if not all(_same(a[0], row, trial.tolerance) for a, row in zip(alone, rows, strict=True)):
            finite = all(bool(row.isfinite().all()) for row in rows)
            bad[side + name] = _reason(trial.intake, name, finite)
    return bad


def _run(trial: _Trial, batch: TokenBatch, side: str) -> list[Tensor]:
    ready = _ready(trial.intake, batch, trial.ids, side)
    return _parts(run_plain(trial.module, ready.args, ready.kwargs))


def _ready(intake: Intake, batch: TokenBatch, ids: Tensor, side: str) -> Prepared:
    if side:
        first = ids[:, :2].expand(len(batch), -1)
        extra = {"decoder_input_ids": batch.ids, "decoder_attention_mask": batch.mask}
        return intake.prepare(first, extra, None)
    if _two_sided(intake):
        decoder = ids[:, :2].expand(len(batch), -1)
        return intake.prepare(batch, {"decoder_input_ids": decoder}, None)
    return intake.prepare(batch, {}, None)


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
    return close(row, expected, tolerance)


def _reason(intake: Intake, side: str, finite: bool) -> str:
    if not finite:
        where = "holes in the mask make" if side == "holes" else f"padding on the {side} makes"
        return f"{where} this model compute NaN or infinity for the real tokens"
    if side == "left" and "position_ids" not in intake.accepted:
        return "this model takes no position ids, so left padding would shift its positions"
    where = "holes in the mask change" if side == "holes" else f"padding on the {side} changes"
    return f"{where} what this model computes for the real tokens"
