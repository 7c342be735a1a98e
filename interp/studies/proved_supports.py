"""The best support of k neurons, proved: outer approximation with an open MILP solver.

For a support s in {0,1}^d the balanced hinge loss with ridge,

    c(s) = min_{w, b}  sum_i v_i max(0, 1 - y_i (w.x_i + b)) + 1/(2 gamma) |w_s|^2,

has the dual  max_a  sum_i y_i a_i - gamma/2 sum_j s_j (X_j.a)^2,  0 <= y_i a_i <= v_i, sum a = 0.
It is linear in s, so any dual point bounds c from below for *every* support: a cut. The master
problem (HiGHS, through scipy) proposes the support with the lowest bound, a linear SVM prices it
and gives the next cut, until bound and price meet (Bertsimas, Pauphilet and Van Parys 2021,
"Sparse classification: a scalable discrete optimization perspective"; Gurnee et al. 2023 use it
with Gurobi).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.frames.quantity import called, measured
from interp.core.result import Result
from interp.probing.rows import Labels, check_rows, encode, require_classes
from interp.probing.sparse import rank_neurons
from interp.studies.config import OptimalConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimalSupport(Result):
    """The best k neurons by training loss, with the proof's gap."""

    cost: Float[Tensor, ""] = measured(
        "hinge loss plus ridge", "summed over rows", "the support tells the classes apart less", null="bound"
    )
    """Balanced hinge loss plus ridge of the support, summed over rows."""
    bound: Float[Tensor, ""] = called("no support costs less")
    """No support of this size costs less."""
    neurons: tuple[int, ...]
    """The support."""
    n_cuts: int
    """Supports that were priced."""
    n_candidates: int
    """Neurons it was chosen from."""
    tolerance: float
    """Largest relative gap that counts as proved."""
    target: str
    """What is read."""

    @property
    def headline(self) -> str:
        """What was found."""
        return f"The best {len(self.neurons)} neurons for {self.target}"

    @property
    def gap(self) -> float:
        """(cost - bound) / cost."""
        return float((self.cost - self.bound) / self.cost.clamp(min=1e-30))

    def check(self) -> Checks:
        """Cost and bound meet."""
        return Checks([Check.at_most("relative gap", self.gap, self.tolerance)])


class _Priced(NamedTuple):
    """A support, what it costs, and the cut it gives."""

    cost: float
    constant: float
    slope: np.ndarray


class _Problem:
    """Standardised candidate columns with balanced weights."""

    def __init__(self, x: np.ndarray, y: np.ndarray, gamma: float) -> None:
        self.x, self.y, self.gamma = x, y, gamma
        share = {sign: 1 / (2 * float((y == sign).mean())) for sign in (-1, 1)}
        self.weight = np.where(y > 0, share[1], share[-1])

    def price(self, support: np.ndarray) -> _Priced:
        """Solve the SVM on a support (indices); primal cost, and the dual point's cut."""
        from sklearn.svm import SVC

        part = self.x[:, support]
        machine = SVC(C=self.gamma, kernel="linear", tol=1e-6, cache_size=500)
        machine.fit(part, self.y, sample_weight=self.weight)
        dual = np.zeros(len(self.y))
        dual[machine.support_] = machine.dual_coef_[0] / self.gamma
        margin = 1 - self.y * machine.decision_function(part)
        norm = float((machine.coef_**2).sum())
        cost = float((self.weight * np.maximum(margin, 0)).sum()) + norm / (2 * self.gamma)
        slope = -0.5 * self.gamma * (self.x.T @ dual) ** 2
        return _Priced(cost, float(self.y @ dual), slope)


