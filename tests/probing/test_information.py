"""Code lengths and V-information: exact where theory says, and nothing out of nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import NMF
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.errors import ConfigError
from interp.core.randomness import generator, permutation
from interp.probing import ProbeConfig, VInformation, code_length, split_rows, v_information


def test_random_labels_cost_a_bit_each_and_planted_ones_a_fraction() -> None:
    x = torch.randn(4000, 11)
    planted = (x[:, 0] > 0).long()
    found = code_length({"signal": x, "noise": torch.randn(4000, 11)}, planted)
    assert float(found.uniform) == 4000.0
    assert float(found.compression[0]) > 5 and float(found.compression[1]) == pytest.approx(1, abs=0.03)
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


def test_v_information_of_test_rows_is_by_hand() -> None:
    """One site, one penalty: the formula on scikit-learn's ridge of the training rows."""
    x, z = torch.randn(97, 3).double(), torch.randn(97, 1).double()
    z += x[:, :1]
    cut = split_rows(97, 0.3, 0)
    scale = x[cut.train].std(0, correction=0).numpy()
    oracle = Ridge(alpha=1.0).fit(x[cut.train].numpy() / scale, z[cut.train].numpy()[:, 0])
    left = z[cut.test].numpy()[:, 0] - oracle.predict(x[cut.test].numpy() / scale)
    spread = z[cut.test].numpy()[:, 0] - z[cut.train].numpy().mean()
    found = v_information({"s": x}, z, penalties=(1.0,))
    assert float(found.nats) == pytest.approx(0.5 * np.log((spread**2).mean() / (left**2).mean()))


def test_the_floor_is_the_most_that_shuffled_targets_have_anywhere() -> None:
    """A test row far out in rows and target, which weights of any kind may meet: by scikit-learn."""
    draw = torch.Generator().manual_seed(4)
    z = torch.randn(1000, 1, generator=draw).double()
    cut = split_rows(1000, 0.3, 0)
    far, sites = cut.test[0], {}
    z[far] = 100
    for name, size in (("a", 900.0), ("b", -1500.0)):
        sites[name] = torch.randn(1000, 1, generator=draw).double()
        sites[name][far] = size
    found = v_information(sites, z, penalties=(1.0,))
    seen, spread = z[cut.train].numpy()[:, 0], z[cut.test].numpy()[:, 0] - z[cut.train].numpy().mean()
    nats = np.zeros((2, 3))
    for s, x in enumerate(sites.values()):
        scale = x[cut.train].std(0, correction=0).numpy()
        for i in range(3):
            order = permutation(700, 0, "shuffled labels", i).numpy()
            oracle = Ridge(alpha=1.0).fit(x[cut.train].numpy() / scale, seen[order])
            left = z[cut.test].numpy()[:, 0] - oracle.predict(x[cut.test].numpy() / scale)
            nats[s, i] = max(0.0, 0.5 * np.log((spread**2).mean() / (left**2).mean()))
    assert nats.max() > 8 / 300 and nats.max() > 1.5 * nats.mean()  # more than luck's share
    assert float(found.floor) == pytest.approx(nats.max(), rel=1e-6)  # type: ignore[arg-type]
    assert found.shuffled[:, 0].tolist() == pytest.approx(nats.mean(1).tolist(), rel=1e-6)


@pytest.mark.parametrize("groups", [None, "sevens"])
def test_noise_has_no_complexity_of_its_own(groups: str | None) -> None:
    """Row 43: ratios of chance figures were .57 to 1; now each is 1 by its own null, and says so."""
    draw = torch.Generator().manual_seed(0)
    n = 490
    sites = {str(i): torch.randn(n, 11, generator=draw).double() for i in range(5)}
    noise = torch.randn(n, 120, generator=draw).double()
    code = None if groups is None else torch.arange(n) // 7
    found = v_information(sites, noise, groups=code)
    assert float(found.nats.max()) > 0  # there was something to divide
    assert float(found.readable.double().mean()) < 0.01, found.nats[found.readable]
    assert float((found.complexity == 1).double().mean()) > 0.97
    # The same targets, told by every site: nothing of them is taken away.
    told = v_information({name: torch.cat([x, noise], 1) for name, x in sites.items()}, noise)
    assert bool(told.readable.all()) and float(told.complexity.max()) < 0.2


