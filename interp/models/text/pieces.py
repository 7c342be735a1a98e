"""What each token id looks like as text, one piece per id."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from interp.models.text.gate import one_error
from interp.models.text.reading import ordinary_ids, probe_texts


class Pieces:
    """Token id -> the text it stands for, wherever it occurs; remembered.

    Decoders strip the first token's leading space, so each id is decoded behind an *anchor*, an
    ordinary token, and the anchor's own text is cut off. Bytes that are no text by themselves show
    as `<0xE6>`, ids that the tokenizer does not know as `<id 50300>`, special tokens by name.
    Without a tokenizer the pieces are the ids.
    """

    def __init__(self, tokenizer: Any | None) -> None:
        self.tokenizer: Any = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._make(token)
        return self._known[token]

    def decode(self, ids: list[int]) -> str:
        """The tokenizer's own decoding, special tokens included; ids it lacks are shown."""
        if any(i >= self.n_entries for i in ids):
            return "".join(map(self, ids))
        with one_error("the tokenizer cannot write these tokens as text", f"{ids[:20]}: "):
            return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _make(self, token: int) -> str:
        if self.tokenizer is None:
            return str(token)
        raw = self.tokenizer.convert_ids_to_tokens(token) if token < self.n_entries else None
        if raw is None:
            return f"<id {token}>"
        if token in self._special:
            return raw
        anchor = self._anchor
        before, after = self.decode(anchor), self.decode([*anchor, token])
        piece = after[len(before) :] if after.startswith(before) else self.decode([token])
        if "\ufffd" in piece and raw != piece:
            return readable_bytes(raw)
        if not piece and len(raw) == 1 and 0x80 <= ord(raw) <= 0xFF:
            return f"<0x{ord(raw):02X}>"  # ByT5 spells a byte as its Latin-1 character
        return piece or raw

    @cached_property
    def n_entries(self) -> int:
        """One more than the largest id the tokenizer knows; 0 without a tokenizer."""
        if self.tokenizer is None:
            return 0
        return max(self.tokenizer.get_vocab().values(), default=-1) + 1

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def _anchor(self) -> list[int]:
        """One ordinary token; empty when the vocabulary offers none."""
        for text in probe_texts(self.tokenizer):
            last = ordinary_ids(self.tokenizer, text)[-1:]
            if last and self.decode(last).strip().isalnum():
                return last
        return []


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the rest from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def readable_bytes(raw: str) -> str:
    """A token that begins or ends inside a character: text where it is text, `<0xE6>` elsewhere.

    Args:
        raw: The vocabulary's own spelling, in GPT-2's byte alphabet or as `<0xE6>` already.
    """
    alphabet = _byte_alphabet()
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", raw) or not all(c in alphabet for c in raw):
        return raw
    text = bytes(alphabet[c] for c in raw).decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda m: f"<0x{ord(m[0]) - 0xDC00:02X}>", text)
