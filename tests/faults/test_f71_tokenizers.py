"""Row 71: tokenizers and chat templates of strangers have a bound in time and in size."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.errors import TokenError
from interp.models import load_model
from interp.models.text import gate, templates
from interp.models.text.gate import check_rules, has_nested_repeat
from interp.models.text.reading import call, load_tokenizer, render_chat
from interp.models.text.templates import guarded, needs_guard
from interp.tasks import load_task
from tests.support.folders import edit, model_folder, tokenizer_files
from tests.support.hostile import judged, require_refused


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


DOUBLING = sequence(*[replace("aa", String="a")] * 40)
TRIE = (4).to_bytes(4, "little") + b"\0\0\0\0" + b"x" * 100_000 + b"\0"
NESTED: dict[str, Any] = replace("a", String="a")
for _ in range(60):
    NESTED = sequence(NESTED, NESTED) if _ < 6 else sequence(NESTED)
UNTYPED = {"pattern": {"String": "a"}, "content": "aaaaaaaaaa"}
FOREVER = {"type": "Split", "pattern": {"Regex": r"(a+)+$"}, "behavior": "Isolated", "invert": False}


def charsmap(data: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
RULES: dict[str, dict[str, Any]] = {
    "steps without a type": {"normalizer": sequence(*[UNTYPED] * 8)},
    "a long start": {
        "normalizer": sequence({"type": "Prepend", "prepend": "a" * 1000}, replace("aa", String="a"))
    },
    "a decoy": {"pre_tokenizer": {"type": "Sequence", "normalizers": [], "pretokenizers": [FOREVER]}},
    "bytes of bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 30}},
    "spaces between ideographs": {
        "normalizer": sequence(
            *[{"type": "BertNormalizer", "handle_chinese_chars": True}, replace("中", String=" ")] * 30
        )
    },
    "ligatures": {"normalizer": sequence(*[replace("\ufdfa", String="ا"), {"type": "NFKD"}] * 30)},
    "a character map of four gigabytes": {"normalizer": charsmap(b"\xff\xff\xff\xff")},
    "no character map": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "a character map of nothing": {"normalizer": charsmap(b"\0\0\0")},
    "merges shorter than their prefix": {
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "ab": 2},
            "merges": [["a", "b"]],
            "continuing_subword_prefix": "######",
        }
    },
    "doubling": {"normalizer": DOUBLING},
    "doubling in a sequence of sequences": {"normalizer": sequence(sequence(DOUBLING))},
    "a letter of a megabyte": {"normalizer": replace("x" * (1 << 20), String="a")},
    "an expression that matches nothing": {"normalizer": replace("x" * 99, Regex="q*")},
    "a character map that swells": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(TRIE).decode()}
    },
    "a decoder that doubles": {"decoder": {"type": "Sequence", "decoders": [replace("aa", String="a")] * 40}},
    "a pattern for hours": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"(a+)+$"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "padding of a billion": {
        "padding": {
            "strategy": {"Fixed": 10**9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 1,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        }
    },
    "padding to a multiple": {
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": 10**9,
            "pad_id": 1,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        }
    },
    "no model": {"model": None},
    "a model of numbers": {"model": {"type": "WordLevel", "vocab": {"a": "b"}, "unk_token": 3}},
    "ids that overflow": {"model": {"type": "WordLevel", "vocab": {"a": 2**63}, "unk_token": "a"}},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "bytes and many more": {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 20_000},
    "many sentinels": {"tokenizer_class": "T5Tokenizer", "extra_ids": 10**8},
    "a far start": {"tokenizer_class": "PegasusTokenizer", "offset": 10**8},
    "made up": {"tokenizer_class": "XGLMTokenizer", "num_madeup_words": 1e9},
    "rules elsewhere": {"fast_tokenizer_files": ["../tokenizer.4.0.0.json"]},
    "rules in another file": {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_hostile_settings(name: str, tmp_path: Path) -> None:
    folder = tokenizer_files(tmp_path / "t", normalizer=DOUBLING)
    (folder / "tokenizer.json").rename(folder / "tokenizer.4.0.0.json")
    tokenizer_files(folder)
    if name != "rules in another file":
        (folder / "tokenizer.4.0.0.json").rename(tmp_path / "tokenizer.4.0.0.json")
    edit(folder / "tokenizer_config.json", **SETTINGS[name])
    require_refused(judged(lambda: call(load_tokenizer(folder), ["a"], special=True), tmp_path))


def sentencepiece(charsmap: bytes, pieces: int = 0) -> bytes:
    """A model file: fields of bytes, the character map inside the third."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    return field(1, b"\n\1a") * pieces + field(3, field(2, charsmap))


