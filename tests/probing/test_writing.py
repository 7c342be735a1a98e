"""A unit of mood in language models that read reviews, and what holding it does to what they write.

Method page, section 24; the review grammar is in reviews.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import interp
from interp.core.errors import ConfigError, InterpError, NonFiniteError, ShapeError
from interp.probing.rows import encode
from interp.probing.sparse import rank_neurons
from interp.studies.char_lstm import CharLSTM
from interp.studies.clamped_units import lstm_writer, model_writer, write_clamped
from interp.studies.sentiment_unit import find_unit
from tests.probing import reviews as r
from tests.probing.rows import small

NARROW = [[0.145, 0.88], [0.075, 0.925], [0.18, 0.84]]
"""Good reviews with the one unit of an LSTM of 8 held at bad and at good, by seed."""
FOUR = [[0.19, 0.84], [0.06, 0.96], [0.04, 0.96]]
"""The same with four of 32 units."""
NATS = float(torch.tensor(2.0).log())
START = torch.zeros(300, 1, dtype=torch.int64)


def lstm(seed: int, d: int) -> CharLSTM:
    torch.manual_seed(seed)
    model = CharLSTM(len(r.WORDS), d, d_embed=32)
    r.train_reader(model, 500, seed=seed)
    return model


def best(x: Tensor, mood: Tensor, k: int) -> list[int]:
    return rank_neurons((x - x.mean(0)) / x.std(0), encode("mood", mood), "f_stat")[:k].tolist()


def check_lstm(seed: int, d: int = 32) -> dict[str, Any]:
    """Everything the page asks of one LSTM; the figures."""
    model = lstm(seed, d)
    words, mood = r.reviews(4000, seed, -1)
    with torch.no_grad():
        logits, cells = model.run(words)
    bits = float(cross_entropy(logits[:, :-1].flatten(0, 1), words[:, 1:].flatten())) / NATS
    x = cells[0, :, -1]
    found = find_unit(x, mood, name="mood", strengths=(2.0**-6, 2.0**-4, 2.0**-2))
    write = lstm_writer(model, START, r.LENGTH, seed=1)
    one = write_clamped(write, r.verdict, x, mood, found.unit, n_random=5)
    few = write_clamped(write, r.verdict, x, mood, best(x, mood, 4), n_random=3)
    return {"bits": bits - r.bayes_bits(words), "found": found, "one": one, "few": few}


def holds(seen: dict[str, Any]) -> bool:
    found, few = seen["found"], seen["few"]
    low, high = few.share.tolist()
    return bool(
        seen["bits"] < 0.1
        and found.unit_accuracy >= 0.9
        and found.check().ok
        and found.nonzero[found.chosen] <= 15
        and low <= 0.17
        and high >= 0.85
        and few.check().ok
    )


@pytest.mark.full
def test_an_lstm_that_reads_reviews_has_a_unit_of_mood() -> None:
    seen = check_lstm(1)
    found, one, few = seen["found"], seen["one"], seen["few"]
    assert holds(seen), seen
    assert few.share.tolist() == pytest.approx(FOUR[1], abs=0.1), few.share
    assert not one_is_enough(seen), one.share
    assert float(found.unit_accuracy) == pytest.approx(0.98, abs=0.015), found
    assert float(found.shuffled_accuracy) <= 0.55
    assert abs(float(few.free) - 0.5) < 0.07 and 0.03 < one.effect < few.effect
    assert float((one.random - one.free).abs().median()) < 0.1
    alone = found.budget_accuracy[:, 0]
    assert found.budget[0] == 10 and float(alone[0]) > 0.9  # ten labels suffice


def one_is_enough(seen: dict[str, Any]) -> bool:
    """The page's figures with a single unit: the one that `find_unit` names."""
    found, one = seen["found"], seen["one"]
    low, high = one.share.tolist()
    return bool(
        seen["bits"] < 0.1
        and found.unit_accuracy >= 0.9
        and found.check().ok
        and found.shuffled_accuracy <= 0.55
        and low <= 0.15
        and high >= 0.85
        and abs(float(one.free) - 0.5) < 0.07
        and float((one.random - one.free).abs().median()) <= 0.1  # other units
        and one.check().ok
    )


def test_in_a_narrow_lstm_one_unit_decides_what_is_written() -> None:
    seen = check_lstm(1, d=8)
    assert one_is_enough(seen), seen
    assert seen["one"].share.tolist() == pytest.approx(NARROW[1], abs=0.1), seen["one"].share


