"""Which algorithm is a regressor running in context? (Akyürek et al. 2023)

"What learning algorithm is in-context learning?": compare a model's predictions with those of
named algorithms on the same exemplars (SPD), and the linear weights that its predictions imply
with theirs (ILWD).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError
from interp.core.finite import check_finite
from interp.core.frames.quantity import measured
from interp.core.randomness import generator
from interp.core.result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class InContextResult(Result, headline="Which algorithm predicts like this?"):
    """A regressor's distance to named algorithms, per number of exemplars."""

    spd: Float[Tensor, "algorithm exemplars"] = measured(
        "squared difference of predictions", "over d", "another algorithm", along="exemplars", log="y"
    )
    """Mean squared difference of predictions, over d."""
    ilwd: Float[Tensor, "algorithm exemplars"]
    """Mean squared distance of the linear weights that the predictions imply, over d."""
    linearity: Float[Tensor, "exemplars"]
    """R2 of a linear fit to the regressor's predictions."""
    loss: Float[Tensor, "exemplars"]
    """Mean squared error of the regressor against the noiseless truth, over d."""
    d: int
    """Width of x."""
    noise: float
    """Standard deviation of the noise in y."""

    def nearest(self) -> tuple[str, ...]:
        """The algorithm with the least SPD, per number of exemplars."""
        return tuple(self.labels["algorithm"][i] for i in self.spd.argmin(0).tolist())


Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Exemplars x [batch, k, d] and y [batch, k], queries [batch, q, d] -> predictions [batch, q]."""


def ridge_in_context(penalty: float = 0.0) -> Predictor:
    """Ridge on the exemplars; 0: least squares of least norm; sigma^2: Bayes for w ~ N(0, I)."""

    def predict(x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        return (queries @ implied_ridge(x, y, penalty)[..., None])[..., 0]

    return predict


def implied_ridge(x: Tensor, y: Tensor, penalty: float) -> Float[Tensor, "batch d"]:
    """Ridge weights of each batch entry, through the eigenvalues of the exemplars' Gram matrix."""
    x, y = x.double(), y.double()
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    usable = s > s.amax(-1, keepdim=True) * 1e-10
    gain = torch.where(usable, s / (s.square() + penalty).clamp(min=1e-300), 0.0)
    return (vt.mT @ (gain * (u.mT @ y[..., None])[..., 0])[..., None])[..., 0]


