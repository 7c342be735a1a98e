"""The losses of training written as dense formulas, for autograd: the oracle of the fast steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.steps import coding
from interp.dictionaries.steps.penalised import SMOOTH
from interp.dictionaries.steps.table import TrainLoss


class Jump(torch.autograd.Function):
    """pre where pre > threshold: arXiv 2407.14435 eq. 10 for the threshold's gradient."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.eps = eps
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,), (pre, threshold) = grads, ctx.saved_tensors
        kernel = ((pre - threshold) / ctx.eps).abs() < 0.5
        return grad * (pre > threshold), -(grad * kernel * threshold / ctx.eps).sum(0), None


class Heaviside(torch.autograd.Function):
    """1 where pre > threshold: eq. 11."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.eps = eps
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,), (pre, threshold) = grads, ctx.saved_tensors
        kernel = ((pre - threshold) / ctx.eps).abs() < 0.5
        return None, -(grad * kernel / ctx.eps).sum(0), None


def squared(difference: Tensor) -> Tensor:
    """Squared error per row, mean over rows."""
    return difference.pow(2).sum(-1).mean()


def decode(d: Dictionary, z: Tensor, x: Tensor, width: int | None = None) -> Tensor:
    """Reconstruction by the first `width` latents, skip path included."""
    if width is not None:
        z = z * (torch.arange(d.config.d_sae) < width)
    return d.decode(z) + (d.skip(x) if d.config.skip else 0)


def total(d: Dictionary, losses: TrainLoss, x: Tensor, y: Tensor, lp: float) -> Tensor:
    """The training loss of a batch."""
    config, n = d.config, len(x)
    k = config.k or 0
    extra = x.new_zeros(())
    pre = x if config.activation == "matching_pursuit" else d.preactivations(x)
    match config.activation:
        case "matching_pursuit":
            z = d.encode(x)
        case "topk":
            z = coding.scatter(*coding.top(pre, int(k)), config.d_sae)
        case "abstopk":
            z = coding.scatter(*coding.top(pre, int(k), True), config.d_sae)
        case "batchtopk":
            z = coding.batch_top(pre, k)
        case "relu":
            z = pre.relu()
            u = z * d.decoder_norms
            extra = losses.coefficient * ((u + SMOOTH) ** lp - SMOOTH**lp).sum() / n
        case "jumprelu":
            z = Jump.apply(pre, d.threshold, config.bandwidth)
            on = Heaviside.apply(pre, d.threshold, config.bandwidth)
            extra = losses.coefficient * on.sum() / n
        case "gated":
            z = coding.gate(pre, d.b_gate, d.b_mag, d.r_mag)
            open_gates = (pre + d.b_gate).relu()
            extra = losses.coefficient * (open_gates * d.decoder_norms).sum() / n
            teacher = Dictionary.from_state(config, d.state_dict()).requires_grad_(False)
            teacher._scale = d._scale
            teacher = d if losses.gates_teach else teacher
            widths = config.groups or (config.d_sae,)
            by_gates = [squared(decode(teacher, open_gates, x, w) - y) for w in widths]
            extra = extra + torch.stack(by_gates).mean()
    out = decode(d, z, x)
    widths = config.groups or (config.d_sae,)
    loss = torch.stack([squared(decode(d, z, x, w) - y) for w in widths]).mean() + extra
    if losses.auxk_alpha and losses.dead.any():
        dead = losses.dead
        most = max(1, config.width_out // 2)
        signed = config.activation == "abstopk"
        size = int(dead.sum())
        picked = coding.top(pre[:, dead], min(most, size), signed)
        latents = torch.zeros_like(pre)
        latents[:, dead] = coding.scatter(*picked, size)
        if config.rescale_acts_by_decoder_norm:
            latents = latents / d.decoder_norms
        rest = latents @ d.W_dec
        if d._scale is not None and not config.is_transcoder:
            rest = rest * d._scale.size
        share = min(1.0, size / most)
        left = (y - out).detach()
        fitted = ((rest * left).sum() / rest.square().sum()).detach().clamp(0, 1)
        loss = loss + losses.auxk_alpha * share * squared(fitted * rest - left)
    return loss
