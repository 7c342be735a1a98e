"""Attention sinks: rows thousands of times as large as the others are named at every door."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.activations import ActivationStream, ShardConfig, StreamConfig, TokenSequences, write_shards
from interp.core.errors import DataWarning
from interp.core.result import Result
from interp.dictionaries import DictionaryReport, EvaluationConfig, FinetuneConfig, evaluate, finetune, train
from interp.dictionaries.far_rows import find_far, norms_of
from interp.models import wrap
from tests.activations.models import small_model, stories
from tests.dictionaries.small import planted, small

SITE = "blocks.1.hook_resid_post"
SINK = 3000.0


def with_sinks(rows: Tensor, *where: int) -> Tensor:
    """These rows 3,000 times as large."""
    factor = torch.ones(len(rows), 1)
    factor[list(where)] = SINK
    return rows * factor


def by_hand(rows: Any) -> tuple[int, float, float]:
    """How many rows are far, the largest norm in medians, the share of the squares: numpy."""
    norms = np.linalg.norm(np.asarray(rows, dtype=np.float64), axis=1)
    median = np.sort(norms[norms > 0])[(np.count_nonzero(norms) - 1) // 2]
    far = norms > 10 * median
    return int(far.sum()), float(norms.max() / median), float((norms[far] ** 2).sum() / (norms**2).sum())


@contextmanager
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        yield


def test_what_is_far_is_counted_as_by_hand() -> None:
    rows = with_sinks(planted(997), 5, 211)
    rows[17] *= 12
    found = find_far(norms_of(rows))
    assert found is not None and found.of == 997 and set(found.rows) == {5, 211, 17}
    told = by_hand(rows)
    assert found.n == told[0] == 3
    assert (found.largest, found.share) == pytest.approx(told[1:], rel=1e-6)
    assert found.largest == pytest.approx(SINK, rel=0.5) and found.share > 0.999


@pytest.mark.parametrize(
    "rows",
    [
        planted(997),
        torch.randn(997, 13),
        torch.randn(997, 13) * torch.rand(997, 1),  # norms down to nothing
        torch.randn(997, 13).relu() * (torch.rand(997, 1) < 0.2),  # most rows are silent
        torch.zeros(11, 3),
    ],
    ids=["planted", "normal", "of all sizes", "mostly zero", "zero"],
)
def test_usual_rows_are_not_called_far(rows: Tensor) -> None:
    """The null: nothing is said where nothing stands out."""
    assert find_far(norms_of(rows)) is None


def test_training_names_the_rows_and_records_them() -> None:
    rows = with_sinks(planted(211), 5, 100)
    with pytest.warns(DataWarning, match=r"2 of 211 training rows at input .*row (5|100); row (5|100)\."):
        made = train(small(), rows)
    known = made.metadata["training"]["far_rows"]["input"]
    assert (known["rows"], known["of"]) == (2, 211)
    assert (known["largest"], known["share"]) == pytest.approx(by_hand(rows)[1:], rel=1e-5)
    with silent():
        assert "far_rows" not in train(small(), planted(211)).metadata["training"]


def test_both_sides_of_a_transcoder_are_looked_at() -> None:
    config = small(apply_b_dec_to_input=False)
    with pytest.warns(DataWarning, match="training rows at output"):
        train(config, (planted(211), with_sinks(planted(211), 9)))
    with pytest.warns(DataWarning, match="training rows at input"):
        train(config, (with_sinks(planted(211), 9), planted(211)))


def test_an_evaluation_names_them_and_its_check_fails(tmp_path: Path) -> None:
    """A dictionary that has learned the sinks alone looks perfect: FVU says nothing of the rest."""
    usual, rows = planted(211), with_sinks(planted(211), 5)
    with pytest.warns(DataWarning):
        made = train(small(steps=200, d_sae=37), rows)
    with pytest.warns(DataWarning, match=r"1 of 211 targets .*: row 5\."):
        report = evaluate(made, None, rows)
    with silent():
        rest = evaluate(made, None, usual)
    assert float(report.fvu) < 0.05 < 0.3 < float(rest.fvu)
    assert report.n_far == 1 and report.far_share == pytest.approx(by_hand(rows)[2], rel=1e-5)
    assert rest.n_far == 0
    failed = [check.name for check in report.check() if not check.ok]
    assert "share of far rows in the squares" in failed
    report.save(tmp_path / "report")
    again = Result.load(tmp_path / "report")
    assert isinstance(again, DictionaryReport) and again.n_far == 1


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


def loud(model: Any, sequences: Any) -> ActivationStream:
    """A stream in which one token of sequence 3 is a sink."""
    stream = ActivationStream(model, SITE, sequences, StreamConfig(batch_size=23, seed=1))
    plain = stream.batch

    def batch(t: int) -> dict[str, Tensor]:
        rows, origins = plain(t)[SITE], stream.origins(t)
        is_sink = (origins == torch.tensor([3, 4])).all(1)
        return {SITE: torch.where(is_sink[:, None], SINK * rows, rows)}

    stream.batch = batch  # type: ignore[method-assign]
    return stream


def sequences(model: Any) -> TokenSequences:
    return TokenSequences.of(model.tokenize(stories(37), truncate=True))


def test_a_stream_names_tokens_and_places(model: Any) -> None:
    tokens = sequences(model)
    written = model.tokenizer.convert_ids_to_tokens(int(tokens.ids[3, 4]))
    stream = loud(model, tokens)
    config = small(site=SITE, batch_size=23)
    with pytest.warns(DataWarning) as told:
        train(config, stream)
    (message,) = [str(w.message) for w in told if w.category is DataWarning]
    assert f"training rows at {SITE}" in message
    assert f"sequence 3, position 4 (token {written!r})" in message
    assert "exclude_bos=True" in message


def test_stored_rows_are_looked_at_as_well(model: Any, tmp_path: Path) -> None:
    stream = loud(model, sequences(model))
    write_shards(stream, tmp_path / "rows", ShardConfig(rows_per_shard=100))
    with pytest.warns(DataWarning, match=r"row \d+ of batch \d+"):
        train(small(site=SITE, batch_size=23, init_rows=1000), tmp_path / "rows")


@pytest.fixture
def sinking() -> Any:
    """A model whose first block makes a sink of every position of a sequence of three tokens."""
    model = small_model()
    block = model.module.blocks[0]

    def sink(module: Any, args: Any, output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) else output
        return SINK * value if value.shape[1] == 3 else value

    block.register_forward_hook(sink)
    return wrap(model.module, model.tokenizer)


def test_a_model_is_looked_at_when_a_dictionary_is_evaluated_and_finetuned(sinking: Any) -> None:
    """Sequences of three tokens, and only these, are sinks of this model."""
    long, short = sequences(sinking).ids[:9, :11], sequences(sinking).ids[:2, :3]
    with silent():
        made = train(small(site=SITE, batch_size=23), long, model=sinking)
        evaluate(made, sinking, long)
        finetune(made, sinking, long, FinetuneConfig(steps=2))
    mixed = [*long.tolist(), *short.tolist()]
    one_by_one = EvaluationConfig(batch_sequences=1)
    with pytest.warns(DataWarning, match=r"rows at .*sequence (9|10), position [12] \(token '"):
        report = evaluate(made, sinking, mixed, one_by_one)
    assert report.n_far == int((short != sinking.tokenization.bos_id).sum())
    with pytest.warns(DataWarning, match="rows at"):
        finetune(made, sinking, mixed, FinetuneConfig(steps=2, batch_sequences=1))
