"""One call: every site, every target, every control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ShapeError
from interp.core.frames.quantity import Quantity, called, measured
from interp.core.provenance import Provenance
from interp.core.randomness import generator
from interp.core.result import Result
from interp.probing.config import ProbeConfig, ProbeKind
from interp.probing.probe import fitted_kind, train_mlp
from interp.probing.rows import Labels, Target, check_sites, encode_all
from interp.probing.scores import all_converged, majority, not_wild, rate
from interp.probing.solvers.linear import check_penalty_rows, scores_of, solve
from interp.probing.splits import Split, group_codes, shuffled, split_targets

Rows = Mapping[str, Tensor]
"""Site -> rows [n, d]; the same n rows in the same order everywhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeSweep(Result):
    """How well each target is read at each site, beside the controls.

    Scores are test accuracy for classes and test R2 for real targets; rows of test groups were
    never seen in training. Controls are absent (None) where they were not asked for.
    """

    score: Float[Tensor, "site target"] = measured(
        "test score",
        "accuracy, or R2",
        "more is readable",
        legend="probe",
        along="site",
        several="map",
        band=("low", "high"),
        beside=("control", "random_init"),
        null=("shuffled", "majority"),
    )
    """Test score of the probe."""
    low: Float[Tensor, "site target"]
    """Lower end of its confidence interval, groups taken into account."""
    high: Float[Tensor, "site target"]
    """Upper end of its confidence interval."""
    train_score: Float[Tensor, "site target"]
    """Score on the training rows: what of it is memory."""
    majority: Float[Tensor, "target"] = called("always the majority")
    """Test score of the training rows' most frequent class; 0 for a real target."""
    shuffled: Float[Tensor, "site target"] | None = called(
        "shuffled labels", band=("shuffled_low", "shuffled_high")
    )
    """Mean test score of probes fitted to shuffled labels."""
    shuffled_low: Float[Tensor, "site target"] | None
    """Lowest of them."""
    shuffled_high: Float[Tensor, "site target"] | None
    """Highest of them."""
    control: Float[Tensor, "site target"] | None = called("control task")
    """Score on the control task: every word type has a random label of its own."""
    random_init: Float[Tensor, "site target"] | None = called("random weights")
    """Score on the same model with fresh weights."""
    kinds: tuple[str, ...]
    """Per target: binary, classes or real."""
    probe: str
    """Kind of probe; one for classes and one for numbers where the targets are both."""
    unconverged: int
    """Logistic fits, controls included, that stopped at `max_iter` before their optimum."""
    n_train: int
    """Training rows."""
    n_test: int
    """Test rows."""
    confidence: float
    """Coverage of the intervals."""

    @property
    def selectivity(self) -> Tensor | None:
        """Score minus control-task score, [site target] (Hewitt and Liang 2019)."""
        return None if self.control is None else self.score - self.control

    @property
    def headline(self) -> str:
        """What is read, where it is one target."""
        names = self.labels.get("target", [])
        return f"Probe for {names[0]}" if len(names) == 1 else "What is readable where"

    def quantity(self, field: str) -> Quantity:
        """Accuracy or R2, where all targets are of one kind."""
        declared, real = super().quantity(field), {kind == "real" for kind in self.kinds}
        if field != "score" or len(real) != 1:
            return declared
        return replace(declared, name="test R2" if True in real else "test accuracy", unit="")

    def check(self) -> Checks:
        """Every fit at its optimum; shuffled labels not readable; no score far below chance.

        Shuffled: at most chance plus four standard errors, and a little for the largest of many.
        """
        checks = [all_converged(self.unconverged)]
        if self.shuffled is not None:
            excess = (self.shuffled - self.majority).max()
            checks.append(Check.at_most("shuffled labels above majority", excess, self._slack()))
        wild = not_wild(self.score, self.majority, self.kinds, self.n_train, self.n_test)
        return Checks([*checks, *wild])

    def _slack(self) -> float:
        return 4 * (0.25 / self.n_test) ** 0.5 + 0.02


