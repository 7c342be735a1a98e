"""Second-order effects over inputs: means, directions, sparse codes, and what hangs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.core.errors import ConfigError, MemoryBudgetError, ShapeError
from interp.core.result import Result
from interp.lenses import (
    NeuronDirections,
    SecondOrderAblation,
    SparseCode,
    ablate_second_order,
    neuron_directions,
    second_order_directions,
    sparse_code,
)
from interp.models.text.tokens import TokenBatch
from tests.lenses import toys
from tests.lenses.test_second_order import planted
from tests.models import zoo

IDS = torch.randint(5, zoo.V, (6, 7), generator=torch.Generator().manual_seed(0))
NEURONS = [5, 0, 30]


# --- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "llama", "vit"])
def test_the_parts_are_those_of_single_inputs(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    position = 0 if name == "vit" else -1
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 3, 12, 12, generator=draw) if name == "vit" else IDS
    found = neuron_directions(model, inputs, 0, NEURONS, position=position, batch_size=4)
    each = torch.stack(
        [second_order_directions(model, inputs[i : i + 1], 0, NEURONS, position=position) for i in range(6)]
    )
    torch.testing.assert_close(found.mean, each.mean(0), atol=1e-6, rtol=1e-4)
    centred = each - each.mean(0)
    for n in range(3):
        sigma = torch.linalg.svdvals(centred[:, n])
        share = float(sigma[0] ** 2 / sigma.square().sum())
        assert float(found.explained[n]) == pytest.approx(share, abs=1e-4)
        along = centred[:, n] @ found.direction[n]
        torch.testing.assert_close(found.along[n], along, atol=1e-6, rtol=1e-3)
        assert float(along.sign().sum()) >= 0  # most inputs lie on its side
    assert found.check().ok and found.labels["neuron"] == ["L0N5", "L0N0", "L0N30"]


def test_texts_of_other_lengths_and_padding_do_not_matter() -> None:
    model = interp.wrap(zoo.make("gpt2"))
    mask = torch.arange(7) < torch.tensor([7, 5, 6, 7, 3, 4])[:, None]
    found = neuron_directions(model, TokenBatch(IDS, mask), 1, NEURONS)
    each = torch.stack(
        [second_order_directions(model, row[real], 1, NEURONS) for row, real in zip(IDS, mask, strict=True)]
    )
    torch.testing.assert_close(found.mean, each.mean(0), atol=1e-6, rtol=1e-4)


def test_an_ablation_by_hand() -> None:
    """What the head reads, less φ and plus its mean; the model's own answers when nothing goes."""
    model = interp.wrap(zoo.make("gpt2"))
    with torch.no_grad():
        whole = model(IDS)[:, -1]
        each = torch.stack([second_order_directions(model, row, 1, range(zoo.M)) for row in IDS])
        last = model.capture(IDS, "blocks.2.hook_resid_post")["resid_post", 2][:, -1]
        taken = (each - each.mean(0)).sum(1)
        without = model.unembed(model.ln_final(last) - taken).argmax(-1)
    assert (without != whole.argmax(-1)).any()  # or nothing was tested
    found = ablate_second_order(model, IDS, without, [1])
    same = (whole.argmax(-1) == without).float().mean()
    assert found.accuracy[0, :2].tolist() == pytest.approx([float(same), 1.0])
    reads = model.ln_final(last).norm(dim=-1)
    assert float(found.effect[0, 1]) == pytest.approx(
        float((taken.norm(dim=-1) / reads).mean().detach()), rel=1e-4
    )
    everything = ablate_second_order(model, IDS, without, [1], share=1.0)
    way = everything.labels["way"].index
    assert float(everything.effect[0, way("strongest inputs")]) < 1e-5  # nothing was taken
    torch.testing.assert_close(
        everything.effect[0, way("other inputs")], found.effect[0, 1], atol=1e-5, rtol=1e-4
    )


# --- sparse codes ------------------------------------------------------------------------------


