"""Token sequences: nothing lost, nothing doubled, each addressable by its number."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.activations import TextConfig, TokenSequences, tokenize_texts
from interp.activations.text import _pack, token_sequences
from interp.core.errors import ConfigError, CorruptArtefact, ShapeError, StorageError, TokenError
from interp.models.text.tokens import TokenBatch
from tests.activations.models import N_CTX, small_model, stories


def real_rows(tokens: TokenSequences) -> list[list[int]]:
    return [row.tolist() for row in tokens.batch(range(len(tokens)))]


@given(
    documents=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=20), min_size=1),
    n_ctx=st.integers(2, 9),
)
def test_packing_loses_nothing_and_doubles_no_bos(documents: list[list[int]], n_ctx: int) -> None:
    windows = list(_pack(documents, n_ctx, 0))
    assert all(window[0] == 0 for window in windows)
    assert all(len(window) == n_ctx for window in windows[:-1])
    assert all((0, 0) not in itertools.pairwise(w) for w in windows)
    assert [t for w in windows for t in w if t] == [t for d in documents for t in d]
    # A document's first token follows a BOS, wherever the window was cut.
    starts, place = set(), 0
    for document in documents:
        starts.add(place)
        place += len(document)
    follows, place = set(), 0
    for window in windows:
        for before, token in itertools.pairwise(window):
            if token:
                if before == 0:
                    follows.add(place)
                place += 1
    assert starts <= follows


@given(documents=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=20), min_size=1))
def test_packing_without_bos_is_concatenation(documents: list[list[int]]) -> None:
    windows = list(_pack(documents, 5, None))
    flat = [t for d in documents for t in d]
    assert windows == [flat[i : i + 5] for i in range(0, len(flat), 5)]


def test_packing_by_hand() -> None:
    assert list(_pack([[1, 2], [3], [4, 5, 6]], 4, 0)) == [[0, 1, 2, 0], [0, 3, 0, 4], [0, 5, 6]]


@pytest.mark.parametrize("bos", [0, 4])
def test_packed_text_keeps_its_words_in_order(bos: int) -> None:
    model, texts = small_model(bos), stories(23)
    tokens = tokenize_texts(model, texts)
    rows = real_rows(tokens)
    words = model.tokenizer.convert_ids_to_tokens([t for row in rows for t in row if t != bos])
    assert words == " ".join(texts).split()
    assert all(row[0] == bos for row in rows)
    assert tokens.n_ctx == N_CTX and tokens.n_tokens == sum(map(len, rows))


def test_one_sequence_per_document_equals_the_models_own_tokens() -> None:
    model, texts = small_model(), stories(11, longest=40)
    tokens = tokenize_texts(model, texts, TextConfig(pack=False, n_ctx=7))
    rows = real_rows(tokens)
    assert rows == [model.to_tokens(" ".join(t.split()[:6]))[0].tolist() for t in texts]
    assert max(map(len, rows)) == 7 and min(map(len, rows)) < 7
    without = tokenize_texts(model, texts, TextConfig(pack=False, n_ctx=7, prepend_bos=False))
    assert all(row[0] != 0 for row in real_rows(without))


def test_a_tokenizer_without_bos_packs_without() -> None:
    model, texts = small_model(None), stories(9)
    rows = real_rows(tokenize_texts(model, texts))
    assert model.tokenizer.convert_ids_to_tokens([t for r in rows for t in r]) == (" ".join(texts).split())
    with pytest.raises(TokenError, match="no BOS"):
        tokenize_texts(model, texts, TextConfig(prepend_bos=True))


def test_max_sequences_is_a_prefix() -> None:
    model, texts = small_model(), stories(50)
    whole, some = (tokenize_texts(model, texts), tokenize_texts(model, texts, TextConfig(max_sequences=5)))
    assert len(some) == 5 and real_rows(some) == real_rows(whole)[:5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_ctx": N_CTX + 1}, "longer than the model"),
        ({"n_ctx": 1}, "n_ctx"),
        ({"max_sequences": 0}, "max_sequences"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tokenize_texts(small_model(), stories(3), TextConfig(**changes))


@pytest.mark.parametrize("n_ctx", [5, 12])
def test_ids_of_another_length_than_was_asked_for_are_refused(n_ctx: int) -> None:
    """Shorter or longer: ids are taken as they are, so what was asked for would not be read."""
    model, ids = small_model(), torch.arange(36).reshape(4, 9) % 7
    for source in (ids, ids.tolist(), TokenSequences(ids)):
        with pytest.raises(ConfigError, match="token ids already") as error:
            token_sequences(model, source, TextConfig(n_ctx=n_ctx))
        assert f"n_ctx={n_ctx}" in str(error.value) and "9 tokens" in str(error.value)
        for fits in (None, TextConfig(), TextConfig(n_ctx=9)):
            assert torch.equal(token_sequences(model, source, fits).ids, ids)


def test_batches_are_cut_to_the_longest_and_masked() -> None:
    tokens = TokenSequences.of([[5, 6, 7], [8], [9, 10]])
    batch = tokens.batch([2, 1])
    assert batch.ids.tolist() == [[9, 10], [8, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert tokens.batch(torch.tensor([0])).ids.tolist() == [[5, 6, 7]]


def test_every_kind_of_source_gives_the_same_sequences() -> None:
    ids = torch.tensor([[3, 4, 5], [6, 7, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    expected = [[3, 4, 5], [6, 7]]
    assert real_rows(TokenSequences.of(TokenBatch(ids, mask))) == expected
    assert real_rows(TokenSequences.of(expected)) == expected
    assert real_rows(TokenSequences.of(ids)) == ids.tolist()
    left = TokenBatch(torch.tensor([[3, 4, 5], [0, 6, 7]]), mask.flip(1))
    left.mask[0] = True
    assert real_rows(TokenSequences.of(left)) == expected


def test_saved_sequences_come_back(tmp_path: Path) -> None:
    tokens = tokenize_texts(small_model(), stories(17))
    tokens.save(tmp_path / "tokens")
    again = TokenSequences.load(tmp_path / "tokens")
    assert real_rows(again) == real_rows(tokens) and again.fingerprint == tokens.fingerprint
    assert TokenSequences.of([[1, 2]]).fingerprint != TokenSequences.of([[1, 3]]).fingerprint
    with pytest.raises(StorageError):
        tokens.save(tmp_path / "tokens")
    file = tmp_path / "tokens" / "tokens.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    with pytest.raises(CorruptArtefact):
        TokenSequences.load(tmp_path / "tokens")


@pytest.mark.parametrize(
    ("ids", "lengths", "error"),
    [
        (torch.zeros(3, dtype=torch.int64), None, ShapeError),
        (torch.zeros(2, 3), None, TokenError),
        (torch.zeros(0, 3, dtype=torch.int64), None, TokenError),
        (-torch.ones(2, 3, dtype=torch.int64), None, TokenError),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([1, 4]), TokenError),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]), TokenError),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([1]), ShapeError),
    ],
)
def test_impossible_sequences(ids: Any, lengths: Any, error: type[Exception]) -> None:
    from tests.activations.toys import unchecked

    with pytest.raises(error):
        unchecked(TokenSequences)(ids, lengths)
