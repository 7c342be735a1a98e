"""Prompts: text for people, aligned ids for models, and a refusal for whatever is neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import ConfigError, ShapeError, TokenError
from interp.models import load_model, wrap
from interp.tasks import Prompt, PromptBatch, Prompts, load_task
from tests.tasks.toys import WORDS, bigram, gpt2_words, ids_only, table_model, unchecked, words_tokenizer

MODEL = bigram({})
KNOWN = [word for word in WORDS if not word.startswith("<")]
PAIR = Prompt("the cat near the dogs", "the cats near the dogs", (" sleeps",), (" sleep",), "near")


def test_a_batch_holds_the_ids_of_the_text_with_the_models_bos() -> None:
    batch = Prompts([PAIR, Prompt("the cat", "the cats", ("runs",), ("sleep",))]).tokenize(MODEL)
    the, cat, cats, dogs = (WORDS.index(word) for word in ("the", "cat", "cats", "dogs"))
    assert batch.clean.ids[0].tolist() == [0, the, cat, WORDS.index("near"), the, dogs]
    assert batch.corrupted is not None
    assert batch.corrupted.ids[1, :3].tolist() == [0, the, cats]
    assert batch.clean.mask.sum(1).tolist() == [6, 3]
    assert batch.last.tolist() == [5, 2]
    assert batch.answers.tolist() == [[WORDS.index("sleeps")], [WORDS.index("runs")]]
    assert batch.differs.nonzero().tolist() == [[0, 2], [1, 2]]
    assert batch.templates == ("near", "")


def test_without_bos_everything_moves_by_one() -> None:
    batch = Prompts([PAIR]).tokenize(MODEL, prepend_bos=False)
    assert batch.clean.ids[0, 0] == WORDS.index("the")
    assert batch.last.tolist() == [4]


@given(st.lists(st.lists(st.sampled_from(KNOWN), min_size=1, max_size=11), min_size=1, max_size=5))
def test_padding_changes_no_answer(rows: list[list[str]]) -> None:
    scores = {(a, b): float(i - j) for i, a in enumerate(KNOWN) for j, b in enumerate(KNOWN)}
    model = bigram(scores)
    prompts = Prompts([Prompt(" ".join(row), answers=(" cat",)) for row in rows])
    batch = prompts.tokenize(model)
    together = batch.final(model(batch.clean))
    for row, prompt in zip(together, prompts, strict=True):
        assert torch.equal(row, model(prompt.clean)[0, -1])


@given(
    st.lists(st.sampled_from(KNOWN), min_size=1, max_size=7),
    st.lists(st.sampled_from(KNOWN), min_size=1, max_size=7),
)
def test_pairs_are_accepted_exactly_where_their_lengths_agree(a: list[str], b: list[str]) -> None:
    prompts = Prompts([Prompt(" ".join(a), " ".join(b))])
    if len(a) == len(b):
        batch = prompts.tokenize(MODEL)
        assert batch.corrupted is not None
        assert torch.equal(batch.clean.mask, batch.corrupted.mask)
        apart = [i + 1 for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        assert batch.differs[0].nonzero().flatten().tolist() == apart
    else:
        with pytest.raises(TokenError, match="not aligned"):
            prompts.tokenize(MODEL)
        loose = prompts.tokenize(MODEL, aligned=False)
        with pytest.raises(ConfigError, match="aligned pairs"):
            _ = loose.differs


def test_unequal_lengths_are_shown_token_by_token() -> None:
    fine = Prompt("the cat", "the dog")
    with pytest.raises(TokenError) as caught:
        Prompts([fine, Prompt("the cat near the dog", "the near the dog")]).tokenize(MODEL)
    text = str(caught.value)
    assert "prompt 1" in text
    assert "6 tokens ['<s>', ' the', ' cat', ' near', ' the', ' dog']" in text
    assert "5 tokens ['<s>', ' the', ' near', ' the', ' dog']" in text
    assert "position 2" in text


def test_words_the_tokenizer_does_not_know_are_refused_not_replaced() -> None:
    with pytest.raises(TokenError, match=r"(?s)word of a prompt.*'zebra'"):
        Prompts([Prompt("the zebra sleeps")]).tokenize(MODEL)
    with pytest.raises(TokenError, match=r"(?s)know an answer.*'zebra'"):
        Prompts([Prompt("the", None, ("zebra",))]).tokenize(MODEL)


def test_answers_of_several_tokens_have_three_ways_out() -> None:
    prompts = Prompts([Prompt("the", None, (" cat sleeps", "dog"), ("dogs",))])
    with pytest.raises(TokenError, match=r"(?s)not a single token.*2 tokens \[' cat', ' sleeps'\]"):
        prompts.tokenize(MODEL)
    first = prompts.tokenize(MODEL, first_token=True)
    assert first.answers.tolist() == [[WORDS.index("cat"), WORDS.index("dog")]]
    assert first.shortened == (" cat sleeps",)
    dropped = prompts.tokenize(MODEL, drop=True)
    assert dropped.answers.tolist() == [[WORDS.index("dog")]]
    assert dropped.dropped == (" cat sleeps",)


def test_dropping_never_leaves_a_prompt_without_its_answer() -> None:
    with pytest.raises(TokenError, match="keeps no answer"):
        Prompts([Prompt("the", None, (" cat sleeps",))]).tokenize(MODEL, drop=True)


def test_an_answer_and_a_distractor_must_differ_in_what_is_scored() -> None:
    prompts = Prompts([Prompt("the", None, (" cat sleeps",), (" cat runs",))])
    with pytest.raises(TokenError, match=r"(?s)same token.*' cat'"):
        prompts.tokenize(MODEL, first_token=True)


def test_fewer_answers_are_filled_with_minus_one() -> None:
    two = Prompt("the", None, ("cat", "dog"), ())
    batch = Prompts([two, Prompt("the", None, ("cats",), ("dogs",))]).tokenize(MODEL)
    assert batch.answers[1].tolist() == [WORDS.index("cats"), -1]
    assert batch.distractors.tolist() == [[-1], [WORDS.index("dogs")]]


def test_prompts_of_token_ids_need_no_tokenizer() -> None:
    model = ids_only(7)
    prompts = Prompts([Prompt("3 0 1", "3 1 0", ("2",), ("4",), read_at=1)], ids=True)
    batch = prompts.tokenize(model)
    assert batch.clean.ids.tolist() == [[3, 0, 1]]
    assert batch.final(model(batch.clean)).argmax(-1).tolist() == [1]  # after 0, not after 1
    for text, what in (("3 x", "'x'"), ("3 7", "7")):
        with pytest.raises(TokenError, match=what):
            Prompts([Prompt(text)], ids=True).tokenize(model)


def test_a_position_outside_the_prompt_is_refused() -> None:
    with pytest.raises(TokenError, match="position that it does not have"):
        Prompts([Prompt("the cat", read_at=3)]).tokenize(MODEL)
    assert Prompts([Prompt("the cat", read_at=-2)]).tokenize(MODEL).last.tolist() == [1]


@pytest.mark.parametrize(
    ("prompts", "what"),
    [([], "no prompts"), ([Prompt("the", "the"), Prompt("the")], "some prompts have a corrupted text")],
)
def test_batches_that_make_no_sense_are_refused(prompts: list[Prompt], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Prompts(prompts).tokenize(MODEL)


def test_fields_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)tuple of texts.*\('cat',\)"):
        unchecked(Prompt, clean="the", answers="cat")
    with pytest.raises(ConfigError, match="text"):
        unchecked(Prompt, clean="the", answers=(3,))
    with pytest.raises(ConfigError, match="text"):
        unchecked(Prompt, clean="the", corrupted=7)
    with pytest.raises(ConfigError, match="without text"):
        Prompt("")


def test_rows_of_a_batch_keep_what_belongs_to_them() -> None:
    prompts = Prompts([Prompt(f"the {word}", None, ("cat",), ("dog",), word) for word in KNOWN])
    batch = prompts.tokenize(MODEL)
    parts = list(batch.batches(4))
    assert [len(part) for part in parts] == [4, 4, 1]
    assert torch.equal(torch.cat([part.clean.ids for part in parts]), batch.clean.ids)
    assert [name for part in parts for name in part.templates] == KNOWN
    with pytest.raises(ShapeError, match="not of this batch"):
        batch.final(torch.zeros(3, 2, 5))
    with pytest.raises(ShapeError, match="one row per prompt"):
        PromptBatch(batch.clean, None, batch.answers, batch.distractors, batch.last, ())


def test_prompts_that_fit_are_kept() -> None:
    wrong = Prompt("the cat", "the cat near", ("dog",))
    prompts = Prompts([PAIR, wrong, Prompt("a zebra"), Prompt("the", None, ("cat dog",))])
    assert list(prompts.fitting(MODEL)) == [PAIR]
    assert list(prompts.fitting(MODEL, aligned=False)) == [PAIR, wrong]


# --- real tokenizers ------------------------------------------------------------------------------


def test_gpt2_answers_are_the_ids_of_its_own_tokenizer(shared_data: Path) -> None:
    model = gpt2_words(shared_data)
    text = "When Mary and John went to the store, John gave a drink to"
    prompts = Prompts([Prompt(text, text.replace("John gave", "Mary gave"), (" Mary",), (" John",))])
    batch = prompts.tokenize(model)
    own = model.tokenizer.encode(" Mary", add_special_tokens=False)
    assert batch.answers.tolist() == [own]
    assert batch.clean.ids[0, 0] == model.tokenizer.bos_token_id
    assert len(batch.clean.ids[0]) == 1 + len(model.tokenizer.encode(text))


def test_sentencepiece_answers_are_what_they_add_to_the_prompt(shared_data: Path) -> None:
    model = load_model(shared_data / "models" / "stories260k")
    text = "Once upon a time, there was a little girl named"
    batch = Prompts([Prompt(text, None, (" Lily",), (" the",))]).tokenize(model)
    whole = model.to_tokens(text + " Lily")[0]
    assert len(whole) == int(batch.last[0]) + 2
    assert batch.answers.tolist() == [[int(whole[-1])]]
    assert model(batch.clean)[0, batch.last[0]].argmax() == whole[-1]  # it has read TinyStories


def test_a_tokenizer_without_bos_gets_none() -> None:
    model = wrap(table_model(torch.zeros(len(WORDS), 3)), words_tokenizer(bos=False))
    assert Prompts([Prompt("the cat")]).tokenize(model).clean.ids.tolist() == [[2, 3]]


# --- as text and as files -------------------------------------------------------------------------


def test_prompts_print_as_text() -> None:
    text = repr(Prompts([PAIR] * 7, "agreement"))
    assert text.startswith("7 prompts of agreement")
    assert "clean      'the cat near the dogs'" in text
    assert "answer     ' sleeps'" in text
    assert text.endswith("... and 2 more")


def test_many_answers_are_abbreviated() -> None:
    text = str(Prompt("17", answers=tuple(f"{year:02d}" for year in range(33, 100))))
    assert "'33', '34', '35', '36', ... (63 more)" in text


def test_the_frame_has_a_row_per_prompt_and_a_column_per_variable() -> None:
    named = Prompt("a", "b", ("c", "d"), ("e",), "t", {"noun": "cat", "clean": "shadowed"})
    frame = Prompts([named, PAIR]).to_frame()
    assert frame["answers"].tolist() == ["c | d", " sleeps"]
    assert frame["noun"].tolist()[0] == "cat"
    assert frame["_clean"].tolist()[0] == "shadowed"
    assert frame["clean"].tolist() == ["a", "the cat near the dogs"]


def test_html_is_inert() -> None:
    bad = "<script>alert(1)</script>"
    page = Prompts([Prompt(bad, None, (bad,), (), bad, {bad: bad})])._repr_html_()
    assert "<script" not in page
    assert "&lt;script" in page


def test_templates_keep_order_and_slices_keep_the_name() -> None:
    prompts = Prompts([Prompt("x", template=t) for t in "baab"], "name", ids=True)
    assert list(prompts.templates()) == ["b", "a"]
    assert len(prompts.templates()["a"]) == 2
    assert prompts[1:3].name == "name" and prompts[1:3].ids
    assert prompts[:2] != prompts[2:]
    with pytest.raises(ConfigError, match="4 of 4 prompts have no corrupted"):
        _ = prompts.corrupted


TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "clean": TEXTS,
                "corrupted": st.none() | TEXTS,
                "answers": st.lists(TEXTS, max_size=3).map(tuple),
                "distractors": st.lists(TEXTS, max_size=2).map(tuple),
                "template": st.just("") | TEXTS,
                "variables": st.dictionaries(TEXTS, TEXTS, max_size=2),
                "read_at": st.none() | st.integers(-5, 5),
            }
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_saved_prompts_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], ids: bool
) -> None:
    prompts = Prompts([Prompt(**row) for row in rows], "any", ids=ids)
    path = tmp_path_factory.mktemp("own") / "prompts.json"
    prompts.save(path)
    task = load_task(path)
    assert task.pool == prompts
    assert task.name == "any"