def test_codes_are_scikit_learns_orthogonal_matching_pursuit() -> None:
    from sklearn.linear_model import orthogonal_mp

    vectors, dictionary = torch.randn(11, 13).double(), torch.randn(41, 13).double()
    found = sparse_code(vectors, dictionary, 5)
    unit = torch.nn.functional.normalize(dictionary, dim=-1)
    theirs = orthogonal_mp(unit.T.numpy(), vectors.T.numpy(), n_nonzero_coefs=5)
    ours = torch.zeros(11, 41).scatter(1, found.ids, found.weights)
    torch.testing.assert_close(ours, torch.tensor(theirs).T.float(), atol=1e-5, rtol=1e-4)
    rest = vectors - ours.double() @ unit
    torch.testing.assert_close(
        found.error[:, -1], (rest.norm(dim=-1) / vectors.norm(dim=-1)).float(), atol=1e-6, rtol=1e-5
    )
    assert found.check().ok and bool((found.error.diff(dim=1) <= 0).all())


def test_planted_atoms_are_found_and_noise_has_none() -> None:
    dictionary = torch.nn.functional.normalize(torch.randn(97, 61), dim=-1)
    ids = torch.stack([torch.randperm(97)[:3] for _ in range(17)])
    vectors = torch.einsum("rs,rsd->rd", torch.tensor([[3.0, -2.0, 1.5]] * 17), dictionary[ids])
    found = sparse_code(vectors, dictionary, 3, atoms=[f" word{i}" for i in range(97)])
    exact = (found.ids.sort(1).values == ids.sort(1).values).all(1)
    assert float(exact.float().mean()) >= 0.9 and float(found.error[exact, -1].max()) < 1e-4
    assert found.words(0)[0][0] == f" word{int(ids[0, 0])}"
    null = sparse_code(torch.randn(17, 61), dictionary, 3)
    assert float(null.error[:, -1].min()) > 0.7


# --- the phenomenon, and the null --------------------------------------------------------------


def test_answers_that_hang_on_a_planted_neuron_are_lost_with_it() -> None:
    """Token 9 anywhere means 13 at the end, by a neuron that only a later head can bring."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 8, (40, 7), generator=draw)
    ids[torch.arange(0, 40, 8), torch.randint(0, 6, (5,), generator=draw)] = 9
    for copies in (True, False):
        model = planted(copies)
        module: Any = model.module
        with torch.no_grad():
            others = torch.arange(20) != 9
            module.embed.W_E[others, 2] = 0.0  # no other token fires the neuron
            module.pos_embed.W_pos[:, 2] = 0.0
            module.unembed.b_U[0] = 1.8  # what is said otherwise, beyond doubt
            own = model(ids)[:, -1].argmax(-1)
        found = ablate_second_order(model, ids, own, [0], share=0.125)
        kept = dict(zip(found.labels["way"], found.accuracy[0].tolist(), strict=True))
        assert kept["whole model"] == 1.0
        if copies:
            assert (own[::8] == 13).all()
            assert kept["no second order"] <= 0.9 and kept["other inputs"] <= 0.9  # 5 of 40 lost
            assert kept["strongest inputs"] >= 0.95 and kept["one direction"] >= 0.95
            seen = neuron_directions(model, ids, 0, [7])
            assert float(seen.explained[0]) > 0.99 and float(seen.direction[0, 11].abs()) > 0.9
            assert float(seen.concentration(0.125)[0]) > 2 * 0.125  # measured .33
        else:
            assert kept["no second order"] >= 0.95


def pooled(found: NeuronDirections) -> float:
    """Null of one direction per neuron: another random neuron's effect for every input."""
    n_neurons, n_inputs = found.along.shape
    draw = torch.randint(0, n_neurons, (n_inputs,), generator=torch.Generator().manual_seed(0))
    rows = found.along[draw, torch.arange(n_inputs)][:, None] * found.direction[draw]
    sigma = torch.linalg.svdvals(rows - rows.mean(0))
    return float(sigma[0] ** 2 / sigma.square().sum())


