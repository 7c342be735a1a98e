"""Hugging Face tokenizers as they are: loaded from a folder, called without a trace, identified."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.core.errors import TokenError, TokenWarning
from interp.core.foreign import one_line
from interp.core.provenance import fingerprint_text
from interp.models.gate import verify_manifest
from interp.models.text.batch import short
from interp.models.text.gate import check_files, one_error
from interp.models.text.templates import guarded, needs_guard

FILES = tuple(
    """
    tokenizer.json tokenizer_config.json vocab.txt merges.txt tokenizer.model spiece.model
    sentencepiece.bpe.model
    """.split()
)
"""A folder that holds one of these has a tokenizer."""

PROBES = ("a", "the", "0", "A", "x")


def load_tokenizer(folder: str | Path, *, verified: bool = False, config: Any = None) -> Any | None:
    """The tokenizer that lies in a folder; None if there is none. Never the network, never code.

    Folders without any config are read by their files: `vocab.json` + `merges.txt` is GPT-2's
    byte-level BPE, `vocab.txt` is BERT's WordPiece.

    Args:
        folder: Where its files lie.
        verified: The caller has verified the folder's manifest, if there is one.
        config: The model's configuration, where the caller has read it.

    Raises:
        CorruptArtefact: the folder has a manifest of ours that its files contradict.
        TokenError: the tokenizer's files are there but cannot be read; names the file.
    """
    folder = Path(folder)
    if not verified:
        verify_manifest(folder)
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if not files:
        return None
    check_files(folder)
    import transformers

    plain = {"merges.txt": "GPT2TokenizerFast", "vocab.txt": "BertTokenizerFast"}
    by_file = plain.get(files[0].name)
    described = by_file is None or (folder / "config.json").is_file()
    loader = transformers.AutoTokenizer if described else getattr(transformers, str(by_file))
    told = f"the tokenizer in {folder} cannot be loaded"
    fix = "save it again with tokenizer.save_pretrained(folder)"
    more = {"config": config} if config is not None and loader is transformers.AutoTokenizer else {}
    with _silence(), one_error(told, f"{files[0].name}: ", fix):
        return loader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **more)


@contextmanager
def _silence() -> Iterator[None]:
    """Loading chatters about defaults that do not concern us."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def call(tokenizer: Any, strings: list[str], *, special: bool) -> list[list[int]]:
    """The tokenizer's own ids; padding and truncation that it has set up are left alone.

    Args:
        tokenizer: Any Hugging Face tokenizer.
        strings: Texts.
        special: Whether it adds its own special tokens.

    Raises:
        TokenError: it cannot read the text (closed vocabulary, lone surrogates).
    """
    with _settings_kept(tokenizer), one_error("the tokenizer cannot read this text", f"{short(strings)}: "):
        encoded = tokenizer(
            strings,
            add_special_tokens=special,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            verbose=False,
        )
    return [list(ids) for ids in encoded["input_ids"]]


@contextmanager
def _settings_kept(tokenizer: Any) -> Iterator[None]:
    """Calling a fast tokenizer resets its padding and truncation; put them back."""
    backend = _backend(tokenizer)
    padding, truncation = (None, None) if backend is None else (backend.padding, backend.truncation)
    try:
        yield
    finally:
        if backend is not None and padding is not None:
            backend.enable_padding(**padding)
        if backend is not None and truncation is not None:
            backend.enable_truncation(**truncation)


def _backend(tokenizer: Any) -> Any | None:
    """The Rust tokenizer inside a fast one."""
    return getattr(tokenizer, "backend_tokenizer", None)


def unknown_words(tokenizer: Any, text: str, row: list[int]) -> tuple[list[str], bool]:
    """The words of a text that became the unknown token, and whether nothing else is left of it.

    Args:
        row: The text's ids, special tokens included.
    """
    unk, name = getattr(tokenizer, "unk_token_id", None), getattr(tokenizer, "unk_token", None)
    if unk is None or row.count(unk) <= text.count(str(name)):
        return [], False
    (bare,) = call(tokenizer, [text], special=False)
    if bare.count(unk) <= text.count(str(name)):
        return [], False  # it was a BOS that doubles as the unknown token
    words = dict.fromkeys(text.split())
    lost = [w for w in words if unk in call(tokenizer, [w], special=False)[0] and w != name]
    return lost or [text], set(bare) == {unk}


