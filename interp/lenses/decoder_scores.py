"""`DecoderScores`: how well the decoder does with each encoder layer."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.frames.quantity import called, computed, measured, places
from interp.core.result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderScores(Result, headline="What the decoder can do with each layer ({n_examples:,} examples)"):
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
    components: tuple[str, ...] = places("layer")
    """Names of the layers, bottom to top."""
    tolerance: float
    """Bound on the gap, by dtype."""

    @property
    def n_examples(self) -> int:
        """How many examples were decoded."""
        return self.kl.shape[1]

    @property
    @computed(
        measured(
            "share that is right",
            "",
            "the layer's states suffice",
            signed=False,
            legend="tokens (teacher-forced)",
            along="layer",
            axis_title="encoder layer that it reads",
            beside="answers_right",
        )
    )
    def tokens_right(self) -> Float[Tensor, " layer"]:
        """Mean `token_accuracy` of the examples."""
        return self.token_accuracy.mean(1)

    @property
    @computed(called("whole answers (greedy)"))
    def answers_right(self) -> Float[Tensor, " layer"] | None:
        """Share of the examples whose greedy output is the answer."""
        return None if self.exact_match is None else self.exact_match.mean(1)

    @property
    @computed(
        measured(
            "KL(model ‖ layer)",
            "nats per token",
            "farther from the model",
            signed=False,
            along="layer",
            axis_title="encoder layer that it reads",
        )
    )
    def mean_kl(self) -> Float[Tensor, " layer"]:
        """Mean `kl` of the examples."""
        return self.kl.mean(1)

    def check(self) -> Checks:
        """With the last layer the decoder says what the model says."""
        return Checks([Check.at_most("last layer = model output", self.gap, self.tolerance)])
