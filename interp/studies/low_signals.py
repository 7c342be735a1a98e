"""Few features that matter among many that do not (ChaosMining, Shi et al. 2024).

The function is known, so the ground truth of every method is too; and recursive feature elimination
turns an attribution into a decision that can be right or wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.attribution.attributing import attribute
from interp.attribution.config import AttributionConfig
from interp.attribution.methods.paths import gauss_legendre
from interp.attribution.methods.table import METHODS
from interp.core.errors import ConfigError
from interp.core.frames.quantity import called, measured, places
from interp.core.names import did_you_mean
from interp.core.randomness import generator
from interp.core.result import Result
from interp.models.wrapping import wrap
from interp.studies.config import LowSignalConfig


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LowSignal(Result, headline="Few features that matter, many that do not"):
    """Methods on a function of few features among many that do not matter (ChaosMining)."""

    uscore: Float[Tensor, " method"]
    """Similarity to the ground truth on the true features, 1 - |a - b| / (|a| + |b|)."""
    precision: Float[Tensor, " method"] = measured(
        "true features among the leading ones", "share", "", signed=False, null="chance"
    )
    """Share of true features among as many leading ones, mean over instances (FPrec)."""
    chance: float = called("chance")
    """Precision of a random ranking."""
    error: float
    """Mean absolute error of the model on held-out rows."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Elimination(Result, headline="Recursive elimination by {ranking}"):
    """Recursive feature elimination by attribution."""

    error: Float[Tensor, " round"] = measured(
        "error, or share", "", "", legend="held-out error", along="round", beside=("precision", "recall")
    )
    """Held-out mean absolute error with the features of the round."""
    kept: Int[Tensor, " round"] = places("round", "features left")
    """How many features were left."""
    precision: Float[Tensor, " round"] = called("true among those left")
    """Share of them that are true."""
    recall: Float[Tensor, " round"] = called("true ones still there")
    """Share of the true ones that are left."""
    features: tuple[int, ...]
    """The features of the best round."""
    method: str
    """What ranked them."""

    @property
    def ranking(self) -> str:
        """`method` in words."""
        return self.method.replace("_", " ")


Formula = Callable[[Tensor], Tensor]

FORMULAS: dict[str, tuple[int, Formula]] = {
    "sin(3a) + 3ab + 2c^2": (3, lambda x: (3 * x[:, 0]).sin() + 3 * x[:, 0] * x[:, 1] + 2 * x[:, 2] ** 2),
    "2a - 3b": (2, lambda x: 2 * x[:, 0] - 3 * x[:, 1]),
    "abc + exp(d)": (4, lambda x: x[:, 0] * x[:, 1] * x[:, 2] + x[:, 3].exp()),
    "a^3 + |b| + tanh(4c)": (3, lambda x: x[:, 0] ** 3 + x[:, 1].abs() + (4 * x[:, 2]).tanh()),
    "cos(5a) b + d e": (4, lambda x: (5 * x[:, 0]).cos() * x[:, 1] + x[:, 2] * x[:, 3]),
}


@dataclass(frozen=True)
class Data:
    """Inputs [row feature] and outputs [row], split."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    true: tuple[int, ...]
    """Columns that matter."""
    formula: Formula


def low_signal_data(config: LowSignalConfig) -> Data:
    """x = clip(N(0, 1/3^2), -1, 1), y = formula(x) + N(0, 0.01^2)."""
    if config.formula not in FORMULAS:
        raise ConfigError(
            "no such formula",
            got=config.formula,
            expected=", ".join(FORMULAS),
            fix=did_you_mean(config.formula, FORMULAS) or None,
        )
    n_true, formula = FORMULAS[config.formula]
    drawn = generator(config.seed, "low signal")
    x = torch.randn(config.n_rows, n_true + config.n_noise, generator=drawn) / 3
    x = x.clamp(-1, 1)
    y = formula(x) + 0.01 * torch.randn(config.n_rows, generator=drawn)
    cut = config.n_rows * 4 // 5
    return Data((x[:cut], y[:cut]), (x[cut:], y[cut:]), tuple(range(n_true)), formula)


def benchmark_low_signal(methods: Sequence[str], config: LowSignalConfig | None = None) -> LowSignal:
    """Train on the noisy table, attribute held-out rows, compare with the formula's own truth."""
    config = config or LowSignalConfig()
    data = low_signal_data(config)
    features = list(range(data.train[0].shape[1]))
    module, error = trained(data, features, config)
    rows = data.test[0][: config.instances]
    found = {m: scores_of(module, rows, m, config) for m in methods}
    k = len(data.true)
    return LowSignal(
        uscore=torch.stack([_uscore(found[m][:, :k], _truth(data, rows, m)) for m in methods]),
        precision=torch.stack([_precision(found[m], k) for m in methods]),
        chance=k / len(features),
        error=error,
        labels={"method": list(methods)},
    )