MODELS = {
    "a map of four gigabytes": sentencepiece(b"\xff\xff\xff\xff"),
    "a map that swells": sentencepiece(TRIE),
    "more pieces than any": sentencepiece(b"", 1_100),
    "no model": b"\x1a\xff\xff",
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("file", ["spiece.model", "tokenizer.model", "source.spm"])
def test_hostile_sentencepiece(name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "WORDS", 1_000)
    folder = tokenizer_files(tmp_path / "t")
    (folder / file).write_bytes(MODELS[name])
    require_refused(judged(lambda: load_tokenizer(folder), tmp_path))


def test_a_long_vocabulary_and_long_settings(tmp_path: Path) -> None:
    folder = tokenizer_files(tmp_path / "t")
    (folder / "config.json").write_text('{"model_type": "gpt2", "a": [' + "[]," * 9_000_000 + "[]]}")
    require_refused(judged(lambda: load_tokenizer(folder), tmp_path))
    bare = tmp_path / "v"
    bare.mkdir()
    (bare / "vocab.txt").write_text("[UNK]\n" + "\n".join(map(str, range(2_000_000))))
    require_refused(judged(lambda: load_tokenizer(bare), tmp_path))


def test_a_decoder_that_panics_is_an_error_of_ours(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    word = {"type": "WordLevel", "vocab": {"a" * 44: 0, "<unk>": 1}, "unk_token": "<unk>"}
    tokenizer_files(folder, model=word, decoder=replace("", Regex="(a|a)+b"))
    model = load_model(folder)
    for reads in (model.to_str_tokens, lambda ids: model.generate(ids, max_new_tokens=1, return_ids=False)):
        with pytest.raises(TokenError, match="cannot write"):
            reads(torch.tensor([0, 0]))


FILES = {
    "nested": '{"a": ' + "[" * 100_000,
    "a list": "[]",
    "empty": "",
    "no UTF-8": b"\xff\xfe\xfd",
    "values": '{"a": [' + "[]," * 5_000_000 + "[]]}",
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("door", ["load", "task"])
def test_hostile_rules(name: str, door: str, tmp_path: Path) -> None:
    folder = tokenizer_files(tmp_path / "t", **RULES[name])
    task = tmp_path / "t.csv"
    task.write_text("prompt,label_idx\nthe,1\n")
    doors = {
        "load": lambda: call(load_tokenizer(folder), ["a" * 40], special=True),
        "task": lambda: load_task(task, tokenizer=folder),
    }
    require_refused(judged(doors[door], tmp_path))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"]
)
def test_hostile_files(name: str, file: str, tmp_path: Path) -> None:
    folder = tokenizer_files(tmp_path / "t")
    content = FILES[name]
    (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
    verdict = judged(lambda: load_tokenizer(folder), tmp_path)
    if name == "a list" and file in ("special_tokens_map.json", "vocab.json"):
        assert verdict.outcome in ("accepted", "refused"), verdict
    else:
        require_refused(verdict)


HONEST = [
    r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{Lm}]+(?i:'s|'t)?|\p{N}{1,3}|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"[0-9][0-9][0-9]",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?:[一-龥]|[0-9]){1,3}",
]


COMPILED = charsmap(TRIE[:8] + "\ufdfa".encode() + b"\0")
SPACES = replace("▁", Regex=" {2,}")
IN_USE: list[dict[str, Any]] = [  # T5, ALBERT, Pegasus, Llama, GPT-2 with Qwen's split, BERT
    {"normalizer": sequence(COMPILED, {"type": "Strip"}, SPACES)},
    {
        "normalizer": sequence(
            replace('"', String="``"),
            {"type": "NFKD"},
            {"type": "Lowercase"},
            COMPILED,
            replace(" ", Regex=" {2,}"),
        )
    },
    {"normalizer": sequence(COMPILED, replace(" ", Regex=r"\n"), replace(" ", Regex=" {2,}"))},
    {"normalizer": sequence({"type": "Prepend", "prepend": "▁"}, replace("▁", String=" "))},
    {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split"}, BYTES]},
    },
    {"normalizer": {"type": "BertNormalizer", "handle_chinese_chars": True}},
    {"decoder": {"type": "Sequence", "decoders": [replace(" ", String="▁"), {"type": "Fuse"}]}},
]


def test_rules_in_use_are_left_alone() -> None:
    for rules in IN_USE:
        check_rules(rules, Path("tokenizer.json"))


def test_patterns_in_use_are_left_alone() -> None:
    assert not [pattern for pattern in HONEST if has_nested_repeat(pattern)]
    for hostile in (r"(a+)+", r"(a*)*b", r"((ab)+c)*", r"(?:x{2,}y?)+", r"([(]a+|b)*", r"(\(+)+"):
        assert has_nested_repeat(hostile), hostile


def chatty(folder: Path, template: str) -> Any:
    tokenizer = load_tokenizer(tokenizer_files(folder))
    tokenizer.chat_template = template
    return tokenizer


CHAT = [{"role": "user", "content": "the cat"}]
TEMPLATES = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops that write": "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
    "doubling without a loop": "{% set s = 'aaaa' %}" + "{% set s = s ~ s %}" * 40 + "{{ s }}",
    "doubling": "{% set ns = namespace(s='a') %}{% for a in 'x' * 60 %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "doubling without a loop of numbers": "{% set ns = namespace(s='a') %}"
    "{% for a in 'abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz' %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "times": "{{ 'a' * 10000000000 }}",
    "format": "{{ '%9999999999d' % 1 }}",
    "centre": "{{ 'a' | center(9999999999) }}",
    "just": "{{ 'a'.ljust(9999999999) }}",
    "power": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "recursion": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "two macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "the sandbox": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "no template": "{% for %}",
    "too long": "x" * (1 << 19),
    "an undefined call": "{{ nothing() }}",
    "a division": "{{ 1 / 0 }}",
    "loops over what is written out": "{% for a in L %}" * 4 + "{% endfor %}" * 4,
    "lists of lists": "{% set a = ['aaaaaaaaaa'] %}" + "{% set a = [a,a,a,a,a,a,a,a,a,a] %}" * 8 + "{{ a }}",
    "escapes of escapes": "{{ '\"'" + "|tojson" * 31 + " }}",
    "escapes of escapes, asked": "{% if '\"'" + "|tojson" * 31 + " %}{% endif %}",
    "escapes of escapes, kept": "{% set a = '\"' %}" + "{% set a = a|tojson %}" * 31 + "{{ a }}",
    "lists as texts": "{{ 'a'" + "|list|string" * 12 + " }}",
    "digits": "{{ 1.5|round(99999999, 'ceil') }}",
    "blocks of blocks": "{% block get %}" + "{{ self.items() }}" * 30 + "{% endblock %}"
    "{% block items %}" + "{{ self.keys() }}" * 30 + "{% endblock %}"
    "{% block keys %}" + "{{ self.values() }}" * 30 + "{% endblock %}"
    "{% block values %}" + "{{ self.pop() }}" * 30 + "{% endblock %}"
    "{% block pop %}"
    + "{{ self.strip() }}" * 30
    + "{% endblock %}{% block strip %}"
    + "x" * 100
    + "{% endblock %}",
    "letters for letters": "{% for a in messages %}" + "{{ messages }}" * 9_000 + "{% endfor %}",
}
TEMPLATES["loops over what is written out"] = TEMPLATES["loops over what is written out"].replace(
    "L", "[" + "1," * 1000 + "]"
)


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", TEMPLATES)
def test_hostile_templates(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 1.0)
    tokenizer = chatty(tmp_path / "t", TEMPLATES[name])
    began = time.monotonic()
    said = CHAT if name != "letters for letters" else [{"role": "user", "content": "a" * 300}] * 20
    verdict = judged(lambda: render_chat(tokenizer, said), tmp_path)
    require_refused(verdict)
    assert time.monotonic() - began < 30


SIMPLE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RECURSIVE = "{% macro f(m) %}{{ m.content }}{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}"


def test_honest_templates_read_the_same(tmp_path: Path) -> None:
    plain = chatty(tmp_path / "a", SIMPLE)
    assert not needs_guard(SIMPLE) and needs_guard(RECURSIVE)
    assert render_chat(plain, CHAT) == "<|user|>the cat<|assistant|>"
    assert render_chat(chatty(tmp_path / "b", RECURSIVE), CHAT) == "the cat"


def test_what_a_conversation_multiplies_is_guarded() -> None:
    assert not needs_guard(SIMPLE, 40, 10_000)
    assert needs_guard(SIMPLE, 1_000, 1_000_000)


def test_the_guard_keeps_the_text_whole() -> None:
    text = "é🦊\n" * 100_000
    assert guarded(lambda: text) == text
    with pytest.raises(TokenError, match="without end"):
        guarded(lambda: "a" * (templates.RENDERED + 1))
