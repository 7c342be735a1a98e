"""Circuits that are known: compiled programs, trained models with documented heads, the bundled one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.circuits import (
    discover_circuit,
    faithfulness_curve,
    measure_circuit,
    patch_activations,
    score_edges,
    select_edges,
)
from interp.tasks import Prompt, Prompts, grammar_task
from tests.models import builders

INDUCTION = {f"a0.h2->a1.h{head}<k>" for head in (1, 2, 3)}
"""The previous-token head is read by the keys of the three induction heads."""


def repeats(n: int, seed: int = 0) -> Prompts:
    """0, twenty tokens and nine of them again; corrupted: the ninth differs where it first stood."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        block = (torch.randperm(127, generator=draw)[:22] + 1).tolist()
        first, other = block[:20], block[20:]
        clean = [0, *first, *first[:9]]
        corrupted = [0, *first[:8], other[0], *first[9:], *first[:9]]
        found.append(
            Prompt(
                clean=" ".join(map(str, clean)),
                corrupted=" ".join(map(str, corrupted)),
                answers=(str(first[9]),),
                distractors=(str(other[1]),),
            )
        )
    return Prompts(found, "induction", ids=True)


@pytest.fixture(scope="module")
def induction(shared_data: Path) -> interp.HookedModel:
    return interp.load_model(str(shared_data / "models" / "induction"))


@pytest.mark.parametrize("method", ["exact", "eap", "eap_ig", "mask_gradient"])
def test_induction_heads_read_the_previous_token_head(induction: interp.HookedModel, method: Any) -> None:
    scores = score_edges(induction, repeats(12), method=method)
    assert set(scores.ranked()[:15]) >= INDUCTION
    # the null: weights drawn anew know no induction
    fresh = score_edges(induction.randomised(1), repeats(12), method=method)
    assert not set(fresh.ranked()[:15]) >= INDUCTION


def test_acdc_keeps_induction(induction: interp.HookedModel) -> None:
    prompts = repeats(6)
    found = discover_circuit(induction, prompts, threshold=0.05)
    scores = score_edges(induction, prompts, method="eap")
    full, empty = float(scores.clean), float(scores.ablated)
    kept = float(measure_circuit(induction, prompts, found))
    assert set(found.edges) >= INDUCTION
    assert (kept - empty) / (full - empty) >= 0.8 and found.n_edges < 60


def brackets_of_20(folder: Path) -> dict[str, Tensor]:
    """Balanced strings, strings with more that open, and those whose depth goes below zero, by name."""
    texts: dict[str, list[str]] = {"balanced": [], "total > 0": [], "negative depth": []}
    for text, balanced in json.loads((folder / "brackets_data.json").read_text()):
        total = text.count("(") - text.count(")")
        kind = "balanced" if balanced else "negative depth" if not total else "total > 0"
        if len(text) == 20 and total >= 0:
            texts[kind].append(text)
    spelled = {
        kind: [[0, *(3 if c == "(" else 4 for c in t), 2] for t in some] for kind, some in texts.items()
    }
    return {kind: torch.tensor(some) for kind, some in spelled.items()}


@pytest.mark.full
@pytest.mark.parametrize(("kind", "share"), [("total > 0", 0.54), ("negative depth", 0.63)])
def test_brackets_are_judged_by_their_documented_heads(kind: str, share: float, shared_data: Path) -> None:
    """L0H0 counts; L2H1 hands to the answer what the first MLP made of it. Balanced strings of equal
    length stand for what is ablated; the answer is the margin of "unbalanced"."""
    folder = shared_data / "models" / "brackets"
    model, strings = interp.load_model(str(folder)), brackets_of_20(folder)
    read = lambda out: out[:, 0, 0] - out[:, 0, 1]  # noqa: E731
    pair = strings[kind][:60], strings["balanced"][:60]
    grid = patch_activations(model, pair, read, what="heads", direction="noise")
    assert float(grid.effects[2, 1]) == pytest.approx(share, abs=0.02)
    assert grid.effects.flatten().topk(2).indices.tolist() == [5, 0]
    assert float(grid.effects[:2, 1].abs().max()) < 0.05, "L0H1 and L1H1 carry nothing"
    found = discover_circuit(model, (pair[0][:20], pair[1][:20]), read, threshold=0.08)
    heads = {edge.split("->")[0] for edge in found.edges if edge.startswith("a")}
    assert {"a0.h0", "a2.h1"} <= heads and not {"a0.h1", "a1.h1"} & heads
    fresh = patch_activations(model.randomised(0), pair, read, what="heads", direction="noise")
    assert fresh.effects.flatten().topk(2).indices.tolist() != [5, 0]


