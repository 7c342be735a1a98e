"""A dictionary in training: its weights and every number that a resumed run needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interp.dictionaries.config import PENALISED
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.initialising import Sample, initialise
from interp.dictionaries.steps.table import TrainLoss, make_step
from interp.dictionaries.train_config import TrainConfig

INTEGRAL, LEAST_INTEGRAL, PROPORTIONAL = 10.0, 0.002, 1.0
"""How the penalty's logarithm follows e = log(active latents / wanted): INTEGRAL e over the whole
run (at least LEAST_INTEGRAL e per step), and PROPORTIONAL times the change of e, which keeps it
from overshooting while latents are being shut off."""
SWIFT = 3.0
"""JumpReLU: the integral part is as many times stronger. A penalty that lags behind its falling
need drives thresholds up while the next constant pulls them down, until few latents are left."""
SERVO = 0.02
"""JumpReLU: thresholds also follow e themselves, by a factor exp(SERVO e) per step. Those that have
risen too far come down by their gradients only slowly, and not at all once the rate has decayed."""
REVIVAL = 0.98
"""JumpReLU: factor per step on a dead latent's threshold. Away from its window nothing else moves
it, so it would stay dead; it comes down until the latent fires again."""
MEMORY = 0.9
"""Share of the past in the running mean of how many latents are active, which steers the penalty:
a control that sees late overshoots."""


class Trainee(nn.Module):
    """One dictionary, the units it trains in, and what is known about its latents so far.

    Attributes:
        dictionary: What is trained, on scaled activations.
        scale_in, scale_out: Factors on activations read and reconstructed, [].
        variance: Total variance of the scaled target, []; squared error over it is the FVU.
        coefficient: Weight of the sparsity penalty, []; steered where `config.penalty.l0` is given.
        active: Running mean of the number of active latents per row, [].
        idle: Rows since each latent fired, [d_sae].
        dead: Latents idle for `config.dead_after` rows, [d_sae].
    """

    scale_in: Tensor
    scale_out: Tensor
    variance: Tensor
    coefficient: Tensor
    active: Tensor
    idle: Tensor
    dead: Tensor

    def __init__(self, config: TrainConfig, site_in: str, site_out: str, sample: Sample) -> None:
        super().__init__()
        self.config = config
        self.site_in = site_in
        self.site_out = site_out
        scales = sample.scales() if config.scale else (1.0, 1.0)
        sample = sample.scaled(*scales)
        widths = sample.x.shape[1], sample.y.shape[1]
        self.dictionary: Dictionary = Dictionary(
            config.dictionary(*widths, site_in, site_out), seed=config.seed
        )
        initialise(
            self.dictionary,
            sample,
            center=config.b_dec_init,
            tied=config.tied,
            encoder_norm=config.encoder_norm,
            seed=config.seed,
        )
        if config.decoder_norm == "free" and config.activation in PENALISED:
            self.dictionary.W_dec.data.mul_(config.encoder_norm or 1.0)
        spread = (sample.y - sample.y.mean(0)).double().pow(2).sum(1).mean()
        kind = self.dictionary.W_dec.dtype
        for name, value in {
            "scale_in": scales[0],
            "scale_out": scales[1],
            "variance": spread,
            "coefficient": config.penalty.sparsity,
            "active": 0.0,
        }.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=kind))
        self.register_buffer("idle", torch.zeros(config.d_sae, dtype=torch.int64))
        self.register_buffer("dead", torch.zeros(config.d_sae, dtype=torch.bool))
        self.last: tuple[Tensor, Tensor] | None = None
        self._step: Any = None

    def step(self, batch: Mapping[str, Tensor], t: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, gradients filled in, counters brought up to date; and its metrics."""
        config, like = self.config, self.dictionary.W_dec
        x = batch[self.site_in].to(like.device, like.dtype) * self.scale_in
        y = x
        if self.site_out != self.site_in:
            y = batch[self.site_out].to(like.device, like.dtype) * self.scale_out
        if self._step is None:
            self._step = make_step(self.dictionary, self._losses())
        torch.mul(self.coefficient, config.warmed(t), out=self._step.losses.coefficient)
        self._step.k, self._step.lp = config.k_at(t), config.lp_at(t)
        loss, metrics = self._step(x, y)
        self.last = (x, y)
        return loss, self._observe(len(x), t, dict(metrics))

    @torch.no_grad()
    def hold(self) -> None:
        """After an update: decoder rows of norm 1, thresholds at or above 0 and where L0 wants."""
        d = self.dictionary
        if self.config.decoder_norm == "unit":
            d.W_dec.div_(d.decoder_norms.clamp_min(1e-12)[:, None])
        if d.config.activation == "jumprelu":
            d.threshold.clamp_(min=0)
            d.threshold.mul_(torch.where(self.dead, REVIVAL, 1.0))
            if self.config.penalty.l0 is not None:
                d.threshold.mul_((SERVO * self._excess(self.active, self.config.penalty.l0)).exp())

    def finished(self) -> Dictionary:
        """The trained dictionary in raw units, with decoder rows of norm 1 where that can be."""
        trained = self.dictionary
        # What a step needs would stand beside a second copy of the weights.
        trained.zero_grad(set_to_none=True)
        if self._step is not None:  # a run that had ended before makes no step
            self._step.forget()
        raw = trained.unscaled(float(self.scale_in), float(self.scale_out))
        if self.config.activation == "matching_pursuit":
            return raw
        if self.config.decoder_norm == "unit":
            return _multiplied(raw, float(1 / self.scale_out))
        return raw.folded()

    def _losses(self) -> TrainLoss:
        return TrainLoss(
            coefficient=torch.zeros_like(self.coefficient),
            dead=self.dead,
            auxk_alpha=float(self.config.auxk_alpha),
            gates_teach=self.config.decoder_norm == "free",
        )

    @torch.no_grad()
    def _observe(self, n: int, t: int, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        config, step = self.config, self._step
        self.idle += n
        self.idle.masked_fill_(step.fired, 0)
        torch.ge(self.idle, config.dead_after, out=self.dead)
        active = metrics["l0"].to(self.active.dtype)
        before = self.active.clone()
        self.active.lerp_(active, 1 - min(MEMORY, t / (t + 1)))
        if config.penalty.l0 is not None:
            if t:
                self._steer(before, config.penalty.l0)
            metrics["sparsity"] = self.coefficient.clone()
        metrics["dead"] = self.dead.sum().to(self.active.dtype)
        metrics["fvu"] = metrics.pop("mse") / self.variance
        return metrics

    def _steer(self, before: Tensor, wanted: int | float) -> None:
        """Raise the penalty while too many latents are active, lower it while too few are."""
        now, before = self._excess(self.active, wanted), self._excess(before, wanted)
        gain = max(LEAST_INTEGRAL, INTEGRAL / self.config.fit.steps)
        gain *= SWIFT if self.config.activation == "jumprelu" else 1.0
        self.coefficient.mul_((gain * now + PROPORTIONAL * (now - before)).exp())

    @staticmethod
    def _excess(active: Tensor, wanted: int | float) -> Tensor:
        """log(active latents / wanted), within -1 and 1."""
        return (active.clamp_min(1e-2) / wanted).log().clamp(-1, 1)


def _multiplied(dictionary: Dictionary, factor: float) -> Dictionary:
    """The same function with all latents times a positive factor, whatever picks them."""
    with torch.no_grad():
        dictionary.W_dec.div_(factor)
        for name in ("encoder", "b_enc", "b_gate", "b_mag", "threshold"):
            if hasattr(dictionary, name):
                getattr(dictionary, name).mul_(factor)
    return dictionary
