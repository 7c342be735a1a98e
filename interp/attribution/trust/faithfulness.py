"""Faithfulness by perturbation: remove what a method calls important, and see what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.attribution.attributing import keyed, make_game, method_game, position_names, set_baseline
from interp.attribution.config import AttributionConfig, TrustConfig
from interp.attribution.game import SiteGame
from interp.attribution.methods.gradients import rounding
from interp.attribution.methods.table import engine_of
from interp.attribution.result import Attribution
from interp.attribution.rows import Rows
from interp.attribution.trust.bootstrap import bootstrap_interval, weighed_mean
from interp.attribution.trust.result import Faithfulness
from interp.core.errors import ConfigError, ShapeError
from interp.core.foreign import show
from interp.core.randomness import generator
from interp.core.settings import check_flags
from interp.models.hooked import HookedModel
from interp.models.text.forms import is_text

ERASER = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Bins of comprehensiveness and sufficiency (DeYoung et al. 2020), at least one position each."""
RANDOM = "random"
SHARES = (
    "insertion deletion insertion_area deletion_area comprehensiveness sufficiency".split()  # of f(x) - f(r)
)


def measure_faithfulness(
    model: HookedModel,
    inputs: Sequence[Any],
    target: Any,
    found: Mapping[str, Sequence[Attribution]],
    *,
    site: str | None = None,
    baseline: Any = None,
    sensitivity: bool = False,
    config: TrustConfig | None = None,
) -> Faithfulness:
    """Judge attributions of the same examples by what the model does without their leaders.

    A method `random` (a random order of the same positions) is added as the control.

    Args:
        inputs: The examples.
        target: One target for all, or a list with one each.
        found: Method -> its Attribution of every example.
        site, baseline: Where positions are removed and what that means, as in `attribute`; None takes
            what the attributions themselves were made with.
        sensitivity: Also measure how scores move under tiny noise, each method run again by its own
            settings: `samples` more runs a method.

    Raises:
        ShapeError: Not one attribution per example, or one of another input.
        ConfigError: Attributions that were made with several sites or baselines, or that do not say
            what made them, where the arguments leave that to them.
    """
    check_flags(sensitivity=sensitivity)
    config = config or TrustConfig()
    if not found or any(len(rows) != len(inputs) for rows in found.values()) or not inputs:
        raise ShapeError(
            "faithfulness needs one attribution per example and method",
            got={k: len(v) for k, v in found.items()},
            expected=len(inputs),
        )
    if sensitivity:
        _check_settings_kept({f"{name} {e}": one for name in found for e, one in enumerate(found[name])})
    targets = target if isinstance(target, list) else [target] * len(inputs)
    judged = []
    for e, (one, aim) in enumerate(zip(inputs, targets, strict=True)):
        mine = {name: found[name][e] for name in found}
        where, absent, keep = removal(mine, site, baseline)
        told = {each.asked["prepend_bos"] for each in mine.values() if each.asked is not None}
        rows = Rows(model, one, *(told if len(told) == 1 and is_text(one) else ()))
        game = make_game(model, rows, aim, where, *players(mine))
        _check_same_input(game, mine, e)
        set_baseline(game, absent, keep)
        moved = [_sensitivity(game, each, config, e) for each in mine.values()] if sensitivity else []
        judged.append(_judge(game, mine, config, e, moved))
    return pool_faithfulness(judged, config)


def removal(found: Mapping[str, Attribution], site: str | None, baseline: Any) -> tuple[str, Any, Any]:
    """Site, baseline and kept positions by which attributions of one example are judged.

    Raises:
        ConfigError: They were not made alike, or do not say how, and nobody else says it.
    """
    sites = sorted({one.site for one in found.values()})
    if site is None and len(sites) > 1:
        raise ConfigError(
            "these attributions were made at several sites", got=", ".join(sites), fix=f"site={sites[0]!r}"
        )
    where = sites[0] if site is None else site
    if baseline is not None:
        return where, baseline, None
    _check_settings_kept(found)
    name, first = next(iter(found.items()))
    for other, one in found.items():
        if not _same_absence(first, one):
            raise ConfigError(
                "these attributions were made with several baselines",
                got=f"{name}: {first.baseline}; {other}: {one.baseline}",
                fix="baseline='zero', or another one, says what removing a position means",
            )
    told = first.settings
    return where, told["baseline"], told["keep"]


