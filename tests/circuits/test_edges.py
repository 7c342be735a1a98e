"""Scores of edges: what they are equal to, what they must find, and what must find nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.circuits import (
    Circuit,
    EdgeScores,
    budget,
    discover_circuit,
    faithfulness_curve,
    measure_circuit,
    score_edges,
    select_edges,
    wiring,
)
from interp.circuits.ablation import Replacement, contributions
from interp.circuits.pairs import Pairs, read_pairs
from interp.circuits.patched import PatchedRun
from interp.circuits.scoring import graph_of
from interp.core.errors import ConfigError, InterpError, ModelError, ShapeError
from tests.circuits import models

TARGET = (7, 11)


def staged(model: interp.HookedModel, pair: Any, ablation: Any = "resample") -> tuple[Any, ...]:
    pairs = read_pairs(model, pair, TARGET)
    wires = graph_of(model, pairs)
    clean = contributions(wires, pairs.clean)
    return wires, pairs, clean, Replacement(wires, pairs, ablation)(pairs, clean)


@pytest.mark.parametrize("name", models.FAMILIES)
def test_all_edges_are_the_model_and_none_the_ablated_one(name: str) -> None:
    model, pair = models.family(name), models.pair()
    wires, pairs, clean, instead = staged(model, pair)
    bound = 1e-9 if name in ("gpt2", "neox", "neox-sequential", "opt") else 1e-5  # RMS norms are float32
    none, every = torch.zeros(wires.possible.shape), wires.possible.double()
    with torch.no_grad():
        assert torch.equal(PatchedRun(wires, none, instead)(pairs.clean), model(pair[0]))
        ablated = PatchedRun(wires, every, instead)(pairs.clean)
        assert (ablated - model(pair[1])).abs().max() < bound
        # every writer reads the corrupted stream and writes to the clean one: embeddings alone differ
        every[:, -1] = 0
        begun = [model.capture(ids, [wires.stream.first, wires.stream.last]) for ids in pair]
        stream = begun[1][wires.stream.last] + begun[0][wires.stream.first] - begun[1][wires.stream.first]
        expected = model.unembed(model.ln_final(stream))
        assert (PatchedRun(wires, every, instead)(pairs.clean) - expected).abs().max() < bound
        # what the writers add, with the biases of attention, is the stream
        acts = model.capture(pair[0], [*wires.sites, wires.stream.last, "*.hook_attn_out"])
        biases = sum(
            acts[w.out] - parts.sum(0)
            for w, g in wires.sources
            if w.kind == "head"
            for parts in [clean[g.span]]
        )
        assert (clean.sum(0) + biases - acts[wires.stream.last]).abs().max() < bound


def by_hand(wires: Any, pairs: Any, instead: Tensor, every: int) -> Tensor:
    """Edges, each in a run of its own; NaN for those that were not asked about."""
    found = torch.full(wires.possible.shape, torch.nan, dtype=torch.float64)
    with torch.no_grad():
        plain = pairs.target.of(wires.model(pairs.clean)).mean()
        for writer, reader in wires.possible.nonzero()[::every].tolist():
            one = torch.zeros(wires.possible.shape, dtype=torch.float64)
            one[writer, reader] = 1
            output = PatchedRun(wires, one, instead)(pairs.clean)
            found[writer, reader] = pairs.target.of(output).mean() - plain
    return found


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
def test_a_measured_edge_is_the_naive_loops(name: str, ablation: Any, full_count: bool) -> None:
    if not full_count and (name, ablation) not in {("llama", "resample"), ("gpt2", "mean"), ("neox", "zero")}:
        pytest.skip("full size only: make test-all")
    model, pair = models.family(name), models.pair(n=2, width=5)
    wires, pairs, _, instead = staged(model, pair, ablation)
    scores = score_edges(model, pair, TARGET, method="exact", ablation=ablation)
    expected = by_hand(wires, pairs, instead, 1 if full_count else 7)
    asked = ~expected.isnan()
    assert (scores.scores - expected)[asked].abs().max() < 1e-9 and int(asked.sum()) > 40
    assert float(scores.scores.abs().max()) > 1e-3


def test_a_patched_edge_is_the_edit_by_hand() -> None:
    """GPT-2: head 2 of block 1 reads, as its key, a stream in which head 4 of block 0 is another's."""
    model, pair = models.family("gpt2"), models.pair()
    wires, pairs, _, instead = staged(model, pair)
    one = torch.zeros(wires.possible.shape)
    one[wires.edge("a0.h4->a1.h2<k>")] = 1
    module: Any = model.module
    block = module.transformer.h[1]
    width = model.cfg.d_model
    with torch.no_grad():
        runs = [model.capture(ids, ["blocks.0.attn.hook_z", "blocks.1.hook_resid_pre"]) for ids in pair]
        z = [run["blocks.0.attn.hook_z"][:, :, 4] for run in runs]
        moved = runs[0]["blocks.1.hook_resid_pre"] - (z[0] - z[1]) @ model.W_O[0, 4]
        keys = block.attn.c_attn(block.ln_1(moved))[..., width : 2 * width].unflatten(-1, (6, 4))

        def edit(value: Tensor, hook: Any) -> Tensor:
            value = value.clone()
            value[:, :, 2] = keys[:, :, 2]
            return value

        expected = model.run_with_hooks(pair[0], [("blocks.1.attn.hook_k", edit)])
        found = PatchedRun(wires, one, instead)(pairs.clean)
    assert (found - expected).abs().max() < 1e-12
    assert (found - model(pair[0])).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_eap_is_the_slope_of_the_mask_at_no_ablation(name: str) -> None:
    model, pair = models.family(name), models.pair(n=2)
    eap = score_edges(model, pair, TARGET, method="eap")
    mask = score_edges(model, pair, TARGET, method="mask_gradient", steps=1, nodes="right")
    assert (eap.scores - mask.scores).abs().max() < (1e-10 if name in ("gpt2", "neox") else 1e-5)
    assert float(eap.scores.abs().max()) > 1e-3
    if name not in ("gpt2", "neox"):
        return  # norms in single precision have no small steps
    # a small step of the mask is the slope, whatever autograd says
    wires, pairs, _, instead = staged(model, pair)
    writer, reader = divmod(int(eap.scores.abs().argmax()), eap.scores.shape[1])
    small = torch.zeros(wires.possible.shape, dtype=torch.float64)
    small[writer, reader] = 1e-5
    with torch.no_grad():
        ends = [pairs.target.of(PatchedRun(wires, s, instead)(pairs.clean)).mean() for s in (small, -small)]
    slope = float(ends[0] - ends[1]) / 2e-5
    assert slope == pytest.approx(float(eap.scores[writer, reader]), rel=1e-5)


