"""Labels of words and texts, laid onto the model's own tokens by character offsets.

A token belongs to the word that covers most of its characters (ties: the earlier word); a word may
be several tokens. What comes out names rows to read: one per label, with the word (for control
tasks) and the sentence (for splits) beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError, TokenError
from interp.core.names import did_you_mean
from interp.core.settings import check_choice
from interp.models.hooked import HookedModel
from interp.models.text.batch import TokenBatch
from interp.models.text.forms import unpack
from interp.probing.rows import Labels
from interp.tasks.labels import Labelled, LabelledTexts
from interp.tasks.words import Span, words_of_tokens

Pool = Literal["first", "last", "mean"]
Missing = Literal["error", "drop"]


@dataclass(frozen=True, eq=False)
class LabelledTokens:
    """Which tokens to read, and what is known about each reading."""

    batch: TokenBatch
    """The texts as the model reads them."""
    text: Int[Tensor, "n"]
    """Row of the batch, per reading."""
    first: Int[Tensor, "n"]
    """Position of its first token, counted over the row's real tokens."""
    last: Int[Tensor, "n"]
    """Position of its last token."""
    pool: Pool
    """What is read: the first token, the last, or the mean of all."""
    targets: Mapping[str, tuple[Any, ...]]
    """Label per reading, by name of the layer."""
    groups: tuple[Any, ...]
    """What must not be split between training and test, per reading: document or sentence."""
    types: tuple[str, ...]
    """The word, lower case; for whole texts the text."""
    words: tuple[int, ...] = ()
    """Index of the word in its sentence; empty for whole texts."""
    dropped: int = 0
    """Words left out because no token is theirs."""
    notes: tuple[str, ...] = field(default=())
    """What was left out, in words."""

    def __len__(self) -> int:
        return len(self.text)


def align_words(
    model: HookedModel,
    sentences: Iterable[Labelled],
    layers: str | Sequence[str] = "upos",
    *,
    pool: Pool = "last",
    missing: Missing = "error",
    prepend_bos: bool | None = None,
) -> LabelledTokens:
    """Lay word labels (`interp.tasks.load_labels`) onto tokens.

    Args:
        model: Whose tokens.
        sentences: Sentences with words, spans and labels.
        layers: Label layers; words that lack one of them are left out.
        pool: Which of a word's tokens stand for it.
        missing: A word that no token belongs to (it shares one with a longer word) is an "error",
            or "drop" leaves it out and counts it.
        prepend_bos: As in `model.tokenize`.

    Raises:
        ConfigError: No such layer, no sentences, or an unknown pool.
        TokenError: A word without a token, or a sentence longer than the context.
    """
    chosen = (layers,) if isinstance(layers, str) else tuple(layers)
    every = list(sentences)
    for sentence in every:
        for name in chosen:
            if name not in sentence.labels:
                raise ConfigError(
                    f"sentence {sentence.id or sentence.text[:40]!r} has no labels {name!r}",
                    expected=", ".join(sentence.labels) or "a label layer",
                    fix=did_you_mean(name, sentence.labels) or None,
                )
    kept = [
        [i for i in range(len(s.words)) if all(s.labels[name][i] is not None for name in chosen)]
        for s in every
    ]
    spans = [[s.spans[i] for i in at] for s, at in zip(every, kept, strict=True)]
    batch, found = align_spans(
        model, [s.text for s in every], spans, missing=missing, prepend_bos=prepend_bos
    )
    pairs = [(t, j) for t, row in enumerate(found) for j, span in enumerate(row) if span]
    index = [(t, kept[t][j]) for t, j in pairs]
    dropped = sum(map(len, kept)) - len(pairs)
    return LabelledTokens(
        batch=batch,
        **_places([(t, found[t][j]) for t, j in pairs]),
        pool=_known(pool),
        targets={n: tuple(every[t].labels[n][i] for t, i in index) for n in chosen},
        groups=tuple(every[t].group or str(t) for t, _ in index),
        types=tuple(every[t].words[i].lower() for t, i in index),
        words=tuple(i for _, i in index),
        dropped=dropped,
        notes=(f"{dropped} words share their only token with a longer one",) if dropped else (),
    )


