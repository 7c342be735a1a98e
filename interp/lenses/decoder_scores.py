"""`DecoderScores`: how well the decoder does with each encoder layer."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderScores(Result):
    """Per encoder layer and example; the first layer is the embeddings, the last the model."""

    gold_log_prob: Float[Tensor, "layer example"]
    """Log-probability of the whole answer, teacher-forced, nats."""
    token_accuracy: Float[Tensor, "layer example"]
    """Share of the answer's tokens that are top-1, teacher-forced."""
    kl: Float[Tensor, "layer example"]
    """KL(model || layer), mean over the answer's tokens, nats."""
    exact_match: Float[Tensor, "layer example"] | None
    """1 where the greedy output is the answer; None when nothing was generated."""
    gap: Float[Tensor, ""]
    """Largest difference of the last layer's logits from the model's, relative above 1."""
    components: tuple[str, ...]
    """Names of the layers, bottom to top."""
    tolerance: float
    """Bound on the gap, by dtype."""

    def check(self) -> Checks:
        """With the last layer the decoder says what the model says."""
        return Checks([Check.at_most("last layer = model output", self.gap, self.tolerance)])
