"""Two models compared: a rotated and permuted copy is recovered exactly, strangers are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import interp
from interp.core.errors import ConfigError, ShapeError
from interp.core.result import Result
from interp.lenses import (
    ActiveOverlap,
    TokenTableConfig,
    align_models,
    compare_tables,
    measure_active_overlap,
    neuron_atlas,
    read_weights,
    run_stitched,
    stitch_kernel,
)
from interp.models.hooked import HookedModel
from tests.lenses import toys
from tests.models.zoo import D, L, M, V, make
from tests.support.closeness import rounding_bound


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
    assert float(found.correlation[layer, 5]) == pytest.approx(np.corrcoef(left, right)[0, 1], abs=1e-4)
    # Null: strangers' neurons match no better than with permuted tokens.
    assert found.similarity.mean() < 1.2 * found.similarity_control.mean()


def test_stitching_a_rotated_copy_changes_nothing_and_a_random_kernel_everything() -> None:
    model = folded()
    other, turn, _ = rotated(model)
    ids = torch.randint(5, V, (3, 11))
    torch.testing.assert_close(stitch_kernel(other, model), turn.T, atol=1e-9, rtol=1e-7)
    expected = model(ids)
    # Every layer adds up D numbers a few times, turned in one model and not in the other; Llama's
    # norms and its softmax do so in float32 whatever the dtype.
    bound = rounding_bound(torch.float32, 4 * L * D, float(expected.abs().max()))
    for cut in ((0, 0), (1, 1), (2, 2)):
        found = run_stitched(other, model, ids, cut)
        torch.testing.assert_close(found, expected, rtol=0, atol=bound)
    noise = run_stitched(other, model, ids, (2, 2), torch.randn(D, D, dtype=torch.float64))
    assert (noise - expected).abs().max() > 0.1
    whole = run_stitched(other, model, ids, (L, L - 1))
    assert (whole - expected).abs().max() > 1e-3  # the last layer ran twice


@pytest.mark.full
def test_two_seeds_of_one_corpus_match_layer_by_layer_and_lend_each_other_a_classifier() -> None:
    """The method page: layers matched >= 75 %, matched |correlation| >= 2 x the control's, the
    stitched classifier right in >= .80 of cases at some cuts, where random kernels have .5."""
    models = [interp.wrap(toys.train_chains(seed, steps=400)) for seed in range(6)]
    untrained = interp.wrap(toys.train_chains(2, steps=1))
    matched: list[float] = []
    for weight in ("in", "out"):
        for a, b in zip(models[::2], models[1::2], strict=True):
            found = align_models(a, b, weight)
            matched.append(float((found.matched_layer == torch.arange(4)).float().mean()))
            strength, chance = found.correlation.abs().mean(), found.similarity_control.mean()
            assert float(strength) >= 2 * float(chance), f"{weight}: {strength}, {chance}"
        null = align_models(models[0], untrained, weight)
        assert float(null.correlation.abs().mean()) < 1.5 * float(null.similarity_control.mean())
    # Of four layers two neighbours are taken for each other now and then (a pair has 1 or .5).
    assert sum(matched) / len(matched) >= 0.75, matched
    plain, b = toys.train_chains(0), interp.wrap(toys.train_chains(1))
    classifier = interp.wrap(toys.tune_chains(plain))
    texts, topics = toys.chain_texts(400, 999)

    def right(logits: torch.Tensor) -> float:
        said = logits[:, -1, toys.YES] > logits[:, -1, toys.NO]
        return float((said == (topics < toys.CHAINS // 2)).float().mean())

    assert right(classifier(texts)) >= 0.98
    kernel = stitch_kernel(b, classifier)
    cuts = [(i, j) for i in (1, 2, 3, 4) for j in (1, 2, 3)]
    sweep = {cut: right(run_stitched(b, classifier, texts, cut, kernel)) for cut in cuts}
    draws = [torch.randn_like(kernel) * kernel.std() for _ in range(12)]
    random = [right(run_stitched(b, classifier, texts, (3, 1), draw)) for draw in draws]
    figures = f"stitched at {sweep}, random kernels {random}"
    # The page: well above chance for some cuts, at it for others. Seen: 1.00 wherever the
    # classifier's layers 1 to 3 are kept (what makes the topic is in layer 1), .52 to .63 after.
    assert all(score >= 0.8 for (_, j), score in sweep.items() if j == 1), figures
    assert abs(sum(random) / len(random) - 0.5) <= 0.15, figures


def test_two_sides_of_a_model_are_compared_row_by_row(shared_data: Path) -> None:
    """Neurons of stories260k write the token that they read five times as often as chance."""
    model = interp.load_model(shared_data / "models" / "stories260k")
    sides = [read_weights(model, side) for side in ("in", "out")]
    found = compare_tables(*sides)
    assert float(found.same_first.min()) > 3 * float(found.same_first_shuffled.max()), found
    null = [read_weights(model.randomised(0), side) for side in ("in", "out")]
    assert float(compare_tables(*null).same_first.max()) < 0.01


def test_active_neurons_say_what_the_stream_says(shared_data: Path, tmp_path: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    texts = [
        "Once upon a time, there was a little girl named Lily. She loved to play outside in",
        "One day, a big dog saw a ball in the park. He wanted to play with the ball, but it",
    ]
    found = measure_active_overlap(model, texts, k=20)
    assert found.check().ok and found.n_positions == int(model.tokenize(texts).lengths.sum())
    figures = f"same position {found.overlap.tolist()}, another {found.control.tolist()}"
    assert bool((found.overlap > 1.3 * found.control).all()), figures
    null = measure_active_overlap(model.randomised(0), texts, k=20)
    assert float((null.overlap - null.control).abs().max()) < 0.03, null
    found.save(tmp_path / "it")
    again = Result.load(tmp_path / "it")
    assert isinstance(again, ActiveOverlap) and len(again.plot().data) == 2


def test_the_overlap_of_one_position_by_hand() -> None:
    model = interp.wrap(make("gpt2"))
    ids = torch.tensor([11, 7, 23])
    found = measure_active_overlap(model, ids[None], k=7, active=2, layers=[1])
    acts = model.capture(ids, ["blocks.1.mlp.hook_post", "blocks.1.hook_resid_post"])
    table = read_weights(model, "out", TokenTableConfig(k=7))
    shares = []
    with torch.no_grad():
        for position in range(3):
            post = acts["post", 1][0, position]
            strength = post * model.W_out[1].norm(dim=-1)
            said = model.unembed(model.ln_final(acts["resid_post", 1][0, position])).topk(7).indices
            for neuron in strength.abs().topk(2).indices.tolist():
                row = table.names.index(f"L1N{neuron}.out")
                tokens = table.ids[row, int(strength[neuron] < 0)].tolist()
                shares.append(len(set(tokens) & set(said.tolist())) / 7)
    assert float(found.overlap[0]) == pytest.approx(sum(shares) / len(shares), abs=1e-6)


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
    with pytest.raises(ConfigError, match="'in', 'gate', 'out'"):
        align_models(model, other, "Q")
    with pytest.raises(ShapeError, match="not of the same rows"):
        compare_tables(neuron_atlas(model), neuron_atlas(other))
    with pytest.raises(ConfigError, match="no such tokens"):
        measure_active_overlap(model, torch.tensor([[5, 6]]), k=V)
    with pytest.raises(ConfigError, match="no such cut"):
        run_stitched(model, other, torch.tensor([[5, 6]]), (0, L))
    with pytest.raises(ShapeError, match="kernel"):
        run_stitched(model, other, torch.tensor([[5, 6]]), (1, 1), torch.ones(D, D + 1))
