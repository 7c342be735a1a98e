"""Pictures of probes: what is drawn is what was measured, chance and controls included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import ConfigError
from interp.models.text.batch import TokenBatch
from interp.probing import (
    ContextProbeConfig,
    ProbeConfig,
    SparseConfig,
    ablate_neurons,
    audit_erasure,
    code_length,
    probe_context,
    probe_sweep,
    prune_neurons,
    sparse_sweep,
    v_information,
)
from interp.studies import compare_in_context, find_unit, write_clamped
from interp.studies.in_context import ridge_in_context
from tests.probing.rows import planted, small


def test_a_sweep_draws_probe_controls_bands_and_chance() -> None:
    x, y = planted(499, 7)
    sites = {f"blocks.{i}.hook_resid_post": x for i in range(3)}
    sweep = probe_sweep(sites, {"y": y}, types=list(range(499)), random_init=sites)
    figure = sweep.plot()
    traces = {t.name: t for t in figure.data if t.name}
    assert set(traces) == {"probe", "control task", "random weights", "shuffled labels"}
    np.testing.assert_allclose(traces["probe"].y, sweep.score[:, 0], atol=1e-6)
    assert sum(t.fill == "toself" for t in figure.data) == 2
    level = [s.y0 for s in figure.layout.shapes]
    assert level == [pytest.approx(float(sweep.majority[0]))]
    assert list(figure.layout.xaxis.ticktext) == ["L0", "L1", "L2"]
    assert figure.layout.title.text == "Probe for y"
    assert "test accuracy · higher: more is readable" in figure.layout.title.subtitle.text


def test_several_targets_are_a_map_and_one_of_them_a_curve() -> None:
    x, y = planted(499, 7)
    sweep = probe_sweep({"a": x, "b": x}, {"<b>y</b>": y, "z": 1 - y}, ProbeConfig(n_shuffles=0))
    assert sweep.plot().data[0].type == "heatmap"
    assert sweep.plot(target="z").data[0].type == "scatter"
    assert "<b>y" not in sweep.plot(target="<b>y</b>").to_json()
    with pytest.raises(ConfigError, match="no such target"):
        sweep.plot(target="zz")


def test_f1_against_k_and_the_other_pictures() -> None:
    x, y = planted(499, 13)
    sparse = sparse_sweep({f"blocks.{i}.mlp.hook_post": x for i in range(2)}, y, SparseConfig(ks=(1, 2, 8)))
    figure = sparse.plot()
    traces = {t.name: t for t in figure.data if t.name}
    assert list(traces["L1"].x) == [1, 2, 8] and "shuffled labels" in traces
    np.testing.assert_allclose(traces["L1"].y, sparse.f1[1], atol=1e-6)
    assert figure.layout.xaxis.type == "log" and figure.layout.xaxis.title.text == "neurons in the probe"
    np.testing.assert_allclose(sparse.plot(field="mcc").data[0].y, sparse.mcc[0], atol=1e-6)
    with pytest.raises(ConfigError, match="did you mean 'mcc'"):
        sparse.plot(field="mccc")
    audit = audit_erasure(x, {"y": y}, "y", probe=ProbeConfig(steps=20, n_shuffles=0))
    shown = audit.plot()
    bars = {t.name: list(t.x) for t in shown.data}
    assert bars["after"] == pytest.approx(audit.after[:, 0].tolist())
    assert bars["random, same rank"] == pytest.approx(audit.random[:, 0].tolist())
    levels = [line.x0 for line in shown.layout.shapes]
    assert levels == pytest.approx([float(audit.majority[0])] * len(levels)) and levels
    code = code_length({"s": x}, y).plot()
    assert code.layout.shapes[0].y0 == pytest.approx(499)  # the uniform code of two classes
    assert [trace.name for trace in code.data] == ["labels", "shuffled labels"]
    information = v_information({"s": x}, torch.randn(499, 3)).plot()
    assert [trace.name for trace in information.data] == ["nats", "shuffled targets"]  # one site: bars
    assert v_information({"s": x, "t": x}, torch.randn(499, 3)).plot().data[0].type == "heatmap"


def test_findings_draw_what_was_measured() -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(2, (300,), generator=draw)
    x = torch.randn(300, 5, generator=draw)
    x[:, 3] += 4 * y
    unit = find_unit(x, y, name="<b>mood</b>", strengths=(1.0,))
    figure = unit.plot()
    assert sum(len(t.x) for t in figure.data) == 300 and "<b>mood" not in figure.to_json()
    assert figure.layout.shapes[0].x0 == pytest.approx(unit.threshold)
    pruned = prune_neurons(x, y, k=1, rounds=2).plot()
    assert list(pruned.data[0].x) == [0, 1, 2]
    known = compare_in_context(ridge_in_context(), 3, (2, 4), batch_size=16)
    curves = {t.name: t for t in known.plot().data}
    np.testing.assert_allclose(curves["ridge 1"].y, known.spd[2], atol=1e-6)
    states = torch.randn(2, 40, 3, 5, generator=draw)
    config = ContextProbeConfig(steps=3)
    probes = probe_context(states, {"w": states[0, :, 0, :2]}, config)
    assert [t.name for t in probes.plot().data] == ["probe", "unrelated problem"]
    writing = write_clamped(lambda held: torch.full((4,), float(3 in held)), lambda s: s, x, y, 3, n_random=1)
    shown = writing.plot()
    held, others = shown.data
    assert list(held.x) == writing.share.tolist() == [1, 1]
    assert list(others.x) == writing.random[0].tolist() == [0, 0]
    assert {line.x0 for line in shown.layout.shapes} == {float(writing.free)} == {0}
    model = interp.wrap(small(d_vocab=23))
    batch = {"a": TokenBatch.of(torch.randint(23, (2, 7)))}
    found = ablate_neurons(model, batch, "blocks.0.mlp.hook_post", (1,), n_random=2)
    taken, others = found.plot().data
    np.testing.assert_allclose(taken.x, found.effect, atol=1e-6)
    np.testing.assert_allclose(others.x, found.random_effects.mean(0), atol=1e-6)
    np.testing.assert_allclose(others.x + others.error_x.array, found.random_effects.amax(0), atol=1e-6)
