"""The unembedding as the linear map it is: a reading of logits as a direction behind the norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.lenses.reading import targets_of
from interp.models.hooked import HookedModel
from interp.models.hooks.plan import refuse_inference
from interp.models.stream.frozen import wide


@dataclass(frozen=True)
class Reading:
    """A linear reading of the logits at some positions.

    Attributes:
        name: "logit", "logit difference" or "observable".
        ids: Token ids per position of target and, if any, of what is subtracted.
        direction: What is read behind the final norm, [pos d_model].
        constant: What the unembedding's bias adds, [pos].
        total: The number before the soft cap, [pos].
        output: The number in the model's output, [pos].
        gap: Largest difference between the model's logits and this map's, soft cap included.
    """

    name: str
    ids: tuple[Tensor, ...]
    direction: Tensor
    constant: Tensor
    total: Tensor
    output: Tensor
    gap: float

    def targets(self, pieces: dict[int, str]) -> tuple[str, ...]:
        """What is read at each position, as text."""
        if not self.ids:
            return (self.name,) * len(self.total)
        rows = zip(*(ids.tolist() for ids in self.ids), strict=True)
        return tuple("−".join(pieces[i] for i in row) for row in rows)


def read_head(
    model: HookedModel, normalized: Tensor, logits: Tensor, target: Any, against: Any = None
) -> Reading:
    """Make a reading of `logits` [pos d_vocab], the model's own, from `normalized` [pos d_model].

    Args:
        target: As for `direct_logit_attribution`.
        against: Likewise.

    Raises:
        ModelError: The head is not linear (up to a soft cap).
        TokenError: A target that is not one token of the vocabulary.
    """
    logits, cap = wide(logits), model.cfg.final_softcap
    name, ids, weights = _wanted(model, logits, target, against)
    direction, constant = linear_reading(model, weights, len(normalized), normalized.dtype)
    total = (normalized * direction).sum(-1) + constant
    output = (logits * weights).sum(-1)
    if cap:
        before = _uncapped(model, normalized)
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
    return Reading(name, ids, direction, constant, total, output, float(gap))


def linear_reading(model: HookedModel, weights: Tensor, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Σ_t weights_t · logit_t as (direction behind the final norm [n d_model], constant [n]).

    Taken from the head itself at zero; before its soft cap, whose slope is one only where the bias
    is zero too. `weights` is [n d_vocab] or [d_vocab].
    """
    refuse_inference("linear readings of the head")
    first = next(model.module.parameters())
    with torch.enable_grad():
        zero = torch.zeros(n, model.cfg.d_model, dtype=first.dtype, device=first.device, requires_grad=True)
        logits = _uncapped(model, zero) if model.cfg.final_softcap else wide(model.unembed(zero))
        read = (logits * weights).sum(-1)
        (direction,) = torch.autograd.grad(read.sum(), zero, allow_unused=True)
        if direction is None:
            raise ModelError(
                f"the head of {model.cfg.model_name} cannot be differentiated",
                got=type(model.head or model.unembed).__name__,
                expected="an unembedding with floating-point weights",
                fix="load the model unquantised; the logit lens reads it as it is",
            )
    return direction.to(dtype), read.detach().to(dtype)


def _uncapped(model: HookedModel, normalized: Tensor) -> Tensor:
    return wide(normalized) @ wide(model.W_U.detach()) + wide(model.b_U.detach())


def _wanted(
    model: HookedModel, logits: Tensor, target: Any, against: Any
) -> tuple[str, tuple[Tensor, ...], Tensor]:
    """(name, ids, weights [pos d_vocab] or [d_vocab]) of what is to be read."""
    if isinstance(target, Tensor) and target.is_floating_point():
        if target.shape != logits.shape[-1:]:
            raise ShapeError(
                "an observable has one weight per token of the vocabulary",
                got=list(target.shape),
                expected=[logits.shape[-1]],
            )
        if against is not None:
            raise ConfigError("an observable holds both sides already", got="against=", fix="leave it out")
        return "observable", (), target.to(logits)
    wanted = [targets_of(model, target, logits)]
    if against is not None:
        wanted.append(targets_of(model, against, logits))
    weights = torch.zeros_like(logits)
    for sign, ids in zip((1.0, -1.0), wanted, strict=False):
        weights.scatter_add_(-1, ids[:, None], torch.full_like(weights[:, :1], sign))
    name = "logit" if len(wanted) == 1 else "logit difference"
    return name, tuple(wanted), weights


def observable(
    model: HookedModel, positive: Sequence[str | int], negative: Sequence[str | int] = ()
) -> Tensor:
    """A token contrast as weights over the vocabulary, [d_vocab]: mean of one side less the other.

    Raises:
        ConfigError: No positive token.
        TokenError: A text that is not one token.
    """
    if isinstance(positive, str):
        positive = (positive,)
    if isinstance(negative, str):
        negative = (negative,)
    if not positive:
        raise ConfigError("an observable needs a token on its positive side", got="none")
    weights = torch.zeros(model.cfg.d_vocab_out or model.cfg.d_vocab)
    for side, sign in ((positive, 1.0), (negative, -1.0)):
        for token in side:
            index = model.to_single_token(token) if isinstance(token, str) else token
            weights[index] += sign / len(side)
    return weights.to(model.device)
