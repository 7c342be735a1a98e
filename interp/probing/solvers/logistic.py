"""Logistic regression for many targets at once: one set of rows, one product per step for all.

Each target (and each penalty) is a problem of its own with its own L-BFGS; they share the rows,
already rotated into the basis of their covariance, where a bound of the Hessian is diagonal
(Böhning 1992) and serves as the first guess of its inverse. All rows meet all problems in one
matrix product, and the exact line search costs none, because logits are linear in the step.
"""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.finite import check_finite
from interp.probing.solvers.spectrum import Spectrum

MEMORY = 10
"""Pairs of steps and gradient changes kept."""
BLOCK = 2**18
"""Numbers looked at together: what is made of rows, problems and classes stays in the processor's cache."""


class UnconvergedWarning(UserWarning):
    """Logistic fits stopped at `max_iter`, before their optimum."""


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """Solutions of all problems."""

    weight: Float[Tensor, "r m k"]
    """In the basis of the rows; m problems of k outputs."""
    bias: Float[Tensor, "m k"]
    """Biases of the targets, not penalised."""
    decrement: Float[Tensor, "m"]
    """sqrt(g^T H^-1 g) that was left, H the bound of the Hessian: half its square is the distance
    in loss to the optimum where the bound is tight, whatever the scale of the rows."""
    iterations: int
    """Steps that the solver took."""
    converged: Bool[Tensor, "m"]
    """Whether the decrement came down to the tolerance."""


