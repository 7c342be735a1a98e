"""What the training steps of all activations share: losses, batches, buffers, reconstruction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import ShapeError
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.steps.coding import Scale, normalise
from interp.dictionaries.steps.sparse import DenseEntries, Entries, where


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainLoss:
    """What a step adds to the squared error. The tensors are read anew in every step."""

    coefficient: Tensor
    """Weight of the sparsity penalty (relu, jumprelu, gated), []."""
    dead: Tensor
    """Latents that count as dead, bool [d_sae]."""
    auxk_alpha: float = 0.0
    """Topk family: weight of the dead latents' reconstruction of the error; 0 leaves it out."""
    gates_teach: bool = False
    """Gated: the gates' reconstruction trains the decoder, too, instead of holding it fixed."""


class Batch(NamedTuple):
    """One batch as the products see it."""

    x: Tensor
    """Input rows, [n, d_in]."""
    y: Tensor
    """Targets, [n, d_out]."""
    centred: Tensor
    """What the encoder multiplies, [n, d_in]."""
    scale: Scale | None
    """What undoes a normalisation of rows; None: nothing to undo."""


class Fit(NamedTuple):
    """A reconstruction held against the targets."""

    loss: Tensor
    """Squared error, mean over rows and groups, []."""
    mse: Tensor
    """Squared error of the whole reconstruction, mean over rows, []."""
    error: Tensor
    """Target - whole reconstruction, [n, d_out]."""
    to_rows: Tensor
    """Gradient at what the decoder wrote, one row per sample, or per group and sample."""
    to_out: Tensor
    """Gradient at the sum of b_dec and the skip path, [n, d_out]."""