def test_in_a_real_model_a_neuron_says_one_thing_and_seldom(
    shared_data: Path, tmp_path: Path, full_count: bool
) -> None:
    """stories260k: what PC1 holds of a neuron's effects (CLIP's layer 9: .48), and a fortieth of the
    inputs; the effects of mixed neurons have no such direction."""
    model = interp.load_model(shared_data / "models" / "stories260k")
    folder = shared_data / "corpora" / "tinystories"
    stories = json.loads((folder / "tinystories_1000.json").read_text())
    texts = [story[: 60 + i] for i, story in enumerate(stories[: 80 if full_count else 40])]
    found = neuron_directions(model, texts, 3)
    one, mixed = float(found.explained.mean()), pooled(found)
    few, even = float(found.concentration(0.025).mean()), 0.025
    assert [one, few] == pytest.approx([0.57, 0.26] if full_count else [0.60, 0.24], abs=0.02)
    assert mixed < 0.4 and few > 6 * even, (mixed, few)
    code = sparse_code(found.direction, model.W_U.T.detach(), 4)
    ablation = ablate_second_order(model, torch.randint(5, 500, (6, 9)), [7] * 6, [2, 3])
    for result in (found, code, ablation):
        result.save(tmp_path / type(result).__name__)
        again = Result.load(tmp_path / type(result).__name__)
        assert type(again) in (NeuronDirections, SecondOrderAblation, SparseCode)
        assert again.plot().data
    assert found.plot(kind="inputs").data


@pytest.mark.full
def test_in_a_vision_transformer_layer_0_reaches_the_class_token_through_heads(digits: toys.Digits) -> None:
    """Its neurons say twice as much through later heads as directly (as shares of what the head
    reads), one direction per neuron holds most of it, and the digits survive either ablation."""
    model, pixels, labels = digits.model, digits.pixels, digits.labels
    found = ablate_second_order(model, pixels, labels, position=0)
    effect = dict(zip(found.labels["way"], found.effect[0].tolist(), strict=True))
    neurons = neuron_directions(model, pixels, 0, position=0)
    figures = f"layer 0: effects {effect}, explained {float(neurons.explained.mean())}"
    kept = dict(zip(found.labels["way"], found.accuracy[0].tolist(), strict=True))
    told = [effect["no second order"], effect["no first order"], float(neurons.explained.mean())]
    told += [kept["no second order"], kept["no first order"]]
    assert told == pytest.approx([0.36, 0.15, 0.81, 0.93, 0.93], abs=0.05), figures
    last = found.effect[-1].tolist()
    assert last[1] < last[2], f"the last layer with heads above speaks directly: {last}"


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m: neuron_directions(m, IDS, 0, [zoo.M]), ConfigError, "no such neuron"),
        (lambda m: neuron_directions(m, IDS[:1], 0), ConfigError, "two of them"),
        (lambda m: neuron_directions(m, IDS, 0, position=7), ConfigError, "no such position"),
        (lambda m: ablate_second_order(m, IDS, [1]), ShapeError, "one answer per input"),
        (lambda m: sparse_code(torch.ones(2, 3), torch.ones(4, 5), 1), ShapeError, "row d"),
        (lambda m: sparse_code(torch.ones(2, 3), torch.ones(4, 3), 4), ConfigError, "atoms"),
    ],
)
def test_bad_requests_are_explained(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call(interp.wrap(zoo.make("gpt2")))


def test_too_many_effects_are_refused_before_memory_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.lenses.indirect.many.BUDGET", 3 * zoo.M * zoo.D * 4)
    with pytest.raises(MemoryBudgetError, match="do not fit") as error:
        neuron_directions(interp.wrap(zoo.make("gpt2")), IDS, 0)
    assert "4 inputs" in str(error.value) and "neurons=" in str(error.value.fix)