def test_the_floor_is_fels_formula_above_it() -> None:
    nats = torch.tensor([[0.0, 0.02, 0.6], [0.5, 0.01, 0.8], [1.0, 0.03, 1.0]]).double()
    null = torch.full((3, 3), 0.01).double()
    found = VInformation(nats=nats, shuffled=null, floor=torch.tensor([0.05, 0.05, 0.05]).double())
    np.testing.assert_allclose(found.complexity, [1 - (0 + 0.5 + 1) / 3, 1.0, 1 - (0.6 + 0.8 + 1) / 3])
    saved_before = VInformation(nats=nats, shuffled=null)  # floored by its largest shuffled nats
    np.testing.assert_allclose(saved_before.complexity[1], 1 - (0.02 + 0 + 0.03) / 0.09)


# --- a network of digits -------------------------------------------------------------------------


def digits_network() -> tuple[nn.Sequential, Tensor, Callable[[int], None]]:
    """Four ReLU layers, pictures [n, 64], and a function that trains on by some steps."""
    data = load_digits()
    x, y = torch.tensor(data.data / 16).float(), torch.tensor(data.target)
    widths = [(64, 64)] * 4
    layers = [part for a, b in widths for part in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(64, 10))

    def train(steps: int) -> None:
        def batches(t: int) -> Tensor:
            return torch.randint(len(x), (128,), generator=generator(steps, "digits", t))

        def step(module: nn.Module, rows: Tensor, t: int) -> Tensor:
            return nn.functional.cross_entropy(module(x[rows]), y[rows])

        schedule = FitConfig(steps=steps, lr=3e-3, optimizer="adamw", log_every=steps)
        fit(net, step, batches, schedule)

    return net, x, train


def layers_of(net: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    found = {"pixels": x}
    with torch.no_grad():
        for i, part in enumerate(net):
            x = part(x)
            if isinstance(part, nn.ReLU):
                found[f"layer {i // 2}"] = x
    return found


def test_parts_of_the_last_layer_emerge_over_layers_and_over_training() -> None:
    # Fel et al. 2024 on a small scale: what the last layer is made of (NMF) is decoded from every
    # layer, and from the last layer of earlier checkpoints.
    net, x, train = digits_network()
    early = []
    for steps in (0, 30, 270):
        if steps:
            train(steps)
        early.append(layers_of(net, x)["layer 3"])
    train(500)
    layers = layers_of(net, x)
    parts = NMF(16, init="nndsvda", max_iter=400, random_state=0, tol=1e-3)
    wanted = torch.tensor(parts.fit_transform(layers["layer 3"].numpy())).double()
    wanted = wanted[:, wanted.std(0) > 1e-6]
    by_layer = v_information(layers, wanted, penalties=(1e-2, 1.0, 1e2))
    by_time = v_information({str(i): e for i, e in enumerate(early)}, wanted)
    rise, growth = by_layer.nats.mean(1), by_time.nats.mean(1)
    assert rise.tolist() == pytest.approx([0.71, 1.08, 1.28, 1.35, 1.92], abs=0.2), rise
    assert bool((rise.diff() > 0.05).all()), rise
    assert bool((growth.diff() > 0.05).all()) and growth[-1] < rise[-1] - 0.05, (growth, rise)
    assert float(by_layer.shuffled.max()) < 0.15, by_layer.shuffled.max()
    assert float(by_layer.complexity.min()) > 0 and float(by_layer.complexity.max()) < 1


def test_bad_requests_are_explained() -> None:
    x = torch.randn(40, 3)
    with pytest.raises(ConfigError, match="probabilities"):
        code_length({"s": x}, [0, 1] * 20, ProbeConfig(kind="ridge"))
    with pytest.raises(ConfigError, match="for classes"):
        code_length({"s": x}, x[:, 0])
    with pytest.raises(ConfigError, match="the same at every row"):
        v_information({"s": x}, torch.ones(40, 2))
