"""Which heads look alike: Jensen-Shannon distances, a map in two dimensions, layer-mates tested.

Clark et al. 2019, "What Does BERT Look At?", section 6 (arXiv 1906.04341).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.randomness import generator
from interp.core.result import Result
from interp.lenses.config import HeadAtlasConfig
from interp.lenses.heads.atlas import head_patterns, pattern_sites, token_rows
from interp.models.hooked import HookedModel


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadDistances(Result):
    """Distances between heads; `labels["head"]` names them, as `L3H2`."""

    distance: Float[Tensor, "head other"]
    """Mean Jensen-Shannon divergence over queries, nats, 0 to ln 2."""
    place: Float[Tensor, "head 2"]
    """A map whose distances are near those (metric multidimensional scaling)."""
    stress: float
    """Root of the map's squared error over the squared distances; 0 is exact."""
    layer: Int[Tensor, " head"]
    """The layer of each head."""
    order: Int[Tensor, " head"]
    """Heads in the order of an average-linkage tree: neighbours look alike."""
    within: float
    """Mean distance between heads of one layer."""
    between: float
    """Mean distance between heads of two layers."""
    p_value: float
    """Share of permutations of the layers with at least this difference between - within."""

    def check(self) -> Checks:
        """No head differs from itself."""
        worst = self.distance.diagonal().abs().max()
        return Checks([Check.at_most("distance to itself", worst, 1e-5)])


@torch.no_grad()
def compare_heads(
    model: HookedModel, inputs: Any, config: HeadAtlasConfig | None = None, *, n_permutations: int = 9_999
) -> HeadDistances:
    """Compare what all pairs of heads look at.

    Args:
        inputs: A text, texts, ids [batch pos] or a TokenBatch.
        config: How much of each text is read; the seed of the permutations.

    Raises:
        ModelError: The model offers no attention patterns.
        TokenError: No text of two tokens.
        ConfigError: Fewer than two heads, or no permutations.
    """
    config = config or HeadAtlasConfig()
    names = pattern_sites(model)
    n_heads = model.cfg.n_heads
    if len(names) * n_heads < 2 or n_permutations < 1:
        raise ConfigError("distances need two heads, and their test permutations")
    total, n_queries = torch.zeros(1), 0
    for row in token_rows(model, inputs, config):
        patterns = head_patterns(model, row, names)
        total = total + js_divergence(patterns).cpu() * len(row)
        n_queries += len(row)
    distance = total / n_queries
    layer = torch.arange(len(names)).repeat_interleave(n_heads)
    place, stress = scaled(distance)
    within, between, p_value = layer_test(distance, layer, n_permutations, config.seed)
    titles = [f"L{i}H{head}" for i in range(len(names)) for head in range(n_heads)]
    return HeadDistances(
        distance=distance,
        place=place,
        stress=stress,
        layer=layer,
        order=_tree_order(distance),
        within=within,
        between=between,
        p_value=p_value,
        labels={"head": titles, "other": titles},
        provenance=model.provenance(names),
    )


def js_divergence(patterns: Tensor) -> Tensor:
    """Mean over queries of the Jensen-Shannon divergence of every pair of heads, nats.

    JS(a, b) = H((a + b) / 2) - (H(a) + H(b)) / 2.

    Args:
        patterns: Distributions over keys, [head query key].

    Returns:
        [head head], symmetric, zero on the diagonal.
    """
    own = _entropy(patterns)
    rows = [
        (_entropy((patterns + one) / 2) - (own + entropy) / 2).mean(-1)
        for one, entropy in zip(patterns, own, strict=True)
    ]
    found = torch.stack(rows)
    return ((found + found.T) / 2).clamp(min=0).fill_diagonal_(0)


def scaled(distance: Tensor, steps: int = 500) -> tuple[Tensor, float]:
    """Metric multidimensional scaling to the plane: places [n 2] and stress.

    Starts from the classical solution and descends by Guttman transforms (SMACOF, de Leeuw 1977),
    so that the same distances always give the same map.
    """
    n = len(distance)
    wanted = distance.double()
    centre = torch.eye(n, dtype=torch.double) - 1 / n
    values, vectors = torch.linalg.eigh(-0.5 * centre @ wanted.square() @ centre)
    place = vectors[:, -2:].flip(-1) * values[-2:].flip(-1).clamp(min=0).sqrt()
    before = torch.inf
    for _ in range(steps):
        apart = torch.cdist(place, place)
        error = float((apart - wanted).square().sum())
        if before - error < 1e-9 * float(wanted.square().sum()):
            break
        before = error
        ratio = torch.where(apart > 1e-12, wanted / apart.clamp(min=1e-12), 0.0)
        place = (torch.diag(ratio.sum(-1)) - ratio) @ place / n
    apart = torch.cdist(place, place)
    size = wanted.square().sum().clamp(min=1e-30)
    stress = ((apart - wanted).square().sum() / size).sqrt()
    return place.float(), float(stress)


def layer_test(distance: Tensor, layer: Tensor, n_permutations: int, seed: int) -> tuple[float, float, float]:
    """(mean within a layer, mean between layers, p) of heads' distances.

    p = (1 + permutations whose between - within is at least the observed) / (1 + permutations).
    """
    n = len(layer)
    wide = distance.double().clone().fill_diagonal_(0)
    pairs = n * (n - 1)

    def means(of: Tensor) -> tuple[float, float]:
        mates = of[:, None] == of[None, :]
        count = int(mates.sum()) - n
        within = float(wide[mates].sum())
        total = float(wide.sum())
        return within / max(count, 1), (total - within) / max(pairs - count, 1)

    within, between = means(layer)
    source = generator(seed, "layers of heads")
    observed = between - within
    hits = 0
    for _ in range(n_permutations):
        inside, across = means(layer[torch.randperm(n, generator=source)])
        hits += across - inside >= observed - 1e-12
    return within, between, (1 + hits) / (1 + n_permutations)


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1)


def _tree_order(distance: Tensor) -> Tensor:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    condensed = squareform(distance.double().numpy(), checks=False)
    return torch.tensor(leaves_list(linkage(condensed, "average", optimal_ordering=True))).long()
