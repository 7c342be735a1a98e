"""Explaining predictions by named attributes plus a low-rank rest, and scoring concept models.

ELUDE (Ramaswamy et al. 2022): first a sparse linear model from labelled attributes to the model's
own predictions, then a low-rank linear map of the features for what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.errors import ConfigError, ShapeError
from interp.core.finite import check_finite
from interp.core.frames.quantity import called, measured
from interp.core.randomness import generator
from interp.core.result import Result
from interp.probing.rows import check_rows, encode, on_host, require_classes
from interp.probing.splits import split_rows

NEVER = -30.0
"""Logit of a class that has no training row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EludeResult(Result, headline="Do the attributes explain the predictions?"):
    """Predictions explained by attributes, and by attributes plus a low-rank rest."""

    attributes_only: Float[Tensor, ""] = called("attributes alone")
    """Share of test predictions that the attributes alone give."""
    with_rest: Float[Tensor, "rank"] = measured(
        "predictions explained",
        "share",
        "attributes and rest say what the model says",
        signed=False,
        along="rank",
        axis_title="rank of the rest",
        null=("attributes_only", "majority"),
    )
    """Share of test predictions that the attributes give with a rest of each rank."""
    majority: Float[Tensor, ""] = called("most frequent class")
    """Share of test predictions that the most frequent class gives."""
    weight: Float[Tensor, "class attribute"]
    """L1 weights of the standardised attributes."""
    directions: Float[Tensor, "rest d"]
    """Orthonormal directions of the smallest rest, in standardised features."""
    rest: Float[Tensor, "row rest"]
    """Every row along them: rows at the ends show what the attributes miss."""


def elude(
    attributes: Float[Tensor, "n a"],
    rows: Float[Tensor, "n d"],
    predictions: Int[Tensor, "n"],
    *,
    names: Sequence[str] | None = None,
    ranks: tuple[int, ...] = (1, 2, 4),
    strength: float = 0.1,
    steps: int = 400,
    seed: int = 0,
) -> EludeResult:
    """How much of a model's predictions named attributes explain, and what rank the rest has.

    Args:
        attributes: Labelled attributes, [n, a].
        rows: The model's features, [n, d].
        predictions: The class the model predicts for each row (not the true one).
        names: Of the attributes.
        ranks: Ranks of the rest to try, ascending.
        strength: C of the L1 penalty on the attributes.
        steps: Optimizer steps of each rank.
        seed: Of split and training.

    Raises:
        ShapeError, NonFiniteError: Rows that do not fit or are not finite.
        ConfigError: The model predicts one class only, or a rank below 1.
    """
    from sklearn.linear_model import LogisticRegression

    a = check_rows(attributes, "the attributes").double()
    x = check_rows(rows, "the features").float()
    if len(a) != len(x):
        raise ShapeError("attributes and features have other rows", got=len(a), expected=len(x))
    if not ranks or min(ranks) < 1:
        raise ConfigError("ranks of the rest", got=ranks, expected="1 or more")
    target = encode("prediction", predictions, len(x))
    cut = split_rows(len(x), 0.3, seed)
    require_classes(target[cut.train], "the training rows")
    centre, spread = a[cut.train].mean(0), a[cut.train].std(0, correction=0)
    a = (a - centre) / torch.where(spread > 1e-9, spread, 1.0)
    middle, width = x[cut.train].mean(0), x[cut.train].std(0, correction=0)
    x = (x - middle) / torch.where(width > 1e-7, width, 1.0)
    classes = len(target.classes)
    model = LogisticRegression(
        C=strength, l1_ratio=1, solver="saga", max_iter=2000, tol=1e-3, random_state=seed
    )
    model.fit(a[cut.train].numpy(), target[cut.train].values.numpy())
    weight = torch.zeros(classes, a.shape[1], dtype=torch.float64)
    bias = torch.full((classes,), NEVER, dtype=torch.float64)  # no training row: never guessed
    present = torch.from_numpy(model.classes_).long()
    found, free = torch.as_tensor(model.coef_), torch.as_tensor(model.intercept_)
    if len(present) == 2:  # one logit, of the later class
        bias[present[0]] = 0
        present = present[1:]
    weight[present], bias[present] = found.double(), free.double()
    told = (a @ weight.T + bias).float()
    right = target.values[cut.test]
    rest = [_rest(x, told, target.values, cut.train, rank, steps, seed) for rank in ranks]
    shares = [((told + x @ w)[cut.test].argmax(-1) == right).double().mean() for w in rest]
    most = target.values[cut.train].bincount(minlength=classes).argmax()
    directions = torch.linalg.svd(rest[0].double(), full_matrices=False).U[:, : ranks[0]].T
    return EludeResult(
        attributes_only=(told[cut.test].argmax(-1) == right).double().mean(),
        with_rest=torch.stack(shares),
        majority=(right == most).double().mean(),
        weight=weight,
        directions=directions,
        rest=x.double() @ directions.T,
        labels={
            "rank": list(map(str, ranks)),
            "class": list(target.classes),
            "attribute": list(names) if names is not None else [str(i) for i in range(a.shape[1])],
        },
    )


