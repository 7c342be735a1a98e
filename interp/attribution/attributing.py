"""`attribute`: one input, one target, one site, any method; the gap always computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from interp.attribution.baselines import baseline as baseline_of
from interp.attribution.budget import rows_within
from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame
from interp.attribution.methods.gradients import rounding
from interp.attribution.methods.raw import Raw
from interp.attribution.methods.table import (
    READ_BY_ALL,
    WITHOUT_GRADIENTS,
    engine_of,
    method_row,
    refuse_unread,
)
from interp.attribution.result import Attribution, GeneratedAttribution
from interp.attribution.rows import Rows
from interp.attribution.settings import asked_for
from interp.core.errors import ConfigError, HookNotFired, InterpError, ModelError, out_of_memory
from interp.core.finite import check_finite
from interp.models.hooked import HookedModel
from interp.models.hooks.plan import refuse_inference
from interp.models.stream.blocks import last_output
from interp.models.stream.spelling import as_target
from interp.models.stream.target import token_log_prob


def attribute(
    model: HookedModel,
    inputs: Any,
    target: Any = None,
    *,
    method: str = "integrated_gradients",
    site: str | None = None,
    baseline: Any = "zero",
    keep: Sequence[int] | None = None,
    feature_mask: Any = None,
    config: AttributionConfig | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> Attribution:
    """Which positions (heads, neurons, latents) of one input made the target what it is.

    Args:
        model: Any model; the site decides what is attributed to.
        inputs: One example: text, ids [pos] or [1, pos], a dict of keyword arguments, a tensor.
        target: See `as_target`: a token, a pair of tokens (logit difference), a class index, a
            `Target` (loss, log-probability, a latent, any site), a function of the output.
        method: A name from `METHODS`.
        site: A site; the token embeddings by default, the input for models that read numbers.
        baseline: See `baselines.baseline`: "zero", "mean", "pad", another text, a tensor.
        keep: Positions (at sites without them, units) that the baseline leaves alone; None: BOS, CLS
            and SEP.
        feature_mask: Whole numbers that say which player each entry belongs to: a word, a sentence, a
            part of an image is one player, with one score, for every method. One number per position
            [pos], or a shape that broadcasts to the site's [1, *shape], as captum reads it. Methods by
            gradients sum within a player, methods that hide hide it whole; groups are neighbours of
            `occlusion` in the order of their numbers.
        config: Units, samples, memory; `options` change single fields of it.

    Raises:
        ConfigError: An unknown method or option, an option that the method does not read, or a
            method that does not fit the site.
        SiteError: No such site.
        ModelError: The target does not depend on the site.
        NonFiniteError: Scores that are not numbers.
        MemoryBudgetError: One row takes more memory than is free, said before any runs; with the size,
            its largest part, and what fits.
    """
    method_row(method)
    settings = (config or AttributionConfig()).changed(options, "attribute")
    refuse_unread([method], options)
    rows = Rows(model, inputs, prepend_bos)
    game = method_game(model, rows, target, method, site, settings, feature_mask)
    about = set_baseline(game, baseline, keep)
    asked, given = asked_for(baseline, keep, prepend_bos, settings, feature_mask)
    return replace(run(game, method, about, settings), asked=asked, given_baseline=given)


def attribute_methods(
    model: HookedModel, inputs: Any, target: Any, methods: Sequence[str], **options: Any
) -> dict[str, Attribution]:
    """`attribute` by several methods on the same input; method -> Attribution.

    Args:
        options: As for `attribute`; a field of its config goes to the methods that read it.

    Raises:
        ConfigError: As for `attribute`; an option that none of the methods reads.
    """
    fields = [name for name in options if name in vars(AttributionConfig())]
    refuse_unread(methods, fields)

    def one(method: str) -> Attribution:
        row = method_row(method)
        unread = [name for name in fields if name not in (*READ_BY_ALL, *row.reads)]
        read = {name: value for name, value in options.items() if name not in unread}
        return attribute(model, inputs, target, method=method, **read)

    return {name: one(name) for name in methods}


def make_game(
    model: HookedModel,
    rows: Rows,
    target: Any,
    at: str | None,
    config: AttributionConfig,
    feature_mask: Any = None,
    method: str = "occlusion",
) -> SiteGame:
    """The model as a function of one site, with as many rows at once as a method's memory allows.

    Args:
        target: As written, or a Target.

    Raises:
        MemoryBudgetError: One row does not fit; said before any runs.
    """
    if at is not None:
        (at,) = model.sites.resolve(at) if len(model.sites.resolve(at)) == 1 else (at,)
    at = at or default_site(model, rows)
    along = default_site(model, rows) if method_row(method).along_inputs else at
    at_once = rows_within(model, rows, target, along, method, config)
    aim = as_target(model, target, lambda: last_output(model, rows.one))
    game = SiteGame(model, rows, aim, at, config, feature_mask)
    game.batch = at_once
    return game


def method_game(
    model: HookedModel,
    rows: Rows,
    target: Any,
    method: str,
    at: str | None,
    config: AttributionConfig,
    feature_mask: Any = None,
) -> SiteGame:
    """The game of a method, with the path at the embeddings where the method runs one there."""
    game = make_game(model, rows, target, at, config, feature_mask, method)
    if method_row(method).along_inputs:  # units and groups are those of the site that is scored
        plain = replace(config, units=None, patch=None)
        game.path = make_game(model, rows, game.target, None, plain, method=method)
    return game


def keyed(game: SiteGame, raw: Raw, method: str) -> tuple[Tensor, Tensor | None]:
    """What an engine found as positions [pos], and units [pos unit].

    Raises:
        ModelError: It found nothing.
    """
    if raw.players is not None:
        return game.who.spread(raw.players)
    if raw.entries is None:
        raise ModelError(f"{method} gave no scores")
    return game.who.reduce(raw.entries)


def set_baseline(game: SiteGame, wanted: Any, keep: Sequence[int] | None) -> str:
    """Give a game, or the path that it runs along where it has one, its baseline; the baseline's name."""
    begin = game.path or game
    begin.r, about = baseline_of(begin, wanted, keep)
    return about


