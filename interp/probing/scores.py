"""How good guesses are: accuracy, R2, F1, MCC, with intervals that know about groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.frames.intervals import wilson
from interp.probing.rows import Target

LEAST_R2 = -1e12
"""Where R2 ends."""
FOUR_ERRORS = 6.3e-5
"""Share of draws that are more than four standard errors off, on either side."""


def all_converged(unconverged: int) -> Check:
    """Every logistic fit of a result reached its optimum."""
    name = "logistic fits before their optimum (raise max_iter)"
    return Check.at_most(name, float(unconverged), 0.0)


def not_wild(
    scores: Float[Tensor, "*more target"],
    floor: Float[Tensor, "target"],
    kinds: Sequence[str],
    n_train: int,
    n_test: int,
) -> Checks:
    """No score is far below what needs no rows: the majority class, or the mean of a real target.

    A guess worse than that by more than chance has learned what does not hold: too many features for
    the rows, test rows unlike the training rows, or a target that hardly varies among them. Allowed
    are four standard errors, and a little for the smallest of many: of an accuracy, or of the mean
    of the training rows, whose squared distance from the test rows' own follows F's distribution.
    """
    from scipy.stats import f

    found = []
    real = torch.tensor([kind == "real" for kind in kinds])
    free = max(n_test - 1, 1)
    mean = float(f.isf(FOUR_ERRORS, 1, free)) * (1 / n_train + 1 / n_test) * n_test / free + 0.1
    for which, name, slack in (
        (~real, "lowest accuracy above the majority class", 4 * (0.25 / n_test) ** 0.5 + 0.02),
        (real, "lowest R2, 0 is the mean", mean),
    ):
        if bool(which.any()):
            found.append(Check.at_least(name, (scores - floor)[..., which].min(), -slack))
    return Checks(found)


class Interval(NamedTuple):
    """A number with its confidence interval."""

    value: float
    low: float
    high: float


def guess(scores: Float[Tensor, "n k"], target: Target) -> Tensor:
    """Class indices from logits (ties: the lower index), or the real numbers, [n]."""
    if target.kind == "real":
        return scores[:, 0]
    return scores.argmax(-1) if target.kind == "classes" else (scores[:, 0] > 0).long()


def rate(scores: Tensor, target: Target, groups: Tensor, confidence: float) -> Interval:
    """Accuracy of a class target, R2 of a real one, with its interval."""
    if target.kind == "real":
        return r2(scores[:, 0], target.values, groups, confidence)
    return accuracy(guess(scores, target) == target.values, groups, confidence)


def accuracy(right: Bool[Tensor, "n"], groups: Tensor, confidence: float = 0.95) -> Interval:
    """Share of right guesses, with Wilson's interval on the effective number of rows.

    Rows of one group (a sentence) go wrong together. Their design effect is the variance of the
    ratio estimate over groups by that of independent rows (at least 1); where all or no guesses
    are right it cannot be measured, and every group counts as one row.
    """
    n, hits = len(right), right.double()
    p = float(hits.mean())
    _, code = groups.unique(return_inverse=True)
    g = int(code.max()) + 1
    off = torch.zeros(g, dtype=torch.float64).index_add_(0, code, hits - p)
    spread = p * (1 - p) * n
    inflation = float(off.square().sum()) / spread * g / max(g - 1, 1) if spread > 0 else n / g
    low, high = wilson(p, n / max(inflation, 1.0), confidence)
    return Interval(p, float(low), float(high))


def r2(guessed: Tensor, true: Tensor, groups: Tensor, confidence: float = 0.95) -> Interval:
    """1 - residual / total sum of squares; interval by 200 bootstraps of whole groups.

    0 for a target that is constant among these rows: there is nothing to explain. Never below
    `LEAST_R2`: rows that hardly differ would make any guess infinitely bad.
    """
    guessed, true = guessed.double(), true.double()
    _, code = groups.unique(return_inverse=True)
    g = int(code.max()) + 1
    parts = torch.stack([(true - guessed).square(), true.square(), true, torch.ones_like(true)], 1)
    sums = torch.zeros(g, 4, dtype=torch.float64).index_add_(0, code, parts)
    draws = torch.Generator().manual_seed(0)
    picked = torch.randint(g, (200, g), generator=draws)
    values = torch.stack([_r2_of(sums.sum(0)), *(_r2_of(sums[rows].sum(0)) for rows in picked)])
    tail = (1 - confidence) / 2
    low, high = torch.quantile(values[1:], torch.tensor([tail, 1 - tail]).double()).tolist()
    return Interval(float(values[0]), low, high)


def _r2_of(sums: Tensor) -> Tensor:
    residual, square, total, n = sums
    variation = square - total * total / n
    if variation <= 1e-12 * square:
        return torch.zeros((), dtype=torch.float64)
    return (1 - residual / variation).clamp(min=LEAST_R2)


def majority(train: Target, test: Target) -> float:
    """Test accuracy of always guessing the training rows' most frequent class; 0 for R2."""
    if train.kind == "real":
        return 0.0
    most = int(train.values.bincount(minlength=len(train.classes)).argmax())
    return float((test.values == most).double().mean())


class Binary(NamedTuple):
    """Two-class figures; each is 0 where it is 0/0."""

    f1: float
    mcc: float
    kappa: float
    fmi: float
    precision: float
    recall: float
    roc_auc: float
    pr_auc: float


def binary_scores(score: Float[Tensor, "n"], positive: Bool[Tensor, "n"]) -> Binary:
    """Figures at threshold 0, and the areas under ROC and PR."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    said = score > 0
    tp = float((said & positive).sum())
    fp, fn = float((said & ~positive).sum()), float((~said & positive).sum())
    tn = len(score) - tp - fp - fn
    n, agreed = len(score), tp + tn
    by_chance = ((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)) / max(n, 1)
    both = 0 < int(positive.sum()) < n
    told = positive.numpy(), score.double().numpy()
    denominator = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    return Binary(
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        mcc=_ratio(tp * tn - fp * fn, denominator),
        kappa=_ratio(agreed - by_chance, n - by_chance),
        fmi=_ratio(tp, ((tp + fp) * (tp + fn)) ** 0.5),
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        roc_auc=float(roc_auc_score(*told)) if both else 0.0,
        pr_auc=float(average_precision_score(*told)) if bool(positive.any()) else 0.0,
    )


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0
