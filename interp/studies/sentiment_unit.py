"""Does one unit carry a label? L1 path, single-unit score, data efficiency (Radford et al. 2017).

"Learning to Generate Reviews and Discovering Sentiment": an L1 penalty on a probe over all units
of a language model left one unit that alone nearly matched the whole probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.randomness import permutation
from interp.core.result import Result
from interp.probing.config import ProbeConfig
from interp.probing.rows import Labels, Target, check_rows, encode, require_classes
from interp.probing.solvers.linear import scores_of, solve
from interp.probing.splits import shuffled, split_rows, split_targets


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitResult(Result):
    """One unit against the whole probe: L1 path, threshold, label efficiency."""

    strength: Float[Tensor, "c"]
    """C of the L1 penalty; small = few units."""
    accuracy: Float[Tensor, "c"]
    """Test accuracy of the L1 probe."""
    nonzero: Int[Tensor, "c"]
    """Units it uses."""
    dev_accuracy: Float[Tensor, "c"]
    """Accuracy on rows held out of the training rows: what chooses C."""
    budget: Int[Tensor, "n_labels"]
    """Numbers of training labels."""
    budget_accuracy: Float[Tensor, "n_labels reader"]
    """Test accuracy from so many labels: the unit's threshold, the whole probe."""
    values: Float[Tensor, "row"]
    """The unit on every row."""
    label: Int[Tensor, "row"]
    """Class of every row."""
    unit_accuracy: Float[Tensor, ""]
    """Test accuracy of the best single unit, all labels."""
    full_accuracy: Float[Tensor, ""]
    """Test accuracy of the probe on all units."""
    shuffled_accuracy: Float[Tensor, ""]
    """Test accuracy of the same probe on shuffled labels."""
    unit: int
    """Number of the best unit."""
    sign: int
    """1: high means the second class."""
    threshold: float
    """Between the classes, in the unit's own scale."""
    target: str
    """What is read."""
    classes: tuple[str, ...]
    """Names of the two classes."""

    @property
    def chosen(self) -> int:
        """Index of the strength with the best dev accuracy; of equals, the sparsest."""
        return int(self.dev_accuracy.argmax())

    def check(self) -> Checks:
        """The unit comes within three points of the whole probe."""
        gap = self.full_accuracy - self.unit_accuracy
        return Checks([Check.at_most("whole probe above the unit", gap, 0.03)])


STRENGTHS = tuple(2.0**e for e in range(-8, 1))
"""C of the L1 path, as in the paper's code."""
BUDGETS = (10, 30, 100, 300, 1000, 3000)


def find_unit(
    rows: Float[Tensor, "n d"],
    labels: Labels,
    *,
    name: str = "label",
    strengths: Sequence[float] = STRENGTHS,
    groups: Sequence[Any] | Tensor | None = None,
    seed: int = 0,
) -> UnitResult:
    """Score the whole probe, the L1 path and the best single unit on held-out rows.

    The strength is chosen on rows held out of the training rows; the single unit is the one whose
    threshold alone is most accurate on the training rows.

    Args:
        rows: Rows [n, d], one column per unit (for an LSTM: tanh of the cell after the text).
        labels: Two classes.
        name: What is read.
        strengths: C of the L1 penalty, ascending.
        groups: Rows that are never split between training and test.
        seed: Of the splits.

    Raises:
        ConfigError: Not two classes, one class on a side, or no strengths.
    """
    from sklearn.linear_model import LogisticRegression

    rows = check_rows(rows, "the rows of the units")
    target = encode(name, labels, len(rows))
    if target.kind != "binary" or not strengths:
        raise ConfigError("a unit tells two classes apart", got=target.kind, expected="two classes")
    cut = split_targets([target], len(rows), 0.3, seed, groups=groups)
    inner = split_rows(len(cut.train), 0.25, seed, groups=cut.groups[cut.train])
    train, test = target[cut.train], target[cut.test]
    require_classes(train[inner.train], "the inner training rows")
    seen, held = rows[cut.train].double(), rows[cut.test].double()
    centre, spread = seen.mean(0), seen.std(0, correction=0)
    flat = spread <= 1e-7 * seen.abs().amax(0)
    spread = torch.where(flat, 1.0, spread)
    # A unit that is constant in training tells nothing, whatever it does later.
    seen, held = ((side - centre).masked_fill(flat, 0.0) / spread for side in (seen, held))
    dev, counts, accuracies = [], [], []
    for strength in strengths:
        probe = LogisticRegression(C=strength, l1_ratio=1, solver="liblinear", random_state=seed)
        probe.fit(seen[inner.train].numpy(), train[inner.train].values.numpy())
        dev.append(probe.score(seen[inner.test].numpy(), train[inner.test].values.numpy()))
        probe.fit(seen.numpy(), train.values.numpy())
        counts.append(int((probe.coef_ != 0).sum()))
        accuracies.append(probe.score(held.numpy(), test.values.numpy()))
    unit, sign, threshold = best_unit(seen, train)
    single = _right(sign * (held[:, unit] - threshold), test)
    wrong = shuffled(target, cut, seed, 0)
    return UnitResult(
        strength=torch.tensor(strengths).double(),
        accuracy=torch.tensor(accuracies).double(),
        nonzero=torch.tensor(counts),
        dev_accuracy=torch.tensor(dev).double(),
        budget=_budgets(len(seen)),
        budget_accuracy=torch.stack(
            [_with_few(seen, train, held, test, unit, int(n), seed) for n in _budgets(len(seen))]
        ),
        values=rows[:, unit].double(),
        label=target.values,
        unit_accuracy=torch.tensor(single).double(),
        full_accuracy=torch.tensor(_full(seen, train, held, test)).double(),
        shuffled_accuracy=torch.tensor(_full(seen, wrong[cut.train], held, wrong[cut.test])).double(),
        unit=unit,
        sign=int(sign),
        threshold=float(threshold * spread[unit] + centre[unit]),
        target=name,
        classes=target.classes,
    )


