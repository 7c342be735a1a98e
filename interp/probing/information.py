"""How much of a label is readable, in nats or bits: online code length and V-information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from interp.core.errors import ConfigError, ShapeError
from interp.core.foreign import show
from interp.core.frames.quantity import called, measured
from interp.core.randomness import permutation
from interp.core.result import Result
from interp.probing.config import ProbeConfig
from interp.probing.probe import fitted_kind, train_mlp
from interp.probing.rows import Labels, Target, check_rows, check_sites, encode
from interp.probing.solvers.linear import LOGISTIC, scores_of, solve
from interp.probing.solvers.ridge import ridge
from interp.probing.solvers.spectrum import spectrum
from interp.probing.splits import group_codes, split_rows

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Voita and Titov's portions of the data."""
PENALTIES = (1e-2, 1.0, 1e2, 1e4)
SHUFFLES = 3
"""Shuffled copies of every target of V-information."""
LUCK = 4.0**2 / 2
"""Nats times test groups that a guess made without the test rows gains by luck: for a guess of any
size, 1/2 ln(variance / residual) is at most z^2 / 2n where it meets the truth z standard errors by
chance; z = 4."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeLengths(Result, headline="Code length of {target}", caption="{n:,} labels"):
    """Bits it takes to send labels to somebody who has the rows, by online coding."""

    bits: Float[Tensor, "site"] = measured(
        "online code",
        "bits",
        "less is readable, or with more data",
        legend="labels",
        along="site",
        null=("shuffled", "uniform"),
    )
    """Bits with the code of probes trained on what was sent before."""
    shuffled: Float[Tensor, "site"] = called("shuffled labels")
    """Bits for shuffled labels, which nothing can compress below their entropy."""
    uniform: Float[Tensor, ""] = called("uniform code")
    """Bits with a uniform code: n log2(classes)."""
    n: int
    """Number of rows."""
    target: str
    """What is sent."""
    probe: str
    """Kind of probe."""

    @property
    def compression(self) -> Tensor:
        """Uniform / online, [site]; 1 = the rows say nothing."""
        return self.uniform / self.bits


@dataclass(frozen=True, kw_only=True, eq=False)
class VInformation(Result, headline="Linearly usable information"):
    """What a linear reader gains about real targets at every site, in nats; never below 0."""

    nats: Float[Tensor, "site target"] = measured(
        "V-information", "nats", "more is readable", along="site", several="map", null="shuffled"
    )
    """1/2 ln(variance / residual variance) on held-out rows."""
    shuffled: Float[Tensor, "site target"] = called("shuffled targets")
    """Nats with shuffled training targets, mean over draws."""
    floor: Float[Tensor, "target"] | None = None
    """What a target must exceed to count as readable: the most that a shuffled one has at any site,
    and at least what a guess without knowledge reaches by luck (four standard errors)."""

    @property
    def readable(self) -> Bool[Tensor, "site target"]:
        """Where a target's nats are above its floor."""
        floor = self.shuffled.amax(0) if self.floor is None else self.floor
        return self.nats > floor

    @property
    def complexity(self) -> Tensor:
        """1 - mean over sites of nats / their maximum, [target], nats below the floor being 0.

        1 where nothing is readable at any site (`readable`): that is no complex target, but noise.
        """
        nats = torch.where(self.readable, self.nats, 0.0)
        share = nats / nats.amax(0).clamp(min=1e-12)
        return (1 - share.mean(0)).clamp(0, 1)


def code_length(
    rows: Mapping[str, Tensor],
    labels: Labels,
    config: ProbeConfig | None = None,
    *,
    name: str = "label",
    groups: Sequence[Any] | Tensor | None = None,
) -> CodeLengths:
    """Minimum description length of labels given rows, by online coding, per site.

    The first portion is sent with a uniform code; every further one with the code of a probe
    trained on all before it (Voita and Titov 2020, "Information-Theoretic Probing with MDL",
    section 3.2). The same labels, shuffled, are the control: they cannot be compressed.

    Args:
        rows: Site -> rows [n, d].
        labels: Classes, one per row.
        config: logistic or mlp; the logistic penalties are chosen per portion.
        name: What is read.
        groups: Whole groups are sent together.

    Returns:
        Bits per site; `compression` = uniform / online.

    Raises:
        ConfigError: A real target, one class, or a kind of probe without probabilities.
    """
    config = config or ProbeConfig()
    if config.kind not in (*LOGISTIC, "mlp"):
        raise ConfigError("a code needs probabilities", got=config.kind, expected="logistic or mlp")
    rows = check_sites(rows)
    n = len(next(iter(rows.values())))
    target = encode(name, labels, n)
    if target.kind == "real":
        raise ConfigError(
            "a code is for classes",
            got=f"target {name!r}, float labels",
            expected="labels that are text, int or bool",
            fix="labels.astype(int) or labels.long()",
        )
    code = group_codes(groups, n)
    n_groups = int(code.max()) + 1
    place = torch.empty(n_groups, dtype=torch.int64)
    place[permutation(n_groups, config.seed, "online code")] = torch.arange(n_groups)
    order = place[code].argsort(stable=True)
    cuts = _portions(place[code][order], len(target.classes))
    mixed = target[permutation(n, config.seed, "shuffled labels")]
    uniform = n * torch.tensor(float(len(target.classes))).double().log2()
    sent = [[_online(x, t, order, cuts, config) for x in rows.values()] for t in (target, mixed)]
    bits, shuffled = torch.tensor(sent).double()
    return CodeLengths(
        bits=bits,
        shuffled=shuffled,
        uniform=uniform,
        n=n,
        target=name,
        probe=fitted_kind(config.kind, target),
        labels={"site": list(rows)},
    )


