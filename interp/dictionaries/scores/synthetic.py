"""Data with known features, so that a dictionary can be compared with the truth.

```python
world = SyntheticWorld(SyntheticConfig(seed=1))
x, truth = world.sample(1024, t=0)          # [1024 d], [1024 feature]
recovery = score_recovery(dictionary, world)   # MCC, F1, ... beside the truth's own ceiling
```
Sharkey et al. 2022 ("Taking features out of superposition"); the numbers are
those of the 4x superposition benchmark of this package (`benchmarks/dictionary_recovery.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import ConfigError
from interp.core.randomness import generator
from interp.dictionaries.scores.config import SyntheticConfig

ROOT = -1


class SyntheticBatch(NamedTuple):
    """Rows and the feature magnitudes they are made of."""

    x: Float[Tensor, "row d"]
    """The data."""
    truth: Float[Tensor, "row feature"]
    """Magnitude of every feature in every row; 0 where it is off."""


@dataclass(frozen=True, eq=False)
class SyntheticWorld:
    """Random unit features with their firing probabilities; batch t depends on (seed, t) alone.

    Raises:
        ConfigError: Probabilities outside [0, 1], or features that do not divide into families.
    """

    config: SyntheticConfig = field(default_factory=SyntheticConfig)
    """Sizes, probabilities and the seed."""

    def __post_init__(self) -> None:
        c = self.config
        for name in ("p_first", "p_last", "p_child"):
            if not 0 <= getattr(c, name) <= 1:
                raise ConfigError(f"{name} is a probability", got=getattr(c, name), expected="0..1")
        if min(c.d, c.n_features) < 1 or c.children < 0 or c.n_features % (c.children + 1):
            raise ConfigError(
                "features do not divide into roots with their children",
                got=f"n_features={c.n_features}, children={c.children}, d={c.d}",
                expected="n_features a multiple of children + 1",
            )
        directions = torch.randn(c.n_features, c.d, generator=generator(c.seed, "features"))
        object.__setattr__(self, "_features", directions / directions.norm(dim=1, keepdim=True))

    @property
    def features(self) -> Float[Tensor, "feature d"]:
        """Directions of unit norm: all roots first, then the children of root 0, of root 1, ..."""
        return self._features  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def n_roots(self) -> int:
        """Features that fire on their own."""
        return self.config.n_features // (self.config.children + 1)

    @property
    def parent(self) -> Int[Tensor, " feature"]:
        """Root of each child; -1 for a root."""
        roots = torch.arange(self.n_roots)
        none = torch.full((self.n_roots,), ROOT)
        return torch.cat([none, roots.repeat_interleave(self.config.children)])

    @property
    def probability(self) -> Float[Tensor, " feature"]:
        """Share of rows in which each feature fires."""
        c = self.config
        roots = torch.linspace(c.p_first, c.p_last, self.n_roots)
        if not c.children:
            return roots
        return torch.cat([roots, (roots * c.p_child / c.children).repeat_interleave(c.children)])

    @property
    def l0(self) -> float:
        """Mean number of active features."""
        return float(self.probability.sum())

    def sample(self, n: int, t: int = 0, purpose: str = "rows") -> SyntheticBatch:
        """Batch t: `n` rows; other purposes give independent rows (held out, say)."""
        c, source = self.config, generator(self.config.seed, f"synthetic/{purpose}", t)
        roots = torch.rand(n, self.n_roots, generator=source) < self.probability[: self.n_roots]
        active = roots
        if c.children:
            one = torch.randint(c.children, (n, self.n_roots), generator=source)
            some = roots & (torch.rand(n, self.n_roots, generator=source) < c.p_child)
            children = torch.nn.functional.one_hot(one, c.children).bool() & some[..., None]
            active = torch.cat([roots, children.flatten(1)], 1)
        size = torch.randn(n, c.n_features, generator=source) * c.spread + c.magnitude
        truth = size.abs() * active
        x = truth @ self.features
        if c.noise:
            x = x + c.noise * torch.randn(n, c.d, generator=source)
        return SyntheticBatch(x, truth)

    def batch(self, t: int, n: int = 1024) -> Float[Tensor, "row d"]:
        """Training rows of batch t."""
        return self.sample(n, t).x
