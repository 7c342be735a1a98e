"""Pairs: which token of one text makes it similar to which token of another.

Moeller, Nikolaev, Pado 2023 (EMNLP) and 2024 (EACL). With integrated Jacobians J over the straight
path from a reference r to a text's activations, and G = J (x - r) per token [dim pos],

    A = G_a^T G_b / (|e(a)| |e(b)|),   sum A = f(a,b) - f(r,b) - f(a,r) + f(r,r)  exactly.

How G is found: `towers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interp.attribution.attributing import numbered, position_names
from interp.attribution.budget import pair_rows_within
from interp.attribution.config import PairConfig
from interp.attribution.result import PairAttribution
from interp.attribution.rows import Rows
from interp.attribution.settings import pair_asked_for
from interp.attribution.towers import Embed, Tower, default_pair_site, pooled
from interp.core.errors import ModelError, ShapeError
from interp.models.hooked import HookedModel


def attribute_pair(
    model: HookedModel,
    a: Any,
    b: Any,
    *,
    site: str | None = None,
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
        site: Site in both towers; the input of the last block but one by default.
        reference: What both are compared with: "pad", "mask", "unk" (that token between the
            special ones), "zero", "mean", or a tensor; see `baselines`.
        embed: From output to embeddings, in place of the config's pooling.
        config: Bounds, pooling, similarity; `options` change single fields of it.

    Raises:
        ConfigError: An unknown option.
        ShapeError: Embeddings of different widths.
        ModelError: An embedding that is zero has no cosine.
        MemoryBudgetError: One tangent takes more memory than is free, said before any goes.
    """
    settings = (config or PairConfig()).changed(options, "attribute_pair")
    pool = embed or pooled(settings.pooling)
    sides = [(one, Rows(one, inputs)) for one, inputs in ((model, a), (model_b or model, b))]
    sites = [site or default_pair_site(one) for one, _ in sides]
    # of both before either runs
    fit = [pair_rows_within(one, rows, at, settings) for (one, rows), at in zip(sides, sites, strict=True)]
    towers = [Tower(*side, at, reference, pool) for side, at in zip(sides, sites, strict=True)]
    e_a, e_b = (tower.ends[1] for tower in towers)
    r_a, r_b = (tower.ends[0] for tower in towers)
    if e_a.shape != e_b.shape:
        raise ShapeError(
            "both towers must embed into one space", got=f"{e_a.numel()} and {e_b.numel()} dimensions"
        )
    norm = float(e_a.norm() * e_b.norm()) if settings.similarity == "cosine" else 1.0
    if not norm:
        raise ModelError("an embedding of length zero has no cosine", fix="similarity='dot'")
    terms = [float(u @ v) / norm for u, v in ((e_a, e_b), (r_a, e_b), (e_a, r_b), (r_a, r_b))]
    halves = [
        tower.integrated(other, settings, at_once)
        for tower, other, at_once in zip(towers, (e_b - r_b, e_a - r_a), fit, strict=True)
    ]
    left, right = (half.slopes for half in halves)
    scores = left.T @ right.to(left.device) / norm
    explained = terms[0] - terms[1] - terms[2] + terms[3]
    asked, given = pair_asked_for(reference, settings, {"embed": embed, "model_b": model_b})
    pieces = [position_names(tower.game) for tower in towers]
    return PairAttribution(
        scores=scores,
        tokens_a=tuple(pieces[0]),
        tokens_b=tuple(pieces[1]),
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
        asked=asked,
        given_reference=given,
        labels={"pos_a": numbered(pieces[0]), "pos_b": numbered(pieces[1])},
        provenance=model.provenance([towers[0].game.at]),
    )


def attribute_pairs(
    model: HookedModel, pairs: Sequence[tuple[Any, Any]], **options: Any
) -> list[PairAttribution]:
    """`attribute_pair` for every pair; options as there."""
    return [attribute_pair(model, a, b, **options) for a, b in pairs]
