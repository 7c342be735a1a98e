"""k-sparse probes: which few neurons tell a feature, and how well (Gurnee et al. 2023).

"Finding Neurons in a Haystack: Case Studies with Sparse Probing". Neurons are chosen on the
training rows only; every k has a probe of its own on its support, class-balanced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.frames.quantity import called, measured
from interp.core.provenance import Provenance
from interp.core.randomness import permutation
from interp.core.result import Result
from interp.core.settings import check_choice
from interp.probing.config import ProbeConfig, Ranking, SparseConfig
from interp.probing.rows import Labels, Target, check_rows, check_sites, encode
from interp.probing.scores import Binary, all_converged, binary_scores
from interp.probing.solvers.linear import Solved, scores_of, solve
from interp.probing.splits import Split, shuffled, split_targets


def _score(name: str, **options: Any) -> Any:
    """A field of scores, by site and number of neurons."""
    ways: dict[str, Any] = {"along": "k", "axis_title": "neurons in the probe", "log": "x"}
    return measured(name, "", "fewer mistakes", **ways, **options)


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseSweep(Result):
    """F1 and MCC of probes on the k best neurons, per site and k; the neurons by number."""

    f1: Float[Tensor, "site k"] = _score("test F1", null="null_f1")
    """Test F1 of the positive class."""
    mcc: Float[Tensor, "site k"] = _score("test MCC")
    """Test Matthews correlation."""
    kappa: Float[Tensor, "site k"] = _score("test Cohen's kappa")
    """Cohen's kappa on the test rows."""
    fmi: Float[Tensor, "site k"] = _score("test Fowlkes-Mallows index")
    """Fowlkes and Mallows' index: sqrt(precision * recall)."""
    precision: Float[Tensor, "site k"] = _score("test precision")
    """Test precision."""
    recall: Float[Tensor, "site k"] = _score("test recall")
    """Test recall."""
    roc_auc: Float[Tensor, "site k"] = _score("test area under the ROC curve")
    """Area under the test ROC curve."""
    pr_auc: Float[Tensor, "site k"] = _score("test average precision")
    """Average precision on the test rows."""
    null_f1: Float[Tensor, "site k"] | None = called("shuffled labels", band=("null_low", "null_high"))
    """Mean F1 of whole selections on shuffled labels."""
    null_low: Float[Tensor, "site k"] | None
    """Lowest of them."""
    null_high: Float[Tensor, "site k"] | None
    """Highest of them."""
    neurons: tuple[tuple[tuple[int, ...], ...], ...]
    """The support per site and k, most important first."""
    target: str
    """What is read."""
    positive: str
    """The class that counts as positive."""
    ranking: str
    """How neurons were chosen."""
    unconverged: int
    """Probes, those on shuffled labels included, that stopped before their optimum."""
    n_train: int
    """Training rows."""
    n_test: int
    """Test rows."""

    @property
    def headline(self) -> str:
        """What is read."""
        what = self.target if self.positive == "True" else f"{self.target}: {self.positive}"
        return f"k-sparse probes for {what}"

    def check(self) -> Checks:
        """Every probe at its optimum, and none that says the contrary.

        Matthews' correlation of a guess that knows nothing is 0 with a standard error of 1/sqrt(n).
        """
        slack = 4 * self.n_test**-0.5 + 0.02
        contrary = Check.at_least("lowest Matthews correlation", self.mcc.min(), -slack)
        return Checks([all_converged(self.unconverged), contrary])

    def best(self, k: int) -> tuple[str, tuple[int, ...], float]:
        """(site, neurons, F1) of the site with the highest F1 at this k."""
        column = self.labels["k"].index(str(k))
        row = int(self.f1[:, column].argmax())
        return self.labels["site"][row], self.neurons[row][column], float(self.f1[row, column])


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningCurve(Result, headline="Pruning neurons for {target}", caption="{k} best neurons left"):
    """F1 of probes on the k best neurons as the best single one is taken away, again and again."""

    f1: Float[Tensor, "round"] = measured(
        "test F1", "", "others tell it, too", along="round", axis_title="neurons taken away"
    )
    """Test F1; round 0 has all neurons."""
    removed: tuple[int, ...]
    """The best single neuron of each round, taken away after it."""
    k: int
    """Neurons per probe."""
    target: str
    """What is read."""


