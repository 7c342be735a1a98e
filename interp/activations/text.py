"""Text becomes token sequences that can be addressed by number, in any order, by any worker.

```python
tokens = tokenize_texts(model, "stories.jsonl", TextConfig(n_ctx=128))
tokens.batch([0, 17])      # TokenBatch of sequences 0 and 17
```
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.activations.config import TextConfig
from interp.activations.readers import read_texts
from interp.core import store
from interp.core.errors import ConfigError, ShapeError, TokenError
from interp.core.provenance import fingerprint_state
from interp.models.text.forms import holds_ids
from interp.models.text.tokens import TokenBatch, Tokenization

SCHEMA = "token-sequences/1"
_DOCUMENTS_AT_ONCE = 512


class TokenSequences:
    """Token sequences of at most `n_ctx` tokens, each with its length; real tokens come first.

    Args:
        ids: Token ids, `[sequence pos]`, int32 or int64; anything may stand beyond a length.
        lengths: Real tokens per sequence; None: all of them.

    Raises:
        ShapeError: The two contradict each other.
        TokenError: Ids that are not integers or are negative, or a sequence without tokens.
    """

    def __init__(
        self, ids: Int[Tensor, "sequence pos"], lengths: Int[Tensor, " sequence"] | None = None
    ) -> None:
        if ids.ndim != 2:
            raise ShapeError("token ids must be [sequence pos]", got=list(ids.shape))
        if ids.dtype not in (torch.int32, torch.int64):
            raise TokenError("token ids must be integers", got=ids.dtype, fix="ids.long()")
        if ids.numel() == 0:
            raise TokenError("there are no token sequences", got=list(ids.shape))
        full = torch.full((ids.shape[0],), ids.shape[1])
        self.ids = ids
        self.lengths: Tensor = full if lengths is None else lengths.long()
        if self.lengths.shape != full.shape:
            raise ShapeError(
                "lengths must have one entry per sequence",
                got=list(self.lengths.shape),
                expected=list(full.shape),
            )
        if int(self.lengths.min()) < 1 or int(self.lengths.max()) > ids.shape[1]:
            raise TokenError(
                "a sequence has an impossible length",
                got=f"lengths from {int(self.lengths.min())} to {int(self.lengths.max())}",
                expected=f"1 to {ids.shape[1]}",
            )
        if int(ids.min()) < 0:
            raise TokenError("a token id is negative", got=int(ids.min()), expected="0 or above")

    @classmethod
    def of(cls, source: Any) -> TokenSequences:
        """From itself, a `TokenBatch` padded anywhere, ids `[sequence pos]`, or rows of ids."""
        if isinstance(source, cls):
            return source
        if isinstance(source, TokenBatch):
            ids = torch.nn.utils.rnn.pad_sequence(list(source), batch_first=True)
            return cls(ids.cpu(), source.lengths.cpu())
        if isinstance(source, Tensor):
            return cls(source.cpu())
        rows = [torch.as_tensor(row, dtype=torch.int64) for row in source]
        if not rows or min(row.numel() for row in rows) == 0:
            raise TokenError("there are no token sequences, or one has no tokens")
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return cls(ids, torch.tensor([len(row) for row in rows]))

    def __len__(self) -> int:
        return self.ids.shape[0]

    def __repr__(self) -> str:
        return f"TokenSequences({len(self):,} of <= {self.n_ctx} tokens, {self.n_tokens:,} tokens)"

    @property
    def n_ctx(self) -> int:
        """Positions per sequence."""
        return self.ids.shape[1]

    @cached_property
    def n_tokens(self) -> int:
        """Real tokens in all sequences."""
        return int(self.lengths.sum())

    def batch(self, index: Iterable[int] | Int[Tensor, " row"]) -> TokenBatch:
        """The sequences of these numbers, cut to the longest of them.

        Returns:
            Ids (int64) and mask, both `[row pos]`.
        """
        chosen = torch.as_tensor(list(index) if not isinstance(index, Tensor) else index)
        lengths = self.lengths[chosen]
        longest = int(lengths.max())
        mask = torch.arange(longest) < lengths[:, None]
        ids = self.ids[chosen, :longest].long()
        return TokenBatch(ids * mask, mask)  # what stood in the padding never matters

    def prepend_bos(self, bos_id: int | None) -> bool | None:
        """Whether the sequences begin with BOS; None where some do and others do not."""
        if bos_id is None:
            return False
        begins = self.ids[:, 0] == bos_id
        return None if bool(begins.any()) and not bool(begins.all()) else bool(begins.all())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids and lengths, for provenance."""
        return fingerprint_state({"ids": self.ids, "lengths": self.lengths}, {})

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write ids (as int32) and lengths.

        Raises:
            StorageError: The folder exists and `overwrite` is False, or the disk refuses.
        """
        tensors = {"ids": self.ids.to(torch.int32), "lengths": self.lengths}
        files = {"tokens.safetensors": tensors}
        return store.commit(directory, files, overwrite=overwrite, schema=SCHEMA)

    @classmethod
    def load(cls, directory: str | Path) -> TokenSequences:
        """Read what `save` wrote.

        Raises:
            CorruptArtefact: It is not what was written.
            StorageError: There is no such folder, or it holds something else.
        """
        tensors = store.open_artefact(directory, schema=SCHEMA).tensors("tokens.safetensors")
        return cls(tensors["ids"], tensors["lengths"])


def token_sequences(model: Any, source: Any, config: TextConfig | None = None) -> TokenSequences:
    """Anything that holds text or token ids as sequences, read as everywhere in the package.

    Args:
        model: A `HookedModel`.
        source: `TokenSequences`; ids in any form that the model itself reads (tensors, arrays,
            lists, a `TokenBatch`, a tokenizer's encoding); else text as `tokenize_texts` reads it.
        config: For text.

    Raises:
        ConfigError: Ids beside settings of text, such as another length; and as for `tokenize_texts`.
        StorageError, TokenError: As for `tokenize_texts`.
    """
    found = given_sequences(model, source)
    if found is not None:
        _refuse_settings(config or TextConfig(), found.n_ctx)
        return found
    if model.tokenizer is None:
        raise ConfigError(
            "this model has no tokenizer to read text with",
            got=type(source).__name__,
            expected="TokenSequences, or ids [sequence pos]",
        )
    return tokenize_texts(model, source, config)


def _refuse_settings(config: TextConfig, n_ctx: int) -> None:
    """Sequences of `n_ctx` ids are there already: nothing reads how text would become such.

    Raises:
        ConfigError: Naming the first setting that is neither left out nor as the ids are.
    """
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if value != field.default and (name, value) != ("n_ctx", n_ctx):
            raise ConfigError(
                f"{name} says how text becomes sequences, and these are token ids already",
                got=f"{name}={value!r}, sequences of {n_ctx} tokens",
                fix=f"leave {name} out" + (f", or cut the ids: ids[:, :{value}]" if name == "n_ctx" else ""),
            )


def given_sequences(model: Any, source: Any) -> TokenSequences | None:
    """What holds token ids already, as sequences; None for text."""
    if isinstance(source, TokenSequences | TokenBatch | Tensor):
        return TokenSequences.of(source)
    encoded = isinstance(source, Mapping) and not hasattr(source, "column_names")
    return TokenSequences.of(model.read(source)) if encoded or holds_ids(source) else None


def tokenize_texts(model: Any, source: Any, config: TextConfig | None = None) -> TokenSequences:
    """Read text and tokenize it with the model's own tokenizer and BOS policy.

    Packed: every window starts with BOS where the policy has one, documents are joined with BOS
    between them, and all windows but the last are full; no token is dropped and no BOS is doubled.
    Unpacked: each document is one sequence, cut off at `n_ctx`.

    Args:
        model: A `HookedModel` with a tokenizer.
        source: Anything that `read_texts` reads.
        config: Length, packing, fields.

    Raises:
        ConfigError: No usable text, or settings the model does not allow.
        StorageError: A file that cannot be read.
        TokenError: Text that the tokenizer refuses.
    """
    config = config or TextConfig()
    n_ctx = _context(model, config)
    tokenization = Tokenization(
        model.tokenizer,
        d_vocab=model.cfg.d_vocab,
        n_ctx=None if config.pack else n_ctx,
        default_prepend_bos=model.cfg.default_prepend_bos,
        family=model.tokenization.family,
    )
    texts = read_texts(source, config)
    if config.pack:
        rows = _pack(_rows(tokenization, texts, False), n_ctx, _bos(tokenization, config))
    else:
        rows = _rows(tokenization, texts, config.prepend_bos)
    kept: list[Tensor] = []
    for row in rows:
        kept.append(torch.tensor(row, dtype=torch.int32))
        if len(kept) == config.max_sequences:
            break
    ids = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
    return TokenSequences(ids, torch.tensor([len(row) for row in kept]))


def _context(model: Any, config: TextConfig) -> int:
    limit = model.cfg.n_ctx or None
    n_ctx = config.n_ctx or limit
    if n_ctx is None:
        raise ConfigError("the model has no context length", fix="give n_ctx")
    if limit is not None and n_ctx > limit:
        raise ConfigError("n_ctx is longer than the model reads", got=n_ctx, expected=f"<= {limit}")
    return n_ctx


def _bos(tokenization: Tokenization, config: TextConfig) -> int | None:
    wanted = config.prepend_bos
    if wanted is None:
        wanted = tokenization.bos_policy != "none"
    if wanted and tokenization.bos_id is None:
        raise TokenError("prepend_bos=True, but the tokenizer has no BOS token", fix="prepend_bos=False")
    return tokenization.bos_id if wanted else None


def _rows(tokenization: Tokenization, texts: Sequence[str], prepend_bos: bool | None) -> Iterator[list[int]]:
    """Ids of each document, without padding."""
    for start in range(0, len(texts), _DOCUMENTS_AT_ONCE):
        some = list(texts[start : start + _DOCUMENTS_AT_ONCE])
        # A corpus is no one's typing: its unknown words are said for the first documents only.
        quiet = start > 0
        for row in tokenization.tokenize(some, prepend_bos, truncate=True, quiet=quiet):
            yield row.tolist()


def _pack(documents: Iterable[list[int]], n_ctx: int, bos: int | None) -> Iterator[list[int]]:
    """Windows of `n_ctx` over the joined documents; the last one may be shorter."""
    head = [] if bos is None else [bos]
    body = n_ctx - len(head)
    waiting: list[int] = []

    def skip(at: int) -> int:
        """Every window brings its own BOS, so it does not begin with a separator."""
        return at + (bos is not None and waiting[at : at + 1] == head)

    for document in documents:
        waiting += head + document
        start = 0
        while len(waiting) - skip(start) >= body:
            end = skip(start) + body
            yield head + waiting[skip(start) : end]
            start = end
        del waiting[:start]
    if rest := waiting[skip(0) :]:
        yield head + rest