def find_optimal_support(
    rows: Float[Tensor, "n d"],
    labels: Labels,
    k: int,
    config: OptimalConfig | None = None,
    *,
    name: str = "label",
) -> OptimalSupport:
    """The k neurons whose probe has the least loss among all supports of at most k.

    Args:
        rows: Rows [n, d].
        labels: Two classes.
        k: Neurons.
        config: Penalty, prefilter, tolerance, time.

    Returns:
        Support, cost, lower bound and relative gap; gap above the tolerance means that the time
        was up, and the support is the best found.

    Raises:
        ConfigError: k below 1 or above the number of candidates, or not two classes.
    """
    config = config or OptimalConfig()
    rows = check_rows(rows, "the rows of the probe").double()
    target = encode(name, labels, len(rows))
    require_classes(target, "the rows")
    d = min(rows.shape[1], config.prefilter)
    if target.kind != "binary" or not 1 <= k <= d:
        raise ConfigError(
            "an optimal support",
            got=f"k = {k} for a {target.kind} target",
            expected=f"k from 1 to {d} and two classes",
        )
    candidates = rank_neurons(rows, target, "mean_diff")[:d].sort().values
    part = rows[:, candidates]
    spread = part.std(0, correction=0)
    units = (part - part.mean(0)) / torch.where(spread > 1e-12, spread, 1.0)
    y = np.where(target.values.numpy() > 0, 1.0, -1.0)
    problem = _Problem(units.numpy(), y, config.gamma or len(rows) ** -0.5)
    best, cost, bound, cuts = _search(problem, k, config)
    return OptimalSupport(
        neurons=tuple(candidates[best].tolist()),
        cost=torch.tensor(cost, dtype=torch.float64),
        bound=torch.tensor(bound, dtype=torch.float64),
        n_cuts=cuts,
        n_candidates=d,
        tolerance=config.tolerance,
        target=name,
    )


def _search(problem: _Problem, k: int, config: OptimalConfig) -> tuple[np.ndarray, float, float, int]:
    """Cuts until the bound meets the best price: (support, cost, bound, cuts)."""
    start = time.monotonic()
    support = _warm_start(problem, k)
    priced = [problem.price(support)]
    best, cost, bound = support, priced[0].cost, 0.0
    while cost - bound > config.tolerance * abs(cost):
        left = config.seconds - (time.monotonic() - start)
        if left <= 0:
            break
        proposal, lower = _master(priced, k, problem.x.shape[1], left)
        bound = max(bound, min(lower, cost))
        if proposal is None or cost - bound <= config.tolerance * abs(cost):
            break
        found = problem.price(proposal)
        priced.append(found)
        if found.cost < cost:
            best, cost = proposal, found.cost
    return np.sort(best), cost, bound, len(priced)


def _warm_start(problem: _Problem, k: int) -> np.ndarray:
    """The k largest weights of the probe on all candidates."""
    everything = np.arange(problem.x.shape[1])
    slope = problem.price(everything).slope  # -(gamma/2) (X_j.a)^2: |w_j|^2 up to a factor
    return np.sort(np.argsort(slope, kind="stable")[:k])


def _master(priced: list[_Priced], k: int, d: int, seconds: float) -> tuple[np.ndarray | None, float]:
    """The support with the lowest bound under all cuts, and that bound."""
    from scipy import optimize

    bounds_of: Any = optimize.Bounds  # the stubs know scalars only
    constraint: Any = optimize.LinearConstraint

    # Variables s_1 .. s_d and the bound t; t >= constant + slope.s for every cut.
    cuts = np.array([[*-cut.slope, 1.0] for cut in priced])
    constants = np.array([cut.constant for cut in priced])
    budget = np.array([[1.0] * d + [0.0]])
    solved = optimize.milp(
        c=np.array([0.0] * d + [1.0]),
        integrality=np.array([1] * d + [0]),
        bounds=bounds_of(np.zeros(d + 1), np.array([1.0] * d + [np.inf])),
        constraints=[constraint(cuts, constants, np.inf), constraint(budget, 0, k)],
        options={"time_limit": max(seconds, 0.1), "mip_rel_gap": 1e-9},
    )
    if solved.x is None:
        return None, -np.inf
    lower = solved.mip_dual_bound if solved.mip_dual_bound is not None else solved.fun
    chosen = np.flatnonzero(solved.x[:d] > 0.5)
    return (chosen if len(chosen) else np.array([0])), float(lower)