def _rest(
    x: Tensor, told: Tensor, labels: Tensor, rows: Tensor, rank: int, steps: int, seed: int
) -> Float[Tensor, "d c"]:
    """A map of this rank at most, trained on top of what the attributes say."""
    classes, d = told.shape[1], x.shape[1]
    draw = generator(seed, "elude", rank)
    rank = min(rank, classes, d)
    down = nn.Linear(d, rank, bias=False)
    up = nn.Linear(rank, classes)
    rest = nn.Sequential(down, up)
    with torch.no_grad():
        down.weight.copy_(torch.randn(rank, d, generator=draw) / d**0.5)
        up.weight.copy_(0.1 * torch.randn(classes, rank, generator=draw))
        up.bias.zero_()

    def batches(t: int) -> Tensor:
        return rows[torch.randint(len(rows), (256,), generator=generator(seed, "elude batch", t))]

    def step(module: nn.Module, batch: Tensor, t: int) -> Tensor:
        return nn.functional.cross_entropy(told[batch] + module(x[batch]), labels[batch])

    schedule = FitConfig(
        steps=steps,
        lr=0.02,
        lr_schedule="cosine",
        optimizer="adamw",
        weight_decay=1e-2,
        seed=seed,
        log_every=steps,
    )
    fit(rest, step, batches, schedule)
    return (up.weight @ down.weight).detach().T


def score_concept_agreement(weight: Float[Tensor, "c a"], truth: Float[Tensor, "c a"]) -> Float[Tensor, "c"]:
    """Per class, the cosine of a model's concept weights with the true class-concept matrix (CGIM).

    0 where either row is zero.
    """
    weight, truth = on_host(weight), on_host(truth)
    check_finite(weight, "concept weights")
    check_finite(truth, "the true matrix")
    if weight.shape != truth.shape:
        raise ShapeError("class by concept", got=tuple(weight.shape), expected=tuple(truth.shape))
    return nn.functional.cosine_similarity(weight.double(), truth.double(), dim=1)


def score_concept_existence(
    contribution: Float[Tensor, "n a"], present: Float[Tensor, "n a"], k: int = 3
) -> float:
    """Of the k concepts that contribute most to each prediction, the share that is there (CEM).

    Raises:
        ShapeError: Presence of another shape, no rows, or k above the number of concepts.
        NonFiniteError: NaN or infinity in a contribution.
    """
    contribution, present = check_rows(contribution, "the contributions of concepts"), on_host(present)
    if contribution.shape != present.shape or not 1 <= k <= contribution.shape[1]:
        raise ShapeError(
            "contributions and presence of concepts",
            got=f"{tuple(contribution.shape)}, k = {k}",
            expected=f"{tuple(present.shape)}",
        )
    top = contribution.topk(k, dim=1).indices
    return float(present.bool().gather(1, top).double().mean())


def score_concept_location(
    maps: Float[Tensor, "n h w"], masks: Float[Tensor, "n h w"], quantile: float = 0.9
) -> tuple[float, float]:
    """Mean IoU of each map's top share with its part's mask, and the pointing accuracy (CLM).

    Args:
        maps: Activation of a concept over the picture.
        masks: 1 where the part is.
        quantile: The part of the picture below this quantile of the map counts as off.

    Raises:
        ShapeError: Masks of another shape, or no pictures.
        NonFiniteError: NaN or infinity in a map.
    """
    maps, masks = on_host(maps), on_host(masks)
    check_finite(maps, "concept maps")
    if maps.shape != masks.shape or 0 in maps.shape:
        raise ShapeError("maps and masks", got=tuple(maps.shape), expected=tuple(masks.shape))
    flat, part = maps.double().flatten(1), masks.flatten(1) > 0.5
    on = flat >= flat.quantile(quantile, dim=1, keepdim=True)
    union = (on | part).sum(1).clamp(min=1)
    iou = ((on & part).sum(1) / union).mean()
    pointing = part.gather(1, flat.argmax(1, keepdim=True)).double().mean()
    return float(iou), float(pointing)
