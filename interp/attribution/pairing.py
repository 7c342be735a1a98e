"""Pairs: which token of one text makes it similar to which token of another.

Moeller, Nikolaev, Pado 2023 (EMNLP) and 2024 (EACL). With integrated Jacobians J over the straight
path from a reference r to a text's activations, and G = J (x - r) per token [dim pos],

    A = G_a^T G_b / (|e(a)| |e(b)|),   sum A = f(a,b) - f(r,b) - f(a,r) + f(r,r)  exactly.

Only G is needed, never J: one forward-mode product per token gives it, where the reference code
takes one backward pass per embedding dimension. All tangents of a node share its forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp.attribution.attributing import position_names
from interp.attribution.baselines import baseline as baseline_of
from interp.attribution.config import PairConfig
from interp.attribution.game import Rows, SiteGame, frozen
from interp.attribution.paths import integrate
from interp.attribution.result import PairAttribution
from interp.attribution.targets import Target
from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.models.hooked import HookedModel

Embed = Callable[[Any], Tensor]
"""The model's output -> embeddings [batch dim]."""

SHARE = 0.4
"""Each tower is refined until its part of the gap is this share of what is tolerated."""
LOOSE = 0.05
"""The whole vector, not only what the sum sees of it, may miss 1 / LOOSE times as much."""


def attribute_pair(
    model: HookedModel,
    a: Any,
    b: Any,
    *,
    at: str | None = None,
    reference: Any = "pad",
    model_b: HookedModel | None = None,
    embed: Embed | None = None,
    config: PairConfig | None = None,
    **options: Any,
) -> PairAttribution:
    """Attribute the similarity of two inputs to pairs of their tokens.

    Args:
        model: The encoder of `a`, and of `b` unless `model_b` is given.
        a, b: Texts, or whatever the encoders read, one example each.
        at: Site in both towers; the input of the last block but one by default.
        reference: What both are compared with: "pad", "mask", "unk" (that token between the
            special ones), "zero", "mean", or a tensor; see `baselines`.
        embed: From output to embeddings, in place of the config's pooling.
        config: Bounds, pooling, similarity; `options` change single fields of it.

    Raises:
        ConfigError: An unknown option.
        ShapeError: Embeddings of different widths.
        ModelError: An embedding that is zero has no cosine.
    """
    settings = replace(config or PairConfig(), **options)
    pool = embed or pooled(settings.pooling)
    towers = [
        Tower(one, inputs, at, reference, pool)
        for one, inputs in ((model, a), (model_b or model, b))
    ]
    e_a, e_b = (tower.ends[1] for tower in towers)
    r_a, r_b = (tower.ends[0] for tower in towers)
    if e_a.shape != e_b.shape:
        raise ShapeError("both towers must embed into one space",
                         got=f"{e_a.numel()} and {e_b.numel()} dimensions")  # fmt: skip
    norm = float(e_a.norm() * e_b.norm()) if settings.similarity == "cosine" else 1.0
    if not norm:
        raise ModelError("an embedding of length zero has no cosine", fix="similarity='dot'")
    terms = [float(u @ v) / norm for u, v in ((e_a, e_b), (r_a, e_b), (e_a, r_b), (r_a, r_b))]
    halves = [
        tower.integrated(other, settings)
        for tower, other in zip(towers, (e_b - r_b, e_a - r_a), strict=True)
    ]
    scores = halves[0].slopes.T @ halves[1].slopes / norm
    explained = terms[0] - terms[1] - terms[2] + terms[3]
    return PairAttribution(
        scores=scores,
        tokens_a=tuple(position_names(towers[0].game)),
        tokens_b=tuple(position_names(towers[1].game)),
        site=towers[0].game.at,
        similarity=settings.similarity,
        reference=towers[0].reference,
        f_ab=terms[0],
        f_rb=terms[1],
        f_ar=terms[2],
        f_rr=terms[3],
        gap=abs(float(scores.double().sum()) - explained),
        tolerance=settings.tolerance,
        converged=all(half.converged for half in halves),
        nodes=(halves[0].nodes, halves[1].nodes),
        provenance=model.provenance([towers[0].game.at]),
    )


def attribute_pairs(
    model: HookedModel, pairs: Sequence[tuple[Any, Any]], **options: Any
) -> list[PairAttribution]:
    """`attribute_pair` for every pair; options as there."""
    return [attribute_pair(model, a, b, **options) for a, b in pairs]


