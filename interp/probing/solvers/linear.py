"""Linear probes of any kind for many targets at once, from one decomposition of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from interp.core.errors import ConfigError
from interp.probing.config import ProbeConfig
from interp.probing.rows import Target, require_classes
from interp.probing.solvers.logistic import fit_logistic
from interp.probing.solvers.ridge import ridge
from interp.probing.solvers.spectrum import Spectrum, spectrum
from interp.probing.splits import Split, group_codes, split_rows

LOGISTIC = ("linear", "logistic")
"""Kinds of probe that fit classes by logistic regression."""


@dataclass(frozen=True, eq=False)
class Solved:
    """A linear function of raw rows, and the penalty that was chosen for it."""

    weight: Float[Tensor, "d k"]
    bias: Float[Tensor, "k"]
    penalty: float
    converged: bool = True
    """False where the logistic solver stopped before its optimum."""


def scores_of(solved: Sequence[Solved], x: Float[Tensor, "n d"]) -> list[Tensor]:
    """Logits (or real numbers) [n, k] of every function, by one product in the rows' dtype."""
    weight = torch.cat([one.weight for one in solved], 1)
    bias = torch.cat([one.bias for one in solved])
    every = x @ weight.to(x.dtype) + bias.to(x.dtype)
    return list(every.split([len(one.bias) for one in solved], 1))


def solve(
    x: Float[Tensor, "n d"],
    targets: Sequence[Target],
    config: ProbeConfig,
    *,
    groups: Sequence[Any] | Tensor | None = None,
) -> list[Solved]:
    """Fit every target; a real one gets ridge (numbers for a probe of classes are refused before).

    Args:
        x: Checked rows.
        targets: What to read.
        config: Kind and penalties.
        groups: Rows that belong together when a penalty is chosen on held-out rows.

    Raises:
        ConfigError: No penalty.
    """
    if not config.penalties:
        raise ConfigError("penalties of a probe", got=config.penalties, expected="numbers from 0 upward")
    chosen = None
    some = any(target.kind != "real" for target in targets)
    if config.kind in LOGISTIC and len(config.penalties) > 1 and some:
        chosen = _held_out_penalties(x, targets, config, groups)
    base = spectrum(x, config.standardise)
    return solve_in(base, targets, config, chosen)


def solve_in(
    base: Spectrum, targets: Sequence[Target], config: ProbeConfig, penalties: Sequence[float] | None = None
) -> list[Solved]:
    """`solve` on rows already decomposed; `penalties` fixes one per target (logistic)."""
    result: dict[int, Solved] = {}

    def kind_of(i: int) -> tuple[str, int]:
        return targets[i].kind, targets[i].n_outputs

    order = sorted(range(len(targets)), key=kind_of)
    for (kind, k), group in groupby(order, key=kind_of):
        members = list(group)
        same = [targets[i] for i in members]
        fixed = None if penalties is None else [penalties[i] for i in members]
        if kind == "real" or config.kind == "ridge":
            solved = _ridge(base, same, config)
        elif config.kind == "mass_mean":
            solved = [_mass_mean(base, target) for target in same]
        else:
            solved = _logistic(base, same, k, config, fixed)
        result |= dict(zip(members, solved, strict=True))
    return [result[i] for i in range(len(targets))]


def _ridge(base: Spectrum, targets: list[Target], config: ProbeConfig) -> list[Solved]:
    """Least squares on numbers, on -1/+1, or on one column per class."""
    columns = [_columns(target) for target in targets]
    y = torch.cat(columns, 1)
    weight, bias, chosen = ridge(base, y, config.penalties)
    raw, free = base.to_raw(weight, bias)
    widths = [c.shape[1] for c in columns]
    parts = zip(raw.split(widths, 1), free.split(widths), chosen.split(widths), strict=True)
    return [Solved(w, b, float(p[0])) for w, b, p in parts]


def _columns(target: Target) -> Tensor:
    if target.kind == "real":
        return target.values[:, None]
    if target.kind == "binary":
        return 2.0 * target.values[:, None].double() - 1
    return 2.0 * one_hot(target.values, len(target.classes)).double() - 1