class Step(ABC):
    """Loss and gradients of one batch.

    Attributes:
        dictionary: Its parameters' `.grad` is filled by a call.
        losses: What is added to the squared error.
        k: Active latents per row in the next batch (topk family).
        lp: Exponent of the penalty in the next batch (relu).
        fired: Latents active in the last batch, bool [d_sae].
    """

    def __init__(self, dictionary: Dictionary, losses: TrainLoss) -> None:
        self.dictionary = dictionary
        self.losses = losses
        self.k: int | float | None = dictionary.config.k
        self.lp: float = dictionary.config.lp
        self.fired: Tensor = torch.zeros_like(losses.dead)
        self._buffers: dict[str, Tensor] = {}

    def __call__(
        self, x: Float[Tensor, "n d_in"], y: Float[Tensor, "rows d_out"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Loss and metrics of a batch of inputs and targets (an SAE's targets are its inputs).

        Metrics: `mse`, squared error of the whole reconstruction; `l0`, active latents per row;
        `penalty`; `auxk`.

        Raises:
            ShapeError: Rows of another width, or not as many targets as inputs.
        """
        config = self.dictionary.config
        for rows, width in ((x, config.d_in), (y, config.width_out)):
            if rows.shape != (len(x), width):
                raise ShapeError("the batch does not fit", got=list(rows.shape), expected=[len(x), width])
        device = x.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.no_grad(), torch.autocast(device, enabled=False):
            rows, scale = normalise(x, config.normalize_activations)
            scale = None if config.is_transcoder else scale
            if config.apply_b_dec_to_input:
                rows = rows - self.dictionary.b_dec
            return self.run(Batch(x, y, rows, scale), low)

    @abstractmethod
    def run(self, batch: Batch, low: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics; fills gradients. `low` is the precision of the encoder's product."""

    # --- pieces -----------------------------------------------------------------------------

    def product(
        self,
        batch: Batch,
        weight: Float[Tensor, "d_sae d_in"],
        bias: Float[Tensor, "d_sae"],
        low: torch.dtype | None,
    ) -> Float[Tensor, "n d_sae"]:
        """The encoder's product plus a bias, in a buffer that the next batch overwrites."""
        rows = batch.centred if low is None else batch.centred.to(low)
        out = self.buffer("pre", (len(rows), len(weight)), rows.dtype)
        return torch.addmm(bias.to(rows.dtype), rows, weight.to(rows.dtype).T, out=out)

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory kept from batch to batch: fresh pages cost more than the pass that fills them."""
        found = self._buffers.get(name)
        device = self.dictionary.W_dec.device
        if found is None or found.shape != shape or found.dtype != dtype or found.device != device:
            found = self._buffers[name] = torch.empty(shape, dtype=dtype, device=device)
        return found

    def forget(self) -> None:
        """Give the buffers back: no batch follows."""
        self._buffers.clear()

    def above(self, pre: Float[Tensor, "n d_sae"], bound: Tensor | float) -> Entries:
        """The entries of pre-activations above a bound (one number or one per latent)."""
        mask = self.buffer("mask", tuple(pre.shape), torch.bool)
        return where(torch.gt(pre, bound, out=mask), self.dictionary.config.groups)

    def values(
        self, entries: Entries, pre: Tensor, batch: Batch, bias: Tensor, low: torch.dtype | None
    ) -> Tensor:
        """Pre-activations at the entries; in full precision if `pre` is coarse and they are few."""
        if low is None or isinstance(entries, DenseEntries):
            return entries.take(pre).to(batch.centred.dtype)
        rows = batch.centred.repeat(max(1, len(self.dictionary.config.groups)), 1)
        return entries.dot(rows, self.dictionary.encoder) + entries.spread(bias)

    def reconstruct(self, entries: Entries, values: Tensor, batch: Batch) -> Fit:
        """Decode latents and compare with the targets."""
        d, n = self.dictionary, len(batch.x)
        parts = entries.decode(values, d.W_dec).view(-1, n, batch.y.shape[1])
        parts[0] += d.b_dec
        if d.config.skip:
            parts[0].addmm_(batch.x, d.W_skip.T)
        for i in range(1, len(parts)):
            parts[i] += parts[i - 1]
        if batch.scale is not None:
            parts.mul_(batch.scale.size).add_(batch.scale.shift)
        error = parts.sub_(batch.y)
        squares = torch.stack([part.flatten().dot(part.flatten()) for part in error]) / n
        whole = error[-1].neg()
        to_rows = error.mul_(2 / (n * len(parts)))
        if batch.scale is not None:
            to_rows.mul_(batch.scale.size)
        for i in range(len(parts) - 1, 0, -1):
            to_rows[i - 1] += to_rows[i]
        return Fit(squares.mean(), squares[-1], whole, to_rows.flatten(0, 1), to_rows[0])

    def fill(self, batch: Batch, fit: Fit, *, to_W_dec: Tensor, to_encoder: Tensor, to_bias: Tensor) -> None:
        """Gradients that all activations share; `to_bias` is that at the encoder's product."""
        d = self.dictionary
        d.W_dec.grad, d.encoder.grad = to_W_dec, to_encoder
        d.b_dec.grad = fit.to_out.sum(0)
        if d.config.apply_b_dec_to_input:
            d.b_dec.grad -= to_bias @ d.encoder
        if d.config.skip:
            d.W_skip.grad = fit.to_out.T @ batch.x

    def penalise_norms(self, to_W_dec: Tensor, per_latent: Float[Tensor, "d_sae"]) -> None:
        """Add the gradient of a penalty on decoder norms: `per_latent` times norm_i."""
        d = self.dictionary
        to_W_dec.addcmul_(d.W_dec, (per_latent / d.decoder_norms.clamp_min(1e-12))[:, None])

    def observe(self, fit: Fit, entries: Entries, values: Tensor) -> dict[str, Tensor]:
        """Which latents fired, and the metrics every activation has."""
        self.fired = entries.fired(values)
        return {"mse": fit.mse, "l0": torch.count_nonzero(values).to(values.dtype) / len(fit.error)}
