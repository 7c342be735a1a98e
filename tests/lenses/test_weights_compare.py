"""Two models compared: a rotated and permuted copy is recovered exactly, strangers are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import interp
from interp.core.errors import ConfigError, ShapeError
from interp.lenses import (
    align_models,
    compare_tables,
    neuron_atlas,
    run_stitched,
    stitch_kernel,
)
from interp.models.hooked import HookedModel
from tests.models.zoo import D, L, M, V, make


def folded(dtype: torch.dtype = torch.float64) -> HookedModel:
    return interp.fold(interp.wrap(make("llama", dtype=dtype)))


def rotated(model: HookedModel) -> tuple[HookedModel, torch.Tensor, list[torch.Tensor]]:
    """The same function in another basis: stream rotated, neurons permuted.

    Layer 1's neurons get signs too: gate stays, up and down change sign together.
    """
    import copy

    module = copy.deepcopy(model.module)
    dtype = next(module.parameters()).dtype
    turn = torch.linalg.qr(torch.randn(D, D, dtype=dtype))[0]
    orders = []
    with torch.no_grad():
        module.model.embed_tokens.weight.copy_(model.module.model.embed_tokens.weight @ turn)
        module.lm_head.weight.copy_(model.module.lm_head.weight @ turn)
        for i, block in enumerate(module.model.layers):
            attn, mlp, order = block.self_attn, block.mlp, torch.randperm(M)
            sign = torch.where(torch.rand(M, dtype=dtype) < 0.5, -1.0, 1.0).to(dtype)
            sign = sign if i == 1 else torch.ones_like(sign)
            for part in (attn.q_proj, attn.k_proj, attn.v_proj):
                part.weight.copy_(part.weight @ turn)
            attn.o_proj.weight.copy_(turn.T @ attn.o_proj.weight)
            mlp.gate_proj.weight.copy_((mlp.gate_proj.weight @ turn)[order])
            mlp.up_proj.weight.copy_(((mlp.up_proj.weight @ turn) * sign[:, None])[order])
            mlp.down_proj.weight.copy_(((turn.T @ mlp.down_proj.weight) * sign)[:, order])
            for part in (attn.o_proj, mlp.down_proj):
                if part.bias is not None:
                    part.bias.copy_(part.bias @ turn)
            orders.append(order)
    return interp.wrap(module), turn, orders


@pytest.mark.parametrize("weight", ["in", "gate", "out"])
def test_a_rotated_and_permuted_copy_is_matched_neuron_by_neuron(weight: str) -> None:
    model = folded()
    other, _, orders = rotated(model)
    found = align_models(model, other, weight)
    assert found.matched_layer.tolist() == list(range(L))
    for layer, order in enumerate(orders):
        assert torch.equal(order[found.neuron[layer]], torch.arange(M))
    assert found.correlation.abs().min() >= 0.999 and found.check().ok
    assert found.similarity.diagonal().min() > 2 * found.similarity_control.max()
    if weight != "gate":
        assert found.correlation[1].min() < -0.999  # the signs of layer 1


def test_the_correlation_is_that_of_numpy_over_the_vocabulary() -> None:
    import numpy as np

    model, other = folded(torch.float32), interp.wrap(make("llama", seed=1))
    found = align_models(model, other, "out")
    layer = 1
    j = int(found.matched_layer[layer])
    partner = int(found.neuron[layer, 5])
    left = (model.W_E @ model.W_out[layer, 5]).detach().numpy()
    right = (other.W_E @ other.W_out[j, partner]).detach().numpy()
    assert float(found.correlation[layer, 5]) == pytest.approx(
        np.corrcoef(left, right)[0, 1], abs=1e-4
    )
    # Null: strangers' neurons match no better than with permuted tokens.
    assert found.similarity.mean() < 1.2 * found.similarity_control.mean()


def test_stitching_a_rotated_copy_changes_nothing_and_a_random_kernel_everything() -> None:
    model = folded()
    other, turn, _ = rotated(model)
    ids = torch.randint(5, V, (3, 11))
    torch.testing.assert_close(stitch_kernel(other, model), turn.T, atol=1e-9, rtol=1e-7)
    expected = model(ids)
    for cut in ((0, 0), (1, 1), (2, 2)):
        torch.testing.assert_close(
            run_stitched(other, model, ids, cut), expected, atol=1e-6, rtol=1e-5
        )
    noise = run_stitched(other, model, ids, (2, 2), torch.randn(D, D, dtype=torch.float64))
    assert (noise - expected).abs().max() > 0.1
    whole = run_stitched(other, model, ids, (L, L - 1))
    assert (whole - expected).abs().max() > 1e-3  # the last layer ran twice


def test_a_slightly_tuned_model_agrees_and_a_stranger_does_not(shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    tuned = model.to("cpu")
    with torch.no_grad():
        for weight in tuned.module.parameters():
            weight.add_(0.03 * weight.std() * torch.randn_like(weight))
    base = neuron_atlas(model)
    found = compare_tables(base, neuron_atlas(tuned))
    assert found.same_first.min() > 0.7 > 0.1 > found.same_first_shuffled.max()
    assert found.overlap.mean() > 0.7 and found.overlap_shuffled < 0.1
    stranger = compare_tables(base, neuron_atlas(model.randomised(0)))
    assert stranger.same_first.max() < 0.1 and stranger.overlap.mean() < 0.1
    same = compare_tables(base, base)
    assert same.overlap.min() == 1 and same.same_first.min() == 1


def test_models_that_cannot_be_compared_are_refused(shared_data: Path) -> None:
    model, other = interp.wrap(make("gpt2")), interp.wrap(make("llama"))
    stories = interp.load_model(shared_data / "models" / "stories260k")
    with pytest.raises(ConfigError, match="share a vocabulary"):
        align_models(model, stories)
    with pytest.raises(ConfigError, match="in, gate or out"):
        align_models(model, other, "Q")
    with pytest.raises(ShapeError, match="not of the same rows"):
        compare_tables(neuron_atlas(model), neuron_atlas(other))
    with pytest.raises(ConfigError, match="no such cut"):
        run_stitched(model, other, torch.tensor([[5, 6]]), (0, L))
    with pytest.raises(ShapeError, match="kernel"):
        run_stitched(model, other, torch.tensor([[5, 6]]), (1, 1), torch.ones(D, D + 1))
