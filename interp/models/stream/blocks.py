"""Logits a few positions at a time: [pos, d_vocab] is the largest thing that an analysis makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.core.activations import Activations
from interp.models.adapters.proof import last_residual
from interp.models.hooked import HookedModel
from interp.models.outputs import single_output
from interp.models.stream.target import Target
from interp.models.text.batch import TokenBatch
from interp.models.text.keywords import FEWER_LOGITS

BLOCK = 32 * 2**20
"""Bytes of logits made at once; what an analysis computes of them takes a few times this."""


def row_blocks(n: int, width: int, itemsize: int = 4) -> Iterator[slice]:
    """Rows 0 .. n in blocks whose logits are at most `BLOCK` bytes, one row at least.

    Args:
        n: How many rows.
        width: Logits per row.
        itemsize: Bytes of one.
    """
    rows = max(1, BLOCK // max(1, width * itemsize))
    for start in range(0, n, rows):
        yield slice(start, min(n, start + rows))


def are_many(model: HookedModel, positions: int) -> bool:
    """Whether the logits of so many positions are more than one block."""
    width = model.cfg.d_vocab_out or model.cfg.d_vocab
    return positions * width * getattr(torch, model.cfg.dtype).itemsize > BLOCK


def only_last(real: Tensor) -> dict[str, Any]:
    """What asks a model for the logits of the last real position alone."""
    last = real.nonzero()[-1]
    return {"logits_to_keep": 1 if int(last) == len(real) - 1 else last}


LAST = Target("the last position", lambda out: out, weights=(torch.zeros(0), torch.zeros(0)))
"""Stands for any sum of logits there, before it is known which."""


def only_what_is_read(
    model: HookedModel, target: Target, inputs: Any, at: str | None = None
) -> dict[str, Any]:
    """What asks a model for the last position's logits alone, where a target reads no others.

    Args:
        inputs: What the model is run on; what it says about logits stays.
        at: The site that is edited, if one is: behind the head's norm nothing may be left out.
    """
    given = set(inputs) if isinstance(inputs, Mapping) else set()
    last = target.site is None and target.weights is not None and target.position in (None, -1)
    spares = "logits_to_keep" in model.keywords and not given & set(FEWER_LOGITS)
    return {"logits_to_keep": 1} if last and spares and last_before_head(model, [at] if at else []) else {}


def last_output(model: HookedModel, inputs: Any) -> Any:
    """A model's output on its inputs; logits, where the head can be asked for few, of the last position."""
    with torch.no_grad():
        return model(inputs, **only_what_is_read(model, LAST, inputs))


class Speech(NamedTuple):
    """What a model says at some positions: their logits, or what the head makes them of.

    Attributes:
        rows: [n d_vocab], or the last residual stream there, [n d_model].
        head: From the stream [1 n d_model] to logits; None where `rows` are logits already.
        acts: The activations that were asked for beside.
    """

    rows: Tensor
    head: Callable[[Tensor], Tensor] | None
    acts: Activations | None = None

    def logits(self, rows: Tensor) -> Tensor:
        """Logits of some of the rows (or of what stands for them), [n d_vocab]."""
        return rows if self.head is None else self.head(rows[None])[0]

    def blocks(self) -> Iterator[slice]:
        """Which rows to turn into logits at a time."""
        with torch.no_grad():
            width = self.logits(self.rows[:1].detach()).shape[-1]
        return row_blocks(len(self.rows), width)


def speech(
    model: HookedModel,
    batch: TokenBatch,
    where: Tensor,
    hooks: Sequence[tuple[str, Any]] = (),
    *,
    also: Sequence[str] = (),
    grad: bool = False,
) -> Speech:
    """Run a model and keep what it says at some positions: the last stream, where the head alone follows.

    Args:
        where: Positions of the batch that are read, boolean [batch pos].
        hooks: Interventions on the way, as (site, function).
        also: Sites whose activations are kept beside.
        grad: Keep the graph.
    """
    last = last_before_head(model, [name for name, _ in hooks])
    if last is None:
        with torch.set_grad_enabled(grad):
            if also:
                output, acts = model.run_with_cache(batch, list(also), fwd_hooks=hooks, grad=grad)
            else:
                output, acts = model.run_with_hooks(batch, hooks), None
        return Speech(single_output(output, "a loss over tokens")[where], None, acts)
    acts = model.capture(batch, [*also, last], fwd_hooks=hooks, grad=grad)
    return Speech(acts[last][where], lambda x: model.unembed(model.ln_final(x)), acts)


def last_before_head(model: HookedModel, edited: Sequence[str]) -> str | None:
    """The stream that the head alone turns into logits, if none of these sites lies behind it."""
    if not model.has_head or model.head_pools_first or not model.cfg.n_layers:
        return None
    last, order = last_residual(model), list(model.sites)
    if last not in order:
        return None
    before = set(order[: order.index(last) + 1])
    return last if before.issuperset(edited) else None
