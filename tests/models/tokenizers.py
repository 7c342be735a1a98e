"""Tiny tokenizers in memory, one per way in which tokenizers differ; none has a name_or_path."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

WORDS = ("red", "green", "blue", "one", "two", "three", "cat")
UNK = "<unk>"

SAYS_BOS = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}one{% endif %}"
)
"""A chat template that writes the BOS itself, as Llama's does."""


def word_level(
    bos: int | None,
    *,
    adds_bos: bool = False,
    adds_eos: bool = False,
    closed: bool = False,
    unk_is_bos: bool = False,
) -> PreTrainedTokenizerFast:
    """One id per word, with the BOS at the id asked for.

    Args:
        bos: Id of `<s>` in 0..8, or None for no BOS.
        adds_bos, adds_eos: Whether the tokenizer itself puts `<s>` first or `</s>` last.
        closed: No unknown token: a word outside the vocabulary is an error.
        unk_is_bos: Unknown words become the BOS (GPT-2's `<|endoftext|>` is both).
    """
    entries = [*WORDS, "</s>"] + ([] if closed or unk_is_bos else [UNK])
    if bos is not None:
        entries.insert(bos, "<s>")
    vocab = {word: i for i, word in enumerate(entries)}
    unk = None if closed else "<s>" if unk_is_bos else UNK
    backend = Tokenizer(models.WordLevel(vocab, **({"unk_token": unk} if unk else {})))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = "<s> " * adds_bos + "$A" + " </s>" * adds_eos
    if adds_bos or adds_eos:
        specials = [(t, vocab[t]) for t in ("<s>", "</s>") if t in vocab]
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=specials)
    names = {"eos_token": "</s>", "unk_token": unk, "bos_token": None if bos is None else "<s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{k: v for k, v in names.items() if v is not None}
    )


def byte_level(bos_first: bool = True) -> PreTrainedTokenizerFast:
    """GPT-2's kind: every byte is a token, one merge (` c`); BOS is id 0 or the last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*alphabet, "Ġc"]
    entries.insert(0 if bos_first else len(entries), "<|endoftext|>")
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(entries)}, [("Ġ", "c")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def metaspace() -> PreTrainedTokenizerFast:
    """Sentencepiece's kind: a space of its own in front, byte fallback, `<s>` added by itself."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    entries = [UNK, "<s>", "</s>", *bytes_, "▁", "a", "b", "▁a", "ab"]
    backend = Tokenizer(
        models.BPE(
            {t: i for i, t in enumerate(entries)}, [("▁", "a"), ("a", "b")], unk_token=UNK, byte_fallback=True
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token=UNK)


def byt5() -> PreTrainedTokenizer:
    """A slow tokenizer of a T5: ids are bytes + 3, `</s>` appended, no BOS."""
    return ByT5Tokenizer(extra_ids=0)


class Letters(PreTrainedTokenizer):
    """A slow tokenizer written in Python: one id per letter, BOS 0 in front by itself."""

    def __init__(self, **kwargs: object) -> None:
        self.letters = ["<s>", *"abcdefg "]
        super().__init__(bos_token="<s>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self.letters)

    def get_vocab(self) -> dict[str, int]:
        return {letter: i for i, letter in enumerate(self.letters)}

    def _tokenize(self, text: str, **kwargs: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.letters.index(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.letters[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        return [0, *token_ids_0, *(token_ids_1 or [])]