def gradient_descent(lr: float, steps: int = 1) -> Predictor:
    """`steps` steps of w <- w + lr X^T (y - X w) from 0."""

    def predict(x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        x, y = x.double(), y.double()
        w = torch.zeros(x.shape[0], x.shape[2], dtype=torch.float64)
        for _ in range(steps):
            w = w + lr * (x.mT @ (y - (x @ w[..., None])[..., 0])[..., None])[..., 0]
        return (queries.double() @ w[..., None])[..., 0]

    return predict


def nearest_neighbours(k: int = 3) -> Predictor:
    """Mean of the k nearest exemplars' y, weighted by 1 / distance."""

    def predict(x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        distance = torch.cdist(queries.double(), x.double())
        near = distance.topk(min(k, x.shape[1]), dim=-1, largest=False)
        weight = 1 / near.values.clamp(min=1e-9)
        own = y.double()[:, None].expand(-1, queries.shape[1], -1).gather(-1, near.indices)
        return (weight * own).sum(-1) / weight.sum(-1)

    return predict


def linear_attention(x: Tensor, y: Tensor, queries: Tensor, lr: float) -> Float[Tensor, "batch q"]:
    """One head of linear attention whose weights make it a step of gradient descent.

    Tokens are (x, y), queries (x, 0). W_Q = W_K = the projection onto x, W_V = lr times that onto
    y (von Oswald et al. 2023, "Transformers learn in-context by gradient descent", proposition 1).
    """
    d = x.shape[-1]
    tokens = torch.cat([x, y[..., None]], -1).double()
    asked = torch.cat([queries, torch.zeros_like(queries[..., :1])], -1).double()
    onto_x = torch.eye(d + 1, dtype=torch.float64)
    onto_x[d, d] = 0
    onto_y = lr * (torch.eye(d + 1, dtype=torch.float64) - onto_x)
    scores = (asked @ onto_x.T) @ (tokens @ onto_x.T).mT
    return (scores @ (tokens @ onto_y.T))[..., d]


def standard_algorithms(noise: float = 0.0) -> dict[str, Predictor]:
    """Least squares, ridge .1 and 1 (and sigma^2 where there is noise), kNN, one step of GD."""
    found = {
        "least squares": ridge_in_context(0.0),
        "ridge 0.1": ridge_in_context(0.1),
        "ridge 1": ridge_in_context(1.0),
        "3 nearest": nearest_neighbours(3),
    }
    if noise > 0:
        found[f"Bayes (ridge {noise**2:.3g})"] = ridge_in_context(noise**2)
    return found


def compare_in_context(
    predict: Predictor,
    width: int,
    exemplars: tuple[int, ...],
    *,
    algorithms: Mapping[str, Predictor] | None = None,
    noise: float = 0.0,
    batch_size: int = 256,
    seed: int = 0,
) -> InContextResult:
    """Compare a regressor with named algorithms on fresh linear problems y = w.x + noise.

    w and x are standard normal. SPD = E (A(x) - B(x))^2 / d; ILWD = E |w_A - w_B|^2 / d with w_A
    the least squares of A's predictions over 8 d fresh queries; R2 of that fit says whether A is
    linear at all. One step of gradient descent joins with its best rate per number of exemplars.

    Args:
        predict: The regressor.
        width: Width of x.
        exemplars: Numbers of exemplars to try.
        algorithms: Named predictors; `standard_algorithms(noise)` by default.
        noise: Standard deviation of the noise in y.
        batch_size: Problems.
        seed: Of the problems.

    Raises:
        ConfigError: No exemplars.
        ShapeError, NonFiniteError: Predictions of another shape, or not finite.
    """
    if not exemplars or min(exemplars) < 1:
        raise ConfigError("numbers of exemplars", got=exemplars, expected="1 or more")
    named = dict(algorithms or standard_algorithms(noise))
    rates = [2.0**e / max(exemplars) for e in range(-4, 4)]
    spd, ilwd, linear, loss = [], [], [], []
    for k in exemplars:
        draw = generator(seed, "in-context problems", k)
        w, x, q = (
            torch.randn(*shape, generator=draw, dtype=torch.float64)
            for shape in ((batch_size, width), (batch_size, k, width), (batch_size, 8 * width, width))
        )
        y = (x @ w[..., None])[..., 0]
        y = y + noise * torch.randn(batch_size, k, generator=draw, dtype=torch.float64)
        own = _checked(predict(x, y, q), q)
        others = [_checked(other(x, y, q), q) for other in named.values()]
        steps = [gradient_descent(rate)(x, y, q) for rate in rates]
        others.append(min(steps, key=lambda p: float((p - own).square().mean())))
        implied = [_weights(q, p) for p in (own, *others)]
        spd.append([float((own - p).square().mean()) / width for p in others])
        ilwd.append([float((implied[0] - v).square().sum(-1).mean()) / width for v in implied[1:]])
        left = own - (q @ implied[0][..., None])[..., 0]
        linear.append(1 - float(left.square().mean() / own.square().mean().clamp(min=1e-30)))
        loss.append(float((own - (q @ w[..., None])[..., 0]).square().mean()) / width)
    return InContextResult(
        spd=torch.tensor(spd).double().T,
        ilwd=torch.tensor(ilwd).double().T,
        linearity=torch.tensor(linear).double(),
        loss=torch.tensor(loss).double(),
        d=width,
        noise=float(noise),
        labels={"algorithm": [*named, "one GD step, best rate"], "exemplars": list(map(str, exemplars))},
    )


def _weights(queries: Tensor, predictions: Tensor) -> Tensor:
    """Least squares of predictions on queries, [batch, d]."""
    return torch.linalg.lstsq(queries, predictions[..., None]).solution[..., 0]


def _checked(predictions: Tensor, queries: Tensor) -> Tensor:
    if predictions.shape != queries.shape[:2]:
        raise ShapeError(
            "an in-context regressor gives one number per query",
            got=tuple(predictions.shape),
            expected=tuple(queries.shape[:2]),
        )
    check_finite(predictions, "the regressor's predictions")
    return predictions.detach().double()
