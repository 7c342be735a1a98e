"""Pictures of dictionaries show the numbers they are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp.core.errors import ConfigError
from interp.dictionaries import Absorption, DictionaryReport, Recovery, Splitting, Stability
from interp.plotting.rooms.dictionaries import dictionary_frontier


def report(l0: float = 8.0, with_losses: bool = True) -> DictionaryReport:
    """An evaluation of 101 latents: 3 dead, 2 dense."""
    density = torch.cat([torch.zeros(3), torch.logspace(-4, -1.2, 96), torch.tensor([0.2, 0.9])])
    ce = torch.tensor([[1.0, 1.2], [1.1, 1.3], [3.0, 3.0], [2.0, 2.2]])
    scalar = torch.tensor
    return DictionaryReport(
        l0=scalar(l0),
        l1=scalar(1.0),
        mse=scalar(0.1),
        fvu=scalar(0.2),
        cosine=scalar(0.9),
        norm_ratio=scalar(0.9),
        shrinkage=scalar(0.9),
        density=density,
        magnitude=density,
        ce=ce if with_losses else None,
        kl=ce - ce[:1] if with_losses else None,
        predictions=torch.tensor([5, 7]) if with_losses else None,
        n_tokens=10_000,
        dense_above=0.1,
        architecture="topk SAE",
        site_in="a<b>",
        site_out="a<b>",
        labels={"condition": ["intact", "spliced", "zero", "mean"]} if with_losses else {},
    )


def test_the_histogram_counts_every_latent_once() -> None:
    figure = report().plot()
    latents, dead = figure.data
    assert sum(latents.y) == 98 and list(dead.y) == [3]
    is_dense = np.array(latents.x) > -1
    assert sum(np.array(latents.y)[is_dense]) == 2
    assert "<b>" not in figure.layout.title.text
    subtitle = figure.layout.title.subtitle.text
    assert "L0 8.0" in subtitle and "0.900" in subtitle and "3 of 101 dead" in subtitle
    bare = report(with_losses=False).plot().layout.title.subtitle.text
    assert "CE" not in bare


def test_a_frontier_has_a_point_per_dictionary_in_order_of_l0() -> None:
    figure: Any = dictionary_frontier({"one": [report(9.0), report(4.0)], "two": [report(2.0)]})
    assert [list(t.x) for t in figure.data] == [[4.0, 9.0], [2.0]]
    assert list(figure.data[0].y) == pytest.approx([0.9, 0.9])
    alone: Any = dictionary_frontier({"one": [report(9.0)]})
    assert len(alone.layout.xaxis.tickvals) >= 3, "one number alone is no scale"
    long = {f"a family of dictionaries with a long name, {i}": [report(4.0 + i)] for i in range(4)}
    assert dictionary_frontier(long).layout.margin.t > figure.layout.margin.t, "its legend has two lines"
    plain: Any = dictionary_frontier({"one": [report(with_losses=False)]}, "explained_variance")
    assert list(plain.data[0].y) == pytest.approx([0.8])
    with pytest.raises(ConfigError):
        dictionary_frontier({"one": [report(with_losses=False)]})
    with pytest.raises(ConfigError):
        dictionary_frontier({"one": [report()]}, "beauty")


def test_recovery_shows_cosine_f1_and_ceiling() -> None:
    x = torch.linspace(0.1, 0.9, 7)
    result = Recovery(
        cosine=x,
        best=x,
        f1=1 - x,
        precision=x,
        recall=x,
        partner=torch.arange(7),
        probability=x / 10,
        uniqueness=torch.tensor(1.0),
        latent_f1=torch.tensor(0.5),
        l0=torch.tensor(5.0),
        fvu=torch.tensor(0.1),
        dead=1,
        true_l0=5.5,
        ceiling={"one pass": {"f1": 0.8}},
    )
    figure = result.plot()
    np.testing.assert_allclose(figure.data[0].y, x, rtol=1e-6)
    np.testing.assert_allclose(figure.data[1].y, 1 - x, rtol=1e-6)
    assert [s.y0 for s in figure.layout.shapes] == [0.8]


def test_stability_is_a_map_or_curves() -> None:
    result = Stability(
        agreement=torch.eye(3),
        shared=torch.eye(3),
        latent=torch.rand(3, 11),
        null=torch.tensor(0.3),
        threshold=0.7,
        labels={"run": ["a", "b", "c"]},
    )
    np.testing.assert_allclose(result.plot().data[0].z, np.eye(3))
    curves = result.plot(kind="latents")
    assert len(curves.data) == 3 and all(np.all(np.diff(t.y) <= 1e-7) for t in curves.data)
    assert sorted(s.y0 for s in curves.layout.shapes) == pytest.approx([0.3, 0.7])
    with pytest.raises(ConfigError):
        result.plot(kind="pie")


def test_splitting_and_absorption_are_bars() -> None:
    split = Splitting(
        n_children=torch.tensor([0, 2, 2, 11, 1]),
        coverage=torch.zeros(5),
        best=torch.zeros(5),
        parent=torch.zeros(7).long(),
        given=torch.zeros(7),
        is_measured=torch.tensor([True, True, True, True, False]),
        n_rows=9,
    )
    bars = split.plot().data[0]
    assert dict(zip(bars.x, bars.y, strict=True)) | {"2": 2, "0": 1, "8 or more": 1} == dict(
        zip(bars.x, bars.y, strict=True)
    )
    found = Absorption(
        rate=torch.tensor([0.1, 0.6]),
        fraction=torch.tensor([0.2, 0.5]),
        probe_f1=torch.ones(2),
        latent_f1=torch.ones(2),
        n_main=torch.tensor([1, 2]),
        main=((1,), (2, 3)),
        absorbers=((), ()),
        n_rows=9,
        labels={"concept": ["<i>", "b"]},
    ).plot()
    np.testing.assert_allclose(found.data[0].x, [0.6, 0.1], rtol=1e-6)
    assert all("<i>" not in t for t in found.layout.yaxis.ticktext)