def default_site(model: HookedModel, rows: Rows | None = None) -> str:
    """The token embeddings where there are some, else the model's own input.

    Args:
        rows: The input; ids that a plain module reads lead to the embedding that looks them up.
    """
    for name in ("hook_embed", "encoder_hook_embed", "blocks.0.hook_resid_pre"):
        if name in model.sites:
            return name
    ids = None if rows is None else rows.ids
    if rows is not None and ids is not None:
        for path, module in model.module.named_modules():
            if isinstance(module, nn.Embedding) and path:
                try:
                    read = model.capture(rows.one, [f"{path}.hook_in"])[f"{path}.hook_in"]
                except HookNotFired:  # a table that this input does not reach
                    continue
                if read.shape == (1, len(ids)) and bool((read[0] == ids).all()):
                    return f"{path}.hook_out"
    return "hook_in"


def run(game: SiteGame, method: str, baseline: str, config: AttributionConfig) -> Attribution:
    """Run one engine on a game and key what it finds by position.

    Raises:
        MemoryBudgetError: Memory ran out on the way; names what takes less.
    """
    try:
        return _run(game, method, baseline, config)
    except InterpError:  # says already what it is; a budget's refusal is a MemoryError as well
        raise
    except (RuntimeError, MemoryError) as error:
        fewer = f"rows={config.rows // 2}, " if config.rows > 1 else ""
        refused = out_of_memory(error, method, f"{fewer}a shorter input, or a site further up")
        if refused is None:
            raise
        raise refused from error


def _run(game: SiteGame, method: str, baseline: str, config: AttributionConfig) -> Attribution:
    row, start = method_row(method), game.n_forward
    ends = game.ends() if game.path is None else game.path.ends()
    if method in WITHOUT_GRADIENTS:
        game.refuse_unmoved(*ends)
    else:
        refuse_inference("attributions by gradients")
    raw = engine_of(method)(game, config)
    scores, units = keyed(game, raw, method)
    check_finite(scores, f"the scores of {method}")
    value, base = ends
    pieces = position_names(game)
    gap = abs(float(scores.double().sum()) - (value - base))
    floor = rounding(game, value, base)
    bound = max(config.tolerance * abs(value - base), floor)
    return Attribution(
        scores=scores.detach(),
        unit_scores=None if units is None else units.detach(),
        standard_errors=None if raw.standard_errors is None else raw.standard_errors.to(scores.device),
        tokens=tuple(pieces),
        method=method,
        target=game.target.name,
        site=game.at,
        baseline=baseline,
        value=value,
        base_value=base,
        gap=gap,
        tolerance=config.tolerance,
        rounding=floor,
        complete=row.complete,
        converged=raw.error is None or (raw.error <= bound and (gap <= 2 * bound or not row.complete)),
        nodes=raw.nodes,
        n_forward=game.n_forward + (0 if game.path is None else game.path.n_forward) - start,
        units=game.who.each,
        image=game.who.image,
        labels={"pos": list(pieces) if game.who.names else numbered(pieces)},
        provenance=game.model.provenance([game.at]),
    )


