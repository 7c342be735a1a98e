"""Prompts as token ids: aligned, padded, with one id per answer, or the reason why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError, TokenError
from interp.core.settings import check_flags
from interp.models.text.batch import TokenBatch
from interp.models.text.reading import call
from interp.tasks.prompt import Prompt

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

NONE = -1
"""Stands where a prompt has fewer answers than another of its batch."""


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Prompts ready to run; `model(batch.clean)` gives the logits that the metrics take.

    Raises:
        ShapeError: The parts do not have one row per prompt.
    """

    clean: TokenBatch
    """Ids and mask [batch, pos], right-padded."""
    corrupted: TokenBatch | None
    """Ids and mask of the corrupted prompts, or None; the same width and mask where aligned."""
    answers: Int[Tensor, "batch answer"]
    """Ids of the right continuations, -1 where a prompt has fewer."""
    distractors: Int[Tensor, "batch distractor"]
    """Ids of the wrong ones, likewise."""
    last: Int[Tensor, " batch"]
    """Position in `clean` at which the answer is read: the last real token unless told otherwise.
    The logits there predict what comes next."""
    templates: tuple[str, ...]
    """The template of each prompt."""
    shortened: tuple[str, ...] = ()
    """Answers and distractors that stand as their first token only."""
    dropped: tuple[str, ...] = ()
    """Answers and distractors that were left out, being several tokens."""

    def __post_init__(self) -> None:
        rows = len(self.clean)
        others = {
            "corrupted": rows if self.corrupted is None else len(self.corrupted),
            "answers": len(self.answers),
            "distractors": len(self.distractors),
            "last": len(self.last),
            "templates": len(self.templates),
        }
        wrong = {name: size for name, size in others.items() if size != rows}
        if wrong:
            raise ShapeError("a batch has one row per prompt", got=wrong, expected=f"{rows} rows")

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: slice) -> PromptBatch:
        """Some of the rows, at the same width."""
        cut = self.corrupted
        return PromptBatch(
            self.clean[rows],
            None if cut is None else cut[rows],
            self.answers[rows],
            self.distractors[rows],
            self.last[rows],
            self.templates[rows],
            self.shortened,
            self.dropped,
        )

    def batches(self, size: int) -> Iterator[PromptBatch]:
        """The rows in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch on another device."""
        return PromptBatch(
            self.clean.to(device),
            None if self.corrupted is None else self.corrupted.to(device),
            self.answers.to(device),
            self.distractors.to(device),
            self.last.to(device),
            self.templates,
            self.shortened,
            self.dropped,
        )

    @property
    def differs(self) -> Bool[Tensor, "batch pos"]:
        """Where clean and corrupted hold different tokens: what patching has to carry over.

        Raises:
            ConfigError: There is no corrupted side, or the sides are not aligned.
        """
        other = self.corrupted
        if other is None or not torch.equal(other.mask, self.clean.mask):
            raise ConfigError(
                "only aligned pairs can be compared token by token",
                got="no corrupted prompts" if other is None else "prompts of unequal length",
            )
        return (self.clean.ids != other.ids) & self.clean.mask

    def final(self, logits: Float[Tensor, "batch *pos d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
        """Logits at the position where each answer is read; [batch, d_vocab] passes unchanged.

        Raises:
            ShapeError: The logits are of another batch.
        """
        if len(logits) != len(self) or logits.ndim not in (2, 3):
            raise ShapeError(
                "these logits are not of this batch",
                got=f"shape {list(logits.shape)}",
                expected=f"[{len(self)}, pos, d_vocab] or [{len(self)}, d_vocab]",
            )
        if logits.ndim == 2:
            return logits
        rows = torch.arange(len(self), device=logits.device)
        return logits[rows, self.last.to(logits.device)]


def tokenized(
    prompts: Sequence[Prompt],
    model: HookedModel,
    *,
    ids: bool = False,
    prepend_bos: bool | None = None,
    first_token: bool = False,
    drop: bool = False,
    aligned: bool = True,
) -> PromptBatch:
    """Prompts -> PromptBatch; see `Prompts.tokenize`, whose `ids` is the collection's own."""
    check_flags(first_token=first_token, drop=drop, aligned=aligned)
    if not prompts:
        raise ConfigError("no prompts to tokenize", expected="one or more")
    clean = [prompt.clean for prompt in prompts]
    corrupted = [prompt.corrupted for prompt in prompts if prompt.corrupted is not None]
    if corrupted and len(corrupted) < len(clean):
        raise ConfigError(
            "some prompts have a corrupted text and some have not",
            got=f"{len(corrupted)} of {len(clean)}",
            fix="tokenize them apart",
        )
    reader = _Ids(model) if ids else _Words(model, prepend_bos)
    both = reader.batch([*clean, *corrupted])
    n = len(clean)
    sides = both[:n], both[n:]
    if corrupted and aligned:
        _check_aligned(prompts, *sides, model)
    answers = _Answers(reader, first_token, drop)
    for index, prompt in enumerate(prompts):
        answers.add(index, prompt, list(sides[0].ids[index][sides[0].mask[index]].tolist()))
    return PromptBatch(
        sides[0].to(model.device),
        sides[1].to(model.device) if corrupted else None,
        _padded(answers.right).to(model.device),
        _padded(answers.wrong).to(model.device),
        _read_positions(prompts, sides[0]).to(model.device),
        tuple(prompt.template for prompt in prompts),
        tuple(answers.shortened),
        tuple(answers.dropped),
    )


class _Words:
    """Text through the model's tokenizer; unknown words are an error, never a silent `<unk>`."""

    def __init__(self, model: HookedModel, prepend_bos: bool | None) -> None:
        self.model = model
        self.prepend_bos = prepend_bos
        unknown = getattr(model.tokenizer, "unk_token_id", None)
        special = {getattr(model.tokenizer, f"{k}_token_id", None) for k in ("bos", "eos")}
        self.unknown = None if unknown in special else unknown  # GPT-2's <unk> is its BOS
        self._alone: dict[str, list[int]] = {}
        self._after: dict[tuple[str, int | None], list[int]] = {}

    def batch(self, texts: list[str]) -> TokenBatch:
        batch = self.model.tokenization.tokenize(texts, self.prepend_bos, quiet=True)
        if self.unknown is not None:
            rows = ((batch.ids == self.unknown) & batch.mask).any(-1).nonzero().flatten()
            if len(rows):
                self._refuse(texts[int(rows[0])], len(rows))
        return batch

    def _refuse(self, text: str, count: int) -> None:
        words = [word for word in text.split() if self._is_unknown(word)]
        raise TokenError(
            "the tokenizer does not know a word of a prompt"
            + (f", as of {count - 1} others" if count > 1 else ""),
            got=f"{', '.join(map(repr, words[:5])) or 'text'} in {text!r}",
            fix="prompts of words that the model was trained on",
        )

    def _is_unknown(self, text: str) -> bool:
        ids = self.model.tokenization.tokenize(text, False, quiet=True).ids[0].tolist()
        return self.unknown is not None and self.unknown in ids

    def answer(self, text: str, before: str, ids: list[int]) -> list[int]:
        """Ids of a continuation: one if it is one token in place or anywhere, else what it adds.

        In place comes first for a text without a space: alone, a tokenizer that sets a space in
        front reads `"` as ` "`, and the second half of a year as the first of another.
        """
        if not text:
            return []
        if not text[0].isspace():
            here = self._here(text, before, ids)
            if len(here) == 1 and self.unknown not in here:
                return here
        if text not in self._alone:
            self._alone[text] = [i for i in self._single(text) if i != self.unknown]
            if not self._alone[text] and text[0].isspace():  # a word of its own wherever it stands
                self._alone[text] = self._in_place(text, before, ids)
        found = self._alone[text] or self._in_place(text, before, ids)
        if self.unknown in found:
            raise TokenError(
                "the tokenizer does not know an answer",
                got=f"{text!r} after {before!r}",
                fix="answers from the model's vocabulary",
            )
        return found

    def _here(self, text: str, before: str, ids: list[int]) -> list[int]:
        """What the text adds after the token that it follows; each such pair is read once."""
        key = (text, ids[-1] if ids else None)
        if key not in self._after:
            self._after[key] = self._in_place(text, before, ids)
        return self._after[key]

    def _single(self, text: str) -> list[int]:
        """The id of a text that is one token by itself, else nothing."""
        (ids,) = call(self.model.tokenizer, [text], special=False)
        if len(ids) == 2 and not self.model.to_str_tokens(ids)[0].strip():
            with suppress(TokenError):  # sentencepiece sets a space of its own in front
                return [self.model.to_single_token(text)]
        return ids if len(ids) == 1 else []

    def _in_place(self, text: str, before: str, ids: list[int]) -> list[int]:
        read = self.model.tokenization.tokenize
        whole = read(before + text, self.prepend_bos, quiet=True)
        joined = whole.ids[0][whole.mask[0]].tolist()
        stem = ids if joined[: len(ids)] == ids else ids[:-1]  # an appended EOS or SEP
        if joined[: len(stem)] == stem and len(joined) > len(stem):
            ending = 1 if stem is not ids and joined[-1] == ids[-1] else 0
            return joined[len(stem) : len(joined) - ending]
        alone = read(text, False, quiet=True)
        return alone.ids[0][alone.mask[0]].tolist()


class _Ids:
    """Token ids written as numbers, for models without text."""

    def __init__(self, model: HookedModel) -> None:
        self.model = model

    def batch(self, texts: list[str]) -> TokenBatch:
        rows = [[_number(word, text) for word in text.split()] for text in texts]
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        self.model.tokenization.check_ids(ids)
        return TokenBatch(ids, mask)

    def answer(self, text: str, before: str, ids: list[int]) -> list[int]:
        return [_number(word, text) for word in text.split()]


def _number(word: str, text: str) -> int:
    if not word.isdecimal():
        raise TokenError(
            "these prompts are token ids, and this is none",
            got=f"{word!r} in {text!r}",
            expected="whole numbers separated by spaces",
        )
    return int(word)


class _Answers:
    """Collects ids of answers and distractors, prompt by prompt."""

    def __init__(self, reader: _Words | _Ids, first_token: bool, drop: bool) -> None:
        self.reader = reader
        self.first_token, self.drop = first_token, drop
        self.right: list[list[int]] = []
        self.wrong: list[list[int]] = []
        self.shortened: dict[str, None] = {}
        self.dropped: dict[str, None] = {}

    def add(self, index: int, prompt: Prompt, ids: list[int]) -> None:
        """Resolve one prompt's answers, whose own ids are given."""
        right = self._resolve(index, prompt, prompt.answers, "answer", ids)
        wrong = self._resolve(index, prompt, prompt.distractors, "distractor", ids)
        both = set(right) & set(wrong)
        if both:
            raise TokenError(
                f"prompt {index}: an answer and a distractor are the same token",
                got=f"token {self.reader.model.to_str_tokens([min(both)])} of "
                f"{list(prompt.answers)[:5]} and of {list(prompt.distractors)[:5]}",
                fix="answers that differ in their first token, or drop=True",
            )
        self.right.append(right)
        self.wrong.append(wrong)

    def _resolve(
        self, index: int, prompt: Prompt, texts: tuple[str, ...], what: str, ids: list[int]
    ) -> list[int]:
        found: list[int] = []
        left_out: list[str] = []
        for text in texts:
            tokens = self.reader.answer(text, prompt.clean, ids)
            if len(tokens) == 1 or (tokens and self.first_token):
                found.append(tokens[0])
                if len(tokens) > 1:
                    self.shortened[text] = None
            elif self.drop:
                left_out.append(text)
            else:
                raise self._several(index, prompt, text, what, tokens)
        if left_out and not found:
            raise TokenError(
                f"prompt {index} keeps no {what}: each is several tokens",
                got=f"{left_out[:5]} after {prompt.clean!r}",
                fix="first_token=True, or another tokenizer's prompts",
            )
        self.dropped.update(dict.fromkeys(left_out))
        return list(dict.fromkeys(found))

    def _several(self, index: int, prompt: Prompt, text: str, what: str, tokens: list[int]) -> TokenError:
        pieces = self.reader.model.to_str_tokens(tokens) if tokens else []
        return TokenError(
            f"prompt {index}: the {what} {text!r} is not a single token",
            got=f"{len(tokens)} tokens {pieces} after {prompt.clean!r}",
            expected="one token; a leading space often decides",
            fix="first_token=True scores its first token, drop=True leaves it out",
        )


def _check_aligned(
    prompts: Sequence[Prompt], clean: TokenBatch, corrupted: TokenBatch, model: HookedModel
) -> None:
    """Every pair has as many tokens on both sides, or the first that has not is shown."""
    unequal = (clean.lengths != corrupted.lengths).nonzero().flatten().tolist()
    if not unequal:
        return
    row = unequal[0]
    pieces = [model.to_str_tokens(side.ids[row][side.mask[row]]) for side in (clean, corrupted)]
    parts = zip(*pieces, strict=False)
    shorter = min(map(len, pieces))
    apart = next((i for i, (one, other) in enumerate(parts) if one != other), shorter)
    others = f" (and {len(unequal) - 1} more pairs)" if len(unequal) > 1 else ""
    raise TokenError(
        f"prompt {row}: clean and corrupted are not aligned{others}",
        got=f"{len(pieces[0])} tokens {pieces[0]}\n"
        f"       {len(pieces[1])} tokens {pieces[1]}\n"
        f"       first difference at position {apart}",
        expected="as many tokens on both sides, so that positions correspond",
        fix="exchange words of equal token length; aligned=False for whole sentences",
    )


def _read_positions(prompts: Sequence[Prompt], clean: TokenBatch) -> Int[Tensor, " batch"]:
    """Where each answer is read."""
    last = clean.lengths - 1
    for row, prompt in enumerate(prompts):
        if prompt.read_at is not None:
            length = int(clean.lengths[row])
            if not -length <= prompt.read_at < length:
                raise TokenError(
                    f"prompt {row} is read at a position that it does not have",
                    got=prompt.read_at,
                    expected=f"0 to {length - 1}",
                )
            last[row] = prompt.read_at % length
    return last


def _padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "batch k"]:
    width = max(map(len, rows), default=0)
    filled: list[Any] = [[*row, *[NONE] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long).reshape(len(rows), width)
