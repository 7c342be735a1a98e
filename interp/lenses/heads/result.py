"""`HeadAtlas`: what every attention head looks at, one number per head and question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.frames.quantity import measured
from interp.core.result import Result

LIMITS = {
    "previous": 0.5,
    "next": 0.5,
    "self_token": 0.5,
    "first": 0.6,
    "last": 0.6,
    "punctuation": 0.6,
    "duplicate": 0.3,
    "induction": 0.3,
}
"""A head is named after a statistic above this; Clark et al. (2019) where they have one."""
MASS = "mean attention"
"""Unit of the statistics that are probabilities."""
BROAD = 0.9
"""A head is broad when its entropy exceeds this share of the uniform head's."""


def _attention(name: str, higher: str) -> Any:
    """A field of attention, a probability."""
    return measured(name, MASS, higher, signed=False)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadAtlas(Result):
    """Attention of every head: mean over the queries of a text, then over texts.

    All but the last three are probabilities measured on texts; `duplicate` and `induction` are
    measured on random tokens repeated once, and `copying` comes from weights. `uniform` says what a
    head that attends to all it may see alike would get.
    """

    previous: Float[Tensor, "layer head"] = _attention("to the token before", "the head looks one token back")
    """Attention to the token before."""
    next: Float[Tensor, "layer head"] = _attention("to the token after", "the head looks one token ahead")
    """Attention to the token after; 0 in causal models."""
    self_token: Float[Tensor, "layer head"] = _attention("to itself", "the head stays on its own token")
    """Attention to the query's own position."""
    first: Float[Tensor, "layer head"] = _attention("to the first token", "the head rests on the first token")
    """Attention to the first token (BOS, [CLS]), from all others."""
    last: Float[Tensor, "layer head"] = _attention("to the last token", "the head rests on the last token")
    """Attention to the last token ([SEP]), from all others; 0 in causal models."""
    punctuation: Float[Tensor, "layer head"] = _attention("to punctuation", "the head looks at punctuation")
    """Attention to tokens that are punctuation."""
    entropy: Float[Tensor, "layer head"] = measured(
        "entropy", "nats", "the head spreads its attention", signed=False
    )
    """Entropy of the attention, nats."""
    duplicate: Float[Tensor, "layer head"] | None = _attention(
        "to the same token before", "the head finds repetitions"
    )
    """Attention to the same token one block earlier; None without room for a repetition."""
    induction: Float[Tensor, "layer head"] | None = _attention(
        "to what followed this token before", "the head could continue a repetition"
    )
    """Attention to the token that followed the same token one block earlier."""
    copying: Float[Tensor, "layer head"] | None = measured(
        "copying", "OV eigenvalues, -1 to 1", "the head raises the token it looks at", signed=True
    )
    """Eigenvalues of the OV circuit, -1 to 1 (see `WeightHeads.eigenvalues`); None without a head
    over tokens."""
    uniform: dict[str, float]
    """Each statistic for uniform attention."""
    n_texts: int
    """Texts measured."""
    n_queries: int
    """Tokens in them."""
    row_error: float
    """Largest distance of an attention row's sum from 1."""

    @property
    def statistics(self) -> list[str]:
        """Names of the statistics that were measured."""
        return [name for name, axes in self.axes.items() if axes == ("layer", "head")]

    def kinds(self) -> dict[str, list[str]]:
        """Head, as `L3H2`, -> what it is called, for the heads that are called anything."""
        found: dict[str, list[str]] = {}
        for name, limit in LIMITS.items():
            values = getattr(self, name)
            if values is not None:
                self._name(found, values > limit, name.removesuffix("_token"))
        self._name(found, self.entropy > BROAD * self.uniform["entropy"], "broad")
        return found

    def check(self) -> Checks:
        """Attention is a distribution over keys."""
        return Checks([Check.at_most("attention rows sum to 1", self.row_error, 1e-2)])

    @staticmethod
    def _name(found: dict[str, list[str]], chosen: Tensor, name: str) -> None:
        for layer, head in chosen.nonzero().tolist():
            found.setdefault(f"L{layer}H{head}", []).append(name)
