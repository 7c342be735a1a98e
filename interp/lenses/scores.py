"""Lenses compared on text that none of them was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.config import TextConfig
from interp.activations.text import token_sequences
from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.frames.quantity import measured, places
from interp.core.result import Result
from interp.lenses.reading import TOLERANCE, log_probs, stream_rows
from interp.lenses.tuned import TunedLens
from interp.models.hooked import HookedModel
from interp.models.stream.blocks import row_blocks


def _by_row(name: str, unit: str, higher: str) -> Any:
    """A field of one line per lens over the rows."""
    return measured(name, unit, higher, signed=False, along="row", axis_title="row of the lens")


@dataclass(frozen=True, kw_only=True, eq=False)
class LensScores(Result, headline="Lenses on {n_tokens:,} held-out tokens"):
    """Mean over held-out tokens, per lens and row; the rows are those of `LensResult`."""

    kl: Float[Tensor, "lens row"] = _by_row(
        "KL(model output ‖ row)", "nats", "the row is farther from the output"
    )
    """KL(model output || row), nats."""
    cross_entropy: Float[Tensor, "lens row"] = _by_row(
        "cross-entropy of the next token", "nats", "the row predicts worse"
    )
    """Cross-entropy of the token that really comes next, nats."""
    agreement: Float[Tensor, "lens row"] = _by_row(
        "share of positions with the model's top-1", "", "the row says what the model says"
    )
    """Share of positions whose top-1 is the model's."""
    lenses: tuple[str, ...] = places("lens")
    """Names of the lenses."""
    components: tuple[str, ...] = places("row", "row of the lens")
    """Names of the rows, bottom to top."""
    n_tokens: int
    """Positions that were read."""
    tolerance: float
    """Bound on the KL of the last row, which every lens leaves as it is."""

    def check(self) -> Checks:
        """The last row of every lens is the model's own output."""
        return Checks([Check.at_most("last row = model output (KL)", self.kl[:, -1].max(), self.tolerance)])


def score_lenses(
    model: HookedModel,
    data: Any,
    lenses: Mapping[str, TunedLens] | None = None,
    *,
    n_ctx: int | None = None,
    batch_size: int = 16,
    strict: bool = True,
) -> LensScores:
    """The logit lens beside trained ones, on the same text.

    Args:
        data: Text as `tokenize_texts` reads it, `TokenSequences`, or ids [sequence pos]; text
            that no lens has seen.
        lenses: Name -> trained lens.
        n_ctx: Tokens per sequence where `data` is text; ids are as they are.
        batch_size: Sequences per forward pass.
        strict: Refuse lenses made for another model.

    Raises:
        ProvenanceError: A lens made for another model.
        ConfigError: Text of single tokens: nothing comes next; `n_ctx` beside ids of another length.
    """
    every: dict[str, TunedLens] = {"logit": TunedLens.identity(model), **(lenses or {})}
    for lens in every.values():
        lens.check_model(model, strict=strict)
        lens.to(model.device)
    tokens = token_sequences(model, data, TextConfig(n_ctx=n_ctx))
    rows = stream_rows(model, "resid")
    sums = torch.zeros(3, len(every), len(rows), dtype=torch.float64)
    n = 0
    with torch.no_grad():
        for chosen in torch.arange(len(tokens)).split(batch_size):
            batch = tokens.batch(chosen)
            acts = model.capture(batch.to(model.device), list(rows.values()))
            follows = batch.mask[:, 1:]  # a real token comes next
            if not bool(follows.any()):
                continue
            answers = batch.ids[:, 1:][follows].to(model.device)
            here = {site: acts[site][:, :-1][follows.to(model.device)] for site in rows.values()}
            n += len(answers)
            for block in row_blocks(len(answers), model.cfg.d_vocab_out or model.cfg.d_vocab):
                rest = {site: value[block] for site, value in here.items()}
                sums += _of_block(model, every, rest, answers[block])
    if n == 0:
        raise ConfigError("no sequence has a second token", got=tokens)
    kl, cross_entropy, agreement = (sums / n).float().unbind()
    return LensScores(
        kl=kl.clamp(min=0),
        cross_entropy=cross_entropy,
        agreement=agreement,
        lenses=tuple(every),
        components=tuple(rows),
        n_tokens=n,
        tolerance=TOLERANCE.get(model.cfg.dtype, 1e-2),
        labels={"lens": list(every), "row": list(rows)},
        provenance=model.provenance(rows.values()),
    )


def _of_block(
    model: HookedModel, lenses: Mapping[str, TunedLens], here: Mapping[str, Tensor], answers: Tensor
) -> Tensor:
    """`_totals` of every lens and row, [3 lens row], of the streams [token d_model] by site."""
    final = log_probs(model.unembed(model.ln_final(here[list(here)[-1]])))
    sums = torch.zeros(3, len(lenses), len(here), dtype=torch.float64)
    for i, lens in enumerate(lenses.values()):
        for j, (site, stream) in enumerate(here.items()):
            log_q = log_probs(model.unembed(model.ln_final(lens(site, stream))))
            sums[:, i, j] = _totals(final, log_q, answers)
    return sums


def _totals(final: Tensor, log_q: Tensor, answers: Tensor) -> Tensor:
    """Sums over tokens of KL, cross-entropy and agreement, [3]."""
    kl = (final.exp() * (final - log_q)).nan_to_num(0.0).sum()
    missed = -log_q.gather(-1, answers[:, None]).sum()
    same = (log_q.argmax(-1) == final.argmax(-1)).sum()
    return torch.stack([kl.double(), missed.double(), same.double()]).cpu()
