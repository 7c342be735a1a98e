"""One encoder on one input, as a function of one site, and its integrated Jacobian.

Only G = J (x - r) per token is needed, never J: one forward-mode product per token gives it, where
the reference code takes one backward pass per embedding dimension. All tangents of a node share its
forward pass, and nodes are dear: their rule is chosen on a probe of the path (`smooth`), which
costs a forward pass a point; paths that are not smooth are cut into panels. Layers before the site
run on one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp.attribution.baselines import baseline as baseline_of
from interp.attribution.config import PairConfig
from interp.attribution.game import SiteGame, frozen
from interp.attribution.methods.paths import integrate
from interp.attribution.methods.smooth import rules
from interp.attribution.rows import Rows
from interp.core.errors import ConfigError, ShapeError, SiteError
from interp.core.settings import check_choice
from interp.models.hooked import HookedModel
from interp.models.stream.target import Target

Embed = Callable[[Any], Tensor]
"""The model's output -> embeddings [batch dim]."""

SHARE = 0.4
"""Each tower is refined until its part of the gap is this share of what is tolerated."""
LOOSE = 0.008
"""The vector G sums to may miss this share of its length at most, so that scores are right, too."""


@dataclass(frozen=True)
class Half:
    """One tower's part."""

    slopes: Float[Tensor, "dim pos"]
    """G = integrated Jacobian times (x - r), per token; columns sum to e(x) - e(r)."""
    nodes: int
    """Number of nodes taken."""
    converged: bool
    """Whether the bound was met."""


@dataclass(frozen=True)
class Bounds:
    """What a sum of G may miss, as the other tower sees it."""

    move: Float[Tensor, " dim"]
    """e(x) - e(r), which the columns of G sum to."""
    other: Float[Tensor, " dim"]
    """Integrated gradients of the other tower: the sum over pairs is a product with them."""
    along: float
    """Tolerated along `other`, relative to the four-term difference."""
    across: float
    """Tolerated in any direction, relative to the length of `move`."""

    @staticmethod
    def of(ends: Tensor, other: Tensor, tolerance: float, eps: float) -> Bounds:
        """Bounds that leave the sum over pairs within `tolerance`; `ends` are e(r) and e(x)."""
        move = ends[1] - ends[0]
        lengths = float(move.norm() * other.norm()) or 1e-30
        explained = abs(float(move @ other)) or 1e-30
        # Digits that the embeddings have, against what the sum makes of them.
        floor = 4 * eps * float(ends.norm() * other.norm()) / explained
        # The product of both towers' errors has no share in SHARE: it gets the rest.
        product = math.sqrt((1 - 2 * SHARE) * tolerance * explained / lengths)
        return Bounds(move, other, max(SHARE * tolerance, floor), max(min(LOOSE, product), floor))

    def misses(self, sums: Tensor) -> Tensor:
        """`sums` [... dim] in units of what is tolerated, [... 1 + dim]; linear."""
        explained = float(self.move @ self.other) or 1e-30
        length = float(self.move.norm()) or 1e-30
        sums = sums.double()
        return torch.cat(
            [(sums @ self.other)[..., None] / (explained * self.along), sums / (length * self.across)], -1
        )

    @staticmethod
    def size(missed: Tensor) -> float:
        """Of a miss [1 + dim]: at most 1 is tolerated."""
        return max(abs(float(missed[0])), float(missed[1:].norm()))

    def worst(self, sums: Tensor) -> float:
        """How far `sums` [dim] is from `move`: at most 1 is tolerated."""
        return self.size(self.misses(sums) - self.misses(self.move))