@pytest.mark.parametrize("method", ["eap", "eap_ig", "clean_corrupted", "mask_gradient"])
def test_where_everything_is_linear_every_method_measures(method: Any) -> None:
    model, pair = models.linear(), models.pair()
    exact = score_edges(model, pair, (3, 4), method="exact")
    # a mask that takes several edges of one path at once is a product: at no ablation it is linear
    more: dict[str, Any] = {"steps": 1, "nodes": "right"} if method == "mask_gradient" else {}
    found = score_edges(model, pair, (3, 4), method=method, **more)
    assert (found.scores - exact.scores).abs().max() < 1e-10 * exact.scores.abs().max()
    assert float(exact.scores.abs().max()) > 0.1
    idle = exact.scores[:, [i for i, name in enumerate(exact.readers) if name[-2] in "qk"]]
    assert idle.abs().max() < 1e-10 * exact.scores.abs().max()


def test_paths_are_sums_at_their_own_nodes() -> None:
    """EAP-IG by hand: the mean of EAP's gradients on runs from interpolated embeddings."""
    model, pair = models.family("gpt2"), models.pair(n=2)
    wires, pairs, clean, instead = staged(model, pair)
    rows = {}
    for place in (0.0, 0.25, 0.5, 0.75, 1.0):
        sites = ["hook_embed", "blocks.1.hook_mlp_out"]
        with torch.no_grad():
            ends = [model.capture(ids, "hook_embed")["hook_embed"] for ids in pair]
        between = ends[1] + place * (ends[0] - ends[1])

        def becomes(value: Tensor, hook: Any, between: Tensor = between) -> Tensor:
            return between

        output, acts = model.run_with_cache(
            pair[0], ["blocks.2.ln2.hook_normalized", "blocks.2.hook_resid_mid", *sites],
            fwd_hooks=[("hook_embed", becomes)], grad=True,
        )  # fmt: skip
        total = pairs.target.of(output).sum()
        (pull,) = torch.autograd.grad(total, acts["blocks.2.hook_resid_mid"], retain_graph=True)
        (past,) = torch.autograd.grad(total, acts["blocks.2.hook_resid_mid"], retain_graph=True)
        last, _ = torch.autograd.grad(total, [acts["blocks.2.hook_resid_mid"], acts[sites[1]]])
        change = (instead - clean)[wires.writer_names.index("m1")]
        rows[place] = float((change * pull).sum() / len(pair[0])), past, last

    # all that m1 does through block 2's MLP and the direct path behind it
    def through(scores: EdgeScores) -> float:
        return scores.score("m1->m2") + scores.score("m1->logits")

    by = {p: row[0] for p, row in rows.items()}
    left = score_edges(model, pair, TARGET, steps=4, nodes="left")
    right = score_edges(model, pair, TARGET, steps=4, nodes="right")
    assert through(left) == pytest.approx(sum(by[p] for p in (0.0, 0.25, 0.5, 0.75)) / 4, abs=1e-10)
    assert through(right) == pytest.approx(sum(by[p] for p in (0.25, 0.5, 0.75, 1.0)) / 4, abs=1e-10)


