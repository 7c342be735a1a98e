"""Text <-> token ids of one model: what is prepended, what is padding, and what is refused.

Pitfalls this file exists for: a BOS that is doubled, missing or has id 0; a mask guessed from ids
when padding equals EOS; sentencepiece pieces that lose their space; ids outside the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.errors import ConfigError, TokenError
from interp.core.names import did_you_mean
from interp.core.settings import check_flags
from interp.models.text.batch import TokenBatch, check_ids, out_of_vocabulary, short, too_long
from interp.models.text.pieces import Pieces
from interp.models.text.reading import call, fingerprint, load_tokenizer, probe, render_chat, say_what_is_lost

__all__ = ["TokenBatch", "Tokenization", "load_tokenizer"]

BosPolicy = Literal["tokenizer adds it", "prepended by interp", "none"]
FAMILIES = ("decoder", "encoder", "encoder-decoder", "other")


class Tokenization:
    """Text <-> ids for one model, with the BOS policy explicit.

    The policy is settled once, by probing: a tokenizer that adds tokens by itself (with
    `add_special_tokens=True`) keeps exactly those; otherwise decoders get the tokenizer's BOS
    prepended where it has one (as TransformerLens does for GPT-2), and nobody else gets anything.
    The tokenizer is read, never changed.

    Args:
        tokenizer: Any Hugging Face tokenizer, fast or slow, or None for a model of bare ids.
        d_vocab: Rows of the embedding; ids must lie below. None or 0: not checked.
        n_ctx: Longest sequence the model reads, in tokens. None or 0: not checked.
        default_prepend_bos: The model's own default; None = settled by probing as above. True on a
            tokenizer without BOS prepends nothing.
        family: "decoder", "encoder", "encoder-decoder" or "other".

    Attributes:
        bos_policy: "tokenizer adds it", "prepended by interp" or "none"; what `prepend_bos=None`
            means.
        bos_id: The BOS: the tokenizer's `bos_token_id`, else what it puts first by itself (CLS).

    Raises:
        ConfigError: unknown family.
    """

    def __init__(
        self,
        tokenizer: Any | None,
        *,
        d_vocab: int | None,
        n_ctx: int | None,
        default_prepend_bos: bool | None,
        family: str,
    ) -> None:
        self.family: str = family.replace("_", "-")
        if self.family not in FAMILIES:
            raise ConfigError("unknown model family", got=repr(family), expected=", ".join(FAMILIES))
        self.tokenizer = tokenizer
        self.d_vocab: int | None = d_vocab or None
        self.n_ctx: int | None = n_ctx or None
        self._prefix, self._suffix = ([], []) if tokenizer is None else probe(tokenizer)
        declared = getattr(tokenizer, "bos_token_id", None)
        first = self._prefix[0] if self._prefix else None
        self.bos_id: int | None = first if declared is None else declared  # 0 is a BOS, too
        self.bos_policy, self._default = self._settle(default_prepend_bos)
        self._piece = Pieces(tokenizer)

    def _settle(self, default: bool | None) -> tuple[BosPolicy, bool | None]:
        """The policy, and the `prepend_bos` it stands for; None = as the tokenizer does it."""
        if default is False:
            return "none", False
        if self._prefix and (default is None or self.bos_id in self._prefix):
            return "tokenizer adds it", None
        if self.bos_id is not None and (default or self.family == "decoder"):
            return "prepended by interp", True
        return "none", None

    def __repr__(self) -> str:
        if self.tokenizer is None:
            return "Tokenization(token ids only)"
        name, n = type(self.tokenizer).__name__, len(self.tokenizer)
        return f"Tokenization({name}, {n} entries, BOS: {self.bos_policy})"

    @cached_property
    def hash(self) -> str | None:
        """sha256 of the tokenizer's vocabulary, merges and special tokens; None without one."""
        return None if self.tokenizer is None else fingerprint(self.tokenizer)

    # text -> ids

    def tokenize(
        self,
        texts: object,
        prepend_bos: bool | None = None,
        padding_side: str = "right",
        truncate: bool = False,
        quiet: bool = False,
    ) -> TokenBatch:
        """Turn text into ids and a mask; ragged batches are padded.

        Words that the tokenizer does not know and texts without a word are said in a
        `TokenWarning`.

        Args:
            texts: A string, a list of strings, a conversation (list of `{"role", "content"}`,
                rendered by the tokenizer's chat template, which writes its own special tokens) or
                a list of conversations.
            prepend_bos: None = the model's default (`bos_policy`); True = exactly one BOS first,
                also when the text itself starts with it; False = none is added. It rules the start
                of the text only: an EOS or SEP that the tokenizer appends stays.
            padding_side: "right" or "left".
            truncate: Cut rows to `n_ctx` from the right (an appended EOS or SEP stays) instead of
                raising.
            quiet: Say nothing of unknown words and empty texts (whole corpora).

        Returns:
            `TokenBatch` of `[batch, longest row]`.

        Raises:
            TokenError: no tokenizer, no BOS to prepend, no chat template, text that gives no token,
                ids outside the vocabulary, a row longer than `n_ctx`, or no word that it knows.
        """
        check_flags(truncate=truncate, quiet=quiet)
        if padding_side not in ("right", "left"):
            raise TokenError("unknown padding side", got=padding_side, expected="right or left")
        rows = self._rows(texts, prepend_bos)
        if not quiet:
            strings, is_chat = self._strings(texts)
            if not is_chat:
                say_what_is_lost(self.tokenizer, strings, rows)
        rows = [self._fit(row, index, truncate) for index, row in enumerate(rows)]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._pad_id(), dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            at = slice(len(row)) if padding_side == "right" else slice(longest - len(row), None)
            ids[i, at] = torch.tensor(row)
            mask[i, at] = True
        return TokenBatch(ids, mask)

    def to_tokens(
        self, texts: object, prepend_bos: bool | None = None, truncate: bool = False
    ) -> Int[Tensor, "batch pos"]:
        """Ids `[batch, pos]` of texts of one length; arguments and errors as in `tokenize`.

        Raises:
            TokenError: also when the texts differ in length: bare ids cannot say what is padding.
        """
        batch = self.tokenize(texts, prepend_bos, truncate=truncate)
        if batch.padded:
            raise TokenError(
                "the texts have different lengths; bare ids cannot say which tokens are padding",
                got=f"lengths {short(batch.lengths.tolist())}",
                fix="pass the texts themselves to the model, or tokenize(texts) for ids and mask",
            )
        return batch.ids

    def to_single_token(self, text: str) -> int:
        """The id of a text that is one token.

        It is what the tokenizer makes of the text alone; failing that, the vocabulary entry whose
        piece in `to_str_tokens` is exactly `text`.

        Raises:
            TokenError: no tokenizer; the text is several tokens (named) or none; a word that the
                tokenizer does not know (its unknown token is no answer for it).
        """
        tokenizer = self.need_tokenizer(text)
        (ids,) = call(tokenizer, [text], special=False)
        if ids == [getattr(tokenizer, "unk_token_id", None)] and text.strip() != tokenizer.unk_token:
            near = did_you_mean(text, tokenizer.get_vocab())
            raise TokenError(
                f"the tokenizer does not know {short(text)}",
                got=f"it reads it as {tokenizer.unk_token}",
                fix=near or "model.tokenizer.get_vocab() lists what it knows",
            )
        if len(ids) == 1:
            return ids[0]
        candidates = [tokenizer.get_vocab().get(text)]
        if len(text) > 1 and text.startswith(" "):  # sentencepiece adds a space of its own
            (rest,) = call(tokenizer, [text[1:]], special=False)
            candidates += rest if len(rest) == 1 else []
        for candidate in candidates:
            if candidate is not None and self._piece(candidate) == text:
                return candidate
        raise TokenError(
            f"{short(text)} is not a single token",
            got=f"{len(ids)} tokens: {short([self._piece(i) for i in ids])}",
            expected="text that is one token; a leading space often decides",
        )

    def _rows(self, texts: object, prepend_bos: bool | None) -> list[list[int]]:
        """Ids of each text under the policy, not yet checked."""
        check_flags(prepend_bos=prepend_bos is not None and prepend_bos)
        tokenizer = self.need_tokenizer(texts)
        bos = self.bos_id
        if prepend_bos and bos is None:
            raise TokenError(
                "prepend_bos=True, but the tokenizer has no BOS token",
                fix="prepend_bos=False, or a tokenizer with bos_token set",
            )
        strings, is_chat = self._strings(texts)
        if not is_chat and prepend_bos is None:
            prepend_bos = self._default
            if prepend_bos is None:
                rows = call(tokenizer, strings, special=True)
                doubled = self.family == "decoder" and self._prefix == [bos]
                return [[*self._prefix, *self._without_bos(r)] if doubled else r for r in rows]
        rows = call(tokenizer, strings, special=False)
        if is_chat:  # the template has written the special tokens
            if prepend_bos is None:
                return rows
            head = [bos] if prepend_bos and bos is not None else []
            return [head + self._without_bos(row) for row in rows]
        if not prepend_bos or bos is None:
            return [row + self._suffix for row in rows]
        head = self._prefix if bos in self._prefix else [bos, *self._prefix]
        return [head + self._without_bos(row) + self._suffix for row in rows]

    def _without_bos(self, ids: list[int]) -> list[int]:
        """The ids after any BOS that the text itself starts with."""
        start = next((i for i, token in enumerate(ids) if token != self.bos_id), len(ids))
        return ids[start:]

    def _strings(self, texts: object) -> tuple[list[str], bool]:
        """The texts as strings, and whether a chat template made them."""
        if isinstance(texts, str):
            return [texts], False
        items = list(texts) if isinstance(texts, Sequence) else []
        if items and all(isinstance(item, str) for item in items):
            return items, False
        conversations = [items] if items and isinstance(items[0], Mapping) else items
        if not conversations or not all(map(_is_conversation, conversations)):
            raise TokenError(
                "this is no text" if items else "no text given",
                got=short(texts),
                expected='a string, a list of strings or a list of {"role", "content"} messages',
                fix="token ids go in as a LongTensor [batch, pos]",
            )
        return [render_chat(self.tokenizer, messages) for messages in conversations], True

    def need_tokenizer(self, texts: object) -> Any:
        """The tokenizer that these texts are for.

        Raises:
            TokenError: There is none.
        """
        if self.tokenizer is None:
            raise TokenError(
                "this model has no tokenizer, so it has no text",
                got=short(texts),
                fix="wrap(module, tokenizer=...), or pass token ids [batch, pos]",
            )
        return self.tokenizer

    def _fit(self, row: list[int], index: int, truncate: bool) -> list[int]:
        """The row, cut to `n_ctx` if asked, or the reason why the model cannot read it."""
        if not row:
            raise TokenError(
                f"text {index} gives no tokens",
                got="an empty sequence",
                fix="give text, or prepend_bos=True where the tokenizer has a BOS token",
            )
        if self.n_ctx is not None and len(row) > self.n_ctx:
            if not truncate:
                fix = (
                    "model.tokenize(texts, truncate=True) gives inputs that fit; --truncate on "
                    "the command line"
                )
                raise too_long(len(row), self.n_ctx, f"text {index}", fix)
            end = self._suffix if row[len(row) - len(self._suffix) :] == self._suffix else []
            row = (row[: max(self.n_ctx - len(end), 0)] + end)[: self.n_ctx]
        if self.d_vocab is not None and max(row) >= self.d_vocab:
            at = next(i for i, token in enumerate(row) if token >= self.d_vocab)
            raise out_of_vocabulary(row[at], [index, at], self.d_vocab, self._advice())
        return row

    def _pad_id(self) -> int:
        """An id that the embedding can look up; what it says is irrelevant, the mask rules."""
        for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
            candidate = getattr(self.tokenizer, name, None)
            if candidate is not None and (self.d_vocab is None or candidate < self.d_vocab):
                return candidate
        return 0

    # ids -> text

    def to_str_tokens(self, text_or_ids: object, prepend_bos: bool | None = None) -> list[Any]:
        """The piece of text that each token stands for; an id has one piece wherever it occurs.

        Spaces that belong to a token stay with it (also sentencepiece's and WordPiece's), so the
        joined pieces read as `to_string`, up to the space that a decoder drops at the very start
        and those it sets around special tokens. Bytes that are no text by themselves show as
        `<0xE6>`, ids outside the tokenizer's vocabulary as `<id 50300>`; without a tokenizer
        pieces are the ids.

        Args:
            text_or_ids: One string (tokenised as `tokenize` does), or ids `[pos]`, `[1, pos]` or a
                list of integers. A list of strings gives a list of pieces for each.
            prepend_bos: As in `tokenize`; for text only.

        Raises:
            TokenError: several rows, or ids outside the vocabulary.
        """
        if isinstance(text_or_ids, list | tuple) and text_or_ids and isinstance(text_or_ids[0], str):
            return [[self._piece(t) for t in row] for row in self._rows(list(text_or_ids), prepend_bos)]
        is_text = isinstance(text_or_ids, str)
        rows = self._rows(text_or_ids, prepend_bos) if is_text else self._id_rows(text_or_ids)
        if len(rows) != 1:
            raise TokenError(
                "to_str_tokens takes one sequence",
                got=f"{len(rows)} rows",
                fix="[to_str_tokens(row) for row in ids]",
            )
        return [self._piece(token) for token in rows[0]]

    def to_string(self, ids: object) -> str | list[str]:
        """Decoded text, special tokens included: a string for `[pos]`, a list for `[batch, pos]`.

        Raises:
            TokenError: no tokenizer, or ids outside the vocabulary.
        """
        self.need_tokenizer(ids)
        tensor = _as_tensor(ids)
        texts = [self._piece.decode(row) for row in self._id_rows(tensor)]
        return texts if tensor.ndim == 2 else texts[0]

    def _id_rows(self, ids: object) -> list[list[int]]:
        tensor = _as_tensor(ids)
        if tensor.numel() == 0 and tensor.ndim == 1:
            return [[]]  # nothing decodes to nothing
        tensor = tensor.reshape(1) if tensor.ndim == 0 else tensor
        limit = max(self.d_vocab or 0, self._piece.n_entries)
        check_ids(tensor, d_vocab=limit or None, fix=self._advice())
        return tensor.reshape(-1, tensor.shape[-1]).tolist()

    # checks

    def check_ids(self, ids: object, *, check: bool = True) -> None:
        """Refuse ids that the model would answer with an `IndexError` or worse.

        Args:
            ids: `[pos]` or `[batch, pos]`.
            check: False leaves the values unread (on a GPU reading them waits for the device);
                type, shape and length are still checked.

        Raises:
            TokenError: not an int64 or int32 tensor, empty, longer than `n_ctx`, or an id that is
                negative or ≥ `d_vocab`; names the id, its [row, pos] and the vocabulary size.
        """
        check_ids(ids, d_vocab=self.d_vocab, n_ctx=self.n_ctx, values=check, fix=_ADVICE)

    def _advice(self) -> str:
        entries = self._piece.n_entries
        if self.d_vocab is None or entries <= self.d_vocab:
            return _ADVICE
        return f"{_ADVICE}: this one has {entries} entries, the model {self.d_vocab}"


_ADVICE = "use the tokenizer that belongs to the model"


def _as_tensor(ids: object) -> Tensor:
    if isinstance(ids, Tensor):
        return ids
    try:
        return torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TokenError(
            "these are no token ids", got=short(ids), expected="integers [pos] or [batch, pos]"
        ) from error


def _is_conversation(messages: object) -> bool:
    return (
        isinstance(messages, Sequence)
        and len(messages) > 0
        and all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in messages)
    )
