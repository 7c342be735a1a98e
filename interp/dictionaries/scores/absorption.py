"""Feature absorption: a concept's latent falls silent where a more special latent is on.

Chanin et al. 2024, "A is for Absorption" (arXiv 2409.14507), scored by SAEBench's two formulas
(arXiv 2503.09532): full absorption by one latent, and the mean absorption fraction. Deviations: the
latents of a concept are chosen greedily by the F1 of their joint firing (there: a sparse logistic
probe), the probe is the linear discriminant (both are deterministic and need no training loop), and
a latent's projection is its activation times its decoder row's, whatever the row's norm (there:
times the cosine, which is the same for rows of norm 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from interp.core.errors import ConfigError, ShapeError
from interp.core.protocols import Coder
from interp.core.randomness import permutation
from interp.dictionaries.result import Absorption
from interp.dictionaries.scores.config import AbsorptionConfig

CANDIDATES = 32
"""Latents that the greedy choice looks at: the best detectors by themselves."""
N_NAMED = 5
"""Absorbers that the result names."""


@torch.no_grad()
def score_absorption(
    dictionary: Coder,
    rows: Float[Tensor, "row d_in"],
    concepts: Mapping[str, Tensor],
    config: AbsorptionConfig | None = None,
    *,
    directions: Tensor | None = None,
) -> Absorption:
    """How often each concept's own latents are silent although it is there, and who stands in.

    Half of the rows choose the probe and the latents, the other half measures.

    Args:
        dictionary: An SAE (its decoder rows and the concept's direction share a space).
        rows: Activations.
        concepts: Name -> which rows have it, bool [row]; both halves need rows with and without.
        config: Thresholds.
        directions: Known directions [concept d_in], in the order of `concepts`; by default probes.

    Raises:
        ConfigError: No concept, or one that all or no rows have.
        ShapeError: Labels or directions that do not fit the rows.
    """
    config = config or AbsorptionConfig()
    _check(dictionary, rows, concepts, directions)
    weight = dictionary.W_dec
    rows = rows.to(weight)
    order = permutation(len(rows), 0, "absorption halves")
    fitted, measured = order[: len(order) // 2], order[len(order) // 2 :]
    latents = torch.cat([dictionary.encode(block).cpu() for block in rows.split(4096)])
    rows, decoder = rows.float().cpu(), weight.detach().float().cpu()
    moments = _Moments.of(rows[fitted], config.ridge)
    found = []
    for i, (name, has) in enumerate(concepts.items()):
        has = has.cpu()
        for half in (fitted, measured):
            if not 0 < int(has[half].sum()) < len(half):
                raise ConfigError(
                    f"all or none of the rows have {name!r}", got=f"{int(has.sum())} of {len(has)}"
                )
        way = moments.probe(rows[fitted], has[fitted]) if directions is None else directions[i]
        way = F.normalize(way.float().cpu(), dim=0)
        cut = _best_cut(rows[fitted] @ way, has[fitted])
        main = _main_latents(latents[fitted] != 0, has[fitted], config)
        positive = has[measured] & (rows[measured] @ way > cut)
        firing = (latents[measured][:, list(main)] != 0).any(1)
        scores = _f1(rows[measured] @ way > cut, has[measured]), _f1(firing, has[measured])
        z, along = latents[measured][positive].float(), (rows[measured] @ way)[positive]
        found.append((main, *scores, *_absorbed(z, along, decoder, way, main, config)))
    main, probe_f1, latent_f1, rate, fraction, absorbers = zip(*found, strict=True)
    return Absorption(
        rate=torch.tensor(rate),
        fraction=torch.tensor(fraction),
        probe_f1=torch.tensor(probe_f1),
        latent_f1=torch.tensor(latent_f1),
        n_main=torch.tensor([len(m) for m in main]),
        main=main,
        absorbers=absorbers,
        n_rows=len(measured),
        labels={"concept": list(concepts)},
    )


def _check(
    dictionary: Coder, rows: Tensor, concepts: Mapping[str, Tensor], directions: Tensor | None
) -> None:
    """Refuse shapes that contradict each other."""
    if not concepts:
        raise ConfigError("absorption needs concepts", fix="{name: bool tensor [row]}")
    if rows.ndim != 2 or rows.shape[1] != dictionary.W_dec.shape[1]:
        raise ShapeError(
            "rows are not of the dictionary's space",
            got=list(rows.shape),
            expected=f"[row, {dictionary.W_dec.shape[1]}]",
        )
    for name, has in concepts.items():
        if has.dtype != torch.bool or tuple(has.shape) != (len(rows),):
            raise ShapeError(
                f"labels of {name!r} do not fit",
                got=f"{has.dtype} {list(has.shape)}",
                expected=f"torch.bool [{len(rows)}]",
            )
    expected = (len(concepts), rows.shape[1])
    if directions is not None and tuple(directions.shape) != expected:
        raise ShapeError("directions do not fit", got=list(directions.shape), expected=expected)


class _Moments(NamedTuple):
    """What every concept's discriminant shares."""

    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, rows: Tensor, ridge: float) -> _Moments:
        """Mean and regularised inverse covariance, float64."""
        wide = rows.double()
        centred = wide - wide.mean(0)
        covariance = centred.T @ centred / len(rows)
        level = ridge * covariance.diagonal().mean().clamp_min(1e-12)
        covariance.diagonal().add_(level)
        return cls(wide.mean(0), torch.linalg.inv(covariance))

    def probe(self, rows: Tensor, has: Tensor) -> Tensor:
        """Linear discriminant (ridge regression on the label), [d]."""
        return self.inverse @ (rows[has].double().mean(0) - self.mean)


