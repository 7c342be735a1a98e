"""What a model loses when a reconstruction, zero or the mean stands in for an activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.result import CONDITIONS
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
    ce, kl, intact = [], [], None
    for name in CONDITIONS:
        hooks = _hooks(name, dictionary, keep, mean)
        with torch.no_grad():
            logits = model.run_with_hooks(batch, hooks) if hooks else model(batch)
        intact = logits if intact is None else intact
        ce_row, kl_row = _compare(logits, intact, following, counted)
        ce.append(ce_row)
        kl.append(kl_row)
    return Losses(torch.stack(ce), torch.stack(kl), counted.sum(1).cpu())


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


def _compare(
    logits: Float[Tensor, "batch pos d_vocab"],
    intact: Float[Tensor, "batch pos d_vocab"],
    following: Int[Tensor, "batch next"],
    counted: Bool[Tensor, "batch next"],
) -> tuple[Tensor, Tensor]:
    """Mean loss and KL per sequence, in float32 whatever the model computes in.

    One sequence at a time: float32 logits of a whole batch would be the largest thing in memory.
    """
    ce, kl = [], []
    for row in range(len(logits)):
        here = counted[row]
        new = F.log_softmax(logits[row, :-1][here].float(), -1)
        old = F.log_softmax(intact[row, :-1][here].float(), -1)
        n = max(int(here.sum()), 1)
        wanted = new.gather(1, following[row][here][:, None])
        ce.append(-wanted.sum(dtype=torch.float32) / n)
        kl.append((old.exp() * (old - new)).sum() / n)
    return torch.stack(ce).cpu().double(), torch.stack(kl).cpu().double()