class Tower:
    """One encoder on one input, as a function of one site: e(x)."""

    def __init__(self, model: HookedModel, rows: Rows, site: str, reference: Any, pool: Embed) -> None:
        self.pool = pool
        self.game: SiteGame = SiteGame(model, rows, Target("embedding", pool), site)
        self.reference: str
        self.game.r, self.reference = baseline_of(self.game, reference, [])
        if self.game.who.where != "pos" or self.game.x.dim() != 3:
            raise ConfigError(
                "pairs are attributed at sites [batch pos d]", got=f"{site}: {model.sites.shape(site)}"
            )
        self.short: bool = can_start(self.game)
        with torch.no_grad():
            # On the host, as whatever is searched and bounded here: small vectors, read one by one.
            self.ends: Tensor = self.embed(torch.cat([self.game.r, self.game.x])).double().cpu()

    def embed(self, x: Tensor) -> Tensor:
        """e of every row, [n pos d] -> [n dim]."""

        def replaced(value: Tensor, hook: Any) -> Tensor:
            return x

        game = self.game
        if self.short:
            out = game.model.run_from(game.at, x, game.rows.one)
        else:
            out = game.model.run_with_hooks(game.rows.times(len(x)), [(game.at, replaced)])
        found = self.pool(out)
        if not isinstance(found, Tensor) or found.dim() != 2:
            raise ShapeError(
                "an encoder gives one embedding per row",
                expected="[batch dim]",
                fix="pooling='mean', 'first' or 'none', or embed=function",
            )
        return found

    def integrated(self, other: Tensor, config: PairConfig, at_once: int) -> Half:
        """G, refined until its columns sum to e(x) - e(r) as the other tower sees it.

        `other` [dim] is the other tower's e(x) - e(r). The vector itself is held to a looser bound.
        `at_once` tangents go through the model together.
        """
        game = self.game
        bounds = Bounds.of(self.ends, other, config.tolerance, torch.finfo(game.x.dtype).eps)

        def along(at: Tensor) -> Tensor:
            return game.r + at.to(game.x).view(-1, 1, 1) * (game.x - game.r)

        def slopes(at: Tensor) -> Tensor:
            step = max(1, at_once // game.who.n_places)
            delta = (game.x - game.r)[0]
            return torch.cat([self._tangents(along(part), delta, at_once) for part in at.split(step)])

        def reached(at: Tensor) -> Tensor:
            with torch.no_grad():
                return torch.cat([self.embed(along(part)) for part in at.split(at_once)]).cpu()

        with frozen(game.model):
            used = 0
            tried = rules(reached, bounds.misses, bounds.size, bounds.across, config.max_nodes)
            for rule in tried:
                if used + len(rule.at) > config.max_nodes:
                    break
                found = torch.tensordot(rule.weights.to(game.x), slopes(rule.at), 1)
                used += len(rule.at)
                if bounds.worst(found.double().sum(-1).cpu()) <= 1:
                    return Half(found, used, True)
            panels = integrate(
                slopes,
                lambda at: bounds.misses(reached(at)),
                lambda part: bounds.misses(part.double().sum(-1).cpu()),
                1.0,
                config.max_nodes,
            )
        return Half(panels.value, used + panels.nodes, panels.converged)

    def _tangents(self, points: Tensor, delta: Tensor, rows: int) -> Tensor:
        """d e / d x_t (x_t - r_t) at every point and token, `rows` at once: [n pos d] -> [n dim pos]."""
        n = len(points)
        one_token = torch.eye(len(delta), dtype=delta.dtype, device=delta.device)
        tangents = (one_token[:, None, :, None] * delta).expand(-1, n, -1, -1)
        # torch's fused attention has no forward-mode derivative; its plain formula has.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            at_once = max(1, rows // n)
            found = vmap(lambda t: jvp(self.embed, (points,), (t,))[1], chunk_size=at_once)(tangents)
        return found.permute(1, 2, 0)


def can_start(game: SiteGame) -> bool:
    """Whether the model can be run from the site on: tried on two rows, not assumed."""
    x = torch.cat([game.r, game.x])
    with torch.no_grad():
        whole = game.model.run_with_hooks(game.rows.times(2), [(game.at, lambda v, hook: x)])
        try:
            short = game.model.run_from(game.at, x, game.rows.one)
        except (SiteError, RuntimeError, TypeError, ValueError, IndexError):
            return False  # no place to start, or a module behind it insists on the input's batch
    if not isinstance(short, Tensor) or short.shape != whole.shape:
        return False
    eps = torch.finfo(whole.dtype).eps
    return bool((short - whole).norm() <= eps**0.75 * whole.norm())


def pooled(pooling: str) -> Embed:
    """From an encoder's output to embeddings: "mean" over positions, the "first", or "none".

    Raises:
        ConfigError: An unknown name.
    """
    ways: dict[str, Embed] = {
        "mean": lambda out: out.mean(1),
        "first": lambda out: out[:, 0],
        "none": lambda out: out,
    }
    check_choice("pooling", pooling, ways)
    return ways[pooling]


def default_pair_site(model: HookedModel) -> str:
    """The input of the last block but one: tokens know their context, the rest is smooth."""
    for layer in (model.cfg.n_layers - 2, 0):
        name = f"blocks.{max(layer, 0)}.hook_resid_pre"
        if name in model.sites:
            return name
    return "hook_in"
