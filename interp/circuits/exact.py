"""Every edge ablated alone and measured, from the block of its reader upwards.

Everything below the reader is the clean run's, so a prompt's edges into one place are rows of one
run that begins there; everything above stays live.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.circuits.budget import TOKENS
from interp.circuits.pairs import Pairs, numbers
from interp.circuits.wires import Group, Wiring
from interp.models.stream.frozen import wide
from interp.models.stream.readers import Reader
from interp.models.text.batch import TokenBatch
from interp.tasks.batch import PromptBatch
from interp.tasks.metrics import metric_target


@torch.no_grad()
def measured_edges(wires: Wiring, pairs: Pairs, clean: Tensor, instead: Tensor) -> Tensor:
    """Metric with the edge ablated less the clean one, [batch writer reader].

    Args:
        clean: Contributions on the clean prompts, [writer batch pos d_model].
        instead: What the edges carry when ablated, the same shape.
    """
    found = clean.new_zeros(len(pairs), *wires.possible.shape)
    for row in range(len(pairs)):
        one = pairs[row : row + 1]
        real = one.clean.mask[0]
        change = (instead - clean)[:, row] * real[:, None]
        _Prompt(wires, one, change).measure(found[row])
    return found


class _Prompt:
    """One prompt, what it holds where readers read, and the change of every writer."""

    def __init__(self, wires: Wiring, pairs: Pairs, change: Tensor) -> None:
        self.wires, self.pairs, self.change = wires, pairs, change
        sites = {site for reader, _ in wires.readers for site in (reader.stream, reader.site)}
        sites |= {f"{wires.stream.prefix}.{w.layer}.hook_resid_pre" for w, _ in wires.sources}
        output, self.acts = wires.model.run_with_cache(pairs.clean, sorted(sites))
        self.clean = numbers(pairs, output)[0]

    def measure(self, into: Tensor) -> None:
        for reader, group in self.wires.readers:
            n = self.wires.upstream(group)
            # An edge whose writer changes nothing changes nothing.
            writers = self.change[:n].flatten(1).any(1).nonzero()[:, 0]
            for some in writers.split(max(1, TOKENS // (group.n * self.change.shape[1]))):
                measured = self._run(reader, group, some)
                into[some, group.span] = measured - self.clean

    def _run(self, reader: Reader, group: Group, writers: Tensor) -> Tensor:
        """The metric for each writer and each reader of a place, [writer reader]."""
        x = wide(self.acts[reader.stream])[0]
        seen = reader.read(x + self.change[writers])  # [writer pos head d_head] or [writer pos d_model]
        held = self.acts[reader.site]
        if not reader.of_heads:
            return self._outputs(reader, seen.to(held.dtype))[:, None]
        rows = held.expand(len(writers) * group.n, *held.shape[1:]).clone()
        heads = torch.arange(group.n, device=rows.device).repeat(len(writers))
        each = seen.to(held.dtype).movedim(2, 1).flatten(0, 1)
        rows[torch.arange(len(rows), device=rows.device), :, heads] = each
        return self._outputs(reader, rows).reshape(len(writers), group.n)

    def _outputs(self, reader: Reader, rows: Tensor) -> Tensor:
        model = self.wires.model
        if reader.site == reader.stream:
            return self._read(model.run_from(reader.site, rows, self.pairs.clean), len(rows))
        # The stream between a block's halves is no place to begin at in every family.
        start = f"{self.wires.stream.prefix}.{reader.layer}.hook_resid_pre"
        begin = self.acts[start].expand(len(rows), *self.acts[start].shape[1:])

        def exchanged(value: Tensor, hook: Any) -> Tensor:
            return rows

        with model.hooks([(reader.site, exchanged)]):
            return self._read(model.run_from(start, begin, self.pairs.clean), len(rows))

    def _read(self, output: Any, n: int) -> Tensor:
        """The target of every row: the one prompt's, n times over."""
        pairs = self.pairs
        if pairs.prompts is None:
            return pairs.target.of(output)
        return repeated(pairs, n).target.of(output)


def repeated(pairs: Pairs, n: int) -> Pairs:
    """One prompt as n rows, for what reads answers."""
    one = pairs.prompts
    if one is None:
        return pairs
    rows = torch.zeros(n, dtype=torch.long, device=one.clean.ids.device)
    clean = TokenBatch(one.clean.ids[rows], one.clean.mask[rows])
    batch = PromptBatch(
        clean, None, one.answers[rows], one.distractors[rows], one.last[rows], one.templates * n
    )
    return Pairs(clean, None, metric_target(pairs.metric, batch), batch, pairs.metric)
