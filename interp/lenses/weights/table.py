"""`TokenTable`: directions of the residual stream, read as the tokens they say most and least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.names import match
from interp.core.result import Result
from interp.core.settings import check_choice

if TYPE_CHECKING:
    import pandas as pd

SIGNS = ("+", "-")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TokenTable(Result):
    """The k tokens nearest to every direction, and to its negative.

    A score is the dot product of the direction with a token's unembedding or embedding vector:
    what one unit of the direction adds to the token's logit. `labels["direction"]` names the rows.
    """

    scores: Float[Tensor, "direction sign k"]
    """Largest dot products, falling; sign "-" is the same for the negated direction."""
    ids: Int[Tensor, "direction sign k"]
    """Token ids of the scores."""
    mean: Float[Tensor, " direction"]
    """Mean dot product over the whole vocabulary."""
    std: Float[Tensor, " direction"]
    """Standard deviation over the whole vocabulary."""
    threshold: Float[Tensor, " direction"]
    """z score that no direction reaches in 99 of 100 tables of the same weights, permuted."""
    pieces: dict[int, str]
    """Text of every id that occurs."""
    n_tokens: int
    """Size of the vocabulary."""
    space: str
    """"unembed" or "embed": the vectors that directions were compared with."""

    @property
    def names(self) -> list[str]:
        """Row names, as `L3N12.out`."""
        return self.labels["direction"]

    @property
    def z(self) -> Float[Tensor, "direction sign k"]:
        """Scores as standard deviations above the vocabulary's mean (of the signed direction)."""
        mean = torch.stack([self.mean, -self.mean], -1)[..., None]
        return (self.scores - mean) / self.std.clamp(min=1e-30)[:, None, None]

    @property
    def ratio(self) -> Float[Tensor, "direction sign"]:
        """Probability of the first token over that of the second, were the direction the output.

        Davies (2025) calls a neuron specialised when this is high. 1 where k = 1.
        """
        return (self.scores[..., 0] - self.scores[..., min(1, self.scores.shape[-1] - 1)]).exp()

    def tokens(self, name: str, sign: str = "+") -> list[str]:
        """The tokens of one row, nearest first.

        Raises:
            ConfigError: No such row or sign.
        """
        check_choice("sign", sign, SIGNS)
        check_choice("row", name, self.names)
        row = self.ids[self.names.index(name), SIGNS.index(sign)]
        return [self.pieces[i] for i in row.tolist()]

    def select(self, rows: str | Sequence[str] | Sequence[int]) -> TokenTable:
        """The rows whose names match (globs allowed), or that stand at these indices, in order.

        Raises:
            SiteError: A pattern matches nothing.
        """
        if isinstance(rows, str) or any(isinstance(row, str) for row in rows):
            patterns = [rows] if isinstance(rows, str) else [str(row) for row in rows]
            place = {name: i for i, name in enumerate(self.names)}
            index = [place[name] for name in match(patterns, self.names, what="row")]
        else:
            index = [int(row) for row in rows]
        ids = self.ids[index]
        return replace(
            self,
            scores=self.scores[index],
            ids=ids,
            mean=self.mean[index],
            std=self.std[index],
            threshold=self.threshold[index],
            pieces={i: self.pieces[i] for i in ids.unique().tolist()},
            labels={**self.labels, "direction": [self.names[i] for i in index]},
        )

    def specialised(self, threshold: float | None = None) -> TokenTable:
        """The rows whose first token, of either sign, lies above the threshold; highest z first."""
        top = self.z[..., 0].amax(-1)
        order = top.argsort(descending=True, stable=True)
        bound = self.threshold if threshold is None else torch.full_like(top, threshold)
        return self.select(order[(top > bound)[order]].tolist())

    def to_frame(self, field: str | None = None) -> pd.DataFrame:
        """As for every result; tables of ids gain a column `token`."""
        return self._with_text(super().to_frame(field))

    def top(self, n: int = 10, field: str | None = None, *, absolute: bool = False) -> pd.DataFrame:
        """As for every result; tables of ids gain a column `token`."""
        return self._with_text(super().top(n, field, absolute=absolute))

    def check(self) -> Checks:
        """No z score can exceed sqrt(n - 1) (Samuelson): moments and scores belong together."""
        worst = float(self.z.max()) if self.z.numel() else 0.0
        bound = math.sqrt(max(self.n_tokens - 1, 1)) * (1 + 1e-3)
        return Checks([Check.at_most("largest z", worst, bound)])

    def _with_text(self, frame: Any) -> Any:
        if "ids" in frame.columns:
            frame["token"] = [self.pieces[i] for i in frame["ids"].tolist()]
        return frame
