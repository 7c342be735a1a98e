"""Rows and labels as probes take them; what cannot be probed is refused here, before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.rows import dense_numbers
from interp.core.errors import ConfigError, ShapeError
from interp.core.finite import check_finite
from interp.probing.config import ProbeKind

Labels = Any
"""Tensor, array or sequence of bool, int, str (classes) or float (a real target), one per row."""


@dataclass(frozen=True, eq=False)
class Target:
    """One thing to read from the rows."""

    name: str
    """Name of the target in results."""
    kind: Literal["binary", "classes", "real"]
    """Two classes, more, or a real number."""
    values: Tensor
    """Int64 class indices, or float64 numbers, [n]."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of their indices; sorted."""

    @property
    def n_outputs(self) -> int:
        """Columns of a probe for it."""
        return len(self.classes) if self.kind == "classes" else 1

    def __getitem__(self, rows: Tensor) -> Target:
        """The same target at some rows."""
        return Target(self.name, self.kind, self.values[rows], self.classes)


def check_rows(x: Any, what: str) -> Float[Tensor, "n d"]:
    """Rows as float32 or float64, finite, [n, d], on the host, from whatever holds numbers.

    Raises:
        ShapeError: No numbers, not two axes, or none of one of them.
        NonFiniteError: NaN or infinity among them.
    """
    x = on_host(dense_numbers(x, what))
    if x.ndim != 2 or 0 in x.shape:
        raise ShapeError(
            f"{what}: a probe reads rows [n, d]",
            got=f"shape {tuple(x.shape)}",
            expected="two axes, neither empty",
            fix="acts.flat(site) gives rows without padding",
        )
    check_finite(x, what)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def on_host(x: Tensor) -> Tensor:
    """Numbers where this room works, whatever the device they come from: they come in one copy.

    Decompositions are in float64, and scikit-learn reads the host's memory. What is solved here is
    small beside the passes of a model that made the rows.
    """
    return x.detach().cpu()


