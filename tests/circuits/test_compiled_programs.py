"""Exact patching of compiled programs finds the edges that the programs say matter, and no others."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.circuits import score_edges
from interp.rasp import CompileConfig, CompiledProgram, compile_program, edge_truth, library


def everything(output: Tensor) -> Tensor:
    """One number per prompt that any change behind the start token moves."""
    weights = torch.linspace(1.0, 2.7, output[0, 1:].numel(), dtype=output.dtype).sin()
    return (output[:, 1:].flatten(1) * weights).sum(1)


def largest_scores(compiled: CompiledProgram, ablation: Any, strings: list[Any]) -> dict[str, float]:
    """Per edge the largest measured effect on any string, exchanged with every other under `resample`."""
    ids, _mask = compiled.interface.encode(strings)
    found: dict[str, float] = {}
    for shift in range(1, len(ids)) if ablation == "resample" else (0,):
        pair = (ids, ids.roll(shift, 0) if shift else None)
        scores = score_edges(
            compiled.model, pair, everything, method="exact", ablation=ablation, by_prompt=True
        )
        assert scores.by_prompt is not None
        for w, writer in enumerate(scores.writers):
            for r, reader in enumerate(scores.readers):
                if scores.possible[w, r]:
                    name = f"{writer}->{reader}"
                    most = float(scores.by_prompt[:, w, r].abs().max())
                    found[name] = max(found.get(name, 0.0), most)
    return found


def auc(scores: dict[str, float], true: set[str]) -> float:
    """ROC-AUC; scores below 1e-6 of the largest count as ties."""
    least = 1e-6 * max(scores.values())
    flat = {name: score if score > least else 0.0 for name, score in scores.items()}
    pairs = [(flat[a] > flat[b]) + 0.5 * (flat[a] == flat[b]) for a in true for b in flat.keys() - true]
    return sum(pairs) / len(pairs)


@pytest.mark.thin(3)
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize("name", ["fraction-previous", "reverse", "histogram", "induction-share"])
def test_exact_patching_finds_the_programs_edges(name: str, ablation: Any, full_count: bool) -> None:
    program, vocabulary = library()[name]
    length, vocabulary = 2, vocabulary if full_count else vocabulary[:2]
    config = CompileConfig(max_length=length, distractors=1, rotate=True, dtype="float64", seed=1)
    compiled = compile_program(program, vocabulary, config)
    strings = list(product(vocabulary, repeat=length))
    truth = edge_truth(compiled, ablation, strings=strings, over=f"all strings of {length} tokens")
    scores = largest_scores(compiled, ablation, strings)
    assert set(scores) == set(truth.edges) and not truth.is_degenerate
    assert auc(scores, set(truth.matters)) == 1.0
    other = edge_truth(compiled, "zero" if ablation != "zero" else "resample").matters
    assert auc(scores, set(truth.edges) - set(truth.matters)) == 0.0  # null: the complement
    assert set(other) != set(truth.matters)  # the ablation must be the truth's own