def say_what_is_lost(tokenizer: Any, texts: Sequence[str], rows: Sequence[list[int]]) -> None:
    """Warn of words that became the unknown token, and of texts without any word.

    Raises:
        TokenError: Nothing else is left: the model would read no word of what was written.
    """
    found = [unknown_words(tokenizer, text, row) for text, row in zip(texts, rows, strict=True)]
    lost = list(dict.fromkeys(word for words, _ in found for word in words))
    if lost and all(nothing for _, nothing in found):
        raise TokenError(
            "the tokenizer knows no word of this text",
            got=short(lost),
            expected=f"words of its vocabulary; it reads these as {tokenizer.unk_token}",
            fix="model.tokenizer.get_vocab() lists them; a word's case often decides",
        )
    if lost:
        told = f"the tokenizer does not know {short(lost)}: read as {tokenizer.unk_token}"
        warnings.warn(told, TokenWarning, stacklevel=4)
    if "" in texts and rows[list(texts).index("")]:
        row = rows[list(texts).index("")]
        told = f"a text is empty: the model reads {tokenizer.convert_ids_to_tokens(row)}"
        warnings.warn(told, TokenWarning, stacklevel=4)


def probe_texts(tokenizer: Any) -> Iterator[str]:
    """Short texts, at least one of which a tokenizer reads as ordinary tokens."""
    yield from PROBES
    special = set(tokenizer.all_special_tokens)
    ordinary = (token for token in tokenizer.get_vocab() if token not in special)
    yield from (token for token, _ in zip(ordinary, range(100), strict=False))


def ordinary_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a probe; empty where the tokenizer cannot read it or makes special tokens of it."""
    try:
        (ids,) = call(tokenizer, [text], special=False)
    except TokenError:  # a closed vocabulary without this text
        return []
    return [] if set(ids) & set(tokenizer.all_special_ids) else ids


def probe(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer itself puts before and after a text, found by asking it."""
    for text in probe_texts(tokenizer):
        bare = ordinary_ids(tokenizer, text)
        if not bare:
            continue
        (full,) = call(tokenizer, [text], special=True)
        for at in range(len(full) - len(bare) + 1):
            if full[at : at + len(bare)] == bare:
                return full[:at], full[at + len(bare) :]
    return [], []


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """One conversation as text, ready for the assistant's answer.

    Raises:
        TokenError: no chat template, or the template refuses the conversation.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TokenError(
            "the tokenizer has no chat template",
            got=short(messages),
            fix="set tokenizer.chat_template, or pass the conversation as one string",
        )

    def render() -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    size = len(str(messages)) + sum(len(str(token)) for token in tokenizer.special_tokens_map.values())
    try:
        if any(needs_guard(each, len(messages), size) for each in _templates(tokenizer.chat_template)):
            return guarded(render)
        return render()
    except TokenError:
        raise
    except Exception as error:  # a template raises what its author likes
        raise TokenError(
            "the chat template refuses this conversation",
            got=f"{short(messages)}: {one_line(error)}",
            fix="use the roles and the order that the model was trained with",
        ) from error


def _templates(given: Any) -> Iterator[str]:
    """The templates of a tokenizer: there may be several, by name."""
    if isinstance(given, str):
        yield given
    else:
        for part in given.values() if isinstance(given, Mapping) else given:
            yield from _templates(part)


def fingerprint(tokenizer: Any) -> str:
    """sha256 of vocabulary, merges, rules and special tokens.

    Padding and truncation settings do not count: they change with every call.
    """
    state: dict[str, Any] = {
        "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        "vocab": tokenizer.get_vocab(),
    }
    backend = _backend(tokenizer)
    if backend is None:
        state["class"] = type(tokenizer).__name__
        state["merges"] = [list(pair) for pair in getattr(tokenizer, "bpe_ranks", ())]
    else:
        rules = json.loads(backend.to_str())
        state["rules"] = {k: v for k, v in rules.items() if k not in ("padding", "truncation")}
    return fingerprint_text(json.dumps(state, sort_keys=True))