def _portions(group_of: Tensor, n_classes: int) -> list[int]:
    """Ends of the portions, moved to the end of the group they fall into."""
    n = len(group_of)
    ends: list[int] = []
    for fraction in FRACTIONS:
        at = min(max(round(n * fraction), 2 * n_classes, 2), n)
        inside = group_of == group_of[at - 1]
        ends.append(int(inside.nonzero()[-1]) + 1)
    return sorted(set(ends))


def _online(x: Tensor, target: Target, order: Tensor, cuts: list[int], config: ProbeConfig) -> float:
    """Bits of all labels in this order."""
    n_classes = len(target.classes)
    bits = cuts[0] * torch.tensor(float(n_classes)).double().log2()
    for start, end in pairwise(cuts):
        seen, sent = order[:start], order[start:end]
        known = target[seen]
        present = known.values.bincount(minlength=n_classes) > 0
        if int(present.sum()) < 2:
            bits = bits + (end - start) * torch.tensor(float(n_classes)).double().log2()
            continue
        if config.kind == "mlp":
            scores = train_mlp(x[seen], known, config)(x[sent])
        else:
            (scores,) = scores_of(solve(x[seen], [known], config), x[sent])
        bits = bits + _nats(scores, target[sent], present).sum() / torch.tensor(2.0).log()
    return float(bits)


def _nats(scores: Tensor, target: Target, present: Tensor) -> Tensor:
    """Cost of every label; one part in a hundred of every code is kept for surprises.

    Otherwise a class that a portion brings for the first time would cost whatever the probe's
    rounding says; mixed with the uniform code it costs log(100 k) at most.
    """
    k = len(target.classes)
    if scores.shape[1] == 1:
        own = -binary_cross_entropy_with_logits(
            scores[:, 0].double(), target.values.double(), reduction="none"
        )
    else:
        blocked = scores.double().masked_fill(~present, -torch.inf)
        own = -cross_entropy(blocked, target.values, reduction="none")
    return -(0.99 * own.exp() + 0.01 / k).log()


def v_information(
    rows: Mapping[str, Tensor],
    labels: Float[Tensor, "n t"],
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[Any] | Tensor | None = None,
    penalties: Sequence[float] = PENALTIES,
    test_fraction: float = 0.3,
    seed: int = 0,
) -> VInformation:
    """Linear-Gaussian V-information of real targets at every site, and their complexity.

    I_V(x -> z) = 1/2 ln(Var z / residual variance) on held-out rows, with V the linear maps plus
    Gaussian noise (Xu et al. 2020, "A theory of usable information"), fitted by ridge for all
    targets from one decomposition. Complexity = 1 - mean over sites of I_V / its maximum: near 1
    for what only the last sites know (Fel et al. 2024, "Understanding Visual Feature Reliance
    through the Lens of Complexity"); nats that do not exceed the target's own shuffled null count
    as 0 there, for the ratio of two chance figures is anything.

    Args:
        rows: Site -> rows [n, d], in order of depth.
        labels: What to read, [n, t]: latents of a dictionary, neurons, ...
        names: Of the targets.
        groups: Rows that are never split between training and test.
        penalties: Ridge penalties; each target takes its best by leave-one-out error.

    Raises:
        ShapeError, NonFiniteError: As for a probe, and another number of names than targets.
        ConfigError: A target that is constant, or does not vary among training or test rows.
    """
    rows = check_sites(rows)
    y = check_rows(labels, "the targets").double()
    called = list(names) if names is not None else [str(i) for i in range(y.shape[1])]
    if len(called) != y.shape[1]:
        raise ShapeError("names of the targets", got=len(called), expected=y.shape[1])
    for column, label in zip(y.T, called, strict=True):
        encode(label, column, len(next(iter(rows.values()))), numbers=True)
    cut = split_rows(len(y), test_fraction, seed, groups=groups)
    for side, where in ((cut.train, "training"), (cut.test, "test")):
        flat = [name for name, same in zip(called, _constant(y[side]), strict=True) if same]
        if flat:
            raise ConfigError(
                f"{len(flat)} of {len(called)} targets do not vary among the {where} rows",
                got=", ".join(show(name, 40) for name in flat[:8]) + (", …" if len(flat) > 8 else ""),
                expected="something to read on both sides",
                fix="leave them out, or take another seed",
            )
    t = y.shape[1]
    total = (y[cut.test] - y[cut.train].mean(0)).square().mean(0)
    orders = [permutation(len(cut.train), seed, "shuffled labels", i) for i in range(SHUFFLES)]
    every = torch.cat([y[cut.train], *(y[cut.train][order] for order in orders)], 1)
    totals, truth = total.repeat(1 + SHUFFLES), y[cut.test].repeat(1, 1 + SHUFFLES)
    gained = []
    for x in rows.values():
        base = spectrum(x[cut.train])
        weight, bias, _ = ridge(base, every, penalties)
        raw, free = base.to_raw(weight, bias)
        residual = (truth - (x[cut.test].double() @ raw + free)).square().mean(0)
        known = 0.5 * (totals / residual.clamp(min=1e-12 * totals.clamp(min=1e-300))).log()
        gained.append(torch.where(totals > 0, known, 0.0).clamp(min=0).view(-1, t))
    found = torch.stack(gained)  # [site, (target, its shuffles), target]
    n_test = len(cut.groups[cut.test].unique())
    return VInformation(
        nats=found[:, 0],
        shuffled=found[:, 1:].mean(1),
        floor=found[:, 1:].amax((0, 1)).clamp(min=LUCK / n_test),
        labels={"site": list(rows), "target": called},
    )


def _constant(values: Tensor) -> list[bool]:
    return (values == values[0]).all(0).tolist()