def sparse_sweep(
    rows: Mapping[str, Tensor],
    labels: Labels,
    config: SparseConfig | None = None,
    *,
    name: str = "label",
    groups: Sequence[Any] | Tensor | None = None,
    provenance: Provenance | None = None,
) -> SparseSweep:
    """F1, MCC, ... against k at every site, with the neurons by number and a null band.

    Args:
        rows: Site -> rows [n, d], e.g. `blocks.*.mlp.hook_post`.
        labels: Two classes, one label per row; the later in sorted order counts as positive.
        config: Ranking, sizes, telescoping.
        name: What is read.
        groups: Rows that are never split between training and test.
        provenance: Where the rows came from.

    Raises:
        ConfigError: Not two classes, one class only on a side, or sizes that are no sizes.
        ShapeError, NonFiniteError: As for `probe_sweep`.
    """
    config = config or SparseConfig()
    rows = check_sites(rows)
    target = _two_classes(encode(name, labels, len(next(iter(rows.values())))))
    split = split_targets([target], len(target.values), config.test_fraction, config.seed, groups=groups)
    ks = _sizes(config, min(x.shape[1] for x in rows.values()))
    drawn = [shuffled(target, split, config.seed, i) for i in range(config.n_shuffles)]
    real = [_curve(x, target, split, ks, config) for x in rows.values()]
    null = [[_curve(x, t, split, ks, config) for t in drawn] for x in rows.values()]
    nulls = torch.tensor([[[s.f1 for s in c.scores] for c in site] for site in null]).double()
    columns = {
        field: torch.tensor([[getattr(s, field) for s in c.scores] for c in real]).double()
        for field in Binary._fields
    }
    return SparseSweep(
        **columns,
        null_f1=nulls.mean(1) if drawn else None,
        null_low=nulls.amin(1) if drawn else None,
        null_high=nulls.amax(1) if drawn else None,
        neurons=tuple(tuple(curve.supports) for curve in real),
        target=name,
        positive=target.classes[1],
        ranking=config.ranking + (", telescoped" if config.telescope else ""),
        unconverged=sum(c.unconverged for c in [*real, *(c for site in null for c in site)]),
        n_train=len(split.train),
        n_test=len(split.test),
        labels={"site": list(rows), "k": list(map(str, ks))},
        provenance=provenance,
    )


def rank_neurons(
    x: Float[Tensor, "n d"], target: Target, ranking: Ranking, seed: int = 0
) -> Int[Tensor, "d"]:
    """Neurons from the most telling to the least.

    mean_diff: |mean of positive rows - mean of negative rows|; f_stat: ANOVA's F; mutual_info:
    scikit-learn's nearest-neighbour estimate; l1: |weight| in a logistic probe with an L1 penalty
    (C = .1, features in standard units), ties by mean_diff; svm: |weight| in a linear SVM; random:
    the null.
    """
    check_choice("ranking", ranking, Ranking)
    y = target.values
    gap = (x[y == 1].double().mean(0) - x[y == 0].double().mean(0)).abs()
    if ranking == "mean_diff":
        score = gap
    elif ranking == "f_stat":
        score = _f_statistic(x.double(), y)
    elif ranking == "random":
        return permutation(x.shape[1], seed, "random neurons")
    elif ranking == "mutual_info":
        from sklearn.feature_selection import mutual_info_classif

        found = mutual_info_classif(x.numpy(), y.numpy(), random_state=seed)
        score = torch.from_numpy(found)
    else:
        score = _sklearn_weight(x, y, ranking, seed) + 1e-9 * gap / gap.max().clamp(min=1e-30)
    return score.argsort(descending=True, stable=True)


def _f_statistic(x: Tensor, y: Tensor) -> Tensor:
    """Between-class by within-class variance of two classes; 0 for a constant feature."""
    parts = [x[y == c] for c in (0, 1)]
    total = x.mean(0)
    between = sum((len(p) * (p.mean(0) - total).square() for p in parts), torch.zeros(()))
    within = sum(((p - p.mean(0)).square().sum(0) for p in parts), torch.zeros(()))
    f = between * (len(x) - 2) / within.clamp(min=1e-300)
    return torch.where(within + between > 1e-24 * x.square().sum(0), f, 0.0)


