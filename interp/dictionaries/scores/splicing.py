"""What a model loses when a reconstruction, zero or the mean stands in for an activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.result import CONDITIONS
from interp.models.stream.blocks import Speech, speech
from interp.models.text.batch import TokenBatch

Hooks = list[tuple[str, Callable[[Tensor, Any], Tensor | None]]]


class Losses(NamedTuple):
    """Means per sequence, in the order of `CONDITIONS`."""

    ce: Float[Tensor, "condition sequence"]
    """Next-token loss, nats."""
    kl: Float[Tensor, "condition sequence"]
    """KL(intact || condition), nats; 0 for the intact model."""
    predictions: Int[Tensor, "sequence"]
    """Predicted tokens."""


def losses(
    dictionary: Dictionary,
    model: Any,
    batch: TokenBatch,
    keep: Bool[Tensor, "batch pos"],
    mean: Float[Tensor, "d_out"],
) -> Losses:
    """Next-token losses of one batch under every condition.

    Positions outside `keep` (padding, BOS) keep their own activation and make no prediction.

    Args:
        dictionary: SAE or transcoder with its sites in the model.
        model: A language model.
        batch: Tokens and their mask.
        keep: Where the activation is replaced.
        mean: The target site's mean activation, heads side by side.
    """
    keep = keep.to(model.device)
    counted = keep[:, :-1] & batch.mask[:, 1:].to(model.device)
    following = batch.ids[:, 1:].to(model.device)
    with torch.no_grad():
        said = [speech(model, batch, _before(counted), _hooks(n, dictionary, keep, mean)) for n in CONDITIONS]
        ce, kl = _compare(said, following[counted])
    counted = counted.cpu()
    return Losses(_per_sequence(ce, counted), _per_sequence(kl, counted), counted.sum(1))


def _before(counted: Bool[Tensor, "batch next"]) -> Bool[Tensor, "batch pos"]:
    """The positions that make the predictions."""
    return torch.cat([counted, torch.zeros_like(counted[:, :1])], 1)


def _hooks(condition: str, dictionary: Dictionary, keep: Tensor, mean: Tensor) -> Hooks:
    """What puts a condition in place; none for the intact model."""
    site_in, site_out = dictionary.site_in, dictionary.site_out

    def put(new: Tensor, value: Tensor) -> Tensor:
        where = keep.reshape(*keep.shape, *[1] * (value.ndim - 2))
        return torch.where(where, new.reshape(value.shape).to(value), value)

    if condition == "zero":
        return [(site_out, lambda value, hook: put(torch.zeros_like(value), value))]
    if condition == "mean":
        return [(site_out, lambda value, hook: put(mean.to(value).expand_as(_flat(value)), value))]
    if condition == "intact":
        return []
    if site_in == site_out:
        return [(site_out, lambda value, hook: put(dictionary(_flat(value)), value))]
    held: list[Tensor] = []

    def read(value: Tensor, hook: Any) -> None:
        held.append(dictionary(_flat(value)))

    return [(site_in, read), (site_out, lambda value, hook: put(held.pop(), value))]


def _flat(value: Tensor) -> Tensor:
    """[batch pos ...] with what lies beyond the position side by side."""
    return value.flatten(2)


def _compare(said: Sequence[Speech], wanted: Int[Tensor, " row"]) -> tuple[Tensor, Tensor]:
    """Loss and KL per predicted token, [condition row], in float32 whatever the model computes in.

    A block of logits at a time: those of a whole batch would be the largest thing in memory.
    """
    found = torch.zeros(2, len(said), len(wanted), device=said[0].rows.device)
    for block in said[0].blocks():
        old = _log_probs(said[0], block)
        for i, one in enumerate(said):
            new = old if i == 0 else _log_probs(one, block)
            found[0, i, block] = -new.gather(1, wanted[block, None])[:, 0]
            found[1, i, block] = torch.sub(old, new).mul_(old.exp()).sum(-1)
    losses, divergences = found.cpu()
    return losses, divergences


def _log_probs(said: Speech, block: slice) -> Tensor:
    return F.log_softmax(said.logits(said.rows[block]).float(), -1)


def _per_sequence(
    values: Float[Tensor, "condition row"], counted: Bool[Tensor, "batch next"]
) -> Float[Tensor, "condition sequence"]:
    """Means over each sequence's predictions; 0 where it makes none."""
    sums = torch.zeros(len(values), len(counted), dtype=torch.float64)
    sums.index_add_(1, counted.nonzero()[:, 0], values.double())
    return sums / counted.sum(1).clamp(min=1)