def players(found: Mapping[str, Attribution]) -> tuple[AttributionConfig, Any]:
    """Units and feature mask by which attributions of one example are judged: those they were made with.

    Raises:
        ConfigError: They do not score the same units.
    """
    told = [{} if one.asked is None else one.settings for one in found.values()]
    configs = [each.get("config", AttributionConfig()) for each in told]
    masks = [each.get("feature_mask") for each in told]
    kinds = [
        (c.units, c.patch, None if m is None else m.tolist()) for c, m in zip(configs, masks, strict=True)
    ]
    if any(kind != kinds[0] for kind in kinds):
        raise ConfigError(
            "these attributions score different units",
            got=", ".join(f"{name}: {one.units}" for name, one in found.items()),
            fix="the same units, patch and feature_mask for all",
        )
    return AttributionConfig(units=configs[0].units, patch=configs[0].patch), masks[0]


def pool_faithfulness(judged: Sequence[Faithfulness], config: TrustConfig | None = None) -> Faithfulness:
    """Judgements of one example each as one, as `measure_faithfulness` of all of them gives it.

    Args:
        judged: One result per example, of the same methods and steps.
        config: Resamples and confidence of the interval.

    Raises:
        ShapeError: None, one that is a mean already, or other methods or steps than the first's.
        ConfigError: One that was saved before it said what its shares are shares of.
    """
    config = config or TrustConfig()
    kinds = {(one.n_examples, *map(tuple, one.labels.values())) for one in judged}
    if len(kinds) != 1 or judged[0].n_examples != 1:
        raise ShapeError(
            "judgements are pooled from single examples of the same methods and steps",
            got=f"{len(judged)} of {[one.n_examples for one in judged][:8]} examples, {len(kinds)} kinds",
        )
    told = [(one.difference, one.perturbed) for one in judged]
    if any(None in each for each in told):
        raise ConfigError(
            "a judgement does not say what its shares are shares of: it was saved before that was kept",
            fix="measure_faithfulness(...) of that example again",
        )
    difference, perturbed = torch.tensor(told, dtype=torch.float64).T
    means: dict[str, Any] = {}
    for name in judged[0].axes:
        values = torch.stack([getattr(one, name) for one in judged])
        if name in SHARES:
            means[name] = weighed_mean(values, difference)
        elif name == "infidelity":
            means[name] = weighed_mean(values, perturbed)
        else:
            means[name] = values.nanmean(0) if name == "sensitivity" else values.mean(0)
    area = torch.stack([one.insertion_area - one.deletion_area for one in judged])
    low, high = bootstrap_interval(area, config, difference)
    return replace(
        judged[0],
        **{**means, "fractions": judged[0].fractions, "area_low": low, "area_high": high},
        n_examples=len(judged),
        difference=float(difference.mean()),
        perturbed=float(perturbed.mean()),
        n_vanishing=sum(one.n_vanishing for one in judged),
    )


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
    game: SiteGame, found: Mapping[str, Attribution], config: TrustConfig, e: int, moved: Sequence[float]
) -> Faithfulness:
    """Every measure for one example; one batch of coalitions for all methods."""
    if game.who.n != game.who.n_scores:
        raise ConfigError(
            "faithfulness removes whole positions", got=f"site={game.at!r}", fix="a site without heads"
        )
    n, fractions = config.steps + 1, torch.linspace(0, 1, config.steps + 1)
    points = torch.cat([fractions, torch.tensor(ERASER)])
    scores = {name: one.scores.cpu() for name, one in found.items()}
    scores[RANDOM] = torch.rand(game.who.n_scores, generator=generator(config.seed, "random order", e))
    removed = torch.rand(config.samples, game.who.n, generator=generator(config.seed, "infidelity", e)) < 0.3
    value, base = game.ends()
    floor = rounding(game, value, base)
    vanishes = abs(value - base) <= floor
    # What leads is what made f(x) - f(r): where that is negative, the lowest scores. The paper's
    # figures go by the scores as they are.
    orders = (1.0 if value >= base else -1.0, 1.0)
    leading = torch.stack(
        [torch.stack([top_masks(sign * one, points) for sign in orders]) for one in scores.values()]
    )
    wanted = torch.stack([1 - leading, leading], 2)  # [method order without|only point pos]
    every = torch.cat([wanted.flatten(0, 3), 1 - removed.float()])
    different, back = every.unique(dim=0, return_inverse=True)
    values = game.coalition(different).cpu()[back]
    change = value - values[-config.samples :]
    left = values[: -config.samples].view(wanted.shape[:-1])
    shares = ((left[:, 0] - base) / (torch.nan if vanishes else value - base)).float()
    losses = (value - left[:, 1, :, n:].mean(-1)).float()
    deletion, insertion = shares[:, 0, :n], shares[:, 1, :n]
    return Faithfulness(
        deletion=deletion,
        insertion=insertion,
        fractions=fractions,
        deletion_area=deletion.mean(-1),
        insertion_area=insertion.mean(-1),
        comprehensiveness=1 - shares[:, 0, n:].mean(-1),
        sufficiency=1 - shares[:, 1, n:].mean(-1),
        eraser_comprehensiveness=losses[:, 0],
        eraser_sufficiency=losses[:, 1],
        infidelity=_infidelity(list(scores.values()), removed, change, floor),
        sensitivity=torch.tensor([*moved, *[torch.nan] * (len(scores) - len(moved))]),
        n_examples=1,
        difference=0.0 if vanishes else abs(value - base),
        perturbed=float(change.pow(2).mean()),
        n_vanishing=int(vanishes),
        labels={"method": list(scores), "step": [f"{100 * f:.0f} %" for f in fractions.tolist()]},
        provenance=game.model.provenance([game.at]),
    )


