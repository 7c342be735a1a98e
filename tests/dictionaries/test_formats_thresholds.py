"""TopK as JumpReLU: what is kept, how well, and that the data matters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from interp.core.errors import ConfigError, NonFiniteError
from interp.dictionaries import Dictionary, DictionaryConfig, to_jumprelu
from tests.dictionaries.zoo import D, make, rows

N, K = 97, 5


def world(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sparse sums of N features in 31 dimensions [n, 31], and the features."""
    draw = torch.Generator().manual_seed(1)
    features = F.normalize(torch.randn(N, 31, generator=draw), dim=1)
    draw = torch.Generator().manual_seed(seed)
    rates = torch.linspace(0.01, 0.09, N)
    active = torch.rand(n, N, generator=draw) < rates
    return (active * torch.rand(n, N, generator=draw).add(0.5)) @ features, features


@pytest.fixture(scope="module")
def topk() -> Dictionary:
    """A TopK dictionary that knows the features and has learned to tell them apart."""
    config, features = DictionaryConfig(d_in=31, d_sae=N, k=K), world(1, 0)[1]
    told = {"encoder": features, "W_dec": features}
    dictionary = Dictionary.from_state(config, Dictionary(config).state_dict() | told)
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=5e-3)
    data = world(16384, 9)[0]
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        x = data[torch.randint(len(data), (512,), generator=draw)]
        optimizer.zero_grad()
        dictionary.error(x).square().sum(-1).mean().backward()
        optimizer.step()
        with torch.no_grad():
            dictionary.W_dec.div_(dictionary.W_dec.norm(dim=1, keepdim=True))
    return dictionary.requires_grad_(False)


def fvu(dictionary: Dictionary, x: Tensor) -> float:
    return float(dictionary.error(x).square().sum() / (x - x.mean(0)).square().sum())


def l0(dictionary: Dictionary, x: Tensor) -> float:
    return float((dictionary.encode(x) > 0).sum(-1).double().mean())


@pytest.mark.parametrize("per_latent", [True, False])
def test_latents_fire_as_often_as_they_did(topk: Dictionary, per_latent: bool) -> None:
    dictionary, (x, _) = topk, world(8192, 3)
    jump = to_jumprelu(dictionary, x, per_latent=per_latent)
    assert jump.config == replace(dictionary.config, activation="jumprelu", k=None)
    assert l0(jump, x) == pytest.approx(l0(dictionary, x), abs=1e-3)
    if per_latent:
        counts = [(d.encode(x) > 0).sum(0) for d in (dictionary, jump)]
        assert torch.equal(*counts)
    assert jump.metadata["thresholds"]["rows"] == 8192
    assert jump.metadata["thresholds"]["l0"] == pytest.approx(l0(dictionary, x))
    for name in ("encoder", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(jump.state_dict()[name], dictionary.state_dict()[name])


def test_held_out_rows_are_reconstructed_nearly_as_well(topk: Dictionary) -> None:
    rows_, x = world(16384, 3)[0], world(8192, 4)[0]
    jump, shared = (to_jumprelu(topk, rows_, per_latent=each) for each in (True, False))
    assert l0(jump, x) == pytest.approx(l0(topk, x), rel=0.02)
    told = [fvu(one, x) for one in (topk, jump, shared)]
    assert told == pytest.approx([0.177, 0.201, 0.208], abs=0.005)  # as docs/formats.md says
    assert fvu(jump, x) < 1.2 * fvu(topk, x)
    assert fvu(jump, x) < fvu(shared, x)
    both = (jump.encode(x) > 0) & (topk.encode(x) > 0)
    assert both.sum() > 0.7 * (topk.encode(x) > 0).sum()
    assert torch.equal(jump.encode(x)[both], topk.encode(x)[both])


def test_thresholds_of_other_data_are_wrong(topk: Dictionary) -> None:
    """The null: measured on rows of twice the size, the L0 is another."""
    x = world(8192, 4)[0]
    assert l0(to_jumprelu(topk, 2 * world(8192, 3)[0]), x) < 0.8 * l0(topk, x)


def test_a_topk_without_rivals_is_reproduced_exactly() -> None:
    """Identity: latents that either fire strongly or not at all leave nothing to choose."""
    config = DictionaryConfig(d_in=11, d_sae=11, k=1)
    eye = {"encoder": torch.eye(11), "W_dec": torch.eye(11)}
    dictionary = Dictionary.from_state(config, Dictionary(config).state_dict() | eye)
    x = torch.eye(11)[torch.arange(501) % 11] * torch.rand(501, 1).add(0.5)
    jump = to_jumprelu(dictionary, x)
    assert torch.equal(jump.encode(x), dictionary.encode(x))
    assert torch.equal(jump(x), dictionary(x))


def test_a_latent_that_never_fired_stays_silent(topk: Dictionary) -> None:
    state, x = topk.state_dict(), world(2048, 3)[0]
    weak = {"b_enc": state["b_enc"].index_fill(0, torch.tensor([7]), -100.0)}
    jump = to_jumprelu(Dictionary.from_state(topk.config, state | weak), x)
    assert not (jump.encode(x)[:, 7] > 0).any()


@pytest.mark.parametrize("name", ["topk, rescaled", "batchtopk", "topk skip transcoder", "hook_z"])
def test_other_makes(name: str) -> None:
    dictionary, x = make(name), rows(503)
    x = x.reshape(503, D, 1) if name == "hook_z" else x
    jump = to_jumprelu(dictionary, x)
    assert l0(jump, x) == pytest.approx(l0(dictionary, x), abs=0.01)
    assert jump.config.activation == "jumprelu" and jump.provenance == dictionary.provenance
    assert jump.config.skip is dictionary.config.skip


def test_what_has_no_thresholds_is_refused() -> None:
    for name in ("abstopk", "gated", "matching pursuit", "standard"):
        with pytest.raises(ConfigError, match="topk or batchtopk"):
            to_jumprelu(make(name), rows())
    with pytest.raises(ConfigError, match="rows"):
        to_jumprelu(make("topk"), rows(0))
    bad = rows()
    bad[5, 3] = float("inf")
    with pytest.raises(NonFiniteError, match="inf"):
        to_jumprelu(make("topk"), bad)
    one = to_jumprelu(make("topk"), rows(1))  # defined, if of little use
    assert torch.equal(one.encode(rows(1)) > 0, make("topk").encode(rows(1)) > 0)
