"""Steps of dictionaries whose sparsity comes from a penalty: ReLU, JumpReLU, Gated."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.dictionaries.steps.shared import Batch, Step

SMOOTH = 1e-3
"""The penalty is (u + SMOOTH)^p - SMOOTH^p, whose slope at u = 0 is finite for p < 1."""


class ReLUStep(Step):
    """Penalty: sum over latents of (z_i |W_dec_i|)^p, mean over rows; p = 1 is L1.

    Bricken et al. 2023; weighted by decoder norms, Conerly et al. 2024 (April update); p-anneal,
    Karvonen et al. 2024 (arXiv 2408.00113) eq. 6.
    """

    def run(self, batch: Batch, low: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
        d, n = self.dictionary, len(batch.x)
        pre = self.product(batch, d.encoder, d.b_enc, low)
        on = self.above(pre, 0.0)
        latents = self.values(on, pre, batch, d.b_enc, low).relu_()
        fit = self.reconstruct(on, latents, batch)
        to_latents = on.dot(fit.to_rows, d.W_dec)
        norms, slope = d.decoder_norms, self.losses.coefficient / n
        if self.lp == 1:
            total = on.sums(latents)
            penalty, to_norms = total @ norms / n, total * slope
            to_latents += on.spread(norms * slope)
        else:
            norm = on.spread(norms)
            smooth = latents * norm + SMOOTH
            penalty = ((smooth**self.lp).sum() - smooth.numel() * SMOOTH**self.lp) / n
            slopes = slope * self.lp * smooth ** (self.lp - 1)
            to_norms = on.sums(latents * slopes)
            to_latents += norm * slopes
        to_latents.masked_fill_(latents <= 0, 0)
        to_W_dec = on.outer(latents, fit.to_rows)
        self.penalise_norms(to_W_dec, to_norms)
        to_bias = on.sums(to_latents)
        to_encoder = on.outer(to_latents, batch.centred)
        self.fill(batch, fit, to_W_dec=to_W_dec, to_encoder=to_encoder, to_bias=to_bias)
        d.b_enc.grad = to_bias
        metrics = self.observe(fit, on, latents) | {"penalty": penalty}
        return fit.loss + self.losses.coefficient * penalty, metrics


class JumpReLUStep(Step):
    """Penalty: L0, mean over rows; thresholds learn from entries within `bandwidth` of them.

    Rajamanoharan et al. 2024 (arXiv 2407.14435) eq. 9-12: a rectangular window of width eps stands
    for the derivative of the jump. Besides active entries only those in the window matter.
    """

    def run(self, batch: Batch, low: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
        d, n = self.dictionary, len(batch.x)
        eps, threshold = d.config.bandwidth, d.threshold
        pre = self.product(batch, d.encoder, d.b_enc, low)
        near = self.above(pre, threshold - eps / 2)
        seen = self.values(near, pre, batch, d.b_enc, low)
        bound = near.spread(threshold)
        is_active = (seen > bound) & (seen > 0)
        outside = (seen - bound).abs_() >= eps / 2
        latents = seen.masked_fill_(~is_active, 0)
        fit = self.reconstruct(near, latents, batch)
        to_latents = near.dot(fit.to_rows, d.W_dec)
        slope = self.losses.coefficient / n
        pull = near.sums(to_latents.mul(bound).add_(slope).masked_fill_(outside, 0))
        to_latents.masked_fill_(~is_active, 0)
        to_bias = near.sums(to_latents)
        self.fill(
            batch,
            fit,
            to_W_dec=near.outer(latents, fit.to_rows),
            to_encoder=near.outer(to_latents, batch.centred),
            to_bias=to_bias,
        )
        d.b_enc.grad, d.threshold.grad = to_bias, -pull / eps
        penalty = torch.count_nonzero(is_active).to(seen.dtype) / n
        metrics = self.observe(fit, near, latents) | {"penalty": penalty}
        return fit.loss + self.losses.coefficient * penalty, metrics


class GatedStep(Step):
    """Penalty: sum of open gates' pre-activations times decoder norms, mean over rows.

    Rajamanoharan et al. 2024 (arXiv 2404.16014) eq. 8: gates alone also reconstruct the target,
    since the gate itself passes no gradient; with the decoder held fixed, unless its norms are
    free: r_mag could then grow while they, and the penalty with them, shrink to nothing.
    """

    def run(self, batch: Batch, low: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
        d, n = self.dictionary, len(batch.x)
        pre = self.product(batch, d.encoder, d.b_gate, low)
        on = self.above(pre, 0.0)
        gates = self.values(on, pre, batch, d.b_gate, low)
        product = gates - on.spread(d.b_gate)
        gain = on.spread(d.r_mag.exp())
        is_open = gates > 0
        gates = gates.relu()
        latents = torch.addcmul(on.spread(d.b_mag), product, gain).relu() * is_open
        fit = self.reconstruct(on, latents, batch)
        by_gates = self.reconstruct(on, gates, batch)
        to_magnitudes = on.dot(fit.to_rows, d.W_dec) * (latents > 0)
        norm = on.spread(d.decoder_norms)
        slope = self.losses.coefficient / n
        to_gates = on.dot(by_gates.to_rows, d.W_dec).add_(norm * slope).mul_(is_open)
        to_W_dec = on.outer(latents, fit.to_rows)
        if self.losses.gates_teach:
            to_W_dec += on.outer(gates, by_gates.to_rows)
            fit = fit._replace(to_out=fit.to_out + by_gates.to_out)
        self.penalise_norms(to_W_dec, on.sums(gates) * slope)
        to_product = torch.addcmul(to_gates, to_magnitudes, gain)
        d.b_gate.grad = on.sums(to_gates)
        d.b_mag.grad = on.sums(to_magnitudes)
        d.r_mag.grad = on.sums(to_magnitudes * product) * d.r_mag.exp()
        self.fill(
            batch,
            fit,
            to_W_dec=to_W_dec,
            to_encoder=on.outer(to_product, batch.centred),
            to_bias=on.sums(to_product),
        )
        penalty = (gates * norm).sum() / n
        metrics = self.observe(fit, on, latents)
        metrics |= {"penalty": penalty, "gates": by_gates.mse}
        return fit.loss + by_gates.loss + self.losses.coefficient * penalty, metrics
