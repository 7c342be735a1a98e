"""A short end-to-end finetune: a trained dictionary learns what the model behind it needs.

Squared error treats every direction of the target alike; the model does not. After training, a
few hundred steps on the KL between the model's predictions and those with the reconstruction in
place win back most of what end-to-end training from the start would (Karvonen 2025, "Revisiting
End-To-End Sparse Autoencoder Training: A Short Finetune Is All You Need", arXiv 2503.17272).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from interp.activations.config import FitConfig
from interp.activations.loop import Callback, fit
from interp.activations.report import FitReport
from interp.activations.runfolder import PLAN, Resume
from interp.activations.text import TokenSequences
from interp.core.errors import ConfigError
from interp.core.provenance import fingerprint_state
from interp.core.randomness import permutation
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.far_rows import find_far, norms_of, tell_far
from interp.dictionaries.landing import cut_at, land, rows_wanted, scores
from interp.dictionaries.scores.config import FinetuneConfig
from interp.dictionaries.sources import require_made_for, sequences
from interp.models.stream.blocks import Speech, speech
from interp.models.text.batch import TokenBatch

FIXED_K = ("topk", "abstopk")
CUT = ("batchtopk", "jumprelu", "gated")
"""Activations with a cut on rows that can be moved until L0 is what it was."""
BLOCK = 4096
"""Sequences whose ids are looked at together."""
WARMUP = 0.1
"""Share of the steps over which the learning rate rises; it falls linearly to zero after."""


def finetune(
    dictionary: Dictionary,
    model: Any,
    data: Any,
    config: FinetuneConfig | None = None,
    *,
    out: Path | str | None = None,
    resume: Resume = "auto",
    overwrite: bool = False,
) -> tuple[Dictionary, FitReport]:
    """A copy of the dictionary, trained through the model; L0 and decoder norms stay.

    The loss is KL(intact || spliced) per predicted token, nats, + `fvu_weight` x FVU. As many
    latents are active per batch as `config.l0` says; at the end the threshold (the gates' offset)
    is measured on rows. The model is left as it is: no gradient is kept, nothing is written to it.

    Args:
        dictionary: An SAE or transcoder of this model, any activation with an L0 to hold: topk,
            abstopk, batchtopk, jumprelu, gated.
        model: A `HookedModel` of a language model.
        data: Text (whatever `tokenize_texts` reads), token ids [sequence pos], `TokenSequences`.
        out: The run's folder: checkpoints and metrics.jsonl. None keeps nothing on disk.
        resume: As for `interp.activations.fit`.
        overwrite: Replace what an earlier run left in `out`.

    Returns:
        The dictionary, and how the training went (metrics kl, fvu, l0).

    Raises:
        ConfigError: An activation without a cut, a model that predicts no tokens, settings out of
            range, no token to train on.
        ProvenanceError, SiteError, ShapeError: Made for another model.
        NonFiniteError, StorageError, Interrupted: As for `interp.activations.fit`.
    """
    config = config or FinetuneConfig()
    kind = dictionary.config.activation
    check_finetune(config, [kind])
    if not model.has_head:
        raise ConfigError(
            "finetuning compares predictions, and this model predicts no tokens",
            got=type(model.module).__name__,
            expected="a language model",
        )
    tokens = sequences(model, data, config.n_ctx)
    here = require_made_for(dictionary, model, tokens, strict=True)
    batches = _Batches(model, tokens, config)
    made = copy.deepcopy(dictionary).requires_grad_(True)
    tuning = _Tuning(made, batches, config)
    if (far := find_far(norms_of(tuning.rows()))) is not None:
        tell_far(far, f"rows at {made.site_in}", [f"row {row} of the first batches" for row in far.rows])
    plan = FitConfig(
        steps=config.steps,
        lr=config.lr,
        lr_schedule="linear",
        seed=config.seed,
        lr_warmup=round(WARMUP * config.steps),
        log_every=config.log_every,
        overwrite=overwrite,
    )
    record = {
        "finetune": asdict(config),
        "text": tokens.fingerprint,
        "dictionary": fingerprint_state(dictionary.state_dict(), {}),
        "data": {PLAN: {"model": here.model_fingerprint, "dtype": here.dtype, "n_ctx": tokens.n_ctx}},
    }
    report = fit(
        made, tuning.step, batches, plan, out=out, callbacks=[_Norms(made)], resume=resume, record=record
    )
    if kind in CUT:
        land(made, tuning.rows(), tuning.l0)
    last = {key: report.series(key)[1][-1] for key in ("kl", "fvu", "l0")}
    about = {"config": asdict(config), "seconds": round(report.seconds, 1), "last": last}
    made.metadata["finetuning"] = about
    return made, report


def check_finetune(config: FinetuneConfig, activations: Sequence[str]) -> None:
    """Refuse activations without a number of latents to hold.

    Raises:
        ConfigError: The field or the activation, what is possible.
    """
    for kind in activations:
        if config.l0 is not None and kind in FIXED_K:
            raise ConfigError(
                f"a {kind} dictionary has its number of active latents from k",
                got=f"l0={config.l0}",
                fix="leave l0 out",
            )
        if kind not in FIXED_K + CUT:
            raise ConfigError(
                "this activation has no number of active latents to hold",
                got=kind,
                expected=", ".join(FIXED_K + CUT),
            )


class _Batches:
    """Batch t: other sequences each epoch, in an order that depends on (seed, epoch) only."""

    def __init__(self, model: Any, tokens: TokenSequences, config: FinetuneConfig) -> None:
        self.model, self.seed = model, config.seed
        blocks = torch.arange(len(tokens)).split(BLOCK)
        # Of fewer than two rows, none varies: no FVU.
        has_rows = torch.cat([self.keep(tokens.batch(block)).sum(1).cpu() > 1 for block in blocks])
        if not bool(has_rows.any()):
            raise ConfigError("no token is left to train on", got=repr(tokens), fix="longer texts")
        self.tokens = TokenSequences(tokens.ids[has_rows], tokens.lengths[has_rows])
        self.size = min(config.batch_sequences, len(self.tokens))
        # A batch lies in one epoch or across two.
        self.order = lru_cache(maxsize=2)(partial(permutation, len(self.tokens), self.seed, "finetune"))

    def __call__(self, t: int) -> TokenBatch:
        n = len(self.tokens)
        places = [divmod(t * self.size + i, n) for i in range(self.size)]
        return self.tokens.batch(torch.stack([self.order(epoch)[i] for epoch, i in places]))

    def keep(self, batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
        """Where the reconstruction stands in: everything but padding and BOS."""
        bos = self.model.tokenization.bos_id
        mask = batch.mask if bos is None else batch.mask & (batch.ids != bos)
        return mask.to(self.model.device)


class _Tuning:
    """The step: one intact pass, one with the reconstruction in place, one way back."""

    def __init__(self, dictionary: Dictionary, batches: _Batches, config: FinetuneConfig) -> None:
        self.dictionary, self.batches, self.model = dictionary, batches, batches.model
        self.fvu_weight = config.fvu_weight
        self.l0 = self._measured() if config.l0 is None else float(config.l0)

    def step(self, module: Any, batch: TokenBatch, t: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Fill the dictionary's gradients; the model's parameters get none."""
        d, keep = self.dictionary, self.batches.keep(batch)
        intact = speech(self.model, batch, keep, also=[d.site_in, d.site_out])
        found: Any = intact.acts
        x, y = (found[s][keep].flatten(1).to(d.W_dec) for s in (d.site_in, d.site_out))
        latents = self._latents(x)
        new = d.decode(latents) + d.skip(x)

        def put(value: Tensor, hook: Any) -> Tensor:
            return value.flatten(2).index_put((keep,), new.to(value)).reshape(value.shape)

        said = speech(self.model, batch, keep, [(d.site_out, put)], grad=True)
        kl, pull = _divergence(intact, said)
        fvu = (new - y).square().sum() / (y - y.mean(0)).square().sum().clamp_min(1e-30)
        loss = kl.to(fvu) + self.fvu_weight * fvu
        learned = [p for p in d.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            [said.rows, self.fvu_weight * fvu], learned, [pull, torch.ones_like(fvu)], allow_unused=True
        )
        for parameter, gradient in zip(learned, gradients, strict=True):
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
        active = (latents.detach() != 0).sum(-1).to(fvu.dtype).mean()
        return loss.detach(), {"kl": kl.detach(), "fvu": fvu.detach(), "l0": active}

    def rows(self) -> Float[Tensor, "row d_in"]:
        """What the dictionary reads in the first batches, as many rows as `land` wants."""
        wanted, parts = rows_wanted(self.dictionary.config.d_sae), []
        for t in range(-(-len(self.batches.tokens) // self.batches.size)):
            batch = self.batches(t)
            found = self.model.capture(batch, self.dictionary.site_in)
            parts.append(found[self.dictionary.site_in][self.batches.keep(batch)].flatten(1))
            if sum(map(len, parts)) >= wanted:
                break
        return torch.cat(parts)[:wanted].to(self.dictionary.W_dec)

    @torch.no_grad()
    def _measured(self) -> float:
        """Latents active per row as the dictionary is."""
        return float((self.dictionary.encode(self.rows()) != 0).sum(-1).float().mean())

    def _latents(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_sae"]:
        """Latents with the cut where `l0` of them are active on average over these rows."""
        d = self.dictionary
        if d.config.activation in FIXED_K:
            return d.encode(x)
        pre = d.preactivations(x)
        score = scores(d, pre)
        magnitude = pre * d.r_mag.exp() + d.b_mag if d.config.activation == "gated" else pre
        return magnitude.relu() * (score >= cut_at(score, self.l0))


def _divergence(intact: Speech, said: Speech) -> tuple[Tensor, Tensor]:
    """KL(intact || said) per row, nats, and its gradient with respect to `said.rows`.

    A block of logits at a time, forward and back: those of a batch would be the largest thing in
    memory, four times.
    """
    total, pull = torch.zeros((), device=said.rows.device), torch.empty_like(said.rows)
    for block in said.blocks():
        rows = said.rows[block].detach().requires_grad_()
        with torch.no_grad():
            wanted = intact.logits(intact.rows[block]).float().log_softmax(-1)
        with torch.enable_grad():
            found = said.logits(rows).float().log_softmax(-1)
            kl = F.kl_div(found, wanted, reduction="sum", log_target=True) / len(said.rows)
        pull[block] = torch.autograd.grad(kl, rows)[0]
        total += kl.detach()
    return total, pull


class _Norms(Callback):
    """Decoder rows keep the norms they came with."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.norms = dictionary.decoder_norms.detach().clone()

    def after_backward(self, module: Any, t: int) -> None:
        """Along a row of fixed norm the decoder has no gradient."""
        grad, rows = module.W_dec.grad, F.normalize(module.W_dec.detach(), dim=1)
        grad.addcmul_(rows, torch.linalg.vecdot(grad, rows)[:, None], value=-1)

    @torch.no_grad()
    def after_step(self, module: Any, t: int) -> None:
        """Back to the norm."""
        module.W_dec.mul_((self.norms / module.decoder_norms.clamp_min(1e-12))[:, None])
