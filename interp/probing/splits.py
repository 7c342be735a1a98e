"""Which rows train and which test: whole groups on one side, always the same for a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError
from interp.core.randomness import permutation
from interp.probing.rows import Target


@dataclass(frozen=True, eq=False)
class Split:
    """Row indices of the two sides, int64, ascending."""

    train: Tensor
    """[n_train]"""
    test: Tensor
    """[n_test]"""
    groups: Tensor
    """Group index of every row, [n]."""


def group_codes(groups: Sequence[Any] | Tensor | None, n: int) -> Tensor:
    """Groups (sentence numbers, names) as indices [n]; every row its own group when absent.

    Raises:
        ShapeError: Another number of entries than rows.
    """
    if groups is None:
        return torch.arange(n)
    plain = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(plain) != n:
        raise ShapeError("the groups do not fit the rows", got=len(plain), expected=n)
    index = {value: i for i, value in enumerate(dict.fromkeys(plain))}
    return torch.tensor([index[value] for value in plain], dtype=torch.int64)


def split_rows(
    n: int, test_fraction: float, seed: int, *, groups: Sequence[Any] | Tensor | None = None
) -> Split:
    """Hold out a share of the groups.

    Rows of one sentence (or of one template, one entity) are alike; split apart, they would let
    a probe be tested on what it has seen.

    Args:
        n: Rows.
        test_fraction: Share of the groups that test.
        seed: Of the draw.
        groups: One entry per row; rows with equal entries stay together.

    Raises:
        ConfigError: A share outside (0, 1), or too few groups for both sides.
        ShapeError: Another number of groups than rows.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError("the test share", got=test_fraction, expected="between 0 and 1")
    codes = group_codes(groups, n)
    n_groups = int(codes.max()) + 1 if n else 0
    n_test = round(n_groups * test_fraction)
    if n_groups < 2:
        raise ConfigError(
            "too few rows to hold some out",
            got=f"{n} rows in {n_groups} groups",
            expected="at least two groups",
        )
    n_test = min(max(n_test, 1), n_groups - 1)
    held_out = torch.zeros(n_groups, dtype=torch.bool)
    held_out[permutation(n_groups, seed, "probe split")[:n_test]] = True
    test = held_out[codes]
    return Split((~test).nonzero().flatten(), test.nonzero().flatten(), codes)


def shuffled(target: Target, split: Split, seed: int, draw: int) -> Target:
    """The same labels on other rows, training and test rows each among themselves.

    Both sides keep their class counts, so chance is the same as for the real labels.
    """
    values = target.values.clone()
    for side, name in ((split.train, "training"), (split.test, "test")):
        order = permutation(len(side), seed, f"shuffled {name} labels", draw)
        values[side] = target.values[side[order]]
    return replace(target, values=values)
