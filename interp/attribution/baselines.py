"""What "absent" means: the value that a position takes when it is switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp.attribution.game import SiteGame
from interp.attribution.players import IMAGE
from interp.core.errors import ConfigError, ShapeError

NAMED = ("zero", "mean", "pad", "mask", "unk")


def baseline(game: SiteGame, wanted: Any, keep: Sequence[int] | None) -> tuple[Tensor, str]:
    """The baseline of a game, [1, *shape], and its name as shown.

    Args:
        wanted: "zero"; "mean" of this input's own positions, or of each
            channel's pixels; "pad", "mask" or "unk": the site's
            value where every token is that special one; another text or ids of the same length;
            a tensor that broadcasts to the site.
        keep: Positions that stay as they are; None keeps BOS, CLS and SEP.

    Raises:
        ConfigError: An unknown name, a token that the tokenizer does not have, or a position that
            the input does not have.
        ShapeError: Another length, or a tensor that does not fit.
    """
    value, name = _value(game, wanted)
    kept = list(special_positions(game) if keep is None else keep)
    if not kept:
        return value, name
    n = game.who.n_places
    for position in kept:
        if not isinstance(position, int) or not -n <= position < n:
            raise ConfigError(
                "no such position to keep", got=position, expected=f"{-n} to {n - 1}, whole numbers"
            )
    mask = torch.zeros(n, dtype=torch.bool, device=value.device)
    mask[kept] = True
    about = "special tokens kept" if game.who.where else "some kept"
    return torch.where(mask[game.who.places], game.x, value), f"{name}, {about}"


def special_positions(game: SiteGame) -> list[int]:
    """Positions of tokens that belong to the model's format and not to the text."""
    ids = game.rows.ids
    tokenizer = game.model.tokenizer
    if ids is None or tokenizer is None or len(ids) != game.who.n_places or not game.who.where:
        return []
    special = {tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id}
    ends = {tokenizer.eos_token_id} if ids[-1] == tokenizer.eos_token_id else set()
    return [i for i, token in enumerate(ids.tolist()) if token in (special | ends) - {None}]


def _value(game: SiteGame, wanted: Any) -> tuple[Tensor, str]:
    x = game.x
    if isinstance(wanted, Tensor) and wanted.is_floating_point():
        try:
            return wanted.to(x.device, x.dtype).expand(x.shape), "given"
        except RuntimeError:
            try:
                return wanted.to(x.device, x.dtype).reshape(x.shape), "given"
            except RuntimeError:
                raise ShapeError(
                    f"the baseline does not fit {game.at!r}", got=list(wanted.shape), expected=list(x.shape)
                ) from None
    if isinstance(wanted, str) and wanted == "zero":
        return torch.zeros_like(x), "zero"
    if isinstance(wanted, str) and wanted == "mean":
        if game.who.where:
            axis = 1 + game.who.axes.index(game.who.where)
            return x.mean(axis, keepdim=True).expand(x.shape), "mean of positions"
        if game.who.axes[-2:] == IMAGE[1:]:
            return x.mean((-2, -1), keepdim=True).expand(x.shape), "mean of pixels"
        return x.mean().expand(x.shape), "mean of entries"
    if isinstance(wanted, str) and wanted in NAMED:
        return _of_token(game, wanted)
    if isinstance(wanted, str | Tensor):
        return _of_input(game, wanted)
    raise ConfigError(
        "cannot read this as a baseline",
        got=repr(wanted)[:80],
        expected=f"{', '.join(NAMED)}, another text, ids, or a tensor",
    )


def _of_token(game: SiteGame, name: str) -> tuple[Tensor, str]:
    ids, tokenizer = game.rows.ids, game.model.tokenizer
    token = getattr(tokenizer, f"{name}_token_id", None)
    if ids is None or token is None:
        raise ConfigError(f"this model has no {name} token", got=name, fix="baseline='zero' or 'mean'")
    replaced = ids.clone()
    kept = special_positions(game)
    replaced[:] = token
    replaced[kept] = ids[kept]
    return _captured(game, replaced), f"{name} token"


def _of_input(game: SiteGame, other: str | Tensor) -> tuple[Tensor, str]:
    ids = game.rows.ids
    if ids is None:
        raise ShapeError("this model does not read tokens", fix="give the baseline as a tensor")
    found = next(iter(game.model.read(other)))
    if len(found) != len(ids):
        raise ShapeError(
            "a baseline text needs as many tokens as the input",
            got=f"{len(found)} tokens",
            expected=f"{len(ids)} tokens",
            fix="name one of: " + ", ".join(NAMED),
        )
    return _captured(game, found.to(ids.device)), "other text"


def _captured(game: SiteGame, ids: Tensor) -> Tensor:
    value = game.model.capture(game.rows.with_ids(ids), [game.at])[game.at].detach()
    return value.reshape(game.x.shape)
