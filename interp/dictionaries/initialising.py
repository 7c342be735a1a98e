"""Where a dictionary starts: its centre, scale and first directions, measured on the data.

A decoder bias at the data's centre, and an encoder bias under which that centre encodes to zero,
is what keeps latents alive when the activations' mean is far from zero (Simon et al. 2026,
arXiv 2605.31518); the tied encoder is that of Gao et al. 2024 (arXiv 2406.04093) appendix A.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.core.errors import NonFiniteError
from interp.core.finite import check_finite
from interp.core.randomness import generator
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.sources import Source

RIDGE = 1e-4
"""Penalty of the regressions below, as a share of the inputs' variance."""

LATENTS = 2**24
"""About as many latent values are computed for the start, whatever the number of rows."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows from which a dictionary starts; both sides in float32 or float64, on the CPU."""

    x: Float[Tensor, "row d_in"]
    """What is read."""
    y: Float[Tensor, "row d_out"]
    """What is reconstructed; x itself for an SAE."""

    @classmethod
    def of(cls, source: Source, site_in: str, site_out: str, rows: int) -> Sample:
        """The first rows of a source, at least one batch.

        Raises:
            NonFiniteError: A row holds a number that is not finite.
        """
        parts: list[tuple[Tensor, Tensor]] = []
        held = 0
        while held < rows:
            batch = source.batch(len(parts))
            parts.append((batch[site_in], batch[site_out]))
            held += len(batch[site_in])
        x, y = (torch.cat(side)[:rows].cpu() for side in zip(*parts, strict=True))
        kind = torch.promote_types(x.dtype, torch.float32)
        for site, side in ((site_in, x), (site_out, y)):
            check_finite(side, f"training rows at {site}")
        return cls(x.to(kind), y.to(kind))

    def scales(self) -> tuple[float, float]:
        """Factors after which both sides have variance 1 per dimension on average."""
        return _scale(self.x, "read"), _scale(self.y, "reconstructed")

    def scaled(self, scale_in: float, scale_out: float) -> Sample:
        """The rows in the units a dictionary trains in."""
        return Sample(self.x * scale_in, self.y * scale_out)


def initialise(
    dictionary: Dictionary,
    sample: Sample,
    *,
    center: Literal["mean", "geometric_median", "zeros"] = "mean",
    tied: bool = True,
    encoder_norm: float | None = None,
    seed: int = 0,
) -> None:
    """Set biases, scale and, for a transcoder, decoder from data, in place.

    The skip path starts as the ridge regression of output on input. A transcoder's decoder rows
    start where its random encoder's latents point: as the (unit) regression of what is left on
    each. The encoder's rows get the norm asked for, or one under which the first reconstruction is
    the best multiple of itself.

    Args:
        dictionary: Freshly made; its random directions are used.
        sample: Rows in the units it will train in.
        center: Where the decoder bias of an SAE starts, and what encodes to zero.
        tied: False draws the encoder of an SAE independently of its decoder.
        encoder_norm: Norm of the encoder's rows; None: measured.
        seed: Of that draw.
    """
    d, dtype = dictionary, dictionary.W_dec.dtype
    x, y = sample.x.to(dtype), sample.y.to(dtype)
    at_x, at_y = (_center(side, center) for side in (x, y))
    with torch.no_grad():
        rest = y - at_y
        if d.config.skip:
            weight = _ridge(x - at_x, rest)
            d.W_skip.copy_(weight)
            rest = rest - (x - at_x) @ weight.T
            d.b_dec.copy_(at_y - weight @ at_x)
        else:
            d.b_dec.copy_(at_y)
        if d.config.activation == "matching_pursuit":
            return
        if not tied:
            drawn = torch.randn(d.encoder.shape, generator=generator(seed, "untied encoder"))
            d.encoder.copy_(F.normalize(drawn, dim=1))
        if not d.config.apply_b_dec_to_input:
            bias = -(d.encoder @ at_x)
            for name in ("b_enc", "b_gate", "b_mag"):
                if hasattr(d, name):
                    getattr(d, name).copy_(bias)
        few = slice(max(256, LATENTS // d.config.d_sae))
        latents, rest = d.encode(x[few]), rest[few]
        if d.config.is_transcoder:
            d.W_dec.copy_(_directions(latents, rest, d.W_dec))
        if encoder_norm is not None:
            return _rescale(d, encoder_norm / float(d.encoder.norm(dim=1).mean()))
        guess = latents @ d.W_dec
        _rescale(d, float((guess * rest).sum() / guess.pow(2).sum().clamp_min(1e-12)))


def _center(rows: Tensor, how: str) -> Tensor:
    if how == "zeros":
        return torch.zeros_like(rows[0])
    return rows.mean(0) if how == "mean" else geometric_median(rows)


def geometric_median(
    rows: Float[Tensor, "row d"], tolerance: float = 1e-6, iterations: int = 100
) -> Float[Tensor, " d"]:
    """The point with the least sum of distances to the rows (Weiszfeld's iteration).

    Unlike the mean it does not follow a few rows that are far away.
    """
    found = rows.mean(0)
    for _ in range(iterations):
        weights = 1 / (rows - found).norm(dim=1).clamp_min(1e-9)
        new = weights @ rows / weights.sum()
        moved = (new - found).norm()
        found = new
        if moved <= tolerance * found.norm():
            break
    return found


def _scale(rows: Tensor, what: str) -> float:
    variance = float((rows - rows.mean(0)).double().pow(2).mean())
    if not variance > 0:
        raise NonFiniteError(
            f"the rows that are {what} do not vary, so they have no scale",
            got=f"variance {variance:g} over {len(rows)} rows",
            fix="look at the data, or scale=False",
        )
    return variance**-0.5


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """`[d_out, d_in]`: the linear map from centred x to centred y, slightly penalised."""
    gram = (x.T @ x).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return torch.linalg.solve(gram, (x.T @ y).double()).T.to(x.dtype)


def _directions(latents: Tensor, rest: Tensor, fallback: Tensor) -> Tensor:
    """Unit rows: where each latent's firings point; the random row where it never fires."""
    found = (latents - latents.mean(0)).T @ rest
    silent = found.norm(dim=1, keepdim=True) == 0
    return F.normalize(torch.where(silent, fallback, found), dim=1)


def _rescale(dictionary: Dictionary, factor: float) -> None:
    """Multiply all latents by a positive factor, which leaves the choice of latents as it is."""
    if not factor > 0:
        return
    dictionary.encoder.mul_(factor)
    for name in ("b_enc", "b_gate", "b_mag", "threshold"):
        if hasattr(dictionary, name):
            getattr(dictionary, name).mul_(factor)
