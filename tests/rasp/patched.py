"""Edges of a compiled transformer, patched by brute force: from weights alone, written without hooks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from interp.rasp import CompiledProgram

Written = dict[str, Tensor]


def forward(
    compiled: CompiledProgram, ids: Tensor, edge: tuple[str, str] | None = None, value: Tensor | None = None
) -> tuple[Tensor, Written]:
    """Logits, and what every node writes; one reader sees `value` in place of what one writer wrote.

    Scores are not divided: `attn_scale` is 1 in what is compiled.
    """
    module: Any = compiled.module
    written: Written = {
        "embed": module.embed.W_E[ids],
        "pos": module.pos_embed.W_pos[: ids.shape[1]].expand(len(ids), -1, -1),
    }

    def read(reader: str) -> Tensor:
        total = torch.stack(list(written.values())).sum(0)
        if edge is not None and edge[1] == reader:
            assert value is not None
            total = total - written[edge[0]] + value
        return total

    for layer, block in enumerate(module.blocks):
        attn, new = block.attn, {}
        for h in range(len(attn.W_Q)):
            q, k, v = (
                read(f"a{layer}.h{h}<{c.lower()}>") @ getattr(attn, f"W_{c}")[h] + getattr(attn, f"b_{c}")[h]
                for c in "QKV"
            )
            new[f"a{layer}.h{h}"] = (q @ k.mT).softmax(-1) @ v @ attn.W_O[h]
        written |= new
        hidden = (read(f"m{layer}") @ block.mlp.W_in + block.mlp.b_in).relu()
        written[f"m{layer}"] = hidden @ block.mlp.W_out
    return read("logits") @ module.unembed.W_U + module.unembed.b_U, written


def edges_that_matter(
    compiled: CompiledProgram, edges: tuple[str, ...], ablation: str, longest: int
) -> dict[str, float]:
    """The largest change of the logits behind the start token, edge by edge, over all strings."""
    changes = dict.fromkeys(edges, 0.0)
    for _, group in groupby(compiled.interface.strings(longest, least=1), key=len):
        ids, _mask = compiled.interface.encode(list(group))
        plain, written = forward(compiled, ids)
        for name in edges:
            writer, reader = name.split("->")
            for rows, value in replacements(written[writer], ablation):
                if torch.equal(value, written[writer][rows]):
                    continue  # the same forward again: heads without weights, positions of equal length
                logits, _ = forward(compiled, ids[rows], (writer, reader), value)
                change = (logits - plain[rows])[:, 1:].abs().max()
                changes[name] = max(changes[name], float(change))
    return changes


def replacements(value: Tensor, ablation: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows, and what they see instead."""
    n = len(value)
    if ablation == "resample":
        yield torch.arange(n).repeat_interleave(n), value.repeat(n, 1, 1)
    elif ablation == "mean":
        yield torch.arange(n), value.mean(0, keepdim=True).expand_as(value)
    else:
        yield torch.arange(n), torch.zeros_like(value)