def attribute_generated(
    model: HookedModel,
    inputs: Any,
    continuation: str | int = 10,
    *,
    method: str = "integrated_gradients",
    baseline: Any = "zero",
    prepend_bos: bool | None = None,
    **options: Any,
) -> GeneratedAttribution:
    """Which tokens every token of a continuation rests on: generated x position.

    Args:
        inputs: Text, or ids [pos].
        continuation: Text to follow the prompt, or how many tokens the model writes itself.
        method, baseline, options: As for `attribute`.

    Raises:
        ModelError: The model does not continue text.
    """
    for name in ("feature_mask", "units", "patch"):
        if options.get(name) is not None:
            raise ConfigError(
                f"{name} means nothing here: every token is attributed to a longer text than the one before",
                got=f"{name}=...",
                fix=f"leave {name} out; or attribute(model, text, target, {name}=...) of one token",
            )
    if not model.cfg.causal or not model.has_head:
        raise ModelError("only a causal language model continues text", got=model.cfg.model_name)
    ids = Rows(model, inputs, prepend_bos).ids
    if ids is None:
        raise ModelError("a continuation needs token inputs")
    whole = _continued(model, ids, continuation)
    found = []
    for place in range(len(ids), len(whole)):
        aim = token_log_prob(model, int(whole[place]), place - 1)
        found.append(attribute(model, whole[:place], aim, method=method, baseline=baseline, **options))
    scores = torch.zeros(len(found), len(whole), dtype=found[0].scores.dtype)
    for i, one in enumerate(found):
        scores[i, : len(one.scores)] = one.scores
    names = Rows(model, whole)
    pieces = tuple(_pieces(model, names.ids if names.ids is not None else whole))
    return GeneratedAttribution(
        scores=scores,
        gaps=torch.tensor([one.relative_gap for one in found]).clamp(max=1e9),
        tokens=pieces,
        generated=pieces[len(ids) :],
        method=method,
        baseline=found[0].baseline,
        log_probs=torch.tensor([one.value for one in found]),
        tolerance=found[0].tolerance,
        complete=found[0].complete,
        asked=None if found[0].asked is None else {**found[0].asked, "prepend_bos": prepend_bos},
        given_baseline=found[0].given_baseline,
        site=found[0].site,
        labels={"generated": numbered(pieces[len(ids) :], len(ids)), "pos": numbered(pieces)},
        provenance=found[0].provenance,
    )


def position_names(game: SiteGame) -> list[str]:
    """One name per score: token pieces (those of a group together), places of an image, or numbers."""
    ids, who = game.rows.ids, game.who
    if who.where and ids is not None and len(ids) == who.n_places:
        pieces, group = _pieces(game.model, ids), who.by_place()
        if who.each != "group":
            return pieces
        if group is not None:
            return [_joined(pieces, (group == i).nonzero()[:, 0].tolist()) for i in range(who.n)]
    return list(who.names) if who.names else [str(i) for i in range(who.n_scores)]


def _joined(pieces: Sequence[str], members: Sequence[int]) -> str:
    """The pieces of a group as text; what lies between them, and is not of it, is an ellipsis."""
    gaps = ["" if b == a + 1 else " … " for a, b in pairwise(members)]
    return "".join(gap + pieces[i] for gap, i in zip(["", *gaps], members, strict=True))


def numbered(pieces: Sequence[str], start: int = 0) -> list[str]:
    """`7 John`: equal tokens stay apart by their positions, counted from `start`."""
    return [f"{i} {piece}" for i, piece in enumerate(pieces, start)]


def _continued(model: HookedModel, ids: Tensor, continuation: str | int) -> Tensor:
    if isinstance(continuation, str):
        more = model.to_tokens(continuation, prepend_bos=False)[0]
        return torch.cat([ids, more.to(ids.device)])
    if continuation < 1:
        raise ConfigError("a continuation has at least one token", got=continuation)
    whole = model.generate(ids[None], continuation, return_ids=True)[0]
    if len(whole) <= len(ids):
        raise ModelError("the model ended its text at once", fix="give the continuation as text")
    return whole


def _pieces(model: HookedModel, ids: Tensor) -> list[str]:
    return list(map(str, ids.tolist())) if model.tokenizer is None else model.to_str_tokens(ids)
