"""The second-order lens: exact against a replay, and a planted neuron that only heads can bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.core.errors import ConfigError, ModelError
from interp.core.result import Result
from interp.lenses import SecondOrder, second_order_directions, split_second_order
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from interp.models.text.tokens import TokenBatch
from tests.models import zoo

IDS = torch.tensor([11, 7, 23, 5, 42, 17, 3])
FAMILIES = [name for name in zoo.DECODERS if name != "opt-post"]
TEXT = "Once upon a time, there was a little girl named Lily. She"


def image() -> Tensor:
    return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


# --- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAMILIES, "vit"])
@pytest.mark.parametrize("layer", [0, 1])
def test_effects_sum_to_a_replay_with_patterns_held(name: str, layer: int) -> None:
    model = interp.wrap(zoo.make(name))
    inputs, position = (image(), 0) if name == "vit" else (IDS, -1)
    found = split_second_order(model, inputs, (3, 4), layer=layer, position=position)
    assert found.check().ok, found.check()
    assert float((found.effects.sum() + found.bias - found.replay).abs()) <= 1e-6  # measured: below 5e-7
    assert float(found.effects.abs().max()) > 1e-3  # or there was nothing to sum
    torch.testing.assert_close(found.by_head.sum(), found.replay, atol=1e-5, rtol=1e-4)
    assert found.layers == tuple(range(layer + 1, zoo.L))
    assert found.effects.shape == (zoo.M, 10 if name == "vit" else 7)


@pytest.mark.parametrize("name", ["gpt2", "neox", "opt"])
def test_in_double_precision(name: str) -> None:
    found = split_second_order(interp.wrap(zoo.make(name, dtype=torch.float64)), IDS, 3, layer=0)
    assert found.tolerance == 1e-9 and found.check().ok
    assert float((found.effects.sum() + found.bias - found.replay).abs()) < 1e-12


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_one_neuron_measured_in_the_model(name: str) -> None:
    """Taken out of what one later attention sees, with patterns and scales held."""
    model = interp.wrap(zoo.make(name))
    found = split_second_order(model, IDS, (3, 4), layer=1)  # one layer of heads above
    neuron = int(found.total().abs().argmax())
    sites = [
        "blocks.1.mlp.hook_post",
        "blocks.2.hook_resid_pre",
        "blocks.2.hook_attn_out",
        "blocks.2.attn.hook_q",
        "blocks.2.attn.hook_k",
        "blocks.2.ln1.hook_scale",
        "blocks.2.hook_resid_post",
        "ln_final.hook_scale",
    ]
    gemma = name == "gemma2"
    sites += ["blocks.1.ln2_post.hook_scale", "blocks.2.ln1_post.hook_scale"] if gemma else []
    acts = model.capture(IDS, sites)
    row = model.W_out[1, neuron].detach()
    if gemma:
        gain = 1 + model.module.model.layers[1].post_feedforward_layernorm.weight
        row = (row * gain / acts["blocks.1.ln2_post.hook_scale"]).detach()
    part = acts["post", 1][..., neuron, None] * row
    held = [
        s
        for s in sites
        if s.endswith(("hook_q", "hook_k"))
        or s in ("blocks.2.ln1.hook_scale", "blocks.2.ln1_post.hook_scale")
    ]
    hooks: list[Any] = [("blocks.2.hook_resid_pre", lambda x, hook: x - part)]
    hooks += [(s, lambda x, hook, kept=acts[s]: kept) for s in held]
    blind = model.capture(IDS, "blocks.2.hook_attn_out", fwd_hooks=hooks)["attn_out", 2]
    missing = acts["attn_out", 2] - blind
    scale = ("ln_final.hook_scale", lambda x, hook: acts["ln_final.hook_scale"])
    out = ("blocks.2.hook_resid_post", lambda x, hook: x - missing)
    with torch.no_grad():
        logits = torch.stack([model(IDS)[0, -1], model.run_with_hooks(IDS, [out, scale])[0, -1]])
    if model.cfg.final_softcap:
        logits = torch.atanh(logits / 30) * 30
    measured = (logits[0] - logits[1])[3] - (logits[0] - logits[1])[4]
    assert float(found.total()[neuron]) == pytest.approx(float(measured), abs=2e-5)


def test_direct_effects_are_direct_logit_attributions() -> None:
    model = interp.wrap(zoo.make("gpt2"))
    found = split_second_order(model, IDS, (3, 4), layer=1)
    plain = interp.direct_logit_attribution(model, IDS, (3, 4), positions=-1, neurons=True)
    rows = [i for i, name in enumerate(plain.components) if name.startswith("L1N")]
    torch.testing.assert_close(found.direct, plain.values[rows, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox"])
def test_directions_read_with_the_unembedding_are_the_effects(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    vectors = second_order_directions(model, IDS, 0, [5, 0, 30])
    effects = vectors @ (model.W_U[:, 3] - model.W_U[:, 4]).detach()
    found = split_second_order(model, IDS, (3, 4), layer=0).total()[[5, 0, 30]]
    torch.testing.assert_close(effects, found, atol=1e-5, rtol=1e-4)


def test_padding_never_reaches_the_lens() -> None:
    model = interp.wrap(zoo.make("gpt2"))
    ids = torch.cat([torch.zeros(1, 3).long(), IDS[None]], dim=1)
    padded = split_second_order(model, TokenBatch(ids, torch.arange(10)[None] >= 3), 3, layer=0)
    plain = split_second_order(model, IDS, 3, layer=0)
    torch.testing.assert_close(padded.effects, plain.effects, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded.bias, plain.bias, atol=1e-5, rtol=1e-4)
    assert abs(float(plain.bias)) > 1e-4 and padded.check().ok
    assert padded.tokens == plain.tokens and padded.position == 6


# --- the phenomenon, and the null --------------------------------------------------------------


def planted(copies: bool) -> interp.HookedModel:
    """Neuron 7 of layer 0 fires on token 9 and writes what head 1 of layer 1 copies to the end."""
    sizes = {"n_layers": 2, "d_model": 16, "n_ctx": 13, "d_head": 4, "n_heads": 3, "d_mlp": 11}
    module = SmallTransformer(SmallConfig(**sizes, d_vocab=20, normalization_type=None), seed=1)
    with torch.no_grad():
        embed: Any = module.embed
        embed.W_E[9] = 0.0
        embed.W_E[9, 2] = 3.0
        first, second = module.blocks[0].mlp, module.blocks[1].attn
        first.W_in[:, 7] = 0.0
        first.W_in[2, 7] = 1.0
        first.W_out[7] = 0.0
        first.W_out[7, 5] = 2.0
        second.W_V[1] = 0.0
        second.W_O[1] = 0.0
        if copies:
            second.W_V[1, 5, 0] = 1.0
            second.W_O[1, 0, 11] = 4.0
        module.unembed.W_U[:, 13] = 0.0
        module.unembed.W_U[11, 13] = 1.0
    return interp.wrap(module)


def test_a_planted_neuron_is_found_where_it_writes_and_by_its_head() -> None:
    ids = torch.tensor([4, 9, 1, 2, 3])
    found = split_second_order(planted(copies=True), ids, 13, layer=0)
    neuron, position = divmod(int(found.effects.abs().argmax()), 5)
    assert (neuron, position) == (7, 1) and int(found.by_head[0].argmax()) == 1
    others = found.total().abs().sort(descending=True).values
    assert float(others[0]) > 10 * float(others[1])
    assert float(found.direct[7].abs()) < 1e-2 * float(others[0])  # nothing on the direct path
    null = split_second_order(planted(copies=False), ids, 13, layer=0)
    assert null.check().ok  # heads 0 and 2 are random and carry a little of everything
    assert float(null.total().abs()[7]) < 0.1 * float(others[0])


def test_in_a_real_model_few_neurons_hold_most_of_the_effect(shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    found = split_second_order(model, TEXT, layer=1)
    assert found.check().ok
    shares = found.total().abs().sort(descending=True).values.cumsum(0) / found.total().abs().sum()
    tenth = float(shares[len(shares) // 10])
    assert tenth > 0.3, f"share of the strongest tenth of the neurons: {tenth:.2f}"
    assert float(found.total().abs().max()) > 0.1


# --- results and errors ------------------------------------------------------------------------


def test_the_result_is_a_folder_and_pictures(tmp_path: Path) -> None:
    found = split_second_order(interp.wrap(zoo.make("llama")), IDS, 3, layer=0)
    found.save(tmp_path / "it")
    again = Result.load(tmp_path / "it")
    assert isinstance(again, SecondOrder) and torch.equal(again.effects, found.effects)
    assert again.plot().data[0].z.shape == (16, 7)
    assert len(again.plot(kind="neurons", keep=5).data[0].x) == 5
    assert again.plot(kind="heads").data[0].z.shape == (2, zoo.H)
    assert found.top(1, "effects")["neuron"].iloc[0].startswith("L0N")


@pytest.mark.parametrize(
    ("name", "layer", "options", "kind"),
    [
        ("gpt2", 2, {}, ConfigError),
        ("gpt2", -1, {}, ConfigError),
        ("gpt2", 0, {"position": 7}, ConfigError),
        ("t5", 0, {}, ConfigError),
        ("bert", 0, {}, ModelError),
        ("falcon", 0, {}, ModelError),
    ],
)
def test_bad_requests_are_explained(
    name: str, layer: int, options: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        split_second_order(interp.wrap(zoo.make(name)), IDS, 3, layer=layer, **options)


def test_no_such_neuron() -> None:
    with pytest.raises(ConfigError, match="no such neuron"):
        second_order_directions(interp.wrap(zoo.make("gpt2")), IDS, 0, [zoo.M])
