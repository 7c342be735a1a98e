"""How much of a label is readable, in nats or bits: online code length and V-information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from interp.core.errors import ConfigError
from interp.core.frames.quantity import called, measured
from interp.core.randomness import permutation
from interp.core.result import Result
from interp.probing.config import ProbeConfig
from interp.probing.probe import train_mlp
from interp.probing.rows import Labels, Target, check_rows, check_sites, encode
from interp.probing.solvers.linear import scores_of, solve
from interp.probing.solvers.ridge import ridge
from interp.probing.solvers.spectrum import spectrum
from interp.probing.splits import group_codes, split_rows

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Voita and Titov's portions of the data."""
PENALTIES = (1e-2, 1.0, 1e2, 1e4)


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
    """Nats with shuffled training targets."""

    @property
    def complexity(self) -> Tensor:
        """1 - mean over sites of nats / their maximum, [target]; 1 where nothing is readable."""
        top = self.nats.amax(0)
        share = self.nats / top.clamp(min=1e-12)
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
    if config.kind not in ("logistic", "mlp"):
        raise ConfigError("a code needs probabilities", got=config.kind, expected="logistic or mlp")
    rows = check_sites(rows)
    n = len(next(iter(rows.values())))
    target = encode(name, labels, n)
    if target.kind == "real":
        raise ConfigError("a code is for classes", got="a real target", expected="classes")
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
        probe=config.kind,
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
    through the Lens of Complexity").

    Args:
        rows: Site -> rows [n, d], in order of depth.
        labels: What to read, [n, t]: latents of a dictionary, neurons, ...
        names: Of the targets.
        groups: Rows that are never split between training and test.
        penalties: Ridge penalties; each target takes its best by leave-one-out error.

    Raises:
        ShapeError, NonFiniteError, ConfigError: As for a probe; a constant target is refused.
    """
    rows = check_sites(rows)
    y = check_rows(labels, "the targets").double()
    called = list(names) if names is not None else [str(i) for i in range(y.shape[1])]
    for column, label in zip(y.T, called, strict=True):
        encode(label, column, len(next(iter(rows.values()))))
    cut = split_rows(len(y), test_fraction, seed, groups=groups)
    total = (y[cut.test] - y[cut.train].mean(0)).square().mean(0)
    found, null = [], []
    order = permutation(len(cut.train), seed, "shuffled labels")
    for x in rows.values():
        base = spectrum(x[cut.train])
        both = torch.cat([y[cut.train], y[cut.train][order]], 1)
        weight, bias, _ = ridge(base, both, penalties)
        raw, free = base.to_raw(weight, bias)
        guessed = x[cut.test].double() @ raw + free
        truth = torch.cat([y[cut.test], y[cut.test]], 1)
        residual = (truth - guessed).square().mean(0)
        floor = 1e-12 * total.clamp(min=1e-300)
        gained = 0.5 * (total.repeat(2) / residual.clamp(min=floor.repeat(2))).log()
        gained = torch.where(total.repeat(2) > 0, gained, 0.0)
        found.append(gained[: y.shape[1]])
        null.append(gained[y.shape[1] :])
    return VInformation(
        nats=torch.stack(found).clamp(min=0),
        shuffled=torch.stack(null).clamp(min=0),
        labels={"site": list(rows), "target": called},
    )