@pytest.mark.full
def test_most_seeds_of_a_narrow_lstm_have_such_a_unit() -> None:
    seen = [check_lstm(seed, d=8) for seed in range(3)]
    for one, shown in zip(seen, NARROW, strict=True):
        assert one["one"].share.tolist() == pytest.approx(shown, abs=0.1), one["one"].share
    assert sum(map(one_is_enough, seen)) >= 2, seen


@pytest.mark.full
def test_most_seeds_have_such_a_unit() -> None:
    seen = [check_lstm(seed) for seed in range(3)]
    for one, few in zip(seen, FOUR, strict=True):
        assert one["few"].share.tolist() == pytest.approx(few, abs=0.1), one["few"].share
        assert not one_is_enough(one), one["one"].share
    assert sum(map(holds, seen)) >= 2, seen


@pytest.mark.full
def test_a_character_model_has_one_too() -> None:
    torch.manual_seed(0)
    model = CharLSTM(len(r.LETTERS), 128, d_embed=32)
    r.train_reader(model, 900, letters=True)
    words, mood = r.reviews(800, 0, -1)
    ids, ends = r.spelled(words)
    with torch.no_grad():
        _, cells = model.run(ids)
    x = cells[0, torch.arange(len(ids)), ends]
    found = find_unit(x, mood, strengths=(2.0**-6, 2.0**-4, 2.0**-2))
    assert float(found.unit_accuracy) >= 0.9 and found.check().ok, found
    write = lstm_writer(model, START[:200], 70, seed=1)
    few = write_clamped(write, r.read_letters, x, mood, best(x, mood, 16), n_random=3)
    assert few.effect > 0.4 and few.check().ok, (few.share, few.random)


@pytest.mark.full
def test_neurons_of_a_transformer_decide_what_it_writes() -> None:
    module = small(d_vocab=len(r.WORDS), act_fn="gelu")
    r.train_reader(module, 500, lr=5e-3)
    model, site = interp.wrap(module), "blocks.0.mlp.hook_post"
    words, mood = r.reviews(1500, 0, -1)
    x = model.capture(words, site)[site][:, -1]
    found = find_unit(x, mood, strengths=(2.0**-4,))
    assert float(found.unit_accuracy) >= 0.95 and found.check().ok
    write = model_writer(model, START, r.LENGTH, site, seed=1)
    few = write_clamped(write, r.verdict, x, mood, best(x, mood, 8), n_random=3)
    assert few.share.tolist() == pytest.approx([0.09, 0.90], abs=0.06), few.share
    low, high = few.share.tolist()
    assert low <= 0.15 and high >= 0.85 and few.check().ok, (few.share, few.random)
    assert abs(float(few.free) - 0.5) < 0.07


# --- the call itself -----------------------------------------------------------------------------


def test_units_are_held_on_the_side_of_their_class() -> None:
    x = torch.stack([torch.arange(100.0), -torch.arange(100.0), torch.zeros(100)], 1)
    y = (torch.arange(100) >= 50).long()
    seen: list[dict[int, float]] = []

    def write(held: Any) -> Tensor:
        seen.append(dict(held))
        return torch.full((5,), held.get(0, 50.0))

    found = write_clamped(write, lambda s: (s > 49).double(), x, y, [0], reach=0.9, n_random=2)
    assert found.share.tolist() == [0, 1] and float(found.free) == 1 and found.effect == 1
    assert found.random.tolist() == [[1, 1], [1, 1]] and found.check().ok
    assert seen[0] == {0: pytest.approx(9.9)} and seen[1] == {0: pytest.approx(89.1)}
    both = write_clamped(write, lambda s: (s > 49).double(), x[:, [1, 0, 2]], y, 0, n_random=0)
    assert both.held[0, 0] > both.held[1, 0]  # this one falls toward the second class
    assert both.check().ok and both.random.shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"units": 9}, ConfigError, "units to hold"),
        ({"units": [0, 1]}, ConfigError, "units to hold"),
        ({"units": []}, ConfigError, "units to hold"),
        ({"y": [0, 1, 2]}, ConfigError, "two classes"),
        ({"y": [0, 1]}, ShapeError, "fit the rows"),
        ({"reach": 0.4}, ConfigError, "reach"),
        ({"judge": lambda s: s[:2]}, ShapeError, "one number per sample"),
        ({"judge": lambda s: s / 0}, NonFiniteError, "verdicts"),
    ],
)
def test_bad_requests_are_explained(change: Any, kind: type[InterpError], words: str) -> None:
    given = {"y": [0, 1, 1], "units": 0, "reach": 0.9, "judge": lambda s: s} | change
    with pytest.raises(kind, match=words):
        write_clamped(
            lambda held: torch.ones(3),
            given["judge"],
            torch.randn(3, 3),
            given["y"],
            given["units"],
            reach=given["reach"],
            n_random=1,
        )
