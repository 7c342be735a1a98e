"""The word-level tokenizer of the bundled models, as the files that Hugging Face reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from interp.tasks.grammar import words as w


def tokenizer_files(tokens: Sequence[str], n_ctx: int, *, bos: bool) -> dict[str, Any]:
    """tokenizer.json and tokenizer_config.json of a vocabulary, ready for `store.commit`.

    A text is split into words, pairs of digits and single signs, each with the space before it; a
    text that begins without a space gets one, so that its first word is the same token as inside.

    Args:
        tokens: Tokens in order of their ids; the special ones of `words` first, where it has them.
        n_ctx: Longest sequence.
        bos: Begin every text with the beginning-of-sequence token.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from tokenizers.processors import TemplateProcessing

    special = [token for token in w.SPECIAL if token in tokens]
    unknown = w.UNKNOWN if w.UNKNOWN in special else tokens[0]
    made = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=unknown))
    made.add_special_tokens([AddedToken(token, special=True) for token in special])
    made.normalizer = normalizers.Replace(Regex(r"\A(?=[^ ])"), " ")
    made.pre_tokenizer = pre_tokenizers.Split(Regex(w.PIECE.pattern), "isolated")
    made.decoder = decoders.Fuse()
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": n_ctx,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
    }
    names = {w.BOS: "bos_token", w.PAD: "pad_token", w.UNKNOWN: "unk_token"}
    settings |= {names[token]: token for token in special}
    if bos:
        made.post_processor = TemplateProcessing(
            single=f"{w.BOS} $A", special_tokens=[(w.BOS, tokens.index(w.BOS))]
        )
    return {"tokenizer.json": json.loads(made.to_str()), "tokenizer_config.json": settings}
