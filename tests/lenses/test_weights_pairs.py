"""Token pairs of OV and QK circuits: streamed = dense, copy heads copy, noise does not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import interp
from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.core.result import Result
from interp.lenses import TokenTableConfig, read_pairs
from interp.lenses.weights.pairs import top_pairs
from interp.models.folding.fold import fold
from tests.models.zoo import DH, KV, H, L, V, make


def test_streamed_pairs_are_the_dense_matrix_s_at_2000_tokens() -> None:
    left, right = torch.randn(2000, 11), torch.randn(11, 2000) * torch.rand(2000)
    values, rows, columns = top_pairs(left, right, 101, block_mib=1)
    dense = left @ right
    best = dense.flatten().topk(101)
    torch.testing.assert_close(values, best.values)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
        (i // 2000, i % 2000) for i in best.indices.tolist()
    }
    torch.testing.assert_close(dense[rows, columns], values)


@given(
    st.integers(1, 23),
    st.integers(1, 19),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_streamed_pairs_are_the_dense_ones_for_any_sizes(
    n: int, m: int, rank: int, k: int, seed: int, negative: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    left, right = torch.randn(n, rank, generator=draw), torch.randn(rank, m, generator=draw)
    if negative:  # no positive entry: the bound may not prune
        left, right = left.abs(), -right.abs()
    values, rows, columns = top_pairs(left, right, k)
    torch.testing.assert_close(values, (left @ right).flatten().topk(min(k, n * m)).values)
    torch.testing.assert_close((left @ right)[rows, columns], values)


def test_pairs_are_those_of_transformer_lens_factored_matrix() -> None:
    import transformer_lens as lens

    model = interp.wrap(make("gpt2"))
    table = read_pairs(model, "OV", [(1, 4)], TokenTableConfig(k=13, final_norm=False))
    whole = lens.FactoredMatrix(model.W_E @ model.W_V[1, 4], model.W_O[1, 4] @ model.W_U).AB
    torch.testing.assert_close(table.scores[0], whole.flatten().topk(13).values.detach())
    torch.testing.assert_close(whole[table.source[0], table.target[0]].detach(), table.scores[0])


def test_qk_pairs_hold_biases_scale_and_shared_keys() -> None:
    for name, heads in (("gpt2", H), ("llama", KV), ("bert", H)):
        model = interp.wrap(make(name))
        table = read_pairs(model, "QK", [(2, 5)], TokenTableConfig(k=7))
        kv = 5 * heads // H
        query = model.W_E @ model.W_Q[2, 5] + model.W.b_Q[2, 5]
        key = model.W_E @ model.W_K[2, kv] + model.W.b_K[2, kv]
        whole = (query @ key.T / math.sqrt(DH)).detach()
        torch.testing.assert_close(table.scores[0], whole.flatten().topk(7).values)


def test_a_copy_head_pairs_every_token_with_itself_and_noise_does_not() -> None:
    model = interp.wrap(make("gpt2"))
    null = read_pairs(model, "OV", config=TokenTableConfig(k=50, final_norm=False))
    assert null.scores.shape == (L * H, 50) and null.same.max() < 0.2
    assert null.check()[0].ok
    left = torch.randn(V, DH)
    left = left / left.norm(dim=1, keepdim=True)
    values, rows, columns = top_pairs(left, left.T, V)
    assert torch.equal(rows, columns) and len(set(rows.tolist())) == V
    torch.testing.assert_close(values, torch.ones(V))


@pytest.mark.parametrize("circuit", ["OV", "QK"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_pairs_of_a_model_that_is_not_folded_say_so(name: str, circuit: str) -> None:
    """The gain and centring that the pairs leave out, by the matrices: numpy, head by head."""
    module = make(name)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if "ln_1" in key or "input_layernorm" in key:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model = interp.wrap(module)
    table = read_pairs(model, circuit, [(1, 0), (1, 2)], TokenTableConfig(k=3))
    block = module.transformer.h[1].ln_1 if name == "gpt2" else module.model.layers[1].input_layernorm
    gain, shares = block.weight.detach().numpy(), []
    read = {"OV": [model.W_V], "QK": [model.W_Q, model.W_K]}[circuit]
    for matrix in (head.detach().numpy() for every in read for head in every[1]):
        behind = gain[:, None] * matrix
        behind = behind - behind.mean(0) if name == "gpt2" else behind
        shares.append(np.linalg.norm(behind - matrix) / np.linalg.norm(matrix))
        bias = block.bias.detach().numpy() if name == "gpt2" else 0 * gain
        shares.append(np.linalg.norm(bias @ matrix) / np.linalg.norm(matrix))
    assert table.left_out == pytest.approx(max(shares), rel=1e-4) and max(shares) > 0.1
    assert not table.check().ok and "fold the model" in repr(table)
    folded = read_pairs(fold(model), circuit, [(1, 0), (1, 2)], TokenTableConfig(k=3))
    assert folded.left_out is not None and folded.left_out < 1e-5 and folded.check().ok


def test_a_norm_of_unknown_formula_is_not_called_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise ModelError("this norm is of a kind that cannot be held fixed", got="Odd")

    monkeypatch.setattr("interp.lenses.weights.pairs.norm_before", unknown)
    table = read_pairs(interp.wrap(make("llama")), "OV", [(1, 0)], TokenTableConfig(k=3))
    assert table.left_out == 1.0 and not table.check().ok


def test_the_induction_models_heads_copy_by_weights(shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "induction")
    table = read_pairs(model, "OV", config=TokenTableConfig(k=50))
    same = dict(zip(table.labels["head"], table.same.tolist(), strict=True))
    assert min(same["L1H1"], same["L1H2"], same["L1H3"]) > 0.8
    assert max(same["L0H0"], same["L0H1"], same["L0H3"]) < 0.1
    null = read_pairs(model.randomised(0), "OV", config=TokenTableConfig(k=50))
    assert null.same.max() < 0.2


def test_tables_are_saved_and_name_their_tokens(tmp_path: Path, shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    table = read_pairs(model, "QK", [(0, 1), (4, 7)], TokenTableConfig(k=3))
    table.save(tmp_path / "t")
    again = Result.load(tmp_path / "t")
    assert again.pairs("L4H7") == table.pairs("L4H7")  # type: ignore[attr-defined]
    assert set(table.to_frame().columns) >= {"source_token", "target_token", "scores"}


def test_what_does_not_exist_is_refused() -> None:
    model = interp.wrap(make("gpt2"))
    with pytest.raises(ConfigError, match="'OV', 'QK'"):
        read_pairs(model, "KQ")
    with pytest.raises(ConfigError, match="no such heads"):
        read_pairs(model, "OV", [(0, H)])
    with pytest.raises(ConfigError, match="no such head"):
        read_pairs(model, "OV", [(0, 0)]).pairs("L0H1")
    with pytest.raises(ShapeError):
        top_pairs(torch.ones(2, 3), torch.ones(2, 3), 1)
