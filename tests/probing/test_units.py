"""Single units, the LSTM from cells, in-context algorithms, attributes with a low-rank rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.core.errors import ConfigError, NonFiniteError, ShapeError
from interp.probing.concepts import (
    elude,
    score_concept_agreement,
    score_concept_existence,
    score_concept_location,
)
from interp.probing.rows import encode
from interp.studies.char_lstm import CharLSTM, clamp_unit, from_tensorflow
from interp.studies.in_context import (
    compare_in_context,
    gradient_descent,
    implied_ridge,
    linear_attention,
    nearest_neighbours,
    ridge_in_context,
)
from interp.studies.sentiment_unit import best_unit, find_unit

# --- one unit ----------------------------------------------------------------------------------


def test_a_planted_unit_is_found_with_its_threshold() -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(2, (1200,), generator=draw)
    x = torch.randn(1200, 61, generator=draw)
    x[:, 17] = -2.5 * (2 * y - 1) + torch.randn(1200, generator=draw) + 4
    found = find_unit(x, y, name="mood")
    assert (found.unit, found.sign) == (17, -1) and found.check().ok
    assert float(found.unit_accuracy) > 0.97 and 3 < found.threshold < 5
    assert int(found.nonzero[found.chosen]) <= 15
    assert float(found.shuffled_accuracy) < 0.57
    few, whole = found.budget_accuracy[0].tolist()  # ten labels: one unit is enough
    assert few > 0.9 and few > whole + 0.05, (few, whole)


def test_without_a_unit_the_check_says_so() -> None:
    draw = torch.Generator().manual_seed(1)
    y = torch.randint(2, (1200,), generator=draw)
    x = torch.randn(1200, 61, generator=draw) + 0.35 * (2 * y[:, None] - 1)
    found = find_unit(x, y)
    assert float(found.full_accuracy) > 0.95 > 0.75 > float(found.unit_accuracy)
    assert not found.check().ok


def test_the_best_threshold_is_the_one_of_brute_force() -> None:
    draw = torch.Generator().manual_seed(2)
    for _ in range(20):
        x = torch.randint(5, (23, 3), generator=draw).double()  # with ties
        y = torch.randint(2, (23,), generator=draw)
        y[:2] = torch.tensor([0, 1])
        unit, sign, threshold = best_unit(x, encode("y", y))
        ours = float((((sign * (x[:, unit] - threshold)) > 0).long() == y).double().mean())
        cuts = torch.arange(-0.5, 5.5, 1)
        every = [
            ((s * (x[:, [j]] - cuts) > 0).long() == y[:, None]).double().mean(0).max()
            for j in range(3)
            for s in (1, -1)
        ]
        assert ours == pytest.approx(float(max(every)))


def test_of_equal_units_the_clearer_one_is_named() -> None:
    y = torch.arange(40) % 2
    near = 0.1 * torch.randn(40, 3).clamp(-2, 2) + y[:, None]  # all three separate the classes
    near[:, 1] = 3 * near[:, 1]
    assert best_unit(near.double(), encode("y", y))[0] == 1


# --- the LSTM from cells -----------------------------------------------------------------------


def test_cells_give_what_torchs_lstm_gives_and_edits_reach_a_step() -> None:
    model = CharLSTM(11, 7, n_layers=2, d_embed=5)
    whole = torch.nn.LSTM(5, 7, 2, batch_first=True)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    state = {
        f"{n}_l{i}": dict(model.cells[i].named_parameters())[n].detach() for i in range(2) for n in names
    }
    whole.load_state_dict(state)
    ids = torch.randint(11, (3, 13))
    logits, cells = model.run(ids)
    torch.testing.assert_close(logits, model.head(whole(model.embedding(ids))[0]))
    edited, held = model.run(ids, clamp_unit(1, 4, 0.8))
    assert held.shape == (2, 3, 13, 7)
    torch.testing.assert_close(held[1, :, :, 4], torch.full((3, 13), 0.8))
    torch.testing.assert_close(held[0], cells[0])  # the layer below does not notice
    assert float((edited - logits).abs().max()) > 1e-3
    seen: list[tuple[int, int]] = []

    def watch(step: int, layer: int, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((step, layer))
        return h, c

    text = model.generate(ids[:, :4], 5, edit=watch, seed=3)
    assert text.shape == (3, 9) and seen == [(t, i) for t in range(9) for i in range(2)]
    assert torch.equal(text, model.generate(ids[:, :4], 5, seed=3))
    with pytest.raises(ConfigError, match="tanh"):
        clamp_unit(0, 0, 1.0)


def test_a_real_character_model_speaks_shakespeare(shared_data: Path) -> None:
    folder = shared_data / "models" / "char-lstm-shakespeare"
    manifest = json.loads((folder / "manifest.json").read_text())
    arrays = {}
    short = {"embedding": "embedding", "rnnlm/softmax_w": "softmax_w", "rnnlm/softmax_b": "softmax_b"}
    for name, entry in manifest.items():
        layer = next((i for i in "01" if f"cell_{i}" in name), "")
        kind = "kernel" if name.endswith("weights") else "bias" if name.endswith("biases") else ""
        key = f"{kind}_{layer}" if layer else short.get(name)
        if key is not None:
            raw = np.fromfile(folder / entry["filename"], dtype=np.float32)
            arrays[key] = torch.from_numpy(raw.reshape(entry["shape"]))
    model = from_tensorflow(arrays)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary |= {"u": 13, "U": 40}  # the file lost these two: its keys 13 and 40 are blank
    text = (shared_data / "corpora" / "tinyshakespeare.txt").read_text()[:3000]
    ids = torch.tensor([[vocabulary[c] for c in text]])
    with torch.no_grad():
        logits = model(ids)
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
        blind = from_tensorflow(arrays, forget_bias=0.0)(ids)
    # The folder's README says 1.80, measured without those two letters; with them it is better.
    assert float(loss) == pytest.approx(1.265, abs=0.01)
    wrong = torch.nn.functional.cross_entropy(blind[0, :-1], ids[0, 1:])
    assert float(wrong) > float(loss) + 0.1


# --- in-context algorithms ---------------------------------------------------------------------


def test_a_constructed_linear_attention_head_is_a_step_of_gradient_descent() -> None:
    x, y, q = torch.randn(5, 7, 3), torch.randn(5, 7), torch.randn(5, 11, 3)
    step = gradient_descent(0.13)(x, y, q)
    assert float((linear_attention(x, y, q, 0.13) - step).abs().max()) <= 1e-6
    assert float((linear_attention(x, y, q, 0.2) - step).abs().max()) > 1e-2


def test_references_are_what_they_are_called() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.neighbors import KNeighborsRegressor

    x, y, q = torch.randn(2, 9, 3), torch.randn(2, 9), torch.randn(2, 5, 3)
    oracle = Ridge(alpha=0.7, fit_intercept=False).fit(x[1], y[1])
    np.testing.assert_allclose(implied_ridge(x, y, 0.7)[1], oracle.coef_, atol=1e-6)
    near = KNeighborsRegressor(3, weights="distance").fit(x[1], y[1]).predict(q[1])
    np.testing.assert_allclose(nearest_neighbours(3)(x, y, q)[1], near, atol=1e-5)
    few = torch.linalg.pinv(x[:, :2].double()) @ y[:, :2, None].double()
    torch.testing.assert_close(implied_ridge(x[:, :2], y[:, :2], 0.0), few[..., 0])


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_an_algorithm_is_recognised_by_its_predictions(noise: float) -> None:
    known = {
        "least squares": ridge_in_context(0.0),
        "ridge 1": ridge_in_context(1.0),
        "3 nearest": nearest_neighbours(3),
        "one GD step, best rate": gradient_descent(1 / 6),
    }
    for name, predictor in known.items():
        found = compare_in_context(predictor, 3, (2, 4, 6), noise=noise, batch_size=64)
        assert found.nearest() == (name,) * 3
        at = found.labels["algorithm"].index(name)
        assert float(found.spd[at].max()) < 1e-4 or name.startswith("one")
        linear = float(found.linearity.min())
        assert (linear > 0.999) is (name != "3 nearest")
    others = found.spd[[i for i in range(4) if i != at]]
    assert float(others.min()) > 1e-3


def test_with_noise_bayes_predicts_best() -> None:
    known = {"bayes": ridge_in_context(0.25), "least squares": ridge_in_context(0.0)}
    loss = {n: compare_in_context(p, 3, (3, 4), noise=0.5).loss for n, p in known.items()}
    assert bool((loss["bayes"] < 0.7 * loss["least squares"]).all())


def test_bad_regressors_are_explained() -> None:
    with pytest.raises(ShapeError, match="one number per query"):
        compare_in_context(lambda x, y, q: q, 3, (2,))
    with pytest.raises(NonFiniteError):
        compare_in_context(lambda x, y, q: q[..., 0] / 0, 3, (2,))
    with pytest.raises(ConfigError, match="exemplars"):
        compare_in_context(ridge_in_context(), 3, ())


# --- attributes and a rest ---------------------------------------------------------------------


def test_the_rest_recovers_the_attribute_that_was_withheld() -> None:
    draw = torch.Generator().manual_seed(0)
    every = torch.randint(2, (3000, 4), generator=draw).float()
    mix = torch.randn(4, 23, generator=draw)
    features = every @ mix + 0.1 * torch.randn(3000, 23, generator=draw)
    # Four classes: attributes 0 and 3 decide; 3 is withheld from the explanation.
    predictions = (2 * every[:, 0] + every[:, 3]).long()
    found = elude(every[:, :3], features, predictions, names=["a", "b", "c"], ranks=(1, 2))
    assert 0.4 < float(found.attributes_only) < 0.6  # it knows half of the answer
    assert float(found.with_rest[0]) > 0.95 and float(found.majority) < 0.35
    told = torch.corrcoef(torch.stack([found.rest[:, 0], every[:, 3].double()]))[0, 1]
    assert abs(float(told)) > 0.9
    used = found.weight.abs().amax(0)
    assert float(used[0]) > 10 * float(used[1:].max()) + 0.1
    null = elude(every[:, :3], torch.randn(3000, 23), predictions, ranks=(1,), steps=100)
    assert float(null.with_rest[0]) < 0.6


def test_concept_metrics_by_hand() -> None:
    truth = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    assert score_concept_agreement(truth * 3, truth).tolist() == pytest.approx([1, 1])
    assert score_concept_agreement(truth.flip(0), truth).tolist() == pytest.approx([0, 0])
    contribution = torch.tensor([[0.9, 0.1, 0.8], [0.2, 0.7, 0.3]])
    assert score_concept_existence(contribution, truth, k=1) == 1.0
    assert score_concept_existence(contribution, truth, k=2) == 0.75
    mask = torch.zeros(1, 10, 10)
    mask[0, 2:4, 3:8] = 1  # ten of a hundred cells
    assert score_concept_location(mask + 0.01 * torch.rand(1, 10, 10), mask) == (1.0, 1.0)
    assert score_concept_location(mask.flip(1) + 0.01 * torch.rand(1, 10, 10), mask) == (0.0, 0.0)
    plain = getattr(score_concept_agreement, "__wrapped__", score_concept_agreement)  # past the type checker
    with pytest.raises(ShapeError, match="class by concept"):
        plain(truth, truth[:1])
