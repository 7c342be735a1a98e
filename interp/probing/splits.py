"""Which rows train and which test: whole groups on one side, always the same for a seed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError
from interp.core.foreign import show
from interp.core.randomness import permutation
from interp.probing.rows import Target, require_classes


@dataclass(frozen=True, eq=False)
class Split:
    """Row indices of the two sides, int64, ascending."""

    train: Tensor
    """[n_train]"""
    test: Tensor
    """[n_test]"""
    groups: Tensor
    """Group index of every row, [n]."""


def group_codes(groups: Sequence[Any] | Tensor | None, n: int, what: str = "groups") -> Tensor:
    """Groups (sentence numbers, names) as indices [n]; every row its own group when absent.

    Raises:
        ShapeError: Another number of entries than rows.
        ConfigError: A row without group (None or NaN), text among numbers, or what is no name.
    """
    if groups is None:
        return torch.arange(n)
    if isinstance(groups, str | bytes):
        raise ConfigError(f"the {what} are no sequence of names", got=groups, expected="one entry per row")
    plain = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    plain = [value.item() if hasattr(value, "item") else value for value in plain]
    if len(plain) != n:
        raise ShapeError(f"the {what} do not fit the rows", got=len(plain), expected=n)
    _refuse_non_groups(plain, what)
    index = {value: i for i, value in enumerate(dict.fromkeys(plain))}
    return torch.tensor([index[value] for value in plain], dtype=torch.int64)


def _refuse_non_groups(plain: Sequence[Any], what: str) -> None:
    """A missing entry would be a group of its own, or one group with all that are missing."""
    for row, value in enumerate(plain):
        parts = value if isinstance(value, tuple) else (value,)
        if any(part is None or part != part for part in parts):
            raise ConfigError(
                f"the {what} have a row without one",
                got=f"{value} at row {row}",
                expected="a name or number for every row",
                fix="leave such rows out, or give each a name of its own",
            )
        if not isinstance(value, Hashable):
            raise ConfigError(
                f"the {what} have an entry that is no name",
                got=f"{type(value).__name__} at row {row}",
                expected="text, a number, or a tuple of these",
            )
    texts = [value for value in plain if isinstance(value, str)]
    if texts and len(texts) < len(plain):
        other = next(value for value in plain if not isinstance(value, str))
        raise ConfigError(
            f"the {what} are of several types",
            got=f"{texts[0]!r} (str), {other!r} ({type(other).__name__})",
            expected="entries of one type",
            fix="[str(group) for group in groups]",
        )


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


def split_targets(
    targets: Sequence[Target],
    n: int,
    test_fraction: float,
    seed: int,
    *,
    groups: Sequence[Any] | Tensor | None = None,
) -> Split:
    """`split_rows`, refused where it leaves a target nothing to learn from or nothing to test.

    Raises:
        ConfigError: A side on which a target does not vary, or a class that only test rows have,
            which no probe can have learned.
        ShapeError: Another number of groups than rows.
    """
    split = split_rows(n, test_fraction, seed, groups=groups)
    for target in targets:
        for rows, where in ((split.train, "the training rows"), (split.test, "the test rows")):
            require_classes(target[rows], where, _named(rows, groups))
        if target.kind == "real":
            continue
        counts = target[split.train].values.bincount(minlength=len(target.classes))
        for unseen in target[split.test].values.unique().tolist():
            if counts[unseen]:
                continue
            rows = split.test[target.values[split.test] == unseen]
            raise ConfigError(
                f"target {target.name!r} has a class that no training row has",
                got=f"{target.classes[unseen]!r} in {len(rows)} test rows{_named(rows, groups)}",
                expected="training rows of every class that is tested",
                fix=f"leave the rows of {target.classes[unseen]!r} out, or take another seed",
            )
    return split


def _named(rows: Tensor, groups: Sequence[Any] | Tensor | None) -> str:
    """The groups of some rows, for a message."""
    if groups is None:
        return ""
    plain = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    names = list(dict.fromkeys(plain[i] for i in rows.tolist()))
    shown = ", ".join(show(name, 40) for name in names[:3]) + (", …" if len(names) > 3 else "")
    return f" of group{'s' * (len(names) > 1)} {shown}"


def shuffled(target: Target, split: Split, seed: int, draw: int) -> Target:
    """The same labels on other rows, training and test rows each among themselves.

    Both sides keep their class counts, so chance is the same as for the real labels.
    """
    values = target.values.clone()
    for side, name in ((split.train, "training"), (split.test, "test")):
        order = permutation(len(side), seed, f"shuffled {name} labels", draw)
        values[side] = target.values[side[order]]
    return replace(target, values=values)
