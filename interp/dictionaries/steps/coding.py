"""Activation functions of dictionaries: pre-activations to latents, differentiable by autograd.

What is written here is what a dictionary means; the training steps compute the same numbers with
less work. Semantics are SAELens's, so that its files keep their meaning here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.dictionaries.config import Normalisation

LOOK = 8
"""Steps of a pursuit on an accelerator after which the host looks whether all rows are done."""


class Scale(NamedTuple):
    """How rows were normalised: normalised = (x - shift) / size."""

    shift: Tensor
    size: Tensor


def normalise(
    x: Float[Tensor, "*batch d"], how: Normalisation
) -> tuple[Float[Tensor, "*batch d"], Scale | None]:
    """Rows as the encoder wants them, and what undoes it (None: nothing to undo).

    `expected_average_only_in` is a constant that training folds into the weights: nothing here.
    """
    if how == "constant_norm_rescale":
        size = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        return x / size, Scale(torch.zeros_like(size), size)
    if how == "layer_norm":
        shift = x.mean(-1, keepdim=True)
        size = x.std(-1, keepdim=True)
        return (x - shift) / (size + 1e-5), Scale(shift, size)
    return x, None


def top(
    pre: Float[Tensor, "*batch d_sae"], k: int, signed: bool = False
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
    """The k largest pre-activations of each row and where they are, negative ones as 0.

    Makhzani & Frey 2013; Gao et al. 2024 (arXiv 2406.04093) §2.3. `signed` picks by magnitude and
    keeps signs: AbsTopK (arXiv 2510.00404).
    """
    if signed:
        indices = pre.abs().topk(k, -1, sorted=False).indices
        return pre.gather(-1, indices), indices
    values, indices = pre.topk(k, -1, sorted=False)
    return values.relu(), indices


def scatter(
    values: Float[Tensor, "*batch k"], indices: Int[Tensor, "*batch k"], d_sae: int
) -> Float[Tensor, "*batch d_sae"]:
    """Dense latents from the values of some; an index given twice adds up."""
    dense = values.new_zeros(*values.shape[:-1], d_sae)
    return dense.scatter_add(-1, indices, values)


def batch_top(pre: Float[Tensor, "*batch d_sae"], k: int | float) -> Float[Tensor, "*batch d_sae"]:
    """The int(k n) largest positive pre-activations of all n rows together.

    BatchTopK, Bussmann et al. 2024 (arXiv 2412.06410) eq. 5.
    """
    flat = pre.relu().flatten()
    values, indices = flat.topk(int(k * pre.shape[:-1].numel()), sorted=False)
    return torch.zeros_like(flat).scatter(0, indices, values).reshape(pre.shape)


def jump(
    pre: Float[Tensor, "*batch d_sae"], threshold: Float[Tensor, "d_sae"]
) -> Float[Tensor, "*batch d_sae"]:
    """relu(pre) where pre > threshold, else 0: JumpReLU, Rajamanoharan et al. 2024 (2407.14435)."""
    return pre.relu() * (pre > threshold).to(pre.dtype)


def gate(
    pre: Float[Tensor, "*batch d_sae"],
    b_gate: Float[Tensor, "d_sae"],
    b_mag: Float[Tensor, "d_sae"],
    r_mag: Float[Tensor, "d_sae"],
) -> Float[Tensor, "*batch d_sae"]:
    """relu(pre exp(r_mag) + b_mag) where pre + b_gate > 0: Gated, arXiv 2404.16014 eq. 3-6.

    `pre` is the encoder's product without a bias.
    """
    is_open = (pre + b_gate > 0).to(pre.dtype)
    return is_open * (pre * r_mag.exp() + b_mag).relu()


class Pursuit(NamedTuple):
    """What matching pursuit took, step by step: values and indices [n, steps], what is left."""

    values: Tensor
    indices: Tensor
    residual: Tensor


def pursue(
    x: Float[Tensor, "n d"],
    W_dec: Float[Tensor, "d_sae d"],
    *,
    residual_threshold: float,
    max_iterations: int | None = None,
    stop_on_duplicate: bool = True,
) -> Pursuit:
    """Matching pursuit: take the best latent, subtract it, repeat on the residual.

    Mallat & Zhang 1993; as an SAE, Costa et al. 2025 (arXiv 2506.03093). A row is done when its
    residual is small or (`stop_on_duplicate`) a step brings no new latent; it then takes zeros.
    """
    residual = x
    taken = x.new_zeros(len(x), len(W_dec), dtype=torch.bool)
    is_done = x.new_zeros(len(x), 1, dtype=torch.bool)
    all_values, all_indices = [], []
    for step in range(x.shape[1] if max_iterations is None else max_iterations):
        with torch.no_grad():
            indices = (residual @ W_dec.T).relu().argmax(-1, keepdim=True)
        rows = W_dec[indices.squeeze(-1)]
        values = (residual * rows).sum(-1, keepdim=True).relu() * ~is_done
        residual = residual - values * rows
        all_values.append(values)
        all_indices.append(indices)
        with torch.no_grad():
            is_new = (values > 0) & ~taken.gather(-1, indices)
            if stop_on_duplicate:
                is_done = is_done | ~is_new
            taken.scatter_(-1, indices, taken.gather(-1, indices) | (values > 0))
            if residual_threshold > 0:
                is_done = is_done | (residual.norm(dim=-1, keepdim=True) < residual_threshold)
            # Further steps add zeros; an accelerator is not waited for at every one.
            if (x.is_cpu or step % LOOK == LOOK - 1) and is_done.all():
                break
    return Pursuit(torch.cat(all_values, -1), torch.cat(all_indices, -1), residual)