def test_batches_and_padding_change_nothing() -> None:
    model = models.family("gpt2")
    clean, corrupted = models.pair(n=3)
    whole = score_edges(model, (clean, corrupted), TARGET, by_prompt=True)
    parts = score_edges(model, (clean, corrupted), TARGET, by_prompt=True, batch_size=2)
    assert whole.by_prompt is not None and parts.by_prompt is not None
    assert (whole.by_prompt - parts.by_prompt).abs().max() < 1e-12
    assert (whole.by_prompt.mean(0) - whole.scores).abs().max() < 1e-12
    batch = interp.models.TokenBatch
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[:, 6:] = False
    wide = [torch.cat([ids, torch.full((3, 2), 9)], 1) for ids in (clean, corrupted)]
    read = lambda out: out[:, 5, 7] - out[:, 5, 11]  # noqa: E731
    for method in ("eap", "exact", "eap_ig", "mask_gradient"):
        one = score_edges(model, (clean, corrupted), TARGET, method=method)
        padded = score_edges(model, (batch(wide[0], mask), batch(wide[1], mask)), read, method=method)
        assert (one.scores - padded.scores).abs().max() < 1e-9, method


def test_circuits_are_the_same_prompt_by_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pair = models.family("gpt2"), models.pair(n=3)

    def found() -> list[Any]:
        scores = score_edges(model, pair, TARGET, method="eap")
        curve = faithfulness_curve(model, pair, scores, target=TARGET, shares=(0.1, 0.5, 1.0), n_random=3)
        kept = select_edges(scores, 60)
        one = measure_circuit(model, pair, kept, target=TARGET, by_prompt=True)
        losses = ("metric", "kl")
        circuits = [discover_circuit(model, pair, TARGET, threshold=0.3, loss=loss).kept for loss in losses]
        return [curve.faithfulness, curve.complement, curve.random, one, *circuits]

    whole, sizes = found(), []
    batches = Pairs.batches
    monkeypatch.setattr(Pairs, "batches", lambda self, size: sizes.append(size) or batches(self, size))
    monkeypatch.setattr(budget, "CHUNK", 1)
    for a, b in zip(whole, found(), strict=True):
        assert torch.equal(a, b) if a.dtype == torch.bool else (a - b).abs().max() < 1e-9
    assert set(sizes) == {1}


def test_frozen_norms_hold_the_scale() -> None:
    model, pair = models.family("gpt2"), models.pair(n=2)
    wires, _, clean, instead = staged(model, pair)
    module: Any = model.module
    final = module.transformer.ln_f
    frozen = score_edges(model, pair, TARGET, method="eap", frozen_norms=True)
    free = score_edges(model, pair, TARGET, method="eap")
    # by hand, for the logits: the direction behind the final norm over its scale, centred
    direction = final.weight * (model.W_U[:, 7] - model.W_U[:, 11])
    with torch.no_grad():
        x = model.capture(pair[0], wires.stream.last)[wires.stream.last][:, -1]
        scale = (x.var(-1, unbiased=False, keepdim=True) + final.eps).sqrt()
        pull = (direction - direction.mean()) / scale
        expected = ((instead - clean)[:, :, -1] * pull).sum(-1).mean(1)
    assert (frozen.scores[:, -1] - expected).abs().max() < 1e-10
    assert (free.scores - frozen.scores).abs().max() > 1e-4


