"""Methods that ask for the worth of coalitions: v(z) = f(r + z (x - r)), z in {0, 1}^player.

Players are what differs from the baseline; whoever equals it gets exactly 0. Up to `ENUMERATED` of
them play in all their coalitions, and nothing is left to chance; with more of them, or where
`samples` says how many are drawn, every score has its standard error.
"""

from __future__ import annotations

from math import comb

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame
from interp.attribution.methods.raw import Raw
from interp.core.errors import ConfigError
from interp.core.randomness import generator

ENUMERATED = 12
"""So many players have 4,096 coalitions."""
SAMPLES = 200
"""Draws where nobody says how many."""
FEWEST_ORDERS = 8
PER_PLAYER = 8
"""Coalitions per player of a regression, where nobody says how many."""
REFITS = 40
"""Refits on draws of the draws, whose spread is the standard error of a fit with a penalty."""
PENALTY = 0.01
"""Captum's, in units of |f(x) - f(r)|."""


class _Play:
    """The players of a game that differ from the baseline, and what their coalitions are worth."""

    def __init__(self, game: SiteGame, config: AttributionConfig) -> None:
        self.game = game
        self.moving: Tensor = game.moving().cpu()
        self.n: int = len(self.moving)
        self.exact: bool = self.n < 2 or (config.samples is None and self.n <= ENUMERATED)

    def worth(self, z: Float[Tensor, "coalition player"]) -> Float[Tensor, " coalition"]:
        """v of coalitions of those that move; whoever does not is where it always is."""
        whole = torch.ones(len(z), self.game.who.n, dtype=z.dtype)
        whole[:, self.moving] = z
        return self.game.coalition(whole).cpu()

    def everyone(self) -> Float[Tensor, "coalition player"]:
        """All coalitions, coalition c holding the players whose bits are set in c."""
        numbers = torch.arange(2**self.n)
        return (numbers[:, None] >> torch.arange(self.n) & 1).double()

    def raw(self, scores: Tensor, errors: Tensor | None = None) -> Raw:
        """Scores [player] among all players; 0 for those that do not move."""
        errors = torch.zeros(self.game.who.n_scores) if errors is None else errors
        return Raw(players=self._among(scores), standard_errors=errors)

    def positions(self, scores: Float[Tensor, "draw player"]) -> Float[Tensor, "draw pos"]:
        """Rows of scores of players, summed to positions."""
        return torch.stack([self.game.who.spread(self._among(row))[0] for row in scores])

    def _among(self, scores: Tensor) -> Tensor:
        whole = torch.zeros(self.game.who.n, dtype=torch.float64)
        whole[self.moving] = scores.double()
        return whole