def eliminate_features(
    method: str, config: LowSignalConfig | None = None, *, keep: float = 0.8, patience: float = 1.5
) -> Elimination:
    """Train, rank features by mean |score|, keep the best `keep` of them, and again.

    Stops when the held-out error exceeds `patience` times the best so far; the best round counts.
    `method` may be "random", the control.
    """
    config = config or LowSignalConfig()
    data = low_signal_data(config)
    features, rounds = list(range(data.train[0].shape[1])), []
    best = float("inf")
    while features:
        module, error = trained(data, features, config)
        rounds.append((error, features))
        best = min(best, error)
        if error > patience * best or len(features) == 1:
            break
        rows = data.test[0][: config.instances, features]
        if method == "random":
            drawn = generator(config.seed, "random elimination", len(features))
            weight = torch.rand(len(features), generator=drawn)
        else:
            weight = scores_of(module, rows, method, config).abs().mean(0)
        count = max(1, int(keep * len(features)))
        features = sorted(features[i] for i in weight.topk(count).indices.tolist())
    chosen = min(rounds, key=lambda r: r[0])[1]
    hits = torch.tensor([len(set(f) & set(data.true)) for _, f in rounds])
    kept = torch.tensor([len(f) for _, f in rounds])
    return Elimination(
        error=torch.tensor([e for e, _ in rounds]),
        kept=kept,
        precision=hits / kept,
        recall=hits / len(data.true),
        features=tuple(chosen),
        method=method,
    )


def trained(data: Data, features: list[int], config: LowSignalConfig) -> tuple[nn.Module, float]:
    """A network on these columns, and its held-out mean absolute error."""
    drawn = generator(config.seed, "network", len(features))
    w = config.width
    module = nn.Sequential(
        nn.Linear(len(features), w),
        nn.ReLU(),
        nn.Linear(w, w),
        nn.ReLU(),
        nn.Linear(w, w),
        nn.ReLU(),
        nn.Linear(w, 1),
    )
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter.shape[-1] if parameter.dim() > 1 else w
            bound = fan**-0.5
            parameter.uniform_(-bound, bound, generator=drawn)
    x, y = data.train[0][:, features], data.train[1]

    def step(net: nn.Module, batch: Any, t: int) -> Tensor:
        return (net(batch[0])[:, 0] - batch[1]).pow(2).mean()

    fit(
        module,
        step,
        lambda t: (x, y),
        FitConfig(
            steps=config.steps, lr=config.lr, lr_schedule="cosine", seed=config.seed, log_every=config.steps
        ),
    )
    with torch.no_grad():
        missed = module(data.test[0][:, features])[:, 0] - data.test[1]
    return module.eval().requires_grad_(False), float(missed.abs().mean())


def scores_of(module: nn.Module, rows: Tensor, method: str, config: LowSignalConfig) -> Tensor:
    """Scores [row feature] with baseline 0."""
    model = wrap(module)
    settings = AttributionConfig(seed=config.seed, window=1, tolerance=0.05)
    return torch.stack(
        [attribute(model, row[None], _only, method=method, config=settings).scores.float() for row in rows]
    )


def _only(out: Tensor) -> Tensor:
    return out[:, 0]


def _truth(data: Data, rows: Tensor, method: str) -> Tensor:
    """What a method would say of the formula itself, [row feature], true features only."""
    k = len(data.true)
    if method in ("occlusion", "feature_ablation"):
        whole = data.formula(rows)
        found = []
        for j in range(k):
            hidden = rows.clone()
            hidden[:, j] = 0
            found.append(whole - data.formula(hidden))
        return torch.stack(found, 1)
    if not METHODS[method].signed:
        return _slope(data.formula, rows)[:, :k].abs()
    x, w = gauss_legendre(32)
    total = torch.zeros_like(rows)
    for node, weight in zip(x.tolist(), w.tolist(), strict=True):
        total += weight * _slope(data.formula, node * rows)
    return (rows * total)[:, :k]


def _slope(formula: Formula, rows: Tensor) -> Tensor:
    here = rows.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(formula(here).sum(), here)
    return found


def _uscore(a: Tensor, b: Tensor) -> Tensor:
    return (1 - (a - b).abs() / (a.abs() + b.abs() + 1e-7)).mean()


def _precision(scores: Tensor, k: int) -> Tensor:
    return (scores.abs().topk(k, 1).indices < k).float().mean()
