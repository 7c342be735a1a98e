"""Faithfulness by perturbation: remove what a method calls important, and see what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.attribution.attributing import make_game
from interp.attribution.baselines import baseline as baseline_of
from interp.attribution.config import AttributionConfig, TrustConfig
from interp.attribution.game import Rows, SiteGame
from interp.attribution.methods.table import engine_of
from interp.attribution.result import Attribution
from interp.attribution.trust.bootstrap import bootstrap_interval
from interp.attribution.trust.result import Faithfulness
from interp.core.errors import ConfigError, ShapeError
from interp.core.randomness import generator
from interp.core.settings import check_flags
from interp.models.hooked import HookedModel
from interp.models.stream.spelling import as_target

ERASER = (0.05, 0.1, 0.2, 0.5)
"""Fractions of comprehensiveness and sufficiency (DeYoung et al. 2020), at least one position."""
RANDOM = "random"


def faithfulness(
    model: HookedModel,
    inputs: Sequence[Any],
    target: Any,
    found: Mapping[str, Sequence[Attribution]],
    *,
    site: str | None = None,
    baseline: Any = "zero",
    sensitivity: bool = False,
    config: TrustConfig | None = None,
) -> Faithfulness:
    """Judge attributions of the same examples by what the model does without their leaders.

    A method `random` (a random order of the same positions) is added as the control.

    Args:
        inputs: The examples.
        target: One target for all, or a list with one each.
        found: Method -> its Attribution of every example.
        at, baseline: As in `attribute`; what removing a position means.
        sensitivity: Also measure how scores move under tiny noise: `samples` more runs a method.

    Raises:
        ShapeError: Not one attribution per example.
    """
    check_flags(sensitivity=sensitivity)
    config = config or TrustConfig()
    if not found or any(len(rows) != len(inputs) for rows in found.values()) or not inputs:
        raise ShapeError(
            "faithfulness needs one attribution per example and method",
            got={k: len(v) for k, v in found.items()},
            expected=len(inputs),
        )
    targets = target if isinstance(target, list) else [target] * len(inputs)
    judged = []
    for e, (one, aim) in enumerate(zip(inputs, targets, strict=True)):
        rows = Rows(model, one)
        goal = as_target(model, aim, lambda rows=rows: _output(model, rows))
        game = make_game(model, rows, goal, site, AttributionConfig())
        game.r, _ = baseline_of(game, baseline, None)
        mine = {name: found[name][e] for name in found}
        judged.append(_judge(game, mine, config, e, sensitivity))
    return pool_faithfulness(judged, config)


def pool_faithfulness(judged: Sequence[Faithfulness], config: TrustConfig | None = None) -> Faithfulness:
    """The mean of judgements of one example each, as `faithfulness` of all of them gives it.

    Args:
        judged: One result per example, of the same methods and steps.
        config: Resamples and confidence of the interval.

    Raises:
        ShapeError: None, one that is a mean already, or other methods or steps than the first's.
    """
    config = config or TrustConfig()
    kinds = {(one.n_examples, *map(tuple, one.labels.values())) for one in judged}
    if len(kinds) != 1 or judged[0].n_examples != 1:
        raise ShapeError(
            "judgements are pooled from single examples of the same methods and steps",
            got=f"{len(judged)} of {[one.n_examples for one in judged][:8]} examples, {len(kinds)} kinds",
        )
    stacked = {name: torch.stack([getattr(one, name) for one in judged]) for name in judged[0].axes}
    low, high = bootstrap_interval(stacked["insertion_area"] - stacked["deletion_area"], config)
    means = {name: values.mean(0) for name, values in stacked.items()}
    means |= {"fractions": judged[0].fractions, "area_low": low, "area_high": high}
    return replace(judged[0], **means, n_examples=len(judged))


def top_masks(scores: Tensor, fractions: Tensor) -> Tensor:
    """Which positions lead, [fraction pos]; at least one for a fraction above 0."""
    n = len(scores)
    order = scores.argsort(descending=True, stable=True)
    masks = torch.zeros(len(fractions), n)
    for i, fraction in enumerate(fractions.tolist()):
        count = min(n, max(int(fraction > 0), round(fraction * n)))
        masks[i, order[:count]] = 1.0
    return masks


def _judge(
    game: SiteGame, found: Mapping[str, Attribution], config: TrustConfig, e: int, sensitivity: bool
) -> Faithfulness:
    """Every measure for one example; one batch of coalitions for all methods."""
    if game.n_players != game.n_positions:
        raise ConfigError(
            "faithfulness removes whole positions", got=f"site={game.at!r}", fix="a site without heads"
        )
    fractions = torch.linspace(0, 1, config.steps + 1)
    scores = {name: one.scores for name, one in found.items()}
    scores[RANDOM] = torch.rand(game.n_positions, generator=generator(config.seed, "random order", e))
    points = torch.cat([fractions, torch.tensor(ERASER)])
    removed = (
        torch.rand(config.samples, game.n_players, generator=generator(config.seed, "infidelity", e)) < 0.3
    )
    value, base = game.ends()
    # What leads is what made f(x) - f(r): where that is negative, the lowest scores.
    sign = 1.0 if value >= base else -1.0
    wanted = []
    for one in scores.values():
        masks = top_masks(sign * one, points)
        wanted += [1 - masks, masks]
    every = torch.cat([*wanted, 1 - removed.float()])
    values = game.coalition(every).float()
    change = value - values[-config.samples :]
    values = (values[: -config.samples] - base) / _nonzero(value - base)
    grid = values.reshape(len(scores), 2, len(points))
    n = len(fractions)
    sums = torch.stack([removed.double() @ one.double() for one in scores.values()]).float()
    scale = (sums @ change) / sums.pow(2).sum(1).clamp(min=1e-12)
    missed = (scale[:, None] * sums - change).pow(2).mean(1) / change.pow(2).mean().clamp(min=1e-12)
    deletion, insertion = grid[:, 0, :n], grid[:, 1, :n]
    area = insertion.mean(-1) - deletion.mean(-1)
    moved = [_sensitivity(game, one, config, e) for one in found.values()] if sensitivity else []
    return Faithfulness(
        deletion=deletion,
        insertion=insertion,
        fractions=fractions,
        deletion_area=deletion.mean(-1),
        insertion_area=insertion.mean(-1),
        area_low=area,
        area_high=area,
        comprehensiveness=1 - grid[:, 0, n:].mean(-1),
        sufficiency=1 - grid[:, 1, n:].mean(-1),
        infidelity=missed,
        sensitivity=torch.tensor(moved + [torch.nan] * (len(scores) - len(moved))),
        n_examples=1,
        labels={"method": list(scores), "step": [f"{100 * f:.0f} %" for f in fractions.tolist()]},
        provenance=game.model.provenance([game.at]),
    )


def _sensitivity(game: SiteGame, one: Attribution, config: TrustConfig, e: int) -> float:
    """max |scores(x') - scores(x)| / |scores(x)| over noise of relative size `radius`."""
    engine, x = engine_of(one.method), game.x
    drawn = generator(config.seed, "sensitivity", e)
    worst = 0.0
    try:
        for _ in range(config.samples):
            noise = torch.rand(x.shape, generator=drawn).to(x) * 2 - 1
            game.x = x + config.radius * x.std() * noise
            raw = engine(game, AttributionConfig(tolerance=one.tolerance))
            moved = game.reduce(raw.entries)[0] if raw.entries is not None else raw.players
            if moved is not None:
                away = (moved - one.scores.to(moved)).norm() / one.scores.norm().clamp(min=1e-12)
                worst = max(worst, float(away))
    finally:
        game.x = x
    return worst


def _nonzero(number: float) -> float:
    return number if abs(number) > 1e-12 else 1e-12


def _output(model: HookedModel, rows: Rows) -> Any:
    with torch.no_grad():
        return model(rows.one)
