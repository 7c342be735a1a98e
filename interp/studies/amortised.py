"""Empirical explainers: learn expensive scores once, then explain in one forward pass.

Schwarzenberg, Feldhus, Moeller 2021 (and FastSHAP). Worth it for Shapley values, which need
thousands of evaluations; pointless for integrated gradients, which converge in a few. The report
carries the curve of the expensive method at smaller budgets, so that the worth can be read off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.attribution.trust.agreement import kendall_tau
from interp.core.checks import Check, Checks
from interp.core.errors import ShapeError
from interp.core.frames.quantity import called, measured, places
from interp.core.randomness import generator
from interp.core.result import Result


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Amortised(Result, headline="What one pass is worth"):
    """A one-pass explainer against the expensive one, and what the expensive one gets for less."""

    error: float = called("amortised")
    """Mean squared error of the amortised scores on held-out inputs."""
    tau: float
    """Mean Kendall tau with the expensive scores on held-out inputs."""
    error_mean: float = called("mean map")
    """Error of always answering the mean map: the control."""
    cheaper_error: Float[Tensor, " budget"] = measured(
        "mean squared error", "", "farther off", along="budget", null=("error", "error_mean")
    )
    """Error of the expensive method at smaller budgets."""
    budgets: Int[Tensor, " budget"] = places("budget", "evaluations")
    """Model evaluations of each budget."""

    @property
    def worth(self) -> int:
        """The largest budget whose error is still above the amortised one; 0: none is."""
        above = [
            int(b) for b, e in zip(self.budgets, self.cheaper_error, strict=True) if float(e) > self.error
        ]
        return max(above, default=0)

    def check(self) -> Checks:
        """It must beat the mean map."""
        return Checks([Check.at_most("error against the mean map's", self.error, self.error_mean)])


class Explainer(nn.Module):
    """An encoder and a linear head: inputs -> scores [batch pos].

    Args:
        encoder: [batch ...] -> [batch pos d], scored position by position, or [batch d].
        width: d.
        n_positions: Scores per input.
        scale: Standard deviation of the scores, so that the head learns numbers of order 1.
    """

    def __init__(self, encoder: nn.Module, width: int, n_positions: int, scale: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.by_position: nn.Linear = nn.Linear(width, 1)
        self.whole: nn.Linear = nn.Linear(width, n_positions)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of every position, [batch pos]."""
        hidden = self.encoder(x)
        found = self.by_position(hidden)[..., 0] if hidden.dim() == 3 else self.whole(hidden)
        return found * self.scale


def amortize(
    encoder: nn.Module,
    inputs: Tensor,
    scores: Tensor,
    *,
    cheaper: Mapping[int, Tensor] | None = None,
    held_out: float = 0.2,
    config: FitConfig | None = None,
) -> tuple[Explainer, Amortised]:
    """Train an explainer on expensive scores, and measure it on held-out inputs.

    Args:
        encoder: Trained along; a copy of the model's own body is a good start.
        inputs: [example ...], what the encoder reads.
        scores: The expensive scores, [example pos].
        cheaper: Budget (evaluations) -> the method's scores at that budget, [example pos].
        held_out: Share of examples kept for the measurement.
        config: Optimizer; 500 steps of Adam by default.

    Raises:
        ShapeError: Not one row of scores per input, or too few to hold some out.
    """
    n_test = int(held_out * len(inputs))
    if len(inputs) != len(scores) or not 0 < n_test < len(inputs):
        raise ShapeError(
            "every input needs its scores, and some are held out",
            got=f"{len(inputs)} inputs, {len(scores)} scores, {n_test} held out",
        )
    scores = scores.to(inputs.device)
    config = config or FitConfig(steps=500, lr=2e-3, lr_schedule="cosine", log_every=500)
    train, test = slice(0, len(inputs) - n_test), slice(len(inputs) - n_test, None)
    with torch.no_grad():
        width = encoder(inputs[:1]).shape[-1]
    module = Explainer(encoder, width, scores.shape[1], float(scores[train].std())).to(inputs.device)
    unit = float(scores[train].var()) or 1.0

    def batch(t: int) -> tuple[Tensor, Tensor]:
        drawn = generator(config.seed, "amortise", t)
        index = torch.randint(len(inputs) - n_test, (64,), generator=drawn)
        return inputs[train][index], scores[train][index]

    def step(net: nn.Module, pair: Any, t: int) -> Tensor:
        return (net(pair[0]) - pair[1]).pow(2).mean() / unit

    fit(module, step, batch, config)
    module.eval()
    with torch.no_grad():
        guess, truth = module(inputs[test]), scores[test]
    mean = scores[train].mean(0).expand_as(truth)
    pairs = zip(guess, truth, strict=True)
    taus = [float(kendall_tau(torch.stack(pair))[0, 1]) for pair in pairs]
    smaller = dict(sorted((cheaper or {}).items()))
    errors = [float((s[test].to(truth) - truth).pow(2).mean()) for s in smaller.values()]
    return module, Amortised(
        error=float((guess - truth).pow(2).mean()),
        tau=sum(taus) / len(taus),
        error_mean=float((mean - truth).pow(2).mean()),
        cheaper_error=torch.tensor(errors),
        budgets=torch.tensor(list(smaller), dtype=torch.long),
        labels={"budget": [str(b) for b in smaller]},
    )