def align_texts(
    model: HookedModel,
    texts: LabelledTexts | Any,
    labels: Mapping[str, Labels] | Labels = None,
    *,
    pool: Pool = "last",
    groups: Labels = None,
    prepend_bos: bool | None = None,
) -> LabelledTokens:
    """Lay labels of whole texts onto tokens.

    Args:
        texts: Labelled texts, or plain ones (a list, a column) with `labels`.
        labels: One label per text (a sequence, an array or a tensor), or several layers by name.
        pool: The last real token of each text, the first, or the mean over all (special tokens
            included, as sentence encoders pool).
        groups: What must not be split between training and test; each text alone by default.

    Raises:
        ConfigError: No texts, or an unknown pool.
        ShapeError: Another number of labels or groups than texts.
        TokenError: A text longer than the context.
    """
    if isinstance(texts, LabelledTexts):
        given = labels if isinstance(labels, Mapping) else {texts.target: texts.labels}
        groups = texts.groups or None if groups is None else groups
        plain: Sequence[str] = texts.texts
    else:
        given_texts = unpack(texts)
        plain = [given_texts] if isinstance(given_texts, str) else list(given_texts)
        given = labels if isinstance(labels, Mapping) else {"label": labels}
    named = {name: _column(layer) for name, layer in given.items()}
    together = _column(plain if groups is None else groups)
    for name, layer in [*named.items(), ("groups", together)]:
        if len(layer) != len(plain):
            raise ShapeError(f"{name!r} does not fit the texts", got=len(layer), expected=len(plain))
    if not plain:
        raise ConfigError("nothing to align", got="no texts", expected="at least one")
    batch = model.tokenize(list(plain), prepend_bos)
    ends = batch.lengths
    return LabelledTokens(
        batch=batch,
        text=torch.arange(len(plain)),
        first=torch.zeros_like(ends),
        last=ends - 1,
        pool=_known(pool),
        targets=named,
        groups=tuple(range(len(plain))) if groups is None else together,
        types=tuple(plain),
    )


def _column(labels: Labels) -> tuple[Any, ...]:
    """One plain Python value per row."""
    if labels is None:
        return ()
    return tuple(labels.tolist() if hasattr(labels, "tolist") else labels)


def align_spans(
    model: HookedModel,
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]],
    *,
    missing: Missing = "error",
    prepend_bos: bool | None = None,
) -> tuple[TokenBatch, list[list[Span | None]]]:
    """First and last token of every character span of every text.

    Returns:
        The texts as tokens, and per text and span `(first, last)`, positions among the row's real
        tokens, or None where no token belongs to it (`missing="drop"`).

    Raises:
        ShapeError: Not one list of spans per text.
        ConfigError: A span outside its text or empty, or no texts.
        TokenError: A span without a token, or a text longer than the context.
    """
    check_choice("missing", missing, Missing)
    if len(texts) != len(spans) or not texts:
        raise ShapeError(
            "one list of spans per text", got=f"{len(spans)} lists", expected=f"{len(texts)} texts"
        )
    for text, row in zip(texts, spans, strict=True):
        for start, end in row:
            if not 0 <= start < end <= len(text):
                raise ConfigError(
                    "a span lies outside its text, or is empty",
                    got=f"[{start}, {end}) in {text[:60]!r}",
                    expected=f"0 <= start < end <= {len(text)}",
                )
    batch = model.tokenize(list(texts), prepend_bos)
    found = [_assign(model, text, ids, row) for text, ids, row in zip(texts, batch, spans, strict=True)]
    for text, row, hits in zip(texts, spans, found, strict=True):
        for (start, end), hit in zip(row, hits, strict=True):
            if hit is None and missing == "error":
                raise TokenError(
                    "no token belongs to a labelled word",
                    got=f"{text[start:end]!r} at [{start}, {end}) of {text[:60]!r}",
                    expected="a token most of which lies in the word",
                    fix='missing="drop" leaves such words out and counts them',
                )
    return batch, found


def _assign(model: HookedModel, text: str, ids: Tensor, spans: Sequence[Span]) -> list[Span | None]:
    """(first, last) token per span: every token goes to the span with most of its characters."""
    distinct = list(dict.fromkeys(spans))
    own: dict[Span, list[int]] = {span: [] for span in distinct}
    for token, word in enumerate(words_of_tokens(model, text, ids, distinct)):
        if word >= 0:
            own[distinct[word]].append(token)
    return [(own[span][0], own[span][-1]) if own[span] else None for span in spans]


def _places(found: list[tuple[int, Span | None]]) -> dict[str, Tensor]:
    rows = [(t, *span) for t, span in found if span is not None]
    if not rows:
        raise ConfigError("nothing to align", got="no labelled words with tokens", expected="at least one")
    text, first, last = torch.tensor(rows).T
    return {"text": text, "first": first, "last": last}


def _known(pool: Pool) -> Pool:
    check_choice("pool", pool, Pool)
    return pool
