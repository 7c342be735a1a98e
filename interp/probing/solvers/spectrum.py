"""Rows in the basis of their own covariance: one decomposition serves all targets and penalties."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import ShapeError
from interp.models.budget import refuse_parts


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Centred, scaled rows X = rows @ basis.T with orthonormal basis and diagonal rows.T @ rows."""

    mean: Float[Tensor, "d"]
    """Mean of the raw rows."""
    scale: Float[Tensor, "d"]
    """What the centred rows were divided by; 1 for constant features."""
    basis: Float[Tensor, "d r"]
    """Principal directions, largest variance first; r is the numerical rank."""
    power: Float[Tensor, "r"]
    """Sum of squares of each column of `rows`, float64."""
    rows: Float[Tensor, "n r"]
    """The rows in this basis."""

    def to_raw(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [r, m] and biases [m] in this basis -> the same function of raw rows.

        Returns:
            weight [d, m] and bias [m], float64.
        """
        raw = (self.basis.double() @ weight.double()) / self.scale.double()[:, None]
        return raw, bias.double() - self.mean.double() @ raw


def spectrum(x: Float[Tensor, "n d"], standardise: bool = True) -> Spectrum:
    """Decompose rows through the Gram matrix (float64) of their shorter side.

    Directions whose variance is below rounding (relative to the largest) are dropped: constant and
    dependent features and n < d need no special care. Cost O(n d min(n, d)), once.
    """
    _refuse_large(len(x), x.shape[1], x.element_size())
    mean = x.mean(0)
    centred = x - mean
    scale = torch.ones_like(mean)
    if standardise:
        most = centred.abs().amax(0)  # divided out, so that no square overflows or vanishes
        spread = (centred / torch.where(most > 0, most, 1.0)).square().mean(0).sqrt() * most
        floor = torch.finfo(x.dtype).eps * 8 * x.abs().amax(0)
        scale = torch.where(spread > floor, spread, scale)
        centred[:, spread <= floor] = 0
        centred /= scale
    n, d = centred.shape
    power, left = torch.linalg.eigh(_gram(centred if n < d else centred.T))
    power, left = power.flip(0), left.flip(1)
    own = torch.finfo(x.dtype).eps ** 2  # of the rows; a sum of squares squares it
    floor = max(own, torch.finfo(torch.float64).eps) * max(n, d)
    kept = power > power[0].clamp(min=0) * floor
    power, left = power[kept], left[:, kept]
    if n < d:
        basis = (centred.double().T @ left) / power.sqrt()
        rows = (left * power.sqrt()).to(x.dtype)
    else:
        basis = left
        rows = centred @ left.to(x.dtype)
    return Spectrum(mean, scale, basis.to(x.dtype), power, rows)


def _refuse_large(n: int, d: int, itemsize: int) -> None:
    """Refuse rows whose decomposition is larger than what is free."""
    parts = {
        "rows, centred and turned": 3.0 * n * d * itemsize,
        "the Gram matrix and its vectors": 4.0 * 8 * min(n, d) ** 2,
    }
    refuse_parts(f"rows [{n:,}, {d:,}]", parts, torch.device("cpu"), "fewer rows, or fewer sites at a time")


def _gram(wide: Tensor) -> Tensor:
    """wide @ wide.T, summed in float64 without a float64 copy of the whole."""
    total = wide.new_zeros(len(wide), len(wide), dtype=torch.float64)
    for part in wide.split(8192, dim=1):
        exact = part.double()
        total += exact @ exact.T
    return total


class Moments:
    """Sums over rows that arrive in batches: enough for ridge, mass-mean and every eraser.

    Means and scatters are updated by Chan's formula, in float64, so that streamed statistics equal
    those of all rows at once.

    Attributes:
        n: Rows seen.
        mean_x: [d].
        mean_z: [k].
        xx: Scatter of x, [d, d].
        xz: Scatter of x with z, [d, k].

    Raises:
        MemoryBudgetError: Scatters [d, d] are more than what is free.
    """

    def __init__(self, d: int, k: int) -> None:
        scatter = {"the scatter of x": 3.0 * 8 * d * d}
        refuse_parts(
            f"moments of {d:,} columns", scatter, torch.device("cpu"), "fewer columns: a narrower site"
        )
        self.n: int = 0
        self.mean_x: Tensor = torch.zeros(d, dtype=torch.float64)
        self.mean_z: Tensor = torch.zeros(k, dtype=torch.float64)
        self.xx: Tensor = torch.zeros(d, d, dtype=torch.float64)
        self.xz: Tensor = torch.zeros(d, k, dtype=torch.float64)

    def update(self, x: Tensor, z: Tensor) -> Moments:
        """Add rows x [m, d] with concepts z [m, k], of any device; returns itself.

        Raises:
            ShapeError: Widths or numbers of rows that do not fit.
        """
        d, k = self.xz.shape
        if x.ndim != 2 or z.ndim != 2 or x.shape[1] != d or z.shape[1] != k or len(x) != len(z):
            raise ShapeError(
                "these rows do not fit the statistics",
                got=f"x {tuple(x.shape)}, z {tuple(z.shape)}",
                expected=f"x (m, {d}), z (m, {k})",
            )
        m = len(x)
        if m == 0:
            return self
        x, z = x.detach().cpu().double(), z.detach().cpu().double()
        here_x, here_z = x.mean(0), z.mean(0)
        step_x, step_z = here_x - self.mean_x, here_z - self.mean_z
        share = self.n * m / (self.n + m)
        dx = x - here_x
        self.xx += dx.T @ dx + share * step_x[:, None] * step_x
        self.xz += dx.T @ (z - here_z) + share * step_x[:, None] * step_z
        self.n += m
        self.mean_x = self.mean_x + step_x * m / self.n
        self.mean_z = self.mean_z + step_z * m / self.n
        return self