def shapley(game: SiteGame, config: AttributionConfig) -> Raw:
    """Shapley values: all coalitions, or sampled orders (Strumbelj and Kononenko 2010).

    `samples` counts evaluations per player's place: samples / players orders, at least 8.
    """
    play = _Play(game, config)
    if play.exact:
        return play.raw(shapley_values(play.worth(play.everyone())))
    n = max(FEWEST_ORDERS, (config.samples or SAMPLES) // play.n)
    game.afford(n * (play.n - 1) + 2, "shapley", config)
    drawn = generator(config.seed, "shapley")
    orders = torch.stack([torch.randperm(play.n, generator=drawn) for _ in range(n)])
    effects = torch.zeros(n, play.n, dtype=torch.float64)
    ends = play.worth(torch.tensor([[0.0], [1.0]]).expand(2, play.n))
    sizes = torch.arange(1, play.n)[:, None]
    at_once = max(1, 8 * config.rows // play.n)  # passes are filled across orders
    for start in range(0, n, at_once):
        some = orders[start : start + at_once]
        inner = play.worth((some.argsort(1)[:, None] < sizes).flatten(0, 1).double())
        grown = torch.cat([ends[:1].expand(len(some), 1), inner.view(len(some), -1)], 1)
        steps = torch.cat([grown, ends[1:].expand(len(some), 1)], 1).diff()
        effects[start : start + at_once] = torch.zeros_like(steps).scatter_(1, some, steps)
    errors = play.positions(effects).std(0) / n**0.5
    return play.raw(effects.mean(0), errors)


def shapley_values(worth: Float[Tensor, " coalition"]) -> Float[Tensor, " player"]:
    """Shapley values of a game whose coalition c holds the players whose bits are set in c."""
    n = (len(worth) - 1).bit_length()
    numbers = torch.arange(len(worth))
    found = torch.zeros(n, dtype=torch.float64)
    sizes = (numbers[:, None] >> torch.arange(n) & 1).sum(1)
    shares = torch.tensor([1 / (n * comb(n - 1, k)) for k in range(n)], dtype=torch.float64)
    for i in range(n):
        without = numbers[numbers >> i & 1 == 0]
        found[i] = shares[sizes[without]] @ (worth[without + 2**i] - worth[without]).double()
    return found


def kernel_shap(game: SiteGame, config: AttributionConfig) -> Raw:
    """Shapley values by least squares over coalitions (Lundberg and Lee 2017).

    Drawn by the Shapley kernel, each beside its complement, and fitted under the constraint that
    the scores sum to f(x) - f(r). Over all coalitions the fit is the Shapley values themselves.

    Raises:
        ConfigError: Fewer coalitions than a fit of so many players needs.
    """
    play = _Play(game, config)
    if play.exact:
        return play.raw(shapley_values(play.worth(play.everyone())))
    n = config.samples or max(SAMPLES, PER_PLAYER * play.n)
    game.afford(2 * -(-n // 2) + 2, "kernel_shap", config)
    half = _drawn_by_kernel(play.n, -(-n // 2), generator(config.seed, "kernel_shap"))
    centred = (half - half.mean(1, keepdim=True)).double()
    if len(half) < play.n or int(torch.linalg.matrix_rank(centred)) < play.n - 1:
        raise ConfigError(
            f"kernel_shap cannot tell {play.n} players apart by so few coalitions",
            got=f"samples={n}",
            expected=f"some {PER_PLAYER * play.n}; {2 * play.n} at the very least",
            fix="more samples, or method='shapley'",
        )
    base, value = play.worth(torch.tensor([[0.0], [1.0]]).expand(2, play.n)).tolist()
    # v(z) - v(1 - z) = 2 z_c phi + (2 |z| / n - 1) (f(x) - f(r)), where z_c = z - |z| / n.
    odd = play.worth(half) - play.worth(1 - half) - (2 * half.mean(1) - 1) * (value - base)
    inverse = torch.linalg.pinv(2 * centred)  # rows sum to 0, and so does what it gives
    fitted = inverse @ odd
    missed = odd - 2 * centred @ fitted
    influence = play.positions((inverse * missed).T)
    spare = len(half) / (len(half) - (play.n - 1))
    return play.raw(fitted + (value - base) / play.n, influence.pow(2).sum(0).mul(spare).sqrt())


def lime(game: SiteGame, config: AttributionConfig) -> Raw:
    """A sparse linear model around the input (Ribeiro et al. 2016), as captum makes it.

    Coalitions by fair coins, weighed by their cosine to the input. The penalty is absolute, so the
    target is measured in units of |f(x) - f(r)|: scores scale with the target, and a probability of
    1e-3 is explained as well as a logit.
    """
    play = _Play(game, config)
    if not play.n:
        return play.raw(torch.zeros(0))
    value, base = game.ends()
    unit = abs(value - base) or 1.0
    if play.exact:
        z = play.everyone()
    else:
        shape, drawn = (config.samples or SAMPLES, play.n), generator(config.seed, "lime")
        z = (torch.rand(shape, generator=drawn) < 0.5).double()
    worth = play.worth(z) / unit
    scores = _sparse_fit(z, worth) * unit
    if play.exact:
        return play.raw(scores)
    again = generator(config.seed, "lime again")
    rows = [torch.randint(len(z), (len(z),), generator=again) for _ in range(REFITS)]
    refits = torch.stack([_sparse_fit(z[row], worth[row]) for row in rows]) * unit
    return play.raw(scores, play.positions(refits).std(0))


def _sparse_fit(z: Tensor, worth: Tensor) -> Tensor:
    """Coefficients of the weighed lasso, [player]."""
    from sklearn.linear_model import Lasso

    near = z.mean(1).sqrt()  # the cosine of z and the vector of ones
    weights = (-((1 - near) ** 2) / 2).exp()
    model = Lasso(alpha=PENALTY).fit(z.numpy(), worth.numpy(), sample_weight=weights.numpy())
    return torch.from_numpy(model.coef_)


def _drawn_by_kernel(n: int, count: int, drawn: torch.Generator) -> Float[Tensor, "coalition player"]:
    """Coalitions of 1 to n - 1 players, a size k as often as 1 / (k (n - k)) says, [count n]."""
    sizes = torch.arange(1, n, dtype=torch.float64)
    chosen = torch.multinomial(1 / (sizes * (n - sizes)), count, replacement=True, generator=drawn) + 1
    ranks = torch.rand(count, n, generator=drawn).argsort(1).argsort(1)
    return (ranks < chosen[:, None]).double()
