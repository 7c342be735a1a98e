"""Batch t depends on (seed, t) alone, every row comes once per epoch, and it is the model's own."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.activations import (
    ActivationStream,
    FitConfig,
    StreamConfig,
    TextConfig,
    TokenSequences,
    fit,
    tokenize_texts,
)
from interp.activations.stream import RowOrder
from interp.core.errors import ConfigError, MemoryBudgetError, SiteError
from interp.models import load_model
from tests.activations.models import D_HEAD, D_MODEL, N_HEADS, small_model, stories

RESID, Z = "blocks.1.hook_resid_post", "blocks.0.attn.hook_z"
SITES = [RESID, Z]


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def tokens(model: Any) -> TokenSequences:
    return tokenize_texts(model, stories(37), TextConfig(pack=False))


def make(model: Any, tokens: Any, **changes: Any) -> ActivationStream:
    defaults: dict[str, Any] = {"batch_size": 23, "buffer_sequences": 7, "forward_sequences": 3, "seed": 1}
    return ActivationStream(model, SITES, tokens, StreamConfig(**{**defaults, **changes}))


def test_every_row_is_the_models_activation_at_its_origin(model: Any, tokens: Any) -> None:
    stream = make(model, tokens)
    for t in (0, 4, 25):
        batch, origins = stream.batch(t), stream.origins(t)
        assert batch[RESID].shape == (23, D_MODEL) and batch[Z].shape == (23, N_HEADS * D_HEAD)
        for i, (sequence, position) in enumerate(origins.tolist()):
            acts = model.capture(tokens.batch([sequence]), SITES)  # alone, without padding
            for site in SITES:
                expected = acts[site][0, position].flatten()
                torch.testing.assert_close(batch[site][i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exclude_bos", [True, False])
def test_every_row_comes_once_per_epoch(model: Any, tokens: Any, exclude_bos: bool) -> None:
    stream = make(model, tokens, exclude_bos=exclude_bos, batch_size=1)
    expected = {
        (s, p)
        for s, row in enumerate(tokens.batch(range(len(tokens))))
        for p, token in enumerate(row.tolist())
        if not (exclude_bos and token == model.tokenization.bos_id)
    }
    n = stream.order.per_epoch
    assert n == len(expected) == tokens.n_tokens - exclude_bos * len(tokens)
    epochs = [[tuple(stream.origins(t)[0].tolist()) for t in range(e * n, (e + 1) * n)] for e in (0, 1)]
    for rows in epochs:
        assert Counter(rows) == Counter(expected)
    assert epochs[0] != epochs[1], "each epoch has its own order"


def test_rows_of_a_block_are_shuffled_anew_in_each_epoch_and_block() -> None:
    """The order of sequences alone must not be all that differs: here it cannot."""
    rows = torch.tensor([11, 11, 11, 11])
    whole, halves = RowOrder(rows, 4, seed=1), RowOrder(rows, 2, seed=1)
    orders = [whole.shuffled(epoch, 0) for epoch in range(4)]
    orders += [torch.cat([halves.shuffled(e, 0), halves.shuffled(e, 1) + 22]) for e in range(2)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(44))
    assert len({tuple(order.tolist()) for order in orders}) == 6
    assert not torch.equal(halves.shuffled(0, 0), halves.shuffled(0, 1))


def test_batches_run_through_blocks_and_epochs_without_gaps(model: Any, tokens: Any) -> None:
    stream, single = make(model, tokens), make(model, tokens, batch_size=1)
    n = stream.order.per_epoch
    assert n % 23 != 0
    rows = torch.cat([stream.origins(t) for t in range(2 * n // 23)])
    expected = torch.cat([single.origins(t) for t in range(len(rows))])
    assert torch.equal(rows, expected)


def test_any_batch_equals_that_of_a_stream_run_from_the_start(model: Any, tokens: Any) -> None:
    walked = make(model, tokens)
    batches = [walked.batch(t) for t in range(2 * len(walked) + 3)]
    seeker = make(model, tokens)
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0)).tolist()
    for t in order:
        found = seeker.batch(t)
        assert all(torch.equal(found[site], batches[t][site]) for site in SITES)
    for t in order[:5]:
        fresh = make(model, tokens).batch(t)
        assert all(torch.equal(fresh[site], batches[t][site]) for site in SITES)


def test_the_seed_decides(model: Any, tokens: Any) -> None:
    assert torch.equal(make(model, tokens).origins(3), make(model, tokens).origins(3))
    assert not torch.equal(make(model, tokens).origins(3), make(model, tokens, seed=2).origins(3))


def test_in_order_each_block_is_captured_once(model: Any, tokens: Any) -> None:
    calls = []
    capture = model.capture

    class Counting:
        sites, tokenization, cfg = model.sites, model.tokenization, model.cfg

        def capture(self, batch: Any, sites: Any, **kwargs: Any) -> Any:
            calls.append(len(batch))
            return capture(batch, sites, **kwargs)

    stream = make(Counting(), tokens)
    for t in range(len(stream) + 1):  # the last one reaches into the first block of epoch 1
        stream.batch(t)
    assert sum(calls) == 37 + 7 and max(calls) == 3, "one pass feeds both sites"


@given(
    rows=st.lists(st.integers(0, 5), min_size=1, max_size=30).filter(lambda r: sum(r) > 0),
    block=st.integers(1, 9),
    first=st.integers(0, 400),
    n=st.integers(1, 60),
)
def test_pieces_cover_the_range_in_order(rows: list[int], block: int, first: int, n: int) -> None:
    order = RowOrder(torch.tensor(rows), block, seed=3)
    place = first
    for piece in order.pieces(first, n):
        chosen = order.sequences(piece.epoch, piece.block)
        size = int(torch.tensor(rows)[chosen].sum())
        assert 0 <= piece.start < piece.stop <= size
        blocks = range(piece.block)
        before = sum(int(torch.tensor(rows)[order.sequences(piece.epoch, b)].sum()) for b in blocks)
        assert place == piece.epoch * sum(rows) + before + piece.start
        place += piece.stop - piece.start
    assert place == first + n


def test_a_deeper_buffer_mixes_more_sequences(model: Any, tokens: Any) -> None:
    shallow, deep = (make(model, tokens, buffer_sequences=size).distinct_sequences(0) for size in (2, 37))
    assert shallow <= 6 < deep <= 23
    assert f"{deep} distinct sequences" in repr(make(model, tokens, buffer_sequences=37))


def test_rows_within_a_block_are_shuffled(model: Any, tokens: Any) -> None:
    origins = make(model, tokens, buffer_sequences=37, batch_size=100).origins(0)
    steps = (origins[1:, 0] == origins[:-1, 0]) & (origins[1:, 1] == origins[:-1, 1] + 1)
    assert steps.float().mean() < 0.1


def test_bos_with_id_zero_is_left_out_and_others_alike() -> None:
    texts = stories(11)
    for bos in (0, 5):
        model = small_model(bos)
        tokens = tokenize_texts(model, texts)
        stream = make(model, tokens)
        for t in range(len(stream)):
            where = stream.origins(t)
            assert (tokens.ids[where[:, 0], where[:, 1]] != bos).all()
        assert make(model, tokens, exclude_bos=False).order.per_epoch == tokens.n_tokens


def test_dtype_and_provenance(model: Any, tokens: Any) -> None:
    stream = make(model, tokens, dtype="float64")
    assert {rows.dtype for rows in stream.batch(0).values()} == {torch.float64}
    single = ActivationStream(model, RESID, tokens, StreamConfig(batch_size=5))
    known = single.provenance()
    assert known.sites == (RESID,) and known.d_in == D_MODEL
    assert known.data_fingerprint == tokens.fingerprint
    assert known.model_fingerprint == model.fingerprint()
    assert stream.provenance().dtype == "float64"


def test_globs_and_what_cannot_be_streamed(model: Any, tokens: Any) -> None:
    assert ActivationStream(model, "blocks.*.hook_resid_post", tokens, StreamConfig(batch_size=5)).sites == [
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_post",
    ]
    with pytest.raises(SiteError, match=r"blocks\.1\.hook_resid_post"):
        ActivationStream(model, "blocks.1.hook_resid_pst", tokens)
    with pytest.raises(SiteError, match="no rows"):
        ActivationStream(model, "blocks.0.attn.hook_pattern", tokens)


def test_too_little_text_and_too_little_memory(model: Any, tokens: Any) -> None:
    with pytest.raises(ConfigError, match="shorter than one batch"):
        make(model, tokens, batch_size=10_000)
    with pytest.raises(MemoryBudgetError, match="7 sequences") as caught:
        make(model, tokens, max_bytes=4_000).batch(0)
    named = re.search(r"buffer_sequences=(\d+)", str(caught.value))
    assert named is not None and 0 < int(named[1]) < 7
    make(model, tokens, max_bytes=4_000, buffer_sequences=int(named[1])).batch(0)
    with pytest.raises(ConfigError, match="from 0 on"):
        make(model, tokens).batch(-1)
    with pytest.raises(ConfigError, match="float32"):
        make(model, tokens, dtype="flaot32")


def test_what_is_streamed_is_what_the_model_computes(model: Any, tokens: Any) -> None:
    """From `hook_z` to `hook_attn_out` the model is affine; the rows give its own W_O back."""
    out = "blocks.0.hook_attn_out"
    stream = ActivationStream(model, [Z, out], tokens, StreamConfig(batch_size=64))
    z, target = (torch.cat([batch[site] for batch in stream]).double() for site in (Z, out))
    z = torch.cat([z, torch.ones(len(z), 1)], 1)
    solved = torch.linalg.lstsq(z, target).solution
    torch.testing.assert_close(solved[:-1].float(), model.W_O[0].flatten(0, 1), rtol=1e-2, atol=1e-2)

    linear = torch.nn.Linear(N_HEADS * D_HEAD, D_MODEL)

    def step(m: Any, batch: Any, t: int) -> torch.Tensor:
        return (m(batch[Z]) - batch[out]).pow(2).mean() / target.var()

    report = fit(linear, step, stream.batch, FitConfig(steps=99, lr=0.03, log_every=1))
    assert report.final_loss < 0.02 < 0.3 < report.loss[0]


def test_a_real_model_and_real_text(shared_data: Path) -> None:
    """Llama trained on TinyStories: a file of stories to rows, sought in the middle."""
    model = load_model(str(shared_data / "models" / "stories260k"))
    file = shared_data / "corpora" / "tinystories" / "tinystories_1000.json"
    tokens = tokenize_texts(model, file, TextConfig(n_ctx=64, max_sequences=40))
    settings = StreamConfig(batch_size=500, buffer_sequences=16)
    stream = ActivationStream(model, ["blocks.2.hook_resid_post"], tokens, settings)
    assert stream.distinct_sequences(0) == 16
    (rows,) = stream.batch(3).values()
    for i in (0, 250, 499):
        sequence, position = stream.origins(3)[i].tolist()
        acts = model.capture(tokens.batch([sequence]), "blocks.2.hook_resid_post")
        torch.testing.assert_close(rows[i], acts["resid_post", 2][0, position], rtol=1e-4, atol=1e-4)


def test_a_buffer_that_does_not_fit_is_refused_before_the_model_runs(
    model: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model ran")

    stream = make(model, tokens, max_bytes=4_000)
    monkeypatch.setattr(type(model), "capture", run)
    with pytest.raises(MemoryBudgetError, match="buffer_sequences"):
        stream.batch(0)
