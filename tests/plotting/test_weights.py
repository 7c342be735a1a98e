"""Pictures of tables, pairs, clamps, alignments and of the attention atlas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import interp
from interp.core.errors import ConfigError
from interp.lenses import (
    TokenTableConfig,
    align_models,
    clamp_neuron,
    compare_heads,
    compare_tables,
    find_heads,
    head_atlas,
    neuron_atlas,
    read_pairs,
    record_attention,
)
from interp.lenses.weights.table import TokenTable
from interp.models.hooked import HookedModel
from tests.models.zoo import H, L, make
from tests.plotting.samples import NASTY


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return interp.wrap(make("gpt2"))


def table(n: int = 3) -> TokenTable:
    """A table whose tokens break pages."""
    k = len(NASTY)
    scores = torch.arange(n * 2 * k, 0, -1).reshape(n, 2, k).float()
    return TokenTable(
        scores=scores,
        ids=torch.arange(k).expand(n, 2, k),
        mean=torch.zeros(n),
        std=torch.ones(n),
        threshold=torch.full((n,), 3.0),
        pieces=dict(enumerate(NASTY)),
        n_tokens=10**6,
        space="unembed",
        labels={"direction": [f"L0N{i}.out" for i in range(n)], "sign": ["+", "-"]},
    )


def texts(fig: go.Figure) -> list[str]:
    """Every text that a figure's traces and axes hold."""
    found = [
        str(text)
        for trace in fig.data
        for part in (trace.text, trace.customdata)
        if part is not None
        for text in np.ravel(np.asarray(part, dtype=object))
    ]
    return [*found, *(fig.layout.yaxis.ticktext or ()), *(fig.layout.xaxis.ticktext or ())]


def test_hostile_tokens_leave_no_markup_in_tables() -> None:
    assert all("<" not in str(t).replace("<br>", "") for t in texts(table().plot()))


def test_a_table_opens_with_the_highest_z_and_turns_to_the_negative() -> None:
    shown = table()
    fig = shown.plot(n=2)
    assert fig.layout.yaxis.ticktext == ("L0N0.out", "L0N1.out")
    assert fig.layout.yaxis.autorange == "reversed"
    assert [t.visible for t in fig.data] == [True, False]
    np.testing.assert_allclose(fig.data[1].z, shown.z[:2, 1])
    turns = [list(button.args[1]) for button in fig.layout.updatemenus[0].buttons]
    assert turns == [[True, False], [False, True]]
    assert shown.plot(sign="-").data[1].visible is True
    with pytest.raises(ConfigError, match="sign"):
        shown.plot(sign="x")


def test_pairs_clamps_and_comparisons_are_drawn(model: HookedModel) -> None:
    pairs = read_pairs(model, "OV", config=TokenTableConfig(k=3))
    fig = pairs.plot(n=4)
    assert fig.data[0].z.shape == (4, 3)
    assert float(fig.data[0].z[0, 0]) == pytest.approx(float(pairs.scores.max()), rel=1e-6)
    assert "→" in fig.data[0].text[0][0]
    effect = clamp_neuron(model, torch.randint(5, 90, (3, 7)), (0, 1), 3.0)
    bars = effect.plot(n=4)
    np.testing.assert_allclose(bars.data[0].x[0], effect.change.max(), rtol=1e-6)
    assert "neuron 1" in bars.layout.title.text
    found = align_models(model, model)
    np.testing.assert_allclose(found.plot().data[0].z, found.similarity, rtol=1e-6)
    same = neuron_atlas(model)
    np.testing.assert_allclose(compare_tables(same, same).plot().data[0].x[:2], 1)


def test_the_atlas_shows_one_statistic_at_a_time(model: HookedModel) -> None:
    atlas = head_atlas(model)
    fig = atlas.plot(statistic="entropy")
    assert len(fig.data) == len(atlas.statistics) == len(fig.layout.updatemenus[0].buttons)
    shown = [trace for trace in fig.data if trace.visible]
    assert len(shown) == 1
    np.testing.assert_allclose(shown[0].z, atlas.entropy, rtol=1e-6)
    assert f"{atlas.uniform['entropy']:.3f}" in fig.layout.title.subtitle.text
    with pytest.raises(ConfigError, match="did you mean 'entropy'"):
        atlas.plot(statistic="entropi")
    both = atlas.plot(statistic="entropy", against="first")
    assert [trace.name for trace in both.data] == [f"layer {i}" for i in range(L)]
    np.testing.assert_allclose(both.data[1].y, atlas.entropy[1], rtol=1e-6)
    np.testing.assert_allclose(both.data[1].x, atlas.first[1], rtol=1e-6)
    assert both.data[1].customdata[2] == "L1H2" and len(both.layout.shapes) == 2
    with pytest.raises(ConfigError, match="did you mean 'first'"):
        atlas.plot(against="frist")
    weights = find_heads(model)
    best = weights.plot(statistic="matching").data[1]
    assert weights.matching is not None and best.visible
    np.testing.assert_allclose(best.z, weights.matching.flatten(2).amax(-1), rtol=1e-6)
    flat = replace(weights, previous=torch.full((L, H), 0.01), copying=torch.full((L, H), 0.4))
    opened = [trace for trace in flat.plot().data if trace.visible]
    assert len(opened) == 1 and float(np.abs(opened[0].z).max()) > 0.2  # not the first, all flat
    with pytest.raises(ConfigError, match="did you mean 'copying'"):
        weights.plot(statistic="copyin")


def test_distances_are_a_map_or_a_matrix_in_tree_order(model: HookedModel) -> None:
    found = compare_heads(model, torch.randint(5, 90, (1, 11)), n_permutations=9)
    fig = found.plot()
    assert [trace.name for trace in fig.data] == [f"layer {i}" for i in range(L)]
    assert sum(len(trace.x) for trace in fig.data) == L * H
    assert f"p {found.p_value:.2g}" in fig.layout.title.subtitle.text
    matrix = found.plot(view="matrix").data[0].z
    np.testing.assert_allclose(matrix, found.distance[found.order][:, found.order], rtol=1e-5)
    with pytest.raises(ConfigError, match="'map', 'matrix'"):
        found.plot(view="tree")


def test_a_record_is_drawn_by_layer(model: HookedModel) -> None:
    record = record_attention(model, torch.randint(5, 90, (7,)))
    fig = record.plot(layer=1)
    assert fig.layout.meta == {"thumbnails": H}
    np.testing.assert_allclose(np.nan_to_num(fig.data[0].z), record.patterns[1, 0], rtol=1e-5, atol=1e-7)
