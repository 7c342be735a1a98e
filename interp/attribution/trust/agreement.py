"""Agreement between methods: rankings, leading positions and signs, with bootstrap intervals.

Neely et al. 2022 ("A Song of (Dis)agreement"): agreement is no validity test. A matrix tells which
methods are one, and that the choice of a baseline moves scores more than the choice of a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from interp.attribution.config import TrustConfig
from interp.attribution.methods.table import METHODS
from interp.attribution.result import Attribution
from interp.attribution.trust.bootstrap import bootstrap_interval
from interp.attribution.trust.result import Agreement
from interp.core.errors import ConfigError, ShapeError
from interp.core.foreign import show

SAME = 0.9
"""Methods whose mean tau reaches this are one cluster."""


def compare_methods(
    found: Mapping[str, Sequence[Attribution | Tensor]], config: TrustConfig | None = None
) -> Agreement:
    """How far methods agree over the same examples.

    Args:
        found: Name -> one Attribution, or scores [pos], per example; examples in the same order.

    Raises:
        ShapeError: Methods with different numbers of examples or positions, or of other tokens.
        ConfigError: Attributions under one name that were not made alike.
    """
    config = config or TrustConfig()
    for name, rows in found.items():
        _check_one_way(name, rows)
    names = [_named(name, rows) for name, rows in found.items()]
    scores = [[_scores(row) for row in rows] for rows in found.values()]
    sizes = {tuple(len(s) for s in rows) for rows in scores}
    if len(sizes) != 1 or not sizes or not next(iter(sizes)):
        raise ShapeError(
            "methods are compared on the same examples",
            got=f"{[len(r) for r in scores]} examples",
            expected="the same examples, in the same order, for every method",
        )
    _check_same_tokens(found)
    signed = [_is_signed(name, rows) for name, rows in found.items()]
    n, n_examples = len(names), len(scores[0])
    taus = torch.zeros(n_examples, n, n)
    tops, signs, rbos = torch.zeros_like(taus), torch.zeros_like(taus), torch.zeros_like(taus)
    for e in range(n_examples):
        rows = torch.stack([scores[m][e] for m in range(n)])
        both = torch.tensor([[a and b for b in signed] for a in signed])
        taus[e] = torch.where(both, kendall_tau(rows), kendall_tau(rows.abs()))
        tops[e] = top_overlap(rows.abs(), config.top_k)
        signs[e] = (rows[:, None].sign() == rows[None].sign()).float().mean(-1)
        signs[e][~both] = torch.nan
        rbos[e] = rank_biased_overlap(rows.abs(), config.persistence)
    low, high = bootstrap_interval(taus, config)
    mean = taus.mean(0)
    return Agreement(
        kendall=mean,
        kendall_low=low,
        kendall_high=high,
        top_k=tops.mean(0),
        sign=signs.mean(0),
        rbo=rbos.mean(0),
        k=config.top_k,
        n_examples=n_examples,
        clusters=_clusters(mean, names),
        labels={"method": names, "other": names},
    )


def kendall_tau(rows: Tensor) -> Tensor:
    """Kendall's tau-b between all rows, [method pos] -> [method method]; 0 for constant rows."""
    i, j = torch.triu_indices(rows.shape[1], rows.shape[1], offset=1)
    order = (rows[:, i] - rows[:, j]).sign().double()
    length = order.pow(2).sum(1).sqrt().clamp(min=1e-12)
    return ((order @ order.T) / length[:, None] / length[None]).float()


def top_overlap(rows: Tensor, k: int) -> Tensor:
    """Jaccard overlap of the k largest, [method pos] -> [method method]."""
    k = min(k, rows.shape[1])
    chosen = torch.zeros_like(rows).scatter_(1, rows.topk(k).indices, 1.0)
    both = chosen @ chosen.T
    return (both / (2 * k - both)).float()


def rank_biased_overlap(rows: Tensor, p: float) -> Tensor:
    """Extrapolated rank-biased overlap (Webber et al. 2010, eq. 32, same length).

    RBO_ext = A_n p^n + (1 - p) / p sum_{d=1..n} A_d p^d, where A_d is the overlap at depth d.
    """
    n = rows.shape[1]
    ranks = rows.argsort(dim=1, descending=True, stable=True)
    seen = torch.zeros_like(rows)
    total = torch.zeros(len(rows), len(rows))
    agreed = torch.zeros_like(total)
    for depth in range(n):
        seen = seen.scatter(1, ranks[:, depth : depth + 1], 1.0)
        agreed = (seen @ seen.T).float() / (depth + 1)
        total = total + agreed * p ** (depth + 1)
    return agreed * p**n + (1 - p) / p * total


def _check_one_way(name: str, rows: Sequence[Attribution | Tensor]) -> None:
    """Refuse a mean over examples of scores that were made in different ways."""
    ways = []
    for one in (row for row in rows if isinstance(row, Attribution)):
        config = {} if one.asked is None else one.asked["config"]
        told = {k: v for k, v in config.items() if k not in ("rows", "seed")}  # no part of the method
        way = {"method": one.method, "site": one.site, "baseline": one.baseline.partition(",")[0], **told}
        if way not in ways:
            ways.append(way)
    if len(ways) > 1:
        differ = [k for k in {**ways[0], **ways[1]} if ways[0].get(k) != ways[1].get(k)]
        raise ConfigError(
            f"{name!r} holds attributions that were not made alike",
            got="; ".join(f"{k}: {ways[0].get(k)} and {ways[1].get(k)}" for k in differ),
            fix="a name for each way of making them",
        )


def _check_same_tokens(found: Mapping[str, Sequence[Attribution | Tensor]]) -> None:
    for e, each in enumerate(zip(*found.values(), strict=True)):
        read = {one.tokens for one in each if isinstance(one, Attribution)}
        if len(read) > 1:
            raise ShapeError(
                f"example {e} is not the same for every method",
                got="; ".join(show(" ".join(tokens), 80) for tokens in sorted(read)),
                expected="the same examples, in the same order, for every method",
            )


def _named(name: str, rows: Sequence[Attribution | Tensor]) -> str:
    """The baseline belongs to the name: it matters as much as the method."""
    first = rows[0] if rows else None
    if not isinstance(first, Attribution) or first.baseline.partition(",")[0] in name:
        return name
    return f"{name} ({first.baseline.partition(',')[0]})"


def _scores(row: Attribution | Tensor) -> Tensor:
    return (row.scores if isinstance(row, Attribution) else row).detach().cpu().double()


def _is_signed(name: str, rows: Sequence[Attribution | Tensor]) -> bool:
    first = rows[0]
    method = first.method if isinstance(first, Attribution) else name
    if method in METHODS:
        return METHODS[method].signed
    return any(bool((_scores(row) < 0).any()) for row in rows)


def _clusters(tau: Tensor, names: list[str]) -> tuple[tuple[str, ...], ...]:
    if len(names) < 2:
        return (tuple(names),)
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = (1 - (tau + tau.T) / 2).clamp(min=0).double().numpy()
    np.fill_diagonal(distance, 0.0)
    groups = fcluster(linkage(squareform(distance, checks=False), "average"), 1 - SAME, "distance")
    found = [tuple(n for n, g in zip(names, groups, strict=True) if g == i) for i in set(groups)]
    return tuple(sorted(found, key=lambda c: (-len(c), c)))
