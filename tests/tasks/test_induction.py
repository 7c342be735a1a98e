"""Repeated blocks: what the data promise, and that the demo's model learns by the known circuit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interp.core.errors import ConfigError
from interp.tasks import InductionConfig, InductionHistory, held_out_blocks, repeated_blocks
from interp.tasks.induction import induction_model, train_induction

CONFIG = InductionConfig()
TINY = replace(CONFIG, steps=7, lr_warmup=2, batch=5, d_model=22, n_ctx=14, d_vocab=13, held_out=3)


def first_repetition(row: list[int]) -> int:
    """Index of the first token that occurred before."""
    return next(i for i, token in enumerate(row) if token in row[:i])


def test_batches_depend_on_seed_and_step_only() -> None:
    ids = repeated_blocks(CONFIG, 5)
    repeated_blocks(CONFIG, 6)
    torch.manual_seed(9)
    assert torch.equal(ids, repeated_blocks(CONFIG, 5))
    assert not torch.equal(ids, repeated_blocks(CONFIG, 6))
    assert not torch.equal(ids, repeated_blocks(replace(CONFIG, seed=1), 5))
    assert ids.shape == (32, 48)
    assert ids.dtype == torch.int64


def test_every_repeated_token_follows_from_what_came_before() -> None:
    """After the first repetition each token equals the one that followed its predecessor before."""
    periods, starts = set(), set()
    for t in range(20):
        for row in repeated_blocks(CONFIG, t).tolist():
            start = first_repetition(row)
            period = start - row.index(row[start])
            assert all(row[i] == row[i - period] for i in range(start, len(row)))
            assert CONFIG.shortest_block <= period <= CONFIG.n_ctx // 2
            periods.add(period)
            starts.add(start - period)
    assert periods == set(range(4, 25))  # no fixed distance solves the task
    assert len(starts) > 20  # nor a fixed place
    assert 0 in starts


def test_held_out_sequences_are_a_block_and_its_repetition() -> None:
    ids = held_out_blocks(CONFIG)
    assert torch.equal(ids[:, :24], ids[:, 24:])
    assert all(len(set(row[:24])) == 24 for row in ids.tolist())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"n_ctx": 47}, "n_ctx"),
        ({"shortest_block": 1}, "shortest_block"),
        ({"shortest_block": 25}, "shortest_block"),
        ({"d_vocab": 43}, "d_vocab"),
        ({"n_heads": 3}, "n_heads"),
        ({"batch": 0}, "batch"),
        ({"held_out": 0}, "held_out"),
    ],
)
def test_impossible_tasks_are_refused(change: dict[str, int], name: str) -> None:
    for function in (held_out_blocks, induction_model, lambda c: repeated_blocks(c, 0)):
        with pytest.raises(ConfigError, match=name):
            function(replace(CONFIG, **change))


def test_scores_measure_the_attention_they_name() -> None:
    """Two heads built by hand: a previous-token head and one that looks one block back."""
    from interp.tasks.induction import _measure

    config = replace(CONFIG, n_ctx=10, d_vocab=11, shortest_block=3)
    model, ids = induction_model(config), held_out_blocks(config)
    wanted = torch.zeros(2, 10, 10)
    for query in range(10):
        wanted[0, query, max(query - 1, 0)] = 1.0
        wanted[1, query, query - 4 if query > 4 else 0] = 1.0
    for block in model.blocks:
        block.attn.hook_pattern.register_forward_hook(lambda _m, _i, out: wanted.expand_as(out).contiguous())
    with torch.no_grad():
        found = _measure(model, ids)
    assert found["previous_token/L0H0"] == 1.0
    assert found["induction/L1H1"] == 1.0
    assert found["induction/L0H0"] == 0.0
    assert found["previous_token/L1H1"] == pytest.approx(1 / 5)  # query 1 of 1 to 5
    assert not model.blocks[0].attn.hook_z.hooked


def test_history_has_a_row_per_step_and_survives_saving(tmp_path: Path) -> None:
    model, history = train_induction(None, replace(TINY, measure_every=3))
    assert history.loss.shape == history.accuracy.shape == (7,)
    assert history.measured_at.tolist() == [3, 6, 7]
    assert history.induction.shape == history.previous_token.shape == (3, 2, 2)
    assert not model.training
    assert not history.check().ok
    history.save(tmp_path / "history")
    again = InductionHistory.load(tmp_path / "history")
    assert torch.equal(again.induction, history.induction)
    frame = history.to_frame("induction")
    assert len(frame) == 12
    assert {"measurement", "layer", "head", "induction"} <= set(frame.columns)


def test_same_seed_same_model_and_a_finished_run_is_read_back(tmp_path: Path) -> None:
    first, history = train_induction(tmp_path / "run", TINY)
    second, again = train_induction(None, TINY)
    third, read = train_induction(tmp_path / "run", TINY)
    assert torch.equal(first.embed.W_E, second.embed.W_E)
    assert torch.equal(first.embed.W_E, third.embed.W_E)
    assert torch.equal(history.loss, again.loss)
    assert torch.equal(history.loss, read.loss)
    with pytest.raises(ConfigError):
        train_induction(tmp_path / "run", replace(TINY, shortest_block=3))


def test_induction_appears_in_one_jump_through_two_heads(full_count: bool) -> None:
    """The phase change: nothing for a while, then nearly everything; and by the known circuit."""
    for seed in range(3 if full_count else 1):
        model, history = train_induction(None, replace(CONFIG, seed=seed))
        assert history.check().ok, history.check()
        accuracy = history.held_out_accuracy
        assert accuracy[9] < 0.1  # after 100 of 300 steps
        assert accuracy[-1] > 0.95
        assert history.induction[-1, 0].max() < 0.1  # needs what layer 0 wrote
        assert history.induction[0].max() < 0.1
        ids = held_out_blocks(replace(CONFIG, seed=seed + 100))
        with torch.no_grad():
            hits = model(ids)[:, 24:-1].argmax(-1) == ids[:, 25:]
            best = int(history.previous_token[-1, 0].argmax())
            model.blocks[0].attn.W_O[best] = 0
            without = model(ids)[:, 24:-1].argmax(-1) == ids[:, 25:]
        assert hits.float().mean() > 0.95  # other blocks than those it was measured on
        assert without.float().mean() < 0.6 * hits.float().mean()
