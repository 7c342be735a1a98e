"""Clean and corrupted prompts beside what is read of them: the input of every circuit method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError
from interp.core.foreign import show
from interp.models.hooked import HookedModel
from interp.models.stream.spelling import as_target
from interp.models.stream.target import Target
from interp.models.text.batch import TokenBatch
from interp.tasks.batch import PromptBatch
from interp.tasks.metrics import METRICS, metric, metric_target
from interp.tasks.prompts import Prompts

FORMS = "Prompts, a PromptBatch, or a pair (clean, corrupted) of texts or ids"
DEFAULT = "logit_difference"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Aligned prompts, and one number to read of each.

    Attributes:
        clean: Ids and mask [batch pos].
        corrupted: The same for the corrupted side; None where no ablation needs one.
        target: Reads [batch] of the model's output.
        prompts: The batch that a metric reads answers from; None for other targets.
        metric: The metric's name where it is one.
        sliced: The target of some of the rows, where it says something else of each.
    """

    clean: TokenBatch
    corrupted: TokenBatch | None
    target: Target
    prompts: PromptBatch | None = None
    metric: str = ""
    sliced: Callable[[slice], Target] | None = None

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: slice) -> Pairs:
        """Some of the rows."""
        cut = None if self.corrupted is None else self.corrupted[rows]
        if self.sliced is not None:
            return Pairs(self.clean[rows], cut, self.sliced(rows))
        if self.prompts is None:
            return Pairs(self.clean[rows], cut, self.target)
        prompts = self.prompts[rows]
        target = metric_target(self.metric, prompts)
        return Pairs(self.clean[rows], cut, target, prompts, self.metric)

    def batches(self, size: int) -> Iterator[Pairs]:
        """The rows in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def both(self) -> TokenBatch:
        """The corrupted side.

        Raises:
            ConfigError: There is none.
        """
        if self.corrupted is None:
            raise ConfigError(
                "these prompts have no corrupted side",
                expected="a corrupted text for every prompt",
                fix='ablation="zero" or "mean" needs none',
            )
        return self.corrupted


def read_pairs(model: HookedModel, inputs: Any, target: Any) -> Pairs:
    """What a user gives as prompts and target, aligned token by token.

    Args:
        inputs: Prompts or a PromptBatch of `interp.tasks`, or a pair (clean, corrupted), each in
            any form that the model reads; corrupted may be None.
        target: The name of a metric of `interp.tasks` (for prompts with answers; logit_difference
            where nothing is said), or what `interp.attribute` takes.

    Raises:
        ConfigError: Another form, or a metric for prompts without answers.
        ShapeError: Sides of different shape.
        TokenError: Prompts of different length in tokens.
    """
    if isinstance(inputs, Prompts):
        inputs = inputs.tokenize(model)
    named = isinstance(target, str) and target in METRICS
    if isinstance(inputs, PromptBatch):
        batch = inputs.to(model.device)
        if isinstance(target, str) and get_close_matches(target, METRICS, cutoff=0.8):
            named = metric(target) is not None  # or the nearest names are told
        if target is None or named:
            name = DEFAULT if target is None else str(target)
            read = metric(name)
            read(torch.zeros(len(batch), model.cfg.d_vocab_out or model.cfg.d_vocab), batch.to("cpu"), "none")
            return Pairs(batch.clean, batch.corrupted, metric_target(name, batch), batch, name)
        clean, cut = batch.clean, batch.corrupted
    else:
        if not isinstance(inputs, tuple) or len(inputs) != 2:
            raise ConfigError("cannot read these as prompts", got=show(inputs, 80), expected=FORMS)
        if named:
            raise ConfigError(
                f"the metric {target!r} reads answers",
                got="a pair of texts",
                expected="Prompts or a PromptBatch",
                fix="a pair of tokens (answer, distractor) as the target",
            )
        clean = model.read(inputs[0]).to(model.device)
        cut = None if inputs[1] is None else model.read(inputs[1]).to(model.device)
    if cut is not None and not (clean.mask.shape == cut.mask.shape and torch.equal(clean.mask, cut.mask)):
        raise ShapeError(
            "clean and corrupted prompts are compared token by token",
            got=f"{clean.lengths.tolist()[:8]} and {cut.lengths.tolist()[:8]} tokens",
            expected="the same number of tokens in each pair",
        )

    def output() -> Any:
        with torch.no_grad():
            return model(clean)

    return Pairs(clean, cut, as_target(model, target, output))


def numbers(pairs: Pairs, output: Any) -> Tensor:
    """The target of every row, [batch].

    Raises:
        ShapeError: Another number of values than rows.
    """
    found = pairs.target.of(output)
    if len(found) != len(pairs):
        raise ShapeError(
            f"the target {pairs.target.name!r} must give one number per prompt",
            got=f"{len(found)} numbers",
            expected=f"{len(pairs)}",
        )
    return found
