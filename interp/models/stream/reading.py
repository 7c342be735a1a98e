"""A target at every position of a text: which logits it sums there, and the direction it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ModelError, TokenError
from interp.core.foreign import show
from interp.models.hooked import HookedModel
from interp.models.stream.blocks import row_blocks
from interp.models.stream.frozen import wide
from interp.models.stream.readout import linear_reading, uncapped
from interp.models.stream.spelling import as_target
from interp.models.stream.target import Target, is_token, is_weights, token_id


@dataclass(frozen=True)
class Reading:
    """A linear reading of the logits at some positions.

    Attributes:
        name: "logit", "logit difference" or "observable".
        targets: What is read at each position, as text.
        direction: What is read behind the final norm, [pos d_model].
        constant: What the unembedding's bias adds, [pos].
        total: The number before the soft cap, [pos].
        output: The number in the model's output, [pos].
        gap: Largest difference between the model's logits and this map's, soft cap included.
    """

    name: str
    targets: tuple[str, ...]
    direction: Tensor
    constant: Tensor
    total: Tensor
    output: Tensor
    gap: float


def read_head(model: HookedModel, normalized: Tensor, logits: Tensor, target: Any) -> Reading:
    """Make a reading of `logits` [pos d_vocab], the model's own, from `normalized` [pos d_model].

    Args:
        target: A spelling of `interp.models.stream.target`, or one token per position.

    Raises:
        ModelError: The head is not linear (up to a soft cap).
        ConfigError: A target that is no weighted sum of logits.
        TokenError: A target that is not one token of the vocabulary.
    """
    logits, cap = wide(logits), model.cfg.final_softcap
    name, targets, weights = _wanted(model, target, logits)
    direction, constant = linear_reading(model, weights, len(normalized), normalized.dtype)
    total = (normalized * direction).sum(-1) + constant
    output = (logits * weights).sum(-1)
    if cap:
        before = uncapped(model, normalized)
        after = (cap * torch.tanh(before / cap) - logits).abs().max()
        gap = torch.maximum(after, ((before * weights).sum(-1) - total).abs().max())
    else:
        gap = (total - output).abs().max()
        total = output
    scale = max(1.0, float(logits.abs().max()))
    loose = 1e-3 if model.cfg.dtype in ("float32", "float64") else 0.1
    if float(gap) > loose * scale:
        raise ModelError(
            f"the head of {model.cfg.model_name} is not a linear map of the final norm's output",
            got=f"a difference of {float(gap):.3g} in the logits",
            expected="an unembedding matrix, and at most a soft cap",
            fix="the logit lens reads such models row by row",
        )
    return Reading(name, targets, direction, constant, total, output, float(gap))


def read_in_blocks(
    model: HookedModel, normalized: Tensor, logits: Callable[[slice], Tensor], width: int, target: Any
) -> Reading:
    """`read_head` with the logits of some positions at a time.

    Args:
        normalized: Behind the final norm, [pos d_model].
        logits: The model's own at some of these positions, [n d_vocab].
        width: d_vocab.
        target: As for `read_head`.
    """
    n, columns, targets, gap, name = len(normalized), {}, [], 0.0, ""
    for rows in row_blocks(n, width):
        one = read_head(model, normalized[rows], logits(rows), _of_rows(target, rows, n))
        for column in ("direction", "constant", "total", "output"):
            part = getattr(one, column)
            if column not in columns:  # whole at once: what is kept between large blocks lets none go
                columns[column] = part.new_empty(n, *part.shape[1:])
            columns[column][rows] = part
        targets += one.targets
        gap, name = max(gap, one.gap), one.name
    return Reading(name=name, targets=tuple(targets), gap=gap, **columns)


def _of_rows(target: Any, rows: slice, n: int) -> Any:
    """A target for some of n positions: what names one token per position is cut.

    Raises:
        TokenError: Another number of tokens.
    """
    if target is None or isinstance(target, Target) or is_weights(target) or is_token(target):
        return target
    if isinstance(target, tuple):
        sides = len(target) == 2 and not _uniform(target)
        return tuple(_of_rows(side, rows, n) for side in target) if sides else target
    if not _counts(target) or not getattr(target, "ndim", 1):
        return target
    if len(target) != n:
        raise _not_one_each(len(target), n)
    return target[rows]


def _not_one_each(given: int, n: int) -> TokenError:
    return TokenError(
        "targets must be one token, or one id per position",
        got=f"{given} of them",
        expected=f"1 or {n}",
        fix="a pair of tokens is a tuple" if given == 2 else None,
    )


def followed(model: HookedModel, target: Any, logits: Tensor) -> Tensor:
    """The one token that a lens follows at each position of `logits` [pos d_vocab], [pos].

    Raises:
        ConfigError: A target that is not a token's logit at every position.
        TokenError: No single token, or not one per position.
    """
    if isinstance(target, Target):
        ids, coefficients = target.weights or (None, None)
        if (
            ids is None
            or coefficients is None
            or coefficients.tolist() != [1.0]
            or target.position is not None
        ):
            raise _follows_one(target.name)
        target = int(ids)
    if is_weights(target) or isinstance(target, tuple) or (callable(target) and not _counts(target)):
        raise _follows_one(target)
    return _per_position(model, target, logits)


def last_or_said(target: Any, position: int | None) -> int:
    """Where one number is read: where a Target says, else at `position`, else at the last."""
    said = place_of(target, position)
    return -1 if said is None else said


def place_of(target: Any, position: int | None) -> int | None:
    """Where a sum of logits is read: where a Target says, else at `position`.

    Raises:
        ConfigError: The two name different places.
    """
    if not isinstance(target, Target) or target.position is None:
        return position
    if position is not None and position != target.position:
        raise ConfigError(
            "the target and the argument name different positions",
            got=f"{target.name}, position {position}",
            fix="leave one of them out",
        )
    return target.position


def _follows_one(target: Any) -> ConfigError:
    return ConfigError(
        "a lens follows one token at every position",
        got=target if isinstance(target, str) else show(target, 80),
        expected="a token, or one token per position",
        fix="interp.direct_logit_attribution reads differences and weighted sums",
    )


def _counts(target: Any) -> bool:
    return isinstance(target, Tensor | Sequence) or is_token(target) or hasattr(target, "__array__")


def _wanted(model: HookedModel, target: Any, logits: Tensor) -> tuple[str, tuple[str, ...], Tensor]:
    """(name, what is read at each position, weights [pos d_vocab] or [d_vocab])."""
    if isinstance(target, Target) or is_weights(target) or (isinstance(target, tuple) and _uniform(target)):
        found = as_target(model, target, lambda: logits[None])
        weights = found.over_logits(logits.shape[-1]).to(logits)
        if is_weights(target):
            return "observable", ("observable",) * len(logits), weights
        return _named(model, found), (_shown(model, found),) * len(logits), weights
    if callable(target) and not _counts(target):
        raise ConfigError(
            "a function of the output is no weighted sum of logits",
            got=show(getattr(target, "__name__", target), 80),
            expected="a token, a pair of tokens (a tuple), float weights [d_vocab]",
            fix="interp.attribute takes functions",
        )
    sides = target if isinstance(target, tuple) and len(target) == 2 else (target,)
    ids = [_per_position(model, side, logits) for side in sides]
    weights = torch.zeros_like(logits)
    for sign, one in zip((1.0, -1.0), ids, strict=False):
        weights.scatter_add_(-1, one[:, None], torch.full_like(weights[:, :1], sign))
    rows = zip(*(one.tolist() for one in ids), strict=True)
    targets = tuple("−".join(_piece(model, i) for i in row) for row in rows)
    return "logit" if len(ids) == 1 else "logit difference", targets, weights


def _uniform(pair: tuple[Any, ...]) -> bool:
    """Whether a pair means the same at every position: no side is one id per position."""
    return len(pair) == 2 and not any(hasattr(side, "ndim") and side.ndim == 1 for side in pair)


def _named(model: HookedModel, target: Target) -> str:
    coefficients = [] if target.weights is None else target.weights[1].tolist()
    return {(1.0,): "logit", (1.0, -1.0): "logit difference"}.get(tuple(coefficients), "contrast")


def _shown(model: HookedModel, target: Target) -> str:
    """A contrast by its tokens, its sides apart."""
    if target.weights is None:
        return target.name
    ids, coefficients = target.weights
    sides = ["+".join(_piece(model, int(i)) for i in ids[coefficients.sign() == sign]) for sign in (1, -1)]
    return "−".join(side for side in sides if side)


def _piece(model: HookedModel, index: int) -> str:
    """A token's text; its number where there is no tokenizer, or where it is a class."""
    if model.tokenizer is None or model.reads != "tokens":
        return str(index)
    return model.to_str_tokens(torch.tensor([index]))[0]


def _per_position(model: HookedModel, target: Any, logits: Tensor) -> Tensor:
    """Token ids [pos] from None, a token, or one token per position."""
    if target is None:
        return logits.argmax(-1)
    n, width = logits.shape
    if is_token(target):
        index = model.to_single_token(target) if isinstance(target, str) else int(target)
        ids = torch.tensor([index]).expand(n)
    else:
        ids = _list(model, target)
        if len(ids) != n:
            raise _not_one_each(len(ids), n)
    if bool(((ids < 0) | (ids >= width)).any()):
        raise TokenError(
            "a target lies outside the vocabulary", got=show(ids.tolist(), 80), expected=f"0 to {width - 1}"
        )
    return ids.to(logits.device)


def _list(model: HookedModel, target: Any) -> Tensor:
    if isinstance(target, Sequence):
        return torch.tensor([token_id(model, each) for each in target])
    ids = torch.as_tensor(target) if isinstance(target, Tensor) or hasattr(target, "__array__") else None
    if ids is None or ids.dim() != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise TokenError(
            "targets must be one token, or one id per position",
            got=show(target, 80) if ids is None else f"{ids.dtype} of shape {tuple(ids.shape)}",
            expected="text, an id, or integers [pos]",
        )
    return ids.long()
