"""Models whose answers are known because they are written down: one row of logits per token."""

from __future__ import annotations

from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp.models import wrap
from interp.models.hooked import HookedModel
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from interp.models.text.reading import load_tokenizer

WORDS = ("<s>", "<unk>", "the", "cat", "dog", "cats", "dogs", "sleeps", "sleep", "runs", "near")


def unchecked(kind: type, **fields: object) -> object:
    """A dataclass made as in production, where nothing but its own checks looks at types."""
    defaults = {
        f.name: f.default if f.default is not MISSING else f.default_factory()
        for f in dataclass_fields(kind)
        if f.default is not MISSING or f.default_factory is not MISSING
    }
    made = object.__new__(kind)
    for name, value in (defaults | fields).items():
        object.__setattr__(made, name, value)
    made.__post_init__()
    return made


def table_model(table: Tensor, n_ctx: int = 61) -> SmallTransformer:
    """logits[batch, pos] = table[token]; what came before is not seen."""
    d_vocab, d_out = table.shape
    shape = SmallConfig(
        n_layers=1,
        d_model=d_vocab,
        n_ctx=n_ctx,
        d_head=1,
        n_heads=1,
        d_vocab=d_vocab,
        d_vocab_out=d_out,
        attn_only=True,
        normalization_type=None,
        default_prepend_bos=True,
    )
    model = SmallTransformer(shape, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E.copy_(torch.eye(d_vocab))
        model.unembed.W_U.copy_(table)
    return model


def words_tokenizer(words: tuple[str, ...] = WORDS, bos: bool = True) -> PreTrainedTokenizerFast:
    """One id per word, in order; a BOS at 0 where asked for, and a silent `<unk>` at 1."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"unk_token": "<unk>"} | ({"bos_token": "<s>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def bigram(scores: dict[tuple[str, str], float], words: tuple[str, ...] = WORDS) -> HookedModel:
    """A model that gives `scores[before, after]` to a word after another, 0 to all the rest."""
    table = torch.zeros(len(words), len(words))
    for (before, after), value in scores.items():
        table[words.index(before), words.index(after)] = value
    return wrap(table_model(table), words_tokenizer(words))


def ids_only(d_vocab: int) -> HookedModel:
    """The same without a tokenizer: every token asks for its successor."""
    return wrap(table_model(torch.eye(d_vocab).roll(1, 1)), None)


def gpt2_words(shared: Path) -> HookedModel:
    """GPT-2's tokenizer on a model of width one, for what depends on tokens only."""
    tokenizer = load_tokenizer(shared / "models" / "gpt2-tokenizer")
    shape = SmallConfig(
        n_layers=1,
        d_model=1,
        n_ctx=89,
        d_head=1,
        n_heads=1,
        d_vocab=50257,
        attn_only=True,
        normalization_type=None,
    )
    return wrap(SmallTransformer(shape, 0), tokenizer)