def _sklearn_weight(x: Tensor, y: Tensor, kind: str, seed: int) -> Tensor:
    """|weight| of an L1 logistic regression, or of a linear SVM, on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    spread = x.double().std(0, correction=0)
    flat = spread <= 1e-7 * x.double().abs().amax(0)
    units = (x.double() - x.double().mean(0)) / torch.where(flat, 1.0, spread)
    model: Any = LinearSVC(class_weight="balanced", random_state=seed, max_iter=5000)
    if kind == "l1":
        model = LogisticRegression(
            C=0.1, l1_ratio=1, solver="liblinear", class_weight="balanced", random_state=seed
        )
    weight = torch.from_numpy(model.fit(units.numpy(), y.numpy()).coef_[0]).abs()
    return torch.where(flat, 0.0, weight)


class _Curve(NamedTuple):
    """What one site says at every k."""

    scores: list[Binary]
    supports: list[tuple[int, ...]]
    unconverged: int


def _curve(x: Tensor, target: Target, split: Split, ks: Sequence[int], config: SparseConfig) -> _Curve:
    """Test scores and support for each k."""
    seen, train = x[split.train], target[split.train]
    positive = target[split.test].values == 1
    order = rank_neurons(seen, train, config.ranking, config.seed)
    found: dict[int, tuple[Binary, tuple[int, ...]]] = {}
    unconverged = 0
    for k, support in _supports(seen, train, order, ks, config):
        probe = fit_support(seen, train, support, config)
        unconverged += not probe.converged
        (scores,) = scores_of([probe], x[split.test][:, support])
        importance = (probe.weight[:, 0] * seen[:, support].double().std(0)).abs()
        named = support[importance.argsort(descending=True, stable=True)]
        found[k] = binary_scores(scores[:, 0], positive), tuple(named.tolist())
    return _Curve([found[k][0] for k in ks], [found[k][1] for k in ks], unconverged)


def _supports(
    x: Tensor, target: Target, order: Tensor, ks: Sequence[int], config: SparseConfig
) -> Iterator[tuple[int, Tensor]]:
    """Neurons for each k, largest k first.

    One shot takes the k best. The telescope starts from the `prefilter` best, or one-shot above
    it, and on the way down keeps the largest weights (in standard units) of the probe before.
    """
    support = order[: max(config.prefilter, 1)]
    for k in sorted(ks, reverse=True):
        if not config.telescope or k >= len(support):
            yield k, order[:k]
            continue
        while len(support) > k:
            probe = fit_support(x, target, support, config)
            weight = (probe.weight[:, 0] * x[:, support].double().std(0)).abs()
            # Halving at most, so that weights are refitted as neurons go.
            keep = max(k, len(support) // 2)
            support = support[weight.argsort(descending=True, stable=True)[:keep]]
        yield k, support


def fit_support(x: Tensor, target: Target, support: Tensor, config: SparseConfig) -> Solved:
    """A class-balanced logistic probe on some columns of rows [n, d]."""
    probe = ProbeConfig(balanced=True, penalties=(config.penalty,), max_iter=config.max_iter)
    return solve(x[:, support], [target], probe)[0]


def prune_neurons(
    rows: Float[Tensor, "n d"],
    labels: Labels,
    config: SparseConfig | None = None,
    *,
    k: int = 5,
    rounds: int = 10,
    name: str = "label",
    groups: Sequence[Any] | Tensor | None = None,
) -> PruningCurve:
    """Iterative pruning: probe with the k best, take the best single neuron away, again.

    F1 that stays means redundant neurons; F1 that falls means a unique one.

    Args:
        rows: Rows [n, d] of one site.
        labels: Two classes.
        config: Ranking and split; ks are not used.
        k: Neurons per probe.
        rounds: Neurons taken away, at most d - k.

    Raises:
        ConfigError: k outside 1 to d, a negative number of rounds, or not two classes.
        ShapeError, NonFiniteError: As for `probe_sweep`.
    """
    config = replace(config or SparseConfig(), telescope=False)
    rows = check_rows(rows, "the rows of the probe")
    target = _two_classes(encode(name, labels, len(rows)))
    if not 1 <= k <= rows.shape[1] or rounds < 0:
        raise ConfigError(
            "pruning", got=f"k = {k}, {rounds} rounds", expected=f"k from 1 to {rows.shape[1]}, rounds from 0"
        )
    split = split_targets([target], len(rows), config.test_fraction, config.seed, groups=groups)
    left = torch.arange(rows.shape[1])
    f1, removed = [], []
    for _ in range(min(rounds, rows.shape[1] - k) + 1):
        curve = _curve(rows[:, left], target, split, [k], config)
        support = left[list(curve.supports[0])]
        ((best,),) = _curve(rows[:, support], target, split, [1], config).supports
        f1.append(curve.scores[0].f1)
        removed.append(int(support[best]))
        left = left[left != removed[-1]]
    return PruningCurve(
        f1=torch.tensor(f1).double(),
        removed=tuple(removed),
        k=k,
        target=name,
        labels={"round": [str(i) for i in range(len(f1))]},
    )


def _two_classes(target: Target) -> Target:
    if target.kind != "binary":
        raise ConfigError(
            f"target {target.name!r} does not have two classes",
            got=target.classes[:8]
            if target.classes
            else f"float labels from {target.values.min():g} to {target.values.max():g}",
            expected="two classes",
            fix="one class against the rest: [label == 'NOUN' for label in labels]",
        )
    return target


def _sizes(config: SparseConfig, d: int) -> list[int]:
    ks = sorted({k for k in config.ks if k <= d})
    if not ks or ks[0] < 1:
        raise ConfigError("sizes of a support", got=config.ks, expected=f"numbers from 1 to {d}")
    return ks
