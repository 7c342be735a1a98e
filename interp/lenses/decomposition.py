"""`Decomposition`: one number per position as the sum of what the parts of a model contribute."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.result import Result
from interp.core.settings import check_choice

KINDS = ("embedding", "head", "mlp", "neuron", "latent", "bias", "rest")
"""What a component can be."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Decomposition(Result):
    """A number (a logit, a difference of two, any linear reading) as a sum over components."""

    values: Float[Tensor, "component pos"]
    """What each component contributes; the column sums are `total`."""
    total: Float[Tensor, " pos"]
    """The number itself, from the model's own forward pass; before the soft cap if there is one."""
    output: Float[Tensor, " pos"]
    """The number after the soft cap: what the model puts out. Equal to `total` without one."""
    layer: Int[Tensor, " component"]
    """Block of each component; -1 before the first, n_layers after the last."""
    components: tuple[str, ...]
    """`embed`, `L0H3`, `L0 mlp`, `L1N12`, ..."""
    kinds: tuple[str, ...]
    """One of `KINDS` per component."""
    tokens: tuple[str, ...]
    """The input, one piece per position shown."""
    targets: tuple[str, ...]
    """What is read at each position, as ` Mary− John`."""
    positions: tuple[int, ...]
    """Which positions of the input these are."""
    reading: str
    """Name of the number: "logit", "logit difference", "observable"."""
    softcap: float
    """The contributions sum to x, the model gives softcap · tanh(x / softcap); 0 without one."""
    head_gap: float
    """Largest difference between the model's logits and those of the linear map used here."""
    tolerance: float
    """Bound on both gaps, relative to the largest contribution where that exceeds 1."""

    def check(self) -> Checks:
        """The sum is the model's number, and the unembedding is the linear map it is taken for."""
        bound = self.tolerance * max(1.0, float(self.values.abs().max()))
        gap = (self.values.sum(0) - self.total).abs().max()
        return Checks(
            [
                Check.at_most("sum of parts = logit", gap, bound),
                Check.at_most("linear head = model output", self.head_gap, bound),
            ]
        )

    def of(self, kind: str) -> Float[Tensor, "component pos"]:
        """The values of all components of one kind.

        Raises:
            ConfigError: No such kind here.
        """
        check_choice("kind", kind, sorted(set(self.kinds)))
        return self.values[[i for i, k in enumerate(self.kinds) if k == kind]]

    def heads(self) -> Float[Tensor, "layer head pos"]:
        """Contributions of the heads as a map; cross-attention is left out."""
        rows = [
            i
            for i, (kind, name) in enumerate(zip(self.kinds, self.components, strict=True))
            if kind == "head" and "H" in name
        ]
        if not rows:
            raise ConfigError("no component is a head", expected="a decomposition into heads")
        n_layers = len({int(self.layer[i]) for i in rows})
        return self.values[rows].unflatten(0, (n_layers, len(rows) // n_layers))

    def at(self, position: int) -> Decomposition:
        """The same at one of the positions shown (negative: from the end)."""
        if not -len(self.tokens) <= position < len(self.tokens):
            raise ConfigError(
                "this decomposition has no such position",
                got=position,
                expected=f"{-len(self.tokens)} to {len(self.tokens) - 1}",
            )
        here = position % len(self.tokens)
        return replace(
            self,
            values=self.values[:, here : here + 1],
            total=self.total[here : here + 1],
            output=self.output[here : here + 1],
            tokens=(self.tokens[here],),
            targets=(self.targets[here],),
            positions=(self.positions[here],),
        )

    def folded(self, keep: int) -> Decomposition:
        """The `keep` components of largest magnitude (over positions) in order, the rest summed."""
        if len(self.components) <= keep:
            return self
        size = self.values.abs().amax(1)
        chosen = sorted(size.topk(keep).indices.tolist())
        others = [i for i in range(len(self.components)) if i not in set(chosen)]
        names = [*(self.components[i] for i in chosen), f"{len(others)} others"]
        labels = {**self.labels, "component": names} if self.labels else {}
        return replace(
            self,
            values=torch.cat([self.values[chosen], self.values[others].sum(0, keepdim=True)]),
            layer=torch.cat([self.layer[chosen], self.layer[others].amax()[None]]),
            components=tuple(names),
            kinds=(*(self.kinds[i] for i in chosen), "rest"),
            labels=labels,
        )
