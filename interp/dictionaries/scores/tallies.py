"""Statistics of a coding, batch by batch, in memory that does not grow with the data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.dictionaries.far_rows import FarRows, find_far, wide


@dataclass
class Variance:
    """Mean and total sum of squares around it; batches are merged by Chan et al. 1979.

    The mean is taken off before anything is squared: an offset much larger than the spread costs
    no digits, which the difference E x² - (E x)² would.
    """

    n: int = 0
    """Rows seen."""
    mean: Tensor | None = None
    """[d], float64 on the CPU."""
    squares: float = 0.0
    """Sum over rows and dimensions of squared distances from the mean."""

    def update(self, rows: Float[Tensor, "row d"]) -> None:
        """Take in more rows."""
        if not len(rows):
            return
        rows = wide(rows)
        mean = rows.mean(0)
        squares = float((rows - mean).square().sum())
        mean = mean.cpu().double()
        if self.mean is None:
            self.n, self.mean, self.squares = len(rows), mean, squares
            return
        n, delta = self.n + len(rows), mean - self.mean
        self.squares += squares + float(delta.square().sum()) * self.n * len(rows) / n
        self.mean = self.mean + delta * (len(rows) / n)
        self.n = n


@dataclass
class CodingTally:
    """Everything a report says about latents and reconstructions."""

    variance: Variance = field(default_factory=Variance)
    """Variance of the targets."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over rows, by name."""
    fired: Tensor | None = None
    """[latent] int64: rows on which it fires."""
    total: Tensor | None = None
    """[latent] float64: sum of its magnitudes."""
    norms: list[Tensor] = field(default_factory=list)
    """Norms of the targets, [row] for each update."""

    def update(
        self,
        target: Float[Tensor, "row d_out"],
        latents: Float[Tensor, "row latent"],
        output: Float[Tensor, "row d_out"],
    ) -> None:
        """Take in rows with their latents and reconstructions."""
        self.variance.update(target)
        y, y_hat = wide(target), wide(output)
        norm, norm_hat = y.norm(dim=1), y_hat.norm(dim=1)
        dot = (y * y_hat).sum(1)
        self.norms.append(norm.float().cpu())
        is_there = norm > 0
        ratio = torch.where(is_there, norm_hat / torch.where(is_there, norm, 1.0), 0.0)
        found = {
            "normed": is_there.sum(),
            "sse": (y - y_hat).square().sum(),
            "cosine": (dot / (norm * norm_hat).clamp_min(1e-300)).sum(),
            "ratio": ratio.sum(),
            "dot": dot.sum(),
            "power": norm_hat.square().sum(),
        }
        # Read together: on an accelerator every number read alone is a wait.
        told = torch.stack([value.to(y.dtype) for value in found.values()]).tolist()
        for name, value in {"rows": len(y), **dict(zip(found, told, strict=True))}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        fired = (latents != 0).sum(0).cpu()
        total = latents.abs().sum(0, dtype=wide(latents[:0]).dtype).cpu().double()
        self.fired = fired if self.fired is None else self.fired + fired
        self.total = total if self.total is None else self.total + total

    def far(self) -> FarRows | None:
        """Targets that are far larger than the others, if they count."""
        return find_far(torch.cat(self.norms)) if self.norms else None

    def finish(self) -> dict[str, Tensor]:
        """The fields of a report, float64."""
        s, n = self.sums, self.sums["rows"]
        fired, total = self.fired, self.total
        if fired is None or total is None:  # pragma: no cover - refused before
            return {}
        spread = self.variance.squares
        return {
            "l0": (fired.sum() / n).double(),
            "l1": total.sum() / n,
            "mse": _number(s["sse"] / n),
            "fvu": _number(s["sse"] / spread if spread else float(s["sse"] > 0)),
            "cosine": _number(s["cosine"] / n),
            "norm_ratio": _number(s["ratio"] / max(s["normed"], 1.0)),
            "shrinkage": _number(s["power"] / s["dot"] if s["dot"] else 0.0),
            "density": fired.double() / n,
            "magnitude": total / fired.clamp_min(1),
        }


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