def _infidelity(scores: Sequence[Tensor], removed: Tensor, change: Tensor, floor: float) -> Tensor:
    """What each method misses of the change of f, as a share of it; NaN where nothing changes."""
    energy = change.pow(2).mean()
    if float(energy) <= floor**2:
        return torch.full((len(scores),), torch.nan)
    sums = torch.stack([removed.double() @ one.double() for one in scores])
    scale = (sums @ change) / sums.pow(2).sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    return ((scale[:, None] * sums - change).pow(2).mean(1) / energy).float()


def _sensitivity(judge: SiteGame, one: Attribution, config: TrustConfig, e: int) -> float:
    """max |scores(x') - scores(x)| / |scores(x)| over noise of relative size `radius`.

    The method runs again by its own settings, at its own site; NaN where all its scores are 0.
    """
    told, size = one.settings, float(one.scores.double().norm())
    if not size:
        return torch.nan
    game = method_game(
        judge.model, judge.rows, judge.target, one.method, one.site, told["config"], told.get("feature_mask")
    )
    begin, engine, worst = game.path or game, engine_of(one.method), 0.0
    x, drawn = begin.x, generator(config.seed, "sensitivity", e)
    for _ in range(config.samples):
        noise = torch.rand(x.shape, generator=drawn).to(x) * 2 - 1
        begin.x = x + config.radius * x.std() * noise
        set_baseline(game, told["baseline"], told["keep"])  # kept positions keep what they hold now
        moved, _ = keyed(game, engine(game, told["config"]), one.method)
        worst = max(worst, float((moved.double() - one.scores.to(moved).double()).norm()) / size)
    return worst


def _check_settings_kept(found: Mapping[str, Attribution]) -> None:
    silent = [name for name, one in found.items() if one.asked is None]
    if silent:
        raise ConfigError(
            "attributions that were saved before their settings were kept do not say what made them",
            got=show(", ".join(silent), 200),
            fix="attribute again; or baseline='zero' (what removing a position means) and no sensitivity",
        )


def _same_absence(a: Attribution, b: Attribution) -> bool:
    """Whether two attributions mean the same by an absent position."""
    if a.asked is None or b.asked is None:
        return a.asked is b.asked
    if any(a.asked[key] != b.asked[key] for key in ("baseline", "keep")):
        return False
    one, other = a.given_baseline, b.given_baseline
    return one is other or (one is not None and other is not None and one.equal(other))


def _check_same_input(game: SiteGame, found: Mapping[str, Attribution], e: int) -> None:
    """Refuse scores of another text, which would be read position by position all the same."""
    tokens = tuple(position_names(game))
    for name, one in found.items():
        if one.tokens != tokens:
            raise ShapeError(
                f"the attribution {name!r} of example {e} is not of this input",
                got=show(" ".join(one.tokens), 80),
                expected=show(" ".join(tokens), 80),
            )