@pytest.mark.full
def test_modular_addition_goes_through_five_frequencies(shared_data: Path) -> None:
    """Nanda et al. 2023: the MLP's output is cosines and sines of 2 pi k (a + b) / 113 for five k."""
    model, p = interp.load_model(str(shared_data / "models" / "modular-addition")), 113
    a, b = (x.flatten() for x in torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij"))
    ids, total, site = torch.stack((a, b, torch.full_like(a, p)), -1), (a + b) % p, "blocks.0.hook_mlp_out"
    parts = ids.split(4096)
    own = torch.cat([model.capture(part, site, positions=[-1])[site][:, 0] for part in parts])
    by_sum = torch.zeros(p, own.shape[1]).index_add_(0, total, own) / p
    spectrum = torch.fft.rfft(by_sum, dim=0)

    def waves(frequencies: list[int]) -> Tensor:
        """What the output holds of these frequencies of a + b, [pair d_model]."""
        kept = torch.zeros_like(spectrum)
        kept[frequencies] = spectrum[frequencies]
        return torch.fft.irfft(kept, n=p, dim=0)[total]

    def right(output: Tensor) -> float:
        def becomes(value: Tensor, hook: Any, now: Tensor) -> Tensor:
            value[:, -1] = now
            return value

        found = []
        for part, now in zip(parts, output.split(4096), strict=True):
            edit = lambda value, hook, now=now: becomes(value, hook, now)  # noqa: E731
            found.append(model.run_with_hooks(part, [(site, edit)])[:, -1, :p].argmax(-1))
        return float((torch.cat(found) == total).float().mean())

    mean, key, others = own.mean(0), [23, 6, 37, 41, 39], [5, 11, 17, 29, 50]
    assert right(own) == 1.0
    assert right(mean + waves(key)) >= 0.99 and right(own - waves(key)) <= 0.05
    assert right(own - waves(others)) >= 0.99 and right(mean + waves(others)) <= 0.05


@pytest.mark.parametrize("program", ["frac_prevs", "reverse", "hist", "count_a"])
def test_exact_patching_finds_the_edges_of_compiled_programs(program: str, shared_data: Path) -> None:
    """Every edge of the program changes some output on some pair of inputs, and no other edge does."""
    module, info = builders.tracr(shared_data, program)
    model = interp.wrap(module)
    truth = json.loads((shared_data / "models" / "tracr" / "truth.json").read_text())[program]
    dims = [info["residual_labels"].index(name) for name in truth["output_dims"]]
    longest = max(len(record["tokens"]) for record in info["records"])
    rows = [r["tokens"] for r in info["records"] if len(r["tokens"]) == longest][:8]
    changed: dict[str, float] = {}
    for clean, corrupted in zip(rows, [*rows[1:], rows[0]], strict=True):
        ids = torch.tensor([clean]), torch.tensor([corrupted])
        with torch.no_grad():
            own = model(ids[0])[..., dims]

        def apart(output: Tensor, own: Tensor = own) -> Tensor:
            return (output[:, 1:, dims] - own[:, 1:]).abs().flatten(1).amax(-1)

        scores = score_edges(model, ids, apart, method="exact")
        for writer, reader in scores.possible.nonzero().tolist():
            name = f"{scores.writers[writer]}->{scores.readers[reader]}"
            changed[name] = max(changed.get(name, 0.0), float(scores.scores[writer, reader]))
    found = {name for name, change in changed.items() if change > 1e-4}
    wanted = {edge.replace("input->", "embed->") for edge in truth["functional_resample"]}
    # positions are the same on both sides; the truth is over more pairs than are run here
    assert found <= wanted and len(found) >= len(wanted) - 1, (sorted(found), sorted(wanted))


@pytest.mark.parametrize(
    "task",
    [
        "indirect-object",
        *(pytest.param(task, marks=pytest.mark.full) for task in ("docstring", "greater-than")),
    ],
)
def test_small_circuits_of_the_bundled_model_are_faithful(task: str, full_count: bool) -> None:
    model, asked = interp.load_model("tiny-grammar"), grammar_task(task)
    n, n_random = (40, 100) if full_count else (8, 10)
    scores = score_edges(model, asked.sample(n, seed=1), method="eap_ig")
    curve = faithfulness_curve(
        model, asked.sample(n, seed=2), scores, shares=(0.05, 0.1, 0.15, 1.0), n_random=n_random
    )
    assert float(curve.faithfulness[2]) >= 0.85 and float(curve.faithfulness[3]) == pytest.approx(1.0)
    assert float(curve.random[:3].max()) < 0.15 and curve.check().ok
    # the null: the same number of edges by shuffled scores
    draw = torch.Generator().manual_seed(0)
    flat = scores.scores[scores.possible]
    mixed = scores.scores.clone()
    mixed[scores.possible] = flat[torch.randperm(len(flat), generator=draw)]
    null = type(scores)(**{**vars(scores), "scores": mixed})
    other = faithfulness_curve(model, asked.sample(n, seed=2), null, shares=(0.15,), n_random=1)
    assert float(other.faithfulness[0]) < 0.3


def test_patching_both_ways_finds_the_heads() -> None:
    model = interp.load_model("tiny-grammar")
    prompts = grammar_task("indirect-object").sample(6, seed=1)
    grids = {d: patch_activations(model, prompts, what="heads", direction=d) for d in ("denoise", "noise")}
    for grid in grids.values():
        assert grid.effects.flatten().topk(3).indices.tolist()[0] == 2  # L0H2 carries the name
        assert set(grid.effects.flatten().topk(3).indices.tolist()) == {2, 4, 12}
    # by hand: one head of one layer, all prompts at once
    batch = prompts.tokenize(model)
    site = "blocks.3.attn.hook_z"
    clean = model.capture(batch.clean, site)[site]

    def edit(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, :, 0] = clean[:, :, 0]
        return value

    read = interp.tasks.metric("logit_difference")
    with torch.no_grad():
        ends = [float(read(model(side), batch)) for side in (batch.clean, batch.corrupted)]
        here = float(read(model.run_with_hooks(batch.corrupted, [(site, edit)]), batch))
    expected = (here - ends[1]) / (ends[0] - ends[1])
    assert float(grids["denoise"].effects[3, 0]) == pytest.approx(expected, abs=1e-4)
    # the first layer's stream at every position is the whole prompt
    stream = patch_activations(model, prompts, what="resid_pre")
    assert float(stream.effects[0].max()) > 0.2
    tokens = batch.differs.any(0)
    assert not stream.effects[0][~tokens].abs().gt(1e-5).any()


def test_a_circuit_chosen_by_measured_edges_beats_the_rest() -> None:
    model = interp.load_model("tiny-grammar")
    prompts = grammar_task("docstring").sample(6, seed=1)
    scores = score_edges(model, prompts, method="exact")
    circuit = select_edges(scores, 60)
    inside = float(measure_circuit(model, prompts, circuit))
    share = (inside - float(scores.ablated)) / float(scores.clean - scores.ablated)
    assert share > 0.85