def best_unit(x: Float[Tensor, "n d"], target: Target) -> tuple[int, float, Tensor]:
    """The unit whose threshold alone is most accurate: (index, sign, threshold).

    Every threshold between two neighbouring values of every unit is tried, both ways round. Of
    units that are right equally often, the one whose class means lie furthest apart.
    """
    n = len(x)
    values, order = x.sort(0)
    positive = target.values[order]  # [n, d]
    total = positive.sum(0)
    below = positive.cumsum(0)
    # Threshold after row i, "above is positive": negatives below + positives above.
    right = (torch.arange(1, n + 1)[:, None] - below) + (total - below)
    same = torch.zeros_like(right, dtype=torch.bool)
    same[:-1] = values[1:] == values[:-1]  # no threshold fits between equal values
    up = right.masked_fill(same, 0).amax(0)
    down = (n - right).masked_fill(same, 0).amax(0)
    most = torch.maximum(up, down)
    apart = (x[target.values == 1].mean(0) - x[target.values == 0].mean(0)).abs()
    unit = int(apart.masked_fill(most < most.max(), -1).argmax())
    sign = 1.0 if up[unit] >= down[unit] else -1.0
    rated = right[:, unit] if sign > 0 else n - right[:, unit]
    at = int(rated.masked_fill(same[:, unit], -1).argmax())
    # Above the last row: every row is of one class, those that equal the last one, too.
    above = values[at + 1, unit] if at + 1 < n else values[at, unit] + 2
    return unit, sign, (values[at, unit] + above) / 2


def _full(seen: Tensor, train: Target, held: Tensor, test: Target) -> float:
    """Accuracy of the probe on all units."""
    (scores,) = scores_of(solve(seen, [train], ProbeConfig()), held)
    return _right(scores[:, 0], test)


def _right(score: Tensor, target: Target) -> float:
    return float(((score > 0).long() == target.values).double().mean())


def _budgets(n: int) -> Tensor:
    return torch.tensor([b for b in BUDGETS if b < n] + [n])


def _with_few(
    seen: Tensor, train: Target, held: Tensor, test: Target, unit: int, n: int, seed: int
) -> Tensor:
    """Test accuracy of the unit's threshold, and of the whole probe, from n labels, [2]."""
    rows = permutation(len(seen), seed, "few labels")[:n]
    few = train[rows]
    if len(few.values.unique()) < 2:
        share = float((test.values == few.values[0]).double().mean())
        return torch.tensor([share, share], dtype=torch.float64)
    _, sign, threshold = best_unit(seen[rows][:, unit : unit + 1], few)
    alone = _right(sign * (held[:, unit] - threshold), test)
    return torch.tensor([alone, _full(seen[rows], few, held, test)], dtype=torch.float64)
