"""Steps of TopK, AbsTopK and BatchTopK dictionaries, with AuxK for dead latents."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from interp.dictionaries.steps.shared import Batch, Fit, Step
from interp.dictionaries.steps.sparse import CROSSOVER, DenseEntries, Entries, SparseEntries, strongest


class _Kept(Step):
    """A given number of latents is kept; the choice itself has no gradient.

    With `rescale_acts_by_decoder_norm` latents are pre * norm and decode as pre: the norms only
    choose, so they get no gradient through the latents. Scores are then an encoder product with
    rows times their norm, which spares a pass over [n, d_sae].
    """

    @abstractmethod
    def choose(self, scores: Tensor) -> Entries:
        """Which entries of the scores are kept."""

    def run(self, batch: Batch, low: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
        d = self.dictionary
        weight, bias = d.encoder, d.b_enc
        norms = None
        if d.config.rescale_acts_by_decoder_norm:
            norms = d.decoder_norms
            weight, bias = weight * norms[:, None], bias * norms
        scores = self.product(batch, weight, bias, low)
        kept = self.choose(scores)
        scored = self.values(kept, scores, batch, d.b_enc, low)
        if norms is not None and low is None:
            scored = scored / kept.spread(norms)
        latents = scored if d.config.activation == "abstopk" else scored.relu()
        fit = self.reconstruct(kept, latents, batch)
        to_latents = kept.dot(fit.to_rows, d.W_dec)
        if d.config.activation != "abstopk":
            to_latents *= latents > 0
        to_W_dec = kept.outer(latents, fit.to_rows)
        to_encoder = kept.outer(to_latents, batch.centred)
        to_bias = kept.sums(to_latents)
        metrics = self.observe(fit, kept, latents)
        loss = fit.loss
        dead = self._dead()
        if dead is not None:
            grads = (to_W_dec, to_encoder, to_bias)
            metrics["auxk"] = self.revive(batch, fit, scores, dead, grads)
            loss = loss + self.losses.auxk_alpha * metrics["auxk"]
        self.fill(batch, fit, to_W_dec=to_W_dec, to_encoder=to_encoder, to_bias=to_bias)
        d.b_enc.grad = to_bias
        return loss, metrics

    def _dead(self) -> Tensor | None:
        if not self.losses.auxk_alpha:
            return None
        dead = self.losses.dead.nonzero().squeeze(1)
        return dead if len(dead) else None

    def revive(
        self, batch: Batch, fit: Fit, scores: Tensor, dead: Tensor, grads: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """AuxK: the d_out / 2 strongest dead latents of a row reconstruct what was left of it.

        Gao et al. 2024 (arXiv 2406.04093) appendix A.2; scaled down while few are dead, as in
        sparsify and SAELens. Only the dead columns are touched.

        Their reconstruction counts at the best multiple of itself up to 1: at full size many
        undirected latents together overshoot the little that is left, so that all the gradient
        does at first is to shrink them, and what is small is never among the k.

        Args:
            batch: The batch.
            fit: Its reconstruction; the error is held fixed.
            scores: [n, d_sae].
            dead: Indices of dead latents.
            grads: Gradients of W_dec, encoder and its bias, to be added to.

        Returns:
            Squared error of the dead latents' reconstruction, scaled, [].
        """
        d, n = self.dictionary, len(scores)
        is_signed = d.config.activation == "abstopk"
        scored = scores.index_select(1, dead).to(d.W_dec.dtype)
        most = max(1, d.config.width_out // 2)
        kept: Entries = DenseEntries(n, len(dead))
        if most < len(dead):
            index = (scored.abs() if is_signed else scored).topk(most, -1, sorted=False).indices
            if most < CROSSOVER * len(dead):
                start = torch.arange(n, device=index.device)[:, None] * len(dead)
                kept = SparseEntries((index + start).flatten(), n, len(dead))
            else:
                scored = torch.zeros_like(scored).scatter_(1, index, scored.gather(1, index))
        latents = kept.take(scored)
        if not is_signed:
            latents = latents.relu()
        W_dec = d.W_dec[dead]
        if d.config.rescale_acts_by_decoder_norm:
            latents = latents / kept.spread(W_dec.norm(dim=1))
        rest = kept.decode(latents, W_dec)
        if batch.scale is not None:
            rest *= batch.scale.size
        size = best_multiple(rest, fit.error)
        rest *= size
        rest -= fit.error
        share = min(1.0, len(dead) / most)
        loss = share * rest.flatten().dot(rest.flatten()) / n
        rest *= size * (2 * share * self.losses.auxk_alpha / n)
        if batch.scale is not None:
            rest *= batch.scale.size
        to_latents = kept.dot(rest, W_dec) * (latents != 0)
        to_W_dec, to_encoder, to_bias = grads
        to_W_dec.index_add_(0, dead, kept.outer(latents, rest))
        to_encoder.index_add_(0, dead, kept.outer(to_latents, batch.centred))
        to_bias.index_add_(0, dead, kept.sums(to_latents))
        return loss


def best_multiple(made: Tensor, left: Tensor) -> Tensor:
    """The multiple of `made`, from 0 to 1, that is nearest to `left`: [].

    Args:
        made: Any shape.
        left: Of the same shape.
    """
    one, other = made.flatten(), left.flatten()
    return (one.dot(other) / one.dot(one).clamp_min(1e-30)).clamp(0, 1)


class TopKStep(_Kept):
    """k per row, by value (TopK) or magnitude (AbsTopK)."""

    def choose(self, scores: Tensor) -> Entries:
        config = self.dictionary.config
        ranked = scores
        if config.activation == "abstopk":
            ranked = self.buffer("magnitudes", tuple(scores.shape), scores.dtype)
            torch.abs(scores, out=ranked)
        index = ranked.topk(int(self.k or 0), -1, sorted=False).indices
        index += torch.arange(len(scores), device=index.device)[:, None] * config.d_sae
        return SparseEntries(index.flatten(), len(scores), config.d_sae, config.groups)


class BatchTopKStep(_Kept):
    """int(k n) of all n rows together."""

    def choose(self, scores: Tensor) -> Entries:
        config = self.dictionary.config
        mask = self.buffer("mask", tuple(scores.shape), torch.bool)
        flat = strongest(scores, int((self.k or 0) * len(scores)), mask)
        return SparseEntries(flat, len(scores), config.d_sae, config.groups)
