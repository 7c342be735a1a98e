"""What a model's answer is worth: metrics of logits against a batch of prompts.

All take logits [batch, pos, d_vocab] (read at `batch.last`) or [batch, d_vocab], return one number
per prompt with `reduce="none"` and their mean with `reduce="mean"`, and are differentiable where
that means anything. With A the ids of a prompt's answers, D those of its distractors, l the logits
and p = softmax(l) over the whole vocabulary:

| metric                   | per prompt                        | as in                             |
|--------------------------|-----------------------------------|-----------------------------------|
| `logit_difference`       | mean l[A] - mean l[D]             | Wang et al. 2022 (IOI); ACDC;     |
|                          |                                   | auto-circuit `batch_answer_diffs` |
| `probability_difference` | mean p[A] - mean p[D]             | auto-circuit, on probabilities    |
| `mass_difference`        | sum p[A] - sum p[D]               | Hanna et al. 2023 (greater-than:  |
|                          |                                   | later minus earlier years),       |
|                          |                                   | EAP-IG `prob_diff`                |
| `answer_probability`     | sum p[A]                          | mass on later years               |
| `log_probability`        | log sum p[A]                      | surprise of the answer, nats      |
| `accuracy`               | no other token as high as max l[A]| top-1 over the whole vocabulary   |
| `preference`             | max l[A] > max l[D]               | agreement, BLiMP's pairs          |
| `rank`                   | others with l >= max l[A]         | 0 = top-1                         |

Ties count against the model: one that gives every token the same logit has accuracy 0, not 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError
from interp.core.names import did_you_mean
from interp.core.settings import check_choice
from interp.models.losses import token_losses
from interp.models.stream.target import Target
from interp.models.text.batch import TokenBatch
from interp.tasks.batch import PromptBatch

Reduce = Literal["mean", "none"]
Metric = Callable[..., Tensor]


def logit_difference(
    logits: Float[Tensor, "batch *pos d_vocab"], batch: PromptBatch, reduce: Reduce = "mean"
) -> Tensor:
    """Mean logit of the answers minus mean logit of the distractors.

    Raises:
        ConfigError: A prompt has no answer or no distractor.
        ShapeError: The logits are of another batch.
    """
    final = batch.final(logits)
    return _reduced(_mean(final, _answers(batch)) - _mean(final, _distractors(batch)), reduce)


def probability_difference(
    logits: Float[Tensor, "batch *pos d_vocab"], batch: PromptBatch, reduce: Reduce = "mean"
) -> Tensor:
    """Mean probability of the answers minus mean probability of the distractors, -1 to 1.

    Raises:
        ConfigError: A prompt has no answer or no distractor.
        ShapeError: The logits are of another batch.
    """
    probs = batch.final(logits).softmax(-1)
    return _reduced(_mean(probs, _answers(batch)) - _mean(probs, _distractors(batch)), reduce)


def mass_difference(
    logits: Float[Tensor, "batch *pos d_vocab"], batch: PromptBatch, reduce: Reduce = "mean"
) -> Tensor:
    """Probability mass on the answers minus that on the distractors, -1 to 1.

    With later years as answers and earlier ones as distractors it is the probability difference of
    Hanna et al. 2023, "How does GPT-2 compute greater-than?", section 2.

    Raises:
        ConfigError: A prompt has no answer or no distractor.
        ShapeError: The logits are of another batch.
    """
    probs = batch.final(logits).softmax(-1)
    return _reduced(_sum(probs, _answers(batch)) - _sum(probs, _distractors(batch)), reduce)


def answer_probability(
    logits: Float[Tensor, "batch *pos d_vocab"], batch: PromptBatch, reduce: Reduce = "mean"
) -> Tensor:
    """Probability mass on the answers together, 0 to 1.

    Raises:
        ConfigError: A prompt has no answer.
        ShapeError: The logits are of another batch.
    """
    return _reduced(_sum(batch.final(logits).softmax(-1), _answers(batch)), reduce)


def log_probability(
    logits: Float[Tensor, "batch *pos d_vocab"], batch: PromptBatch, reduce: Reduce = "mean"
) -> Tensor:
    """Log of the probability mass on the answers, nats, at most 0.

    Raises:
        ConfigError: A prompt has no answer.
        ShapeError: The logits are of another batch.
    """
    ids = _answers(batch)
    logs = batch.final(logits).log_softmax(-1).gather(-1, ids.clamp(min=0))
    return _reduced(logs.masked_fill(ids < 0, -torch.inf).logsumexp(-1), reduce)


def accuracy(
    logits: Float[Tensor, "batch *pos d_vocab"], batch: PromptBatch, reduce: Reduce = "mean"
) -> Tensor:
    """1 where an answer is the single most likely token of the whole vocabulary, else 0.

    Raises:
        ConfigError: A prompt has no answer.
        ShapeError: The logits are of another batch.
    """
    return _reduced((rank(logits, batch, "none") == 0).float(), reduce)


def preference(
    logits: Float[Tensor, "batch *pos d_vocab"], batch: PromptBatch, reduce: Reduce = "mean"
) -> Tensor:
    """1 where the best answer is above every distractor, else 0.

    Raises:
        ConfigError: A prompt has no answer or no distractor.
        ShapeError: The logits are of another batch.
    """
    final = batch.final(logits)
    best = _best(final, _answers(batch)) > _best(final, _distractors(batch))
    return _reduced(best.float(), reduce)


def rank(logits: Float[Tensor, "batch *pos d_vocab"], batch: PromptBatch, reduce: Reduce = "mean") -> Tensor:
    """How many tokens that are no answer are at least as likely as the best answer; 0 = top-1.

    Raises:
        ConfigError: A prompt has no answer.
        ShapeError: The logits are of another batch.
    """
    final, ids = batch.final(logits), _answers(batch)
    as_high = final >= _best(final, ids)[:, None]
    own = as_high.gather(-1, ids.clamp(min=0)) & (ids >= 0)
    return _reduced((as_high.sum(-1) - own.sum(-1)).float(), reduce)


def sentence_log_probability(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: TokenBatch
) -> Float[Tensor, " batch"]:
    """Log probability of each whole sequence after its first token, nats.

    The sum over real tokens of log p(token | those before); with a BOS in front that is the
    sentence's own log probability (Warstadt et al. 2020, BLiMP's "simple LM method").

    Raises:
        ConfigError: A sequence of a single token.
        ShapeError: The logits are of another batch.
    """
    if logits.shape[:2] != tokens.ids.shape:
        raise ShapeError(
            "these logits are not of these tokens",
            got=list(logits.shape),
            expected=f"[{tokens.ids.shape[0]}, {tokens.ids.shape[1]}, d_vocab]",
        )
    if bool((tokens.lengths < 2).any()):
        raise ConfigError(
            "a sequence of one token has no probability to sum", fix="prepend_bos=True, or longer sentences"
        )
    losses, counted = token_losses(logits, tokens.ids, tokens.mask if tokens.padded else None)
    return -(losses * counted).sum(-1)


METRICS: dict[str, Metric] = {
    function.__name__: function
    for function in (
        logit_difference,
        probability_difference,
        mass_difference,
        answer_probability,
        log_probability,
        accuracy,
        preference,
        rank,
    )
}
"""Metric name -> function(logits, batch, reduce)."""


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ConfigError: There is none; the nearest names are suggested.
    """
    if name not in METRICS:
        raise ConfigError(
            f"no metric {name!r}", expected=", ".join(METRICS), fix=did_you_mean(name, METRICS) or None
        )
    return METRICS[name]


