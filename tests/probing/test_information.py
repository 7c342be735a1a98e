"""Code lengths and V-information: exact where theory says, and nothing out of nothing."""

from __future__ import annotations

import pytest
import torch

from interp.core.errors import ConfigError
from interp.probing import ProbeConfig, code_length, v_information


def test_random_labels_cost_a_bit_each_and_planted_ones_a_fraction() -> None:
    x = torch.randn(4000, 11)
    planted = (x[:, 0] > 0).long()
    found = code_length({"signal": x, "noise": torch.randn(4000, 11)}, planted)
    assert float(found.uniform) == 4000.0
    assert float(found.compression[0]) > 5 and float(found.compression[1]) == pytest.approx(
        1, abs=0.03
    )
    assert bool((found.shuffled / 4000 - 1).abs().max() < 0.05)


def test_the_code_is_shorter_where_less_data_is_needed() -> None:
    # Both sites separate the classes in the end; one needs more rows to get there (MDL's point).
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(3000) % 2
    easy = torch.randn(3000, 5, generator=draw)
    easy[:, 0] += 8 * y
    hard = torch.randn(3000, 300, generator=draw)
    hard[:, :150] += 0.4 * y[:, None]
    found = code_length({"easy": easy, "hard": hard}, y)
    assert 1.2 * float(found.bits[0]) < float(found.bits[1]) < 0.5 * 3000, found.bits


def test_many_classes_that_come_late_have_a_price() -> None:
    y = torch.cat([torch.arange(900) % 3, torch.full((100,), 3)])
    found = code_length({"s": torch.eye(4)[y] * 5}, y.tolist(), groups=(torch.arange(1000) // 10))
    assert bool(torch.isfinite(found.bits).all()) and float(found.compression) > 3


def test_an_mlp_can_code_what_a_line_cannot() -> None:
    x = torch.randn(1000, 2)
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()
    line = code_length({"s": x}, y)
    config = ProbeConfig(kind="mlp", steps=100, lr=2e-2, hidden=16, batch_size=128)
    bent = code_length({"s": x}, y, config)
    assert float(line.compression) < 1.05 and float(bent.compression) > 1.4


def test_v_information_is_the_gaussian_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 7, generator=draw).double()
    noise = torch.randn(20_000, 2, generator=draw).double()
    z = torch.stack([x[:, 0] + 0.5 * noise[:, 0], x[:, 1] + 2 * noise[:, 1]], 1)
    found = v_information({"s": x}, z)
    expected = 0.5 * torch.log(torch.tensor([1.25 / 0.25, 5.0 / 4.0]))
    torch.testing.assert_close(found.nats[0], expected.double(), atol=0.03, rtol=0.03)
    assert float(found.shuffled.max()) < 0.005


def test_complexity_is_high_for_what_only_late_sites_know() -> None:
    x = torch.randn(3000, 3).double()
    late = (x[:, 0] * x[:, 1])[:, None]
    sites = {
        "early": x,
        "middle": torch.cat([x, torch.randn(3000, 1).double()], 1),
        "late": torch.cat([x, late], 1),
    }
    targets = torch.cat([x[:, :1], late], 1) + 0.1 * torch.randn(3000, 2).double()
    found = v_information(sites, targets, names=["simple", "complex"])
    simple, hard = found.complexity.tolist()
    assert simple < 0.05 and hard > 0.6, (simple, hard)
    frame = found.to_frame("nats")
    assert set(frame["target"]) == {"simple", "complex"}


def test_bad_requests_are_explained() -> None:
    x = torch.randn(40, 3)
    with pytest.raises(ConfigError, match="probabilities"):
        code_length({"s": x}, [0, 1] * 20, ProbeConfig(kind="ridge"))
    with pytest.raises(ConfigError, match="for classes"):
        code_length({"s": x}, x[:, 0])
    with pytest.raises(ConfigError, match="the same at every row"):
        v_information({"s": x}, torch.ones(40, 2))