def _logistic(
    base: Spectrum, targets: list[Target], k: int, config: ProbeConfig, fixed: list[float] | None
) -> list[Solved]:
    penalty = torch.tensor(fixed or [config.penalties[0]] * len(targets), dtype=torch.float64)
    found = fit_logistic(
        base,
        torch.stack([target.values for target in targets], 1),
        penalty,
        n_classes=max(k, 2),
        balanced=config.balanced,
        max_iter=config.max_iter,
        tolerance=config.tolerance,
    )
    raw, bias = base.to_raw(found.weight.flatten(1), found.bias.flatten())
    m = len(targets)
    weights, biases = raw.view(len(raw), m, k), bias.view(m, k)
    settled = found.converged.tolist()
    return [Solved(weights[:, i], biases[i], float(penalty[i]), settled[i]) for i in range(m)]


def _mass_mean(base: Spectrum, target: Target) -> Solved:
    """The difference of class means, the threshold halfway (more classes: the nearest mean).

    Marks and Tegmark 2023, "The Geometry of Truth", without their optional whitening.
    """
    count = target.values.bincount(minlength=len(target.classes))
    sums = base.rows.new_zeros(len(count), base.rows.shape[1]).index_add_(0, target.values, base.rows)
    means = (sums.T / count.clamp(min=1)).double()  # [r, classes]
    absent = torch.where(count > 0, 0.0, -torch.inf).double()
    if target.kind == "binary":
        weight = means[:, 1:] - means[:, :1]
        bias = -(means.sum(1) / 2) @ weight
    else:
        weight = means
        bias = -means.square().sum(0) / 2
        bias = torch.where(absent == 0, bias, bias.min() - means.abs().sum() * 1e6)
    raw, free = base.to_raw(weight, bias)
    return Solved(raw, free, 0.0)


def _held_out_penalties(
    x: Tensor, targets: Sequence[Target], config: ProbeConfig, groups: Sequence[Any] | Tensor | None
) -> list[float]:
    """For each target, the penalty with the best accuracy on held-out groups; ties: the larger.

    All targets and penalties are fitted together on one decomposition.
    """
    cut = _penalty_split(len(x), config, groups)
    base = spectrum(x[cut.train], config.standardise)
    classes = [target for target in targets if target.kind != "real"]
    many = [target[cut.train] for target in classes for _ in config.penalties]
    fits = solve_in(base, many, config, list(config.penalties) * len(classes))
    scores, best = scores_of(fits, x[cut.test]), []
    for i, target in enumerate(classes):
        at = range(i * len(config.penalties), (i + 1) * len(config.penalties))
        rated = [(_accuracy(scores[o], target[cut.test]), fits[o].penalty) for o in at]
        best.append(max(rated)[1])
    of_classes = iter(best)
    return [config.penalties[0] if t.kind == "real" else next(of_classes) for t in targets]


def _penalty_split(n: int, config: ProbeConfig, groups: Sequence[Any] | Tensor | None) -> Split:
    return split_rows(n, 0.25, config.seed, groups=groups)


def check_penalty_rows(
    targets: Sequence[Target], n: int, config: ProbeConfig, groups: Sequence[Any] | Tensor | None
) -> None:
    """Refuse targets of n training rows whose penalty would be chosen by probes of one class.

    Raises:
        ConfigError: One class only among the rows that the penalties are tried on.
        ShapeError: Another number of groups than rows.
    """
    codes = group_codes(groups, n)
    if config.kind not in LOGISTIC or len(config.penalties) < 2:
        return
    cut = _penalty_split(n, config, codes)
    for target in targets:
        if target.kind != "real":
            require_classes(target[cut.train], "the training rows that penalties are tried on")


def _accuracy(scores: Tensor, target: Target) -> float:
    guess = scores.argmax(-1) if target.kind == "classes" else (scores[:, 0] > 0).long()
    return float((guess == target.values).double().mean())