def test_information_flow_by_hand() -> None:
    model, pair = models.family("llama"), models.pair(n=1)
    wires, _, clean, _ = staged(model, pair)
    found = score_edges(model, pair, TARGET, method="information_flow")
    with torch.no_grad():
        x = model.capture(pair[0], "blocks.1.hook_resid_mid")["blocks.1.hook_resid_mid"][0]
    n = wires.writer_names.index("m1")
    flow = []
    for t in range(x.shape[0]):
        near = [max(0.0, float(x[t].abs().sum() - (x[t] - clean[u, 0, t]).abs().sum())) for u in range(n)]
        flow.append([each / sum(near) for each in near])
    expected = torch.tensor(flow).mean(0)
    column = wires.reader_names.index("m1")
    assert (found.scores[:n, column].float() - expected).abs().max() < 1e-6
    assert found.scores[:n, column].sum() == pytest.approx(1.0)


def test_nothing_is_scored_where_nothing_changes() -> None:
    """A corrupted prompt that is the clean one: the gap is zero, and the check says so."""
    model, (clean, _) = models.family("llama"), models.pair()
    found = score_edges(model, (clean, clean), TARGET, method="eap")
    assert float(found.scores.abs().max()) == 0 and not found.check().ok


def test_names_and_graphs_are_refused_by_the_nearest() -> None:
    model, pair = models.family("gpt2"), models.pair(n=1)
    scores = score_edges(model, pair, TARGET, method="eap")
    for wrong, told in (("m9->logits", "m"), ("m2->a0.h1<q>", "against the pass"), ("m0", "no edge")):
        with pytest.raises(ConfigError, match=told):
            scores.score(wrong)
    whole = select_edges(scores, 40)
    with pytest.raises(ShapeError, match="another model"):
        interp.circuits.measure_circuit(models.family("llama"), pair, whole, target=TARGET)
    with pytest.raises(ConfigError, match="steps"):
        score_edges(model, pair, TARGET, method="eap", steps=3)
    with pytest.raises(ConfigError, match="frozen"):
        score_edges(model, pair, TARGET, method="exact", frozen_norms=True)
    with pytest.raises(ConfigError, match="corrupted"):
        score_edges(model, (pair[0], None), TARGET)
    with pytest.raises(ConfigError, match="metric"):
        score_edges(model, pair, "logit_difference")
    with pytest.raises(ConfigError, match="over"):
        score_edges(model, pair, TARGET, over=pair[0])
    with pytest.raises(InterpError, match="token"):
        score_edges(model, (pair[0], pair[1][:, :-1]), TARGET)
    with pytest.raises(ModelError, match="no sum of its parts"):
        wiring(models.family("bert"))


def test_circuits_are_plain_data(tmp_path: Path) -> None:
    model, pair = models.family("llama"), models.pair(n=1)
    scores = score_edges(model, pair, TARGET, method="eap")
    for how in ("top", "greedy"):
        circuit = select_edges(scores, 30, how=how)
        circuit.save(tmp_path / how)
        again = Circuit.load(tmp_path / how)
        assert again.edges == circuit.edges and again.compare(circuit)["f1"] == 1.0
        assert again.without_dead_ends().edges == again.edges
    scores.save(tmp_path / "scores")
    assert torch.equal(EdgeScores.load(tmp_path / "scores").scores, scores.scores)
    whole = select_edges(scores, int(scores.possible.sum()))
    few = whole.with_edges(["embed->m0", "m0->logits", "m1->m2"])
    assert few.nodes == ["embed", "m0", "m1", "m2", "logits"]
    assert few.without_dead_ends().edges == ["embed->m0", "m0->logits"]
    # a key head that three query heads share is alive for each of them
    shared = whole.with_edges(["embed->a0.h1<k>", "a0.h4->logits"]).without_dead_ends()
    assert shared.n_edges == 2
    assert not whole.with_edges(["embed->a0.h1<k>", "a0.h2->logits"]).without_dead_ends().n_edges
