"""Words and tokens of one text: which word every token belongs to, by character offsets."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from interp.core.errors import TokenError
from interp.models.hooked import HookedModel

Span = tuple[int, int]
"""Characters [start, end) of a text."""


def words_of_tokens(model: HookedModel, text: str, ids: Tensor, spans: Sequence[Span]) -> list[int]:
    """The word that covers most of each token's characters (ties: the earlier), -1 for none.

    Args:
        ids: The text as the model reads it, [pos], special tokens included.
        spans: Where each word stands.

    Raises:
        TokenError: No tokenizer, or its tokens are not among `ids`.
    """
    words = []
    for place in token_spans(model, text, ids):
        start, end = place or (0, 0)
        shared = [min(end, b) - max(start, a) for a, b in spans]
        most = max(shared, default=0)
        words.append(shared.index(most) if most > 0 else -1)
    return words


def token_spans(model: HookedModel, text: str, ids: Tensor) -> list[Span | None]:
    """Characters of each token of `ids` [pos]; None for special tokens and bare white space.

    Raises:
        TokenError: No tokenizer, or its tokens are not among `ids`.
    """
    tokenizer, row = model.tokenizer, ids.tolist()
    if tokenizer is None:
        raise TokenError(
            "words cannot be laid onto tokens without a tokenizer",
            got=model.cfg.model_name,
            fix="load the model with its tokenizer, or wrap(module, tokenizer=...)",
        )
    if getattr(tokenizer, "is_fast", False):
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        plain, places = coded["input_ids"], [tuple(place) for place in coded["offset_mapping"]]
    else:
        plain, places = row, _by_pieces(text, model.to_str_tokens(ids))
    lead = next((i for i in range(len(row)) if row[i : i + len(plain)] == plain), None)
    if lead is None:
        raise TokenError(
            "the tokens of a text cannot be found among those that the model reads",
            got=text[:60],
            fix="a tokenizer whose special tokens stand before and after the text",
        )
    spans: list[Span | None] = [None] * len(row)
    for i, (start, end) in enumerate(places):
        start += len(text[start:end]) - len(text[start:end].lstrip())
        spans[lead + i] = (start, end) if start < end else None
    return spans


def _by_pieces(text: str, pieces: Sequence[str]) -> list[Span]:
    """Offsets for tokenizers that tell none: pieces are looked up in the text, in order."""
    places, at = [], 0
    for piece in pieces:
        bare = piece.strip()
        start = text.find(bare, at) if bare else -1
        if start < 0 or text[at:start].strip():
            places.append((at, at))  # special, or written otherwise: no characters of its own
        else:
            at = start + len(bare)
            places.append((start, at))
    return places
