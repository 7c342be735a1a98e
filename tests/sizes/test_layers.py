"""Weights and patterns are read one layer at a time: depth costs no memory that is not the model's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import interp
from interp.lenses import TokenTableConfig, find_heads, head_atlas, neuron_atlas, split_second_order
from interp.models.adapters.weights import LAYERED
from tests.models import zoo
from tests.support.allocations import peak_bytes

D, HIDDEN, VOCABULARY = 128, 1024, 211


def model_of(layers: int, dtype: torch.dtype = torch.bfloat16) -> interp.HookedModel:
    """A gated, grouped decoder whose layers are most of it."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=D,
        intermediate_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    return interp.wrap(transformers.LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False))


@pytest.fixture(scope="module")
def deep() -> interp.HookedModel:
    return model_of(12)


IDS = torch.randint(0, VOCABULARY, (1, 33), generator=torch.Generator().manual_seed(0))
LAYER = 4 * (3 * D * HIDDEN + 2 * D * D + 2 * D * D // 4)  # float32


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "t5", "small"])
def test_one_layer_is_the_row_of_the_stack(family: str) -> None:
    model = interp.load_model("tiny-grammar") if family == "small" else interp.wrap(zoo.make(family))
    read = 0
    for name in LAYERED:
        try:
            stacked = getattr(model, name)
        except interp.core.errors.ModelError as missing:
            with pytest.raises(type(missing)):
                model.W.layer(name, 0)
            continue
        for layer, rows in enumerate(stacked):
            assert torch.equal(model.W.layer(name, layer), rows), name
        read += 1
    assert read >= 8


def test_a_layer_of_it_is_the_parameter_itself() -> None:
    model = model_of(2)
    down: Any = model.module.model.layers[1].mlp.down_proj
    assert model.W.layer("W_out", 1).data_ptr() == down.weight.data_ptr()


def test_what_writes_to_the_stream_is_widened_one_layer_at_a_time(deep: interp.HookedModel) -> None:
    """Twelve layers of float32 copies would be twelve times this."""
    interp.direct_logit_attribution(deep, IDS)
    for neurons in (False, True):
        used = peak_bytes(lambda n=neurons: interp.direct_logit_attribution(deep, IDS, neurons=n))
        assert used < 1.5 * LAYER + 2 * neurons * 12 * HIDDEN * IDS.numel() * 4


def test_a_neuron_atlas_holds_one_layer_and_one_block(deep: interp.HookedModel) -> None:
    config = TokenTableConfig(block_mib=1)
    neuron_atlas(deep, config=config)
    found = neuron_atlas(deep, config=config)
    kept = sum(t.numel() * t.element_size() for t in vars(found).values() if isinstance(t, Tensor))
    used = peak_bytes(lambda: neuron_atlas(deep, config=config))
    assert used < 1.2 * kept + 1.5 * LAYER + 4 * 2**20


def test_a_head_atlas_holds_the_patterns_once(deep: interp.HookedModel) -> None:
    text = torch.randint(0, VOCABULARY, (1, 200), generator=torch.Generator().manual_seed(1))
    patterns = 12 * 8 * 200 * 200 * 2
    head_atlas(deep, IDS)
    # Kept in the model's bfloat16, read in float32 one layer at a time.
    assert peak_bytes(lambda: head_atlas(deep, text)) < 1.3 * patterns + 6 * patterns * 2 // 12


def test_heads_from_weights_holds_a_layer_and_what_heads_write(deep: interp.HookedModel) -> None:
    find_heads(deep, n_tokens=8)
    written = 12 * 8 * 8 * D * 4
    assert peak_bytes(lambda: find_heads(deep, n_tokens=8)) < 1.5 * LAYER + 2 * written


def test_second_order_runs_each_block_twice_whatever_the_depth() -> None:
    calls: list[str] = []
    for layers in (4, 8):
        model = model_of(layers, torch.float32)
        for i, block in enumerate(model.module.model.layers):
            attention: nn.Module = block.self_attn
            attention.register_forward_hook(lambda m, a, o, i=i, n=layers: calls.append(f"{n}.{i}"))
        calls.clear()
        assert split_second_order(model, IDS, 7, layer=0).check().ok
        assert len(calls) <= 2 * layers