def _best_cut(score: Tensor, has: Tensor) -> float:
    """The threshold with the highest F1 on these rows."""
    ordered, index = score.sort(descending=True)
    hits = has[index].cumsum(0)
    n = torch.arange(1, len(score) + 1)
    best = int((2 * hits / (n + has.sum())).argmax())
    below = ordered[min(best + 1, len(ordered) - 1)]
    return float((ordered[best] + below) / 2)


def _f1(on: Tensor, has: Tensor) -> float:
    hits = float((on & has).sum())
    return 2 * hits / max(float(on.sum() + has.sum()), 1.0)


def _main_latents(
    on: Bool[Tensor, "row latent"], has: Bool[Tensor, " row"], config: AbsorptionConfig
) -> tuple[int, ...]:
    """Latents whose joint firing says the concept, taken while each adds `split_gain` of F1."""
    hits = on[has].sum(0)
    alone = 2 * hits / (on.sum(0) + has.sum())
    candidates = alone.topk(min(CANDIDATES, on.shape[1])).indices.tolist()
    chosen, union, best = [candidates[0]], on[:, candidates[0]], float(alone[candidates[0]])
    while len(chosen) < config.max_latents:
        gains = [(_f1(union | on[:, j], has) - best, -j) for j in candidates if j not in chosen]
        if not gains or max(gains)[0] < max(config.split_gain, 1e-9):
            break
        gain, j = max(gains)
        chosen, union, best = [*chosen, -j], union | on[:, -j], best + gain
    return tuple(chosen)


def _absorbed(
    z: Float[Tensor, "positive latent"],
    total: Float[Tensor, " positive"],
    decoder: Float[Tensor, "latent d"],
    way: Float[Tensor, " d"],
    main: tuple[int, ...],
    config: AbsorptionConfig,
) -> tuple[float, float, tuple[tuple[int, float], ...]]:
    """Rate, mean fraction and the absorbers over the true positives.

    Args:
        z: Their latents.
        total: Projection of the activations themselves on the concept.
        decoder, way: The decoder and the concept's unit direction.
        main: The concept's own latents.
        config: Thresholds.
    """
    if not len(z):
        return 0.0, 0.0, ()
    carried = z * (decoder @ way)  # each latent's part of the projection on the concept
    cosine = F.cosine_similarity(decoder, way[None], dim=1)
    strongest, who = carried.max(1)
    silent = (z[:, list(main)] == 0).all(1)
    carries = (total > 0) & (strongest >= config.min_share * total)
    absorbed = silent & carries & (cosine[who] >= config.min_cosine)
    share = torch.bincount(who[absorbed], minlength=len(decoder)).float() / len(z)
    top = [j for j in share.argsort(descending=True)[:N_NAMED].tolist() if share[j] > 0]
    named = tuple((j, float(share[j])) for j in top)
    fraction = _fractions(carried, total, cosine, main, config)
    return float(absorbed.float().mean()), float(fraction.mean()), named


def _fractions(
    carried: Float[Tensor, "positive latent"],
    total: Float[Tensor, " positive"],
    cosine: Float[Tensor, " latent"],
    main: tuple[int, ...],
    config: AbsorptionConfig,
) -> Float[Tensor, " positive"]:
    """SAEBench's absorption fraction: of what main latents leave of the projection, who makes it up.

    Nothing is absorbed where the main latents carry all of it, or the others too little of it;
    everything where the main latents carry nothing.
    """
    able = cosine >= config.min_fraction_cosine
    able[list(main)] = False
    others = carried.clamp_min(0) * able
    mass = others.topk(min(config.n_absorbers, others.shape[1]), 1).values.sum(1)
    own = carried[:, list(main)].sum(1)
    taken = torch.minimum(mass, total - own)
    fraction = torch.where(own > 0, taken / (taken + own).clamp_min(1e-30), 1.0)
    none = (total <= 0) | (own >= total) | (mass < config.min_share * total)
    return fraction.clamp(0, 1).masked_fill(none, 0.0)
