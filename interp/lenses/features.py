"""`FeatureVectors`: directions of the residual stream that a contrast of tokens reads."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.frames.quantity import measured, places
from interp.core.result import Result
from interp.models.stream.frozen import wide


def measure_coupling(first: Tensor, second: Tensor) -> Tensor:
    """C(y₁→y₂) = y₁·y₂ / ‖y₁‖², broadcast over all axes but the last.

    For isotropic x, E[x·y₂ | x·y₁ = k] = C k, and cos² is the r² of that fit (Dunefsky and Cohan
    2024, section 3.3).
    """
    return (first * second).sum(-1) / first.pow(2).sum(-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureVectors(Result):
    """One direction per feature; a token's score is its dot product with the stream there."""

    vectors: Float[Tensor, "feature d_model"]
    """What the observable reads at the site, to first order."""
    scores: Float[Tensor, " feature"] | None
    """Vector · activation where it was taken, logits; None for vectors made from weights alone."""
    total: Float[Tensor, ""] | None
    """The observable in that run, before the soft cap."""
    gap: Float[Tensor, ""] | None
    """|prediction − model| with all activations at the site halved, patterns and scales held."""
    names: tuple[str, ...]
    """What each vector belongs to: a position's token, or a path."""
    sites: tuple[str, ...]
    """Where each vector reads."""
    observable: str
    """The contrast, as text."""
    norms: str
    """"frozen": scales held as they were; "exact": differentiated; "direction": left out."""
    affine: bool
    """Whether everything behind the site is affine, so that the prediction must be exact."""
    uncrossed: tuple[str, ...] | None = None
    """Paths with an MLP whose reading has the same sign all the way between the pair: its gradient
    was taken where the reading is nearest to zero. None where no pair was given."""

    @property
    def caption(self) -> str:
        """Which vectors stand on no zero."""
        return f"no zero between the pair: {', '.join(self.uncrossed)}" if self.uncrossed else ""

    def check(self) -> Checks:
        """Behind a site without MLPs, with patterns and scales held, the vectors are exact; the pair
        of texts has a zero between them for every MLP on a path."""
        checks = []
        if self.affine and self.gap is not None and self.total is not None:
            bound = 1e-4 * max(1.0, abs(float(self.total)))
            checks.append(Check.at_most("prediction = model at half strength", self.gap, bound))
        if self.uncrossed is not None:
            without = float(len(self.uncrossed))
            checks.append(Check.at_most("paths without a zero between the pair", without, 0.0))
        return Checks(checks)

    def coupling(self) -> Float[Tensor, "feature other"]:
        """`measure_coupling` of every pair: row → column."""
        return measure_coupling(self.vectors[:, None], self.vectors[None])

    def cosines(self) -> Float[Tensor, "feature other"]:
        """Cosine of every pair."""
        unit = self.vectors / self.vectors.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return unit @ unit.T

    def read(self, activations: Tensor) -> Float[Tensor, "*batch feature"]:
        """Scores of activations [..., d_model] at the site."""
        return wide(activations) @ self.vectors.to(activations.device).T


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenScores(Result, headline="Where the features of {observable} are"):
    """How strongly each position of a text holds each feature."""

    scores: Float[Tensor, "feature pos"] = measured(
        "vector · activation", "logits", "the token speaks for the observable", signed=True
    )
    """Vector · activation, logits."""
    names: tuple[str, ...] = places("feature")
    """Names of the features."""
    tokens: tuple[str, ...] = places("pos")
    """The text, one piece per position."""
    observable: str
    """The contrast, as text."""