@dataclass(frozen=True)
class Half:
    """One tower's part."""

    slopes: Float[Tensor, "dim pos"]
    """G = integrated Jacobian times (x - r), per token; columns sum to e(x) - e(r)."""
    nodes: int
    """Nodes taken."""
    converged: bool
    """Whether the bound was met."""


class Tower:
    """One encoder on one input, as a function of one site: e(x)."""

    def __init__(
        self, model: HookedModel, inputs: Any, at: str | None, reference: Any, pool: Embed
    ) -> None:
        rows = Rows(model, inputs)
        site = at or default_pair_site(model)
        self.pool = pool
        self.game = SiteGame(model, rows, Target("embedding", pool), site)
        self.game.r, self.reference = baseline_of(self.game, reference, [])
        if self.game.where != "pos" or self.game.x.dim() != 3:
            raise ConfigError("pairs are attributed at sites [batch pos d]",
                              got=f"{site}: {model.sites.shape(site)}")  # fmt: skip
        with torch.no_grad():
            self.ends = self.embed(torch.cat([self.game.r, self.game.x])).double()

    def embed(self, x: Tensor) -> Tensor:
        """e of every row, [n pos d] -> [n dim]."""

        def replaced(value: Tensor, hook: Any) -> Tensor:
            return x

        game = self.game
        out = game.model.run_with_hooks(game.rows.times(len(x)), [(game.at, replaced)])
        found = self.pool(out)
        if not isinstance(found, Tensor) or found.dim() != 2:
            raise ShapeError(
                "an encoder gives one embedding per row",
                expected="[batch dim]",
                fix="pooling='mean', 'first' or 'none', or embed=function",
            )
        return found

    def integrated(self, other: Tensor, config: PairConfig) -> Half:
        """G, refined until its columns sum to e(x) - e(r) as the other tower sees it.

        `other` [dim] is the other tower's e(x) - e(r): the sum over pairs is a product with it. The
        vector itself is held to a looser bound, so that single scores are right as well.
        """
        game = self.game
        start, delta = game.r, game.x - game.r
        move = self.ends[1] - self.ends[0]
        explained = float(move @ other) or 1e-30
        length = float(move.norm()) or 1e-30

        def seen(part: Tensor) -> Tensor:
            total = part.double()
            sums = total.sum(-1) if total.dim() > 1 else total
            return torch.cat([(sums @ other)[None] / explained, LOOSE * sums / length])

        def along(at: Tensor) -> Tensor:
            return start + at.to(delta.device, delta.dtype).view(-1, 1, 1) * delta

        def slopes(at: Tensor) -> Tensor:
            step = max(1, config.rows // game.n_positions)
            return torch.cat([self._tangents(along(part), delta[0]) for part in at.split(step)])

        def reached(at: Tensor) -> Tensor:
            with torch.no_grad():
                parts = along(at).split(config.rows)
                return torch.stack([seen(e) for part in parts for e in self.embed(part)])

        # Digits that the embeddings have, against what the sum makes of them.
        eps = torch.finfo(game.x.dtype).eps
        floor = 4 * eps * float(self.ends.norm() * other.norm()) / abs(explained)
        bound = max(SHARE * config.tolerance, floor)
        with frozen(game.model):
            found = integrate(slopes, reached, seen, bound, config.max_nodes)
        return Half(found.value, found.nodes, found.converged)

    def _tangents(self, points: Tensor, delta: Tensor) -> Tensor:
        """d e / d x_t (x_t - r_t) at every point and token: [n pos d] -> [n dim pos]."""
        n = len(points)
        one_token = torch.eye(len(delta), dtype=delta.dtype, device=delta.device)
        tangents = (one_token[:, None, :, None] * delta).expand(-1, n, -1, -1)
        # torch's fused attention has no forward-mode derivative; its plain formula has.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            found = vmap(lambda t: jvp(self.embed, (points,), (t,))[1])(tangents)
        return found.permute(1, 2, 0)


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
    if pooling not in ways:
        raise ConfigError("unknown pooling", got=pooling, expected=", ".join(ways))
    return ways[pooling]


def default_pair_site(model: HookedModel) -> str:
    """The input of the last block but one: tokens know their context, the rest is smooth."""
    for layer in (model.cfg.n_layers - 2, 0):
        name = f"blocks.{max(layer, 0)}.hook_resid_pre"
        if name in model.sites:
            return name
    return "hook_in"