def probe_sweep(
    rows: Rows,
    labels: Mapping[str, Labels] | Labels,
    config: ProbeConfig | None = None,
    *,
    groups: Sequence[Any] | Tensor | None = None,
    types: Sequence[Any] | Tensor | None = None,
    random_init: Rows | None = None,
    provenance: Provenance | None = None,
) -> ProbeSweep:
    """Probe every site for every target, with the controls.

    All targets, shuffled labels and the control task of one site are solved together on one
    decomposition of its rows.

    Args:
        rows: Site -> rows [n, d].
        labels: Labels of the n rows, or several by name. Floats are a real target (R2).
        config: Kind of probe, penalties, number of shuffles, ...
        groups: One entry per row; rows with equal entries (a sentence, a template) are never
            split between training and test.
        types: One entry per row, its word: gives the control task (Hewitt and Liang 2019,
            "Designing and Interpreting Probes with Control Tasks"), in which every type has a
            label drawn from the target's distribution.
        random_init: The same rows of the same model with fresh weights (`model.randomised`).
        provenance: Where the rows came from.

    Raises:
        ShapeError: Sites, labels, groups or types of different lengths, or no rows.
        ConfigError: One class only in a target or on one side of the split, a class that only test
            rows have, numbers for a probe of classes, or a row without group or type.
        NonFiniteError: NaN or infinity in rows or labels.
    """
    config = config or ProbeConfig()
    rows = check_sites(rows)
    n = len(next(iter(rows.values())))
    wanted = encode_all(labels, n, config.kind)
    split = split_targets(wanted, n, config.test_fraction, config.seed, groups=groups)
    training = [target[split.train] for target in wanted]
    check_penalty_rows(training, len(split.train), config, split.groups[split.train])
    fresh = None if random_init is None else check_sites(random_init)
    if fresh is not None and list(fresh) != list(rows):
        raise ShapeError("the random-init rows are of other sites", got=[*fresh], expected=[*rows])
    if fresh is not None and {len(x) for x in fresh.values()} != {n}:
        found_rows = [len(x) for x in fresh.values()]
        raise ShapeError("the random-init rows are other rows", got=found_rows, expected=n)
    m, shuffles = len(wanted), config.n_shuffles
    nulls = [shuffled(t, split, config.seed, i) for i in range(shuffles) for t in wanted]
    tasks = [] if types is None else [_control_task(t, types, config.seed) for t in wanted]
    sites = [_score_site(x, [*wanted, *nulls, *tasks], split, config) for x in rows.values()]
    found = torch.stack([site.test for site in sites])  # [site, column, (value, low, high)]
    null = found[:, m : m + shuffles * m, 0].unflatten(1, (shuffles, m)) if shuffles else None
    blank = [_score_site(x, wanted, split, config) for x in (fresh or {}).values()]
    test = [target[split.test] for target in wanted]
    return ProbeSweep(
        score=found[:, :m, 0],
        low=found[:, :m, 1],
        high=found[:, :m, 2],
        train_score=torch.stack([site.train[:m] for site in sites]),
        majority=torch.tensor(
            [majority(a[split.train], b) for a, b in zip(wanted, test, strict=True)], dtype=torch.float64
        ),
        shuffled=None if null is None else null.mean(1),
        shuffled_low=None if null is None else null.amin(1),
        shuffled_high=None if null is None else null.amax(1),
        control=found[:, m + shuffles * m :, 0] if tasks else None,
        random_init=torch.stack([site.test[:, 0] for site in blank]) if blank else None,
        kinds=tuple(target.kind for target in wanted),
        probe=", ".join(dict.fromkeys(fitted_kind(config.kind, target) for target in wanted)),
        unconverged=sum(site.unconverged for site in [*sites, *blank]),
        n_train=len(split.train),
        n_test=len(split.test),
        confidence=config.confidence,
        labels={"site": list(rows), "target": [target.name for target in wanted]},
        provenance=provenance,
    )


def score_rows(
    x: Tensor, targets: list[Target], split: Split, config: ProbeConfig, kind: ProbeKind
) -> tuple[Tensor, Tensor]:
    """Test scores [target] of probes of one kind, and the majority's, [target]."""
    found = _score_site(x, targets, split, replace(config, kind=kind))
    guessed = [majority(t[split.train], t[split.test]) for t in targets]
    return found.test[:, 0], torch.tensor(guessed, dtype=torch.float64)


class _Scored(NamedTuple):
    """Scores of all columns of one site."""

    train: Tensor
    """[column]"""
    test: Tensor
    """[column, (value, low, high)]"""
    unconverged: int
    """Logistic fits among them that stopped before their optimum."""


def _score_site(x: Tensor, targets: list[Target], split: Split, config: ProbeConfig) -> _Scored:
    """Fit every target on the training rows of one site and score it on both sides."""
    seen, held = x[split.train], x[split.test]
    inside, outside = split.groups[split.train], split.groups[split.test]
    fitting = [target[split.train] for target in targets]
    unconverged = 0
    if config.kind == "mlp":
        probes = [train_mlp(seen, target, config) for target in fitting]
        scores = [[probe(side) for probe in probes] for side in (seen, held)]
    else:
        solved = solve(seen, fitting, config, groups=inside)
        scores = [scores_of(solved, side) for side in (seen, held)]
        unconverged = sum(not one.converged for one in solved)
    train = [
        rate(found, target, inside, config.confidence).value
        for found, target in zip(scores[0], fitting, strict=True)
    ]
    test = [
        rate(found, target[split.test], outside, config.confidence)
        for found, target in zip(scores[1], targets, strict=True)
    ]
    seen_scores = torch.tensor(train, dtype=torch.float64)
    return _Scored(seen_scores, torch.tensor(test, dtype=torch.float64), unconverged)


def _control_task(target: Target, types: Sequence[Any] | Tensor, seed: int) -> Target:
    """One label per word type, drawn from the labels there are."""
    n = len(target.values)
    code = group_codes(types, n, "word types")
    draws = generator(seed, f"control task {target.name}")
    source = torch.randint(n, (int(code.max()) + 1,), generator=draws)
    return target[source[code]]