class _Problems:
    """The mean loss of m problems at once; state [r + 1, m, k], its last row the bias."""

    def __init__(
        self, base: Spectrum, codes: Tensor, k: int, penalty: Tensor, weights: Tensor | None
    ) -> None:
        self.rows = base.rows
        n, self.r = self.rows.shape
        self.m, self.k = codes.shape[1], k
        dtype = self.rows.dtype
        self.codes = codes  # [n, m]
        self.share = torch.full((n, self.m), 1 / n, dtype=dtype)
        if weights is not None:
            self.share = (weights / weights.sum(0)).to(dtype)
        size = max(BLOCK // (self.m * k), 1)
        self.blocks = [slice(at, at + size) for at in range(0, n, size)]
        self.penalty = penalty.to(dtype) / n  # scikit-learn's units -> of the mean loss
        bound = 0.25 if k == 1 else 0.5
        curve = bound * base.power.to(dtype)[:, None] / n + self.penalty
        self.inverse = torch.cat([1 / curve, torch.full((1, self.m), 1 / bound, dtype=dtype)])

    def only(self, some: Tensor) -> _Problems:
        """Some of the problems, boolean [m]."""
        fewer = copy(self)
        fewer.codes, fewer.share = self.codes[:, some], self.share[:, some]
        fewer.penalty, fewer.inverse = self.penalty[some], self.inverse[:, some]
        fewer.m = len(fewer.penalty)
        return fewer

    def logits(self, state: Tensor) -> Tensor:
        """[n, m, k]"""
        flat = self.rows @ state[:-1].reshape(self.r, self.m * self.k)
        return flat.view(-1, self.m, self.k).add_(state[-1])

    def chances(self, z: Tensor) -> Tensor:
        """Predicted probabilities, [n, m, k]."""
        return z.sigmoid() if self.k == 1 else z.softmax(-1)

    def of_own(self, z: Tensor) -> Tensor:
        """What each row's own class has of [n, m, k], [n, m]; with one logit, class 0 has 0."""
        return z[..., 0] * self.codes if self.k == 1 else z.gather(2, self.codes[:, :, None])[..., 0]

    def gradient(self, state: Tensor, z: Tensor) -> Tensor:
        """Of the mean loss, [r + 1, m, k]."""
        inner = state.new_zeros(self.r, self.m * self.k)
        free = state.new_zeros(self.m, self.k)
        for at in self.blocks:
            codes, share = self.codes[at], self.share[at]
            off = self.chances(z[at])  # less 1 at each row's own class
            if self.k == 1:
                off = (off[..., 0] - codes).mul_(share)[..., None]
            else:
                off.mul_(share[:, :, None]).scatter_add_(2, codes[:, :, None], -share[:, :, None])
            inner.addmm_(self.rows[at].T, off.flatten(1))
            free += off.sum(0)
        inner = inner.view(self.r, self.m, self.k) + self.penalty[:, None] * state[:-1]
        return torch.cat([inner, free[None]])

    def slopes(self, z: Tensor, dz: Tensor, own: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivative of the loss without penalty along the step, [m] each."""
        slope, bend = torch.zeros_like(length), torch.zeros_like(length)
        for at in self.blocks:
            step, share = dz[at], self.share[at]
            p = self.chances(z[at] + length[:, None] * step).mul_(step)
            seen = p.sum(-1)
            spread = p.mul_(step).sum(-1) - seen.square()
            slope += ((seen - own[at]) * share).sum(0)
            bend += (spread * share).sum(0)
        return slope, bend

    def step_length(self, z: Tensor, dz: Tensor, state: Tensor, step: Tensor) -> Tensor:
        """The exact minimiser along the step, for each problem, by safeguarded Newton, [m]."""
        tied = self.penalty * (state[:-1] * step[:-1]).sum((0, 2))
        curve = self.penalty * step[:-1].square().sum((0, 2))
        length, own = torch.ones(self.m, dtype=z.dtype), self.of_own(dz)
        low, high = torch.zeros_like(length), torch.full_like(length, float("inf"))
        for _ in range(8):
            slope, bend = self.slopes(z, dz, own, length)
            slope, bend = slope + tied + curve * length, bend + curve
            low = torch.where(slope < 0, length, low)
            high = torch.where(slope > 0, length, high)
            tiny = torch.finfo(z.dtype).tiny
            new = length - slope / bend.clamp(min=tiny)
            # Where classes part without a penalty there is no minimiser: no leap into infinity.
            new = torch.minimum(new, 16 * length)
            middle = torch.where(high.isinf(), 4 * length, (low + high) / 2)
            new = torch.where((new > low) & (new < high) & new.isfinite(), new, middle)
            if bool(((new - length).abs() <= 0.05 * length).all()):
                return new
            length = new
        return length


def fit_logistic(
    base: Spectrum,
    codes: Int[Tensor, "n m"],
    penalty: Float[Tensor, "m"],
    *,
    n_classes: int = 2,
    balanced: bool = False,
    max_iter: int = 200,
    tolerance: float = 1e-4,
) -> LogisticFit:
    """Minimise, for every column, sum_i loss_i + penalty/2 |w|^2; the bias goes free.

    Args:
        base: The rows.
        codes: Class index of every row in every problem.
        penalty: L2 strength of each problem, scikit-learn's 1/C; 0 is allowed.
        n_classes: 2 gives one logit (k = 1), more a softmax over k = n_classes.
        balanced: Weigh rows by n / (classes present * rows of the class).
        max_iter: Most steps.
        tolerance: Stop where every problem's decrement is at most this.

    Warns:
        UnconvergedWarning: Some problem's decrement was still above the tolerance at the end.

    Raises:
        NonFiniteError: The solution is not finite.
    """
    k = 1 if n_classes == 2 else n_classes
    weights = _balance(codes, n_classes) if balanced else None
    problems = _Problems(base, codes, k, penalty, weights)
    state = torch.zeros(problems.r + 1, problems.m, k, dtype=base.rows.dtype)
    state[-1] = _prior(problems)
    z = problems.logits(state)
    grad = problems.gradient(state, z)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    found, missed = torch.zeros_like(state), torch.zeros(problems.m, dtype=state.dtype)
    going, done = torch.arange(problems.m), 0
    for done in range(max_iter + 1):
        left = _decrement(grad, problems.inverse)
        found[:, going], missed[going] = state, left
        some = left > tolerance
        if done == max_iter or not bool(some.any()):
            break
        if not bool(some.all()):  # what has arrived stays, and costs nothing more
            problems, going = problems.only(some), going[some]
            state, z, grad = state[:, some], z[:, some], grad[:, some]
            history = [(move[:, some], change[:, some], inner[some]) for move, change, inner in history]
        step = _direction(grad, history, problems.inverse[:, :, None])
        dz = problems.logits(step)
        length = problems.step_length(z, dz, state, step)
        move = length[:, None] * step
        state = state + move
        z = z + length[:, None] * dz
        if done % 20 == 19:  # rounding of the running sum
            z = problems.logits(state)
        new = problems.gradient(state, z)
        change = new - grad
        inner = (move * change).sum((0, 2))
        history = [*history[-(MEMORY - 1) :], (move, change, inner)]
        grad = new
    check_finite(found, "the logistic probe's weights")
    converged = missed <= tolerance
    if not bool(converged.all()):
        _warn(missed, converged, done, tolerance)
    return LogisticFit(found[:-1], found[-1], missed, done, converged)


def _warn(left: Tensor, converged: Tensor, steps: int, tolerance: float) -> None:
    warnings.warn(
        f"{int((~converged).sum())} of {len(left)} logistic fits stopped after {steps} steps, "
        f"before their optimum (decrement up to {float(left.max()):.2g}, tolerance "
        f"{tolerance:.2g}): raise max_iter, the penalty or the tolerance",
        UnconvergedWarning,
        stacklevel=3,
    )


def _decrement(grad: Tensor, inverse: Tensor) -> Tensor:
    return (grad.square().sum(-1) * inverse).sum(0).sqrt()


def _direction(grad: Tensor, history: list[tuple[Tensor, Tensor, Tensor]], inverse: Tensor) -> Tensor:
    """L-BFGS's two loops, every problem with inner products of its own."""
    q = grad
    shares = []
    for move, change, inner in reversed(history):
        rate = _safe_ratio((move * q).sum((0, 2)), inner)
        q = q - rate[:, None] * change
        shares.append(rate)
    r = inverse * q
    if history:
        _, change, inner = history[-1]
        gamma = _safe_ratio(inner, (change * inverse * change).sum((0, 2)))
        r = torch.where(gamma > 0, gamma, 1.0)[:, None] * r
    for (move, change, inner), rate in zip(history, reversed(shares), strict=True):
        back = _safe_ratio((change * r).sum((0, 2)), inner)
        r = r + (rate - back)[:, None] * move
    return -r


def _safe_ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b has no digits left (a problem that has converged)."""
    usable = b > torch.finfo(b.dtype).tiny * 1e3
    return torch.where(usable, a / torch.where(usable, b, 1.0), 0.0)


def _prior(problems: _Problems) -> Tensor:
    """Biases that give the classes their own frequencies, [m, k]."""
    codes, share = problems.codes, problems.share
    floor = 1e-3 / len(codes)
    if problems.k == 1:
        return torch.logit((codes * share).sum(0)[:, None], floor)
    rate = share.new_zeros(problems.m, problems.k).scatter_add_(1, codes.T, share.T)
    return rate.clamp(min=floor).log()


def _balance(codes: Tensor, n_classes: int) -> Tensor:
    """Row weights n / (classes * rows of the class), [n, m]."""
    counts = codes.new_zeros(codes.shape[1], n_classes)
    counts.scatter_add_(1, codes.T, torch.ones_like(codes.T))  # [m, classes]
    present = (counts > 0).sum(-1, keepdim=True)
    per_class = len(codes) / (present * counts.clamp(min=1))
    return per_class.gather(1, codes.T).T.double()
