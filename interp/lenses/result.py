"""`LensResult`: one distribution over tokens per layer and position, reduced to what is shown."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class LensResult(Result):
    """What each row (embedding, layers, or sublayers) predicts after each position.

    Probabilities are softmaxes over the whole vocabulary; entropies and divergences are in nats;
    the prediction at a position is for the token that follows it.
    """

    probs_top: Float[Tensor, "layer pos k"]
    """Probability of the k likeliest tokens, descending."""
    ids_top: Int[Tensor, "layer pos k"]
    """Ids of the k likeliest tokens."""
    entropy: Float[Tensor, "layer pos"]
    """Entropy of the row's distribution, nats."""
    kl: Float[Tensor, "layer pos"]
    """KL(model output || row), nats; 0 where the row already says what the model says."""
    target_prob: Float[Tensor, "layer pos"] | None
    """Probability of the target token of each position."""
    target_rank: Int[Tensor, "layer pos"] | None
    """Rank of the target token, 0 = likeliest."""
    tokens: tuple[str, ...]
    """The input, one piece per position."""
    top_tokens: tuple[tuple[tuple[str, ...], ...], ...]
    """`ids_top` as text."""
    targets: tuple[str, ...] | None
    """Target token per position, as text."""
    components: tuple[str, ...]
    """Row names, bottom (embedding) to top (output)."""
    kind: str
    """Which lens: "logit", "tuned", "decoder", ..."""
    tolerance: float
    """Bound on the divergence of the last row, by dtype."""

    def check(self) -> Checks:
        """The last residual row must be the model's own output (KL, nats)."""
        worst = self.kl[-1].max()
        return Checks([Check.at_most("last row = model output (KL)", worst, self.tolerance)])

    def emergence(self) -> tuple[int, ...]:
        """Per position: the first residual row from which on the top token is the final one.

        Rows that are not the residual stream (attention and MLP outputs) are skipped.
        """
        rows = [i for i, c in enumerate(self.components) if not c.endswith(("attn", "mlp"))]
        first = []
        for position in range(len(self.tokens)):
            final = self.ids_top[-1, position, 0]
            agree = [bool(self.ids_top[r, position, 0] == final) for r in rows]
            last_off = max((i for i, same in enumerate(agree) if not same), default=-1)
            first.append(rows[last_off + 1])
        return tuple(first)