def metric_target(name: str, batch: PromptBatch) -> Target:
    """A metric of a batch of prompts as what an analysis reads: one number per prompt.

    Raises:
        ConfigError: No such metric, or prompts that lack what it needs.
    """
    read = metric(name)
    return Target(name.replace("_", " "), lambda logits: read(logits, batch, "none"))


def _answers(batch: PromptBatch) -> Int[Tensor, "batch answer"]:
    return _present(batch.answers, "answer")


def _distractors(batch: PromptBatch) -> Int[Tensor, "batch distractor"]:
    return _present(batch.distractors, "distractor")


def _present(ids: Int[Tensor, "batch k"], what: str) -> Int[Tensor, "batch k"]:
    """The ids, if every row has one."""
    empty = (ids < 0).all(-1)  # all of nothing is True: no column, no answer
    if bool(empty.any()):
        raise ConfigError(
            f"{int(empty.sum())} of {len(ids)} prompts have no {what}",
            got=f"first: prompt {int(empty.nonzero()[0])}",
            expected=f"one {what} or more in each",
            fix="a metric that needs none: answer_probability, accuracy, rank"
            if what == "distractor"
            else "prompts with answers",
        )
    return ids


def _gathered(
    values: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "batch k"], fill: float
) -> Float[Tensor, "batch k"]:
    found = values.gather(-1, ids.clamp(min=0))
    absent: Bool[Tensor, "batch k"] = ids < 0
    return found.masked_fill(absent, fill)


def _sum(values: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "batch k"]) -> Float[Tensor, " batch"]:
    return _gathered(values, ids, 0.0).sum(-1)


def _mean(values: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "batch k"]) -> Float[Tensor, " batch"]:
    return _sum(values, ids) / (ids >= 0).sum(-1)


def _best(values: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "batch k"]) -> Float[Tensor, " batch"]:
    return _gathered(values, ids, -torch.inf).amax(-1)


def _reduced(values: Tensor, reduce: Reduce) -> Tensor:
    check_choice("reduce", reduce, Reduce)
    return values.mean() if reduce == "mean" else values
