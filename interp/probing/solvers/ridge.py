"""Ridge for many targets and penalties at once, from one decomposition; exact leave-one-out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.probing.solvers.spectrum import Spectrum


def ridge_path(
    base: Spectrum, y: Float[Tensor, "n m"], penalties: Sequence[float]
) -> tuple[Float[Tensor, "p r m"], Float[Tensor, "m"]]:
    """argmin |y - X w - b|^2 + a |w|^2 for every column of y and every penalty a.

    In the basis of the rows the solution is diagonal: w_j = (X^T y)_j / (s_j^2 + a).

    Returns:
        Weights in the basis of the rows for each penalty, and the biases, which all share.
    """
    y = y.double()
    bias = y.mean(0)
    cross = base.rows.double().T @ (y - bias)
    a = torch.tensor(penalties, dtype=torch.float64)
    return cross / (base.power[:, None] + a[:, None, None]), bias


def leave_one_out(
    base: Spectrum, y: Float[Tensor, "n m"], penalties: Sequence[float]
) -> Float[Tensor, "p m"]:
    """Mean squared leave-one-out error of `ridge_path`, exactly, without refitting.

    e_i / (1 - h_i) with h_i = 1/n + sum_j u_ij^2 s_j^2 / (s_j^2 + a), the leverage.
    """
    weights, bias = ridge_path(base, y, penalties)
    rows, n = base.rows.double(), len(base.rows)
    errors = []
    for weight, a in zip(weights, penalties, strict=True):
        leverage = 1 / n + rows.square() @ (1 / (base.power + a))
        residual = y.double() - bias - rows @ weight
        left = (1 - leverage).clamp(min=torch.finfo(torch.float64).eps)
        errors.append((residual / left[:, None]).square().mean(0))
    return torch.stack(errors)


def ridge(
    base: Spectrum, y: Float[Tensor, "n m"], penalties: Sequence[float]
) -> tuple[Float[Tensor, "r m"], Float[Tensor, "m"], Float[Tensor, "m"]]:
    """Ridge with each column's best penalty by leave-one-out error.

    Returns:
        Weights in the basis of the rows, biases, chosen penalties.
    """
    weights, bias = ridge_path(base, y, penalties)
    chosen = torch.zeros(y.shape[1], dtype=torch.int64)
    if len(penalties) > 1:
        chosen = leave_one_out(base, y, penalties).argmin(0)
    taken = weights[chosen, :, torch.arange(y.shape[1])].T
    return taken, bias, torch.tensor(penalties, dtype=torch.float64)[chosen]