def check_sites(features: Mapping[str, Any]) -> dict[str, Float[Tensor, "n d"]]:
    """Rows of every site, each as `check_rows` gives them, all of one length.

    Raises:
        ShapeError: No sites, or sites of different lengths.
        NonFiniteError: NaN or infinity among them.
    """
    if not features:
        raise ShapeError("nothing to probe", got="no sites", expected="site -> rows [n, d]")
    rows = {site: check_rows(x, site) for site, x in features.items()}
    lengths = {site: len(x) for site, x in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ShapeError("the sites have different rows", got=lengths, expected="the same rows")
    return rows


def encode(name: str, labels: Labels, n: int | None = None, *, numbers: bool = False) -> Target:
    """Labels as indices of sorted classes, or as real numbers.

    Args:
        name: What the target is called.
        labels: One per row. Floats are a real target; everything else names classes.
        n: Rows there are.
        numbers: Floats are known to be numbers, even where they are two whole ones (0. and 1.),
            which are more often two classes that a table or a tensor has made floats.

    Raises:
        ShapeError: Another number of labels than rows.
        ConfigError: A label is missing (None, or NaN among names), is no name or number, labels of
            several types, fewer than two classes, a constant real target, or two whole floats.
        NonFiniteError: A real label is NaN or infinite.
    """
    plain = _plain(name, labels)
    if n is not None and len(plain) != n:
        raise ShapeError(f"target {name!r} does not fit the rows", got=len(plain), expected=n)
    _refuse_non_labels(name, plain)
    if plain and all(isinstance(value, float) for value in plain):
        values = torch.tensor(plain, dtype=torch.float64)
        check_finite(values, f"target {name!r}")
        if bool((values == values[0]).all()):
            raise ConfigError(
                f"target {name!r} is the same at every row", got=plain[0], expected="something that varies"
            )
        if not numbers:
            _refuse_two_floats(name, values)
        return Target(name, "real", values)
    known = sorted(set(plain))
    if len(known) < 2:
        raise ConfigError(
            f"target {name!r} has one class only",
            got=f"{len(plain)} rows of {known}",
            expected="at least two classes",
            fix="add rows of the other class",
        )
    index = {value: i for i, value in enumerate(known)}
    codes = torch.tensor([index[value] for value in plain])
    kind = "binary" if len(known) == 2 else "classes"
    return Target(name, kind, codes, tuple(map(str, known)))


def encode_all(targets: Mapping[str, Labels] | Labels, n: int, kind: ProbeKind = "linear") -> list[Target]:
    """One target, or several by name, for probes of one kind; a lone target is called "label".

    Raises:
        ConfigError: No targets, or numbers for a kind of probe that tells classes apart.
        ShapeError, NonFiniteError: As for `encode`.
    """
    named = targets if isinstance(targets, Mapping) else {"label": targets}
    if not named:
        raise ConfigError("nothing to probe for", got="no targets", expected="at least one")
    return [encode_for(kind, name, labels, n) for name, labels in named.items()]


def encode_for(kind: ProbeKind, name: str, labels: Labels, n: int) -> Target:
    """`encode` for a kind of probe.

    Raises:
        ConfigError: Numbers for a kind that tells classes apart, or as for `encode`.
        ShapeError, NonFiniteError: As for `encode`.
    """
    target = encode(name, labels, n, numbers=kind != "linear")
    if target.kind == "real" and kind in ("logistic", "mass_mean"):
        raise ConfigError(
            f"target {name!r} holds numbers, and a {kind} probe tells classes apart",
            got=f"float labels {_few(target.values)}",
            expected="labels that are text, int or bool, or a kind of probe for numbers",
            fix="labels.astype(int) or labels.long() for classes; kind='ridge' for numbers",
        )
    return target


def _refuse_two_floats(name: str, values: Tensor) -> None:
    """0. and 1. are classes to one reader and numbers to the next: neither is guessed."""
    known = values.unique()
    if len(known) == 2 and bool((known == known.round()).all()):
        raise ConfigError(
            f"target {name!r} is two whole numbers, as floats: classes or a quantity?",
            got=f"float labels {_few(values)}",
            expected="two classes as text, int or bool, or numbers for a ridge probe",
            fix="labels.astype(int) or labels.long() for classes; kind='ridge' for numbers",
        )


def _few(values: Tensor) -> str:
    known = values.unique().tolist()
    return ", ".join(f"{value:g}" for value in known[:4]) + (", …" if len(known) > 4 else "")


def _refuse_non_labels(name: str, plain: list[Any]) -> None:
    """Nothing but text and numbers; NaN among names is what tables write for "no label"."""
    names = any(isinstance(value, str) for value in plain)
    for row, value in enumerate(plain):
        if value is None or (names and value != value):
            raise ConfigError(
                f"target {name!r} has a row without label",
                got=f"{value} at row {row}",
                fix="leave such rows out of rows and labels",
            )
        if not isinstance(value, str | int | float):
            raise ConfigError(
                f"target {name!r} has a label that is neither text nor number",
                got=f"{type(value).__name__} at row {row}",
                expected="str, int, bool or float",
            )
    firsts: dict[str, Any] = {}
    for value in plain:  # 1, True and "1" would be one class, or two of one name
        firsts.setdefault(next(k.__name__ for k in (bool, str, int, float) if isinstance(value, k)), value)
    if len(firsts) > 1:
        raise ConfigError(
            f"target {name!r} has labels of several types",
            got=", ".join(f"{value!r} ({kind})" for kind, value in firsts.items()),
            expected="labels of one type",
            fix="[str(label) for label in labels]",
        )


def require_classes(target: Target, where: str, members: str = "") -> None:
    """Refuse rows in which a class target, or a real one, has become constant.

    Args:
        target: At these rows.
        where: What to call them.
        members: The groups that they come from, for the message.

    Raises:
        ConfigError: One class only among these rows, or one number only.
    """
    if len(target.values.unique()) >= 2:
        return
    rows = f"{len(target.values)} row" + "s" * (len(target.values) != 1) + members
    if target.kind == "real":
        seen = f"{float(target.values[0]):g}" if len(target.values) else "no number"
        raise ConfigError(
            f"target {target.name!r} is the same at every row of {where}",
            got=f"{rows}, all {seen}",
            expected="something that varies",
            fix="more rows, another seed, or leave the target out",
        )
    seen = target.classes[int(target.values[0])] if len(target.values) else "no rows"
    raise ConfigError(
        f"target {target.name!r} has one class only in {where}",
        got=f"{rows}, all {seen!r}",
        expected="at least two classes",
        fix="more rows, another seed, or groups that do not coincide with the classes",
    )


def _plain(name: str, labels: Labels) -> list[Any]:
    """Labels as a flat list of Python values."""
    if hasattr(labels, "tolist"):
        if labels.ndim != 1:
            raise ShapeError(f"target {name!r} must be one label per row", got=f"shape {tuple(labels.shape)}")
        return labels.tolist()
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise ConfigError(
            f"target {name!r} is no sequence of labels",
            got=type(labels).__name__,
            expected="a tensor, array, list or tuple with one label per row",
        )
    plain = [value.item() if hasattr(value, "item") else value for value in labels]
    if any(isinstance(value, float) for value in plain):  # 1 and 2.5 are numbers together
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in plain)
        plain = [float(v) for v in plain] if numbers else plain
    return plain
