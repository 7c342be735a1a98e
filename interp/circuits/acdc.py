"""ACDC: edges are taken out one by one, from the logits downwards, while little is lost.

Conmy et al. 2023, "Towards automated circuit discovery", algorithm 1: an edge goes if the loss without
it exceeds the loss of what is left so far by less than a threshold. Most edges go, so the edges of
one reader are tried as a row of growing removals; behind the first that must stay, they are tried
anew. The circuit is that of one edge at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.circuits.ablation import Replacement
from interp.circuits.budget import prompts_within
from interp.circuits.config import Ablation, Loss
from interp.circuits.evaluating import Stage, refuse_no_gap
from interp.circuits.graph import Circuit
from interp.circuits.pairs import Pairs, read_pairs
from interp.circuits.scoring import graph_of
from interp.core.errors import ConfigError
from interp.core.settings import check_choice, check_flags
from interp.models.hooked import HookedModel
from interp.models.stream.target import Target

SPECULATED = 32
"""Removals that are tried at a time."""


def discover_circuit(
    model: HookedModel,
    inputs: Any,
    target: Any = None,
    *,
    threshold: float,
    loss: Loss = "metric",
    ablation: Ablation = "resample",
    over: Any = None,
    prune: bool = True,
) -> Circuit:
    """The circuit that ACDC finds at one threshold.

    Args:
        inputs, target, ablation, over: As for `score_edges`.
        threshold: How much more of the loss one edge may cost: of the metric's gap between the full
            and the ablated model where `loss` is "metric", nats where it is "kl".
        loss: "metric": how far the metric has fallen from the full model's towards the ablated one's.
            "kl": KL from the full model's next-token distribution at the position that is read.
        prune: Drop edges on no path from an embedding to the logits.

    Raises:
        ConfigError: A threshold that is no positive number, or no gap between clean and ablated.
    """
    check_choice("loss", loss, Loss)
    check_flags(prune=prune)
    if (
        isinstance(threshold, bool)
        or not isinstance(threshold, int | float)
        or not 0 < threshold < float("inf")
    ):
        raise ConfigError("ACDC needs a threshold", got=threshold, expected="a positive number")
    pairs = read_pairs(model, inputs, target)
    wires = graph_of(model, pairs)
    replace = Replacement(wires, pairs, ablation, over)
    read = pairs if loss == "metric" else _diverging(model, pairs, prompts_within(wires, pairs))
    stage = Stage(wires, read, replace)
    kept = wires.possible.clone()
    full, empty = stage.measure(torch.stack([kept, torch.zeros_like(kept)])).mean(1).tolist()
    refuse_no_gap(full, empty, pairs.target.name)
    scale = (empty - full) if loss == "metric" else 1.0

    def lost(circuits: Tensor) -> list[float]:
        return ((stage.measure(circuits).mean(1) - full) / scale).tolist()

    for _, group in reversed(wires.readers):
        n = wires.upstream(group)
        for reader in range(group.start + group.n - 1, group.start - 1, -1):
            parents = list(range(n - 1, -1, -1))
            now = lost(kept[None])[0]
            while parents:
                tried = parents[:SPECULATED]
                rows = kept.repeat(len(tried), 1, 1)
                for i, writer in enumerate(tried):
                    rows[i:, writer, reader] = False
                taken = 0
                for cost in lost(rows):
                    if cost - now >= threshold:
                        break
                    now, taken = cost, taken + 1
                for writer in tried[:taken]:
                    kept[writer, reader] = False
                parents = parents[taken + (taken < len(tried)) :]
    found = Circuit(
        kept=kept,
        possible=wires.possible,
        ablation=replace.said,
        found_by=f"ACDC at {threshold:g} by {loss}",
        labels={"writer": list(wires.writer_names), "reader": list(wires.reader_names)},
        provenance=model.provenance(wires.sites),
    )
    return found.without_dead_ends() if prune else found


def _diverging(model: HookedModel, pairs: Pairs, size: int) -> Pairs:
    """The same prompts, read as KL(full model ‖ now) where the answer is read, nats."""
    parts = []
    with torch.no_grad():
        for part in pairs.batches(size):
            parts.append(_where_read(part)(model(part.clean)).log_softmax(-1))
    own = torch.cat(parts)

    def of(rows: slice) -> Target:
        at, here = _where_read(pairs[rows]), own[rows]
        return Target(
            "KL from the full model",
            lambda output: (here.exp() * (here - at(output).log_softmax(-1))).sum(-1),
        )

    return Pairs(pairs.clean, pairs.corrupted, of(slice(None)), sliced=of)


def _where_read(pairs: Pairs) -> Callable[[Tensor], Tensor]:
    """Logits [batch (pos) d_vocab] -> those of the answer, [batch d_vocab]."""
    last = pairs.clean.last if pairs.prompts is None else pairs.prompts.last
    rows = torch.arange(len(pairs), device=last.device)
    return lambda output: output if output.dim() == 2 else output[rows, last.to(output.device)]
