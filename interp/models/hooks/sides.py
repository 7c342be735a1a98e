"""Which tokens one forward pass sees: real or padding, cached or new, encoder's or decoder's.

Positions count each row's real tokens from the beginning of the text, cached ones included: 0 is
the first, -1 the last, whatever the padding. Everything here is read off the raw module's own
arguments, so that a forward which did not come through a method of ours counts in the same way.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import EditError, TokenError

CACHES = frozenset(("past_key_values", "past_key_value", "past_kv_cache", "cache_params"))
"""Keywords under which keys of earlier tokens come in (transformers, TransformerLens)."""


@dataclass(frozen=True, eq=False)
class Side:
    """The tokens of one stack in one pass.

    Attributes:
        batch: Rows.
        length: Tokens that this pass computes, padding included.
        cached: Keys of earlier tokens that a cache holds.
        mask: [batch, cached + length], True = real; None when nothing is padding.
        prompt: [batch] real tokens of the prompt while `generate` runs: what negative positions
            count from. None elsewhere.
        later: Whether `generate` has passed the prompt: positions may lie in the cache.
        given: Under `generate`, rows of the prompt as it was given; beams and samples repeat them.
        order: [given, pos] where the columns of the prompt stood before it was padded on the left.
    """

    batch: int
    length: int
    cached: int = 0
    mask: Tensor | None = None
    prompt: Tensor | None = None
    later: bool = False
    given: int = 0
    order: Tensor | None = None

    def chosen(self, positions: Any, device: torch.device) -> Tensor:
        """Boolean [batch or 1, length]: the tokens of this pass that `positions` names.

        Raises:
            TokenError: A position outside the text, naming it and the row; one that lies in a
                cache (except while `generate` goes on: the prompt has been edited by then).
        """
        return self._chosen(positions).to(device)

    def _chosen(self, positions: Any) -> Tensor:
        total = self.cached + self.length
        real = self._real
        if is_mask(positions) and _dim(positions) == 2:
            return self._grid(positions, total, real)
        ranks = self.ranks(positions)  # [1 or batch, kept]
        order = real.long().cumsum(1) - 1
        rows = max(len(ranks), len(order))
        hits = (order[:, :, None] == ranks[:, None, :]) & real[:, :, None]
        grid = hits.any(-1).expand(rows, total)
        if self.cached and not self.later and bool(grid[:, : self.cached].any()):
            raise TokenError(
                "a position was asked for that is in the cache: this pass computes it no more",
                got=f"positions={positions!r}, {self.cached} cached tokens",
                expected=f"one of the last {self.length} tokens",
                fix="edit it in the pass that fills the cache, or run the whole text without one",
            )
        return grid[:, self.cached :]

    def ranks(self, positions: Any) -> Tensor:
        """Positions as non-negative counts over real tokens, [1 or batch, kept], on the host.

        Raises:
            TokenError: Outside the text; a slice where rows differ in length.
        """
        lengths = self._lengths
        alike = bool((lengths == lengths[0]).all())
        if isinstance(positions, slice):
            check_choice(positions, "positions=")
            if not alike:
                raise TokenError(
                    "a slice of positions means different tokens in rows of different length",
                    got=str(positions),
                    fix="give a list of positions, or a tensor [batch, kept]",
                )
            found = torch.arange(int(lengths[0]))[positions][None]
            if not found.numel():
                expected = f"some of 0 to {int(lengths[0]) - 1}"
                raise TokenError("a slice of positions selects none", got=positions, expected=expected)
            return found
        wanted = whole_numbers(positions, "positions").cpu()
        if wanted.dtype == torch.bool:
            shortest = int(lengths.min())
            fits = wanted.dim() == 1 and len(wanted) <= shortest
            if not fits or (alike and len(wanted) != shortest):
                raise TokenError(
                    "a mask of positions must have the shape of the tokens",
                    got=tuple(wanted.shape),
                    expected=f"({shortest},)" if alike else f"[batch, pos], or ({shortest},)",
                )
            wanted = wanted.nonzero().flatten()
        wanted = self._repeated(wanted.reshape(1, -1) if wanted.dim() < 2 else wanted)
        if wanted.dim() > 2 or len(wanted) not in (1, self.batch):
            raise TokenError(
                "positions must be one number, a list, or a tensor [batch, kept]",
                got=f"shape {tuple(wanted.shape)} for {self.batch} rows",
            )
        limit = lengths[:, None] if len(wanted) > 1 or not alike else lengths[:1, None]
        bad = (wanted >= limit) | (wanted < -limit)
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            many = wanted.expand(len(bad), -1)
            n = int(limit.expand(len(bad), 1)[row])
            raise TokenError(
                f"position {int(many[row, column])} does not exist",
                got=f"row {row} with {n} tokens",
                expected=f"{-n} to {n - 1}",
            )
        return torch.where(wanted < 0, wanted + limit, wanted)

    def index(self, positions: Any, device: torch.device) -> Tensor:
        """Positions as an index into this pass's tokens, [kept] or (rows differ) [batch, kept].

        Raises:
            TokenError: As for `chosen`; a mask that keeps another number in each row.
        """
        if is_mask(positions) and _dim(positions) == 2:
            whole_numbers(positions, "positions=")
            grid = self._chosen(positions).expand(self.batch, -1)
            kept = grid.sum(1)
            if not bool((kept == kept[0]).all()):
                raise TokenError(
                    "a mask of positions must keep the same number in every row",
                    got=f"{int(kept.min())} to {int(kept.max())}",
                    fix="capture all positions and index the result",
                )
            return grid.nonzero()[:, 1].reshape(self.batch, -1).to(device)
        ranks = self.ranks(positions)
        if self.mask is None:
            where = ranks - self.cached
        else:
            real = self._real
            # Real tokens first, in order: entry k of a row is the column of its k-th real token.
            columns = torch.argsort((~real).long(), dim=1, stable=True)
            where = columns.gather(1, ranks.expand(len(real), -1)) - self.cached
        if bool((where < 0).any()):
            self._chosen(positions)  # says it better
        return (where[0] if self.mask is None and len(ranks) == 1 else where).to(device)

    def _grid(self, positions: Any, total: int, real: Tensor) -> Tensor:
        grid = torch.as_tensor(positions).cpu()
        if self.order is not None and grid.shape[1] == self.order.shape[1]:
            order = self.order.cpu()
            grid = grid.expand(len(order), -1).gather(1, order)
        grid = self._repeated(grid)
        here = real[:, self.cached :]
        if self.later and grid.shape[1] < total:
            # The mask named tokens of the prompt; what was generated since is not among them.
            grid = torch.nn.functional.pad(grid, (0, total - grid.shape[1]))
        if grid.shape[1] == total:
            grid = grid[:, self.cached :]
        if grid.shape[1] != self.length or len(grid) not in (1, self.batch):
            raise TokenError(
                "a mask of positions must have the shape of the tokens",
                got=tuple(grid.shape),
                expected=(self.batch, self.length),
            )
        if bool((grid & ~here).any()):
            row, column = (grid & ~here).nonzero()[0].tolist()
            raise TokenError("the mask of positions names padding", got=f"row {row}, column {column}")
        return grid

    def _repeated(self, choice: Tensor) -> Tensor:
        """A choice for each row of the prompt, once for every text that is written from it."""
        if self.given and len(choice) == self.given and self.batch % self.given == 0:
            return choice.repeat_interleave(self.batch // self.given, 0)
        return choice

    # Fetched once for a pass: every site would wait for an accelerator to tell what it told before.

    @cached_property
    def _real(self) -> Tensor:
        if self.mask is None:
            return torch.ones(1, self.cached + self.length, dtype=torch.bool)
        return self.mask.cpu()

    @cached_property
    def _lengths(self) -> Tensor:
        """[1 or batch] on the host."""
        return self._real.sum(1) if self.prompt is None else self.prompt.cpu()


def is_mask(value: Any) -> bool:
    """Whether a choice of positions, heads or entries is a boolean mask, not numbers."""
    if isinstance(value, Tensor) or hasattr(value, "dtype"):
        return str(value.dtype).rpartition(".")[2] == "bool" and getattr(value, "ndim", 0) > 0
    if isinstance(value, list | tuple) and value:
        return is_mask(value[0]) if isinstance(value[0], list | tuple) else type(value[0]) is bool
    return False


def whole_numbers(value: Any, what: str) -> Tensor:
    """A choice along an axis as an integer or boolean tensor; nothing is rounded.

    Raises:
        EditError: Floats, a single True or False, text, nothing at all, a mask without any True.
    """
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EditError(
            f"{what} cannot be read", got=repr(value)[:80], expected="integers, or a boolean mask"
        ) from error
    if found.numel() == 0 or (found.dtype == torch.bool and found.dim() > 0 and not bool(found.any())):
        raise EditError(f"{what} selects nothing", got=repr(value)[:80], fix="name at least one")
    if found.dtype == torch.bool and found.dim() > 0:
        return found
    if found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        raise EditError(
            f"{what} must be integers or a boolean mask",
            got=f"{repr(value)[:60]} ({str(found.dtype).removeprefix('torch.')})",
            fix="convert it yourself, if you know how it should be rounded",
        )
    return found.long()


def check_choice(choice: Any, what: str) -> None:
    """Refuse what is no choice along an axis, before its size is known.

    Raises:
        EditError: As for `whole_numbers`; a slice of no whole numbers, or one that goes backwards.
    """
    if not isinstance(choice, slice):
        whole_numbers(choice, what)
        return
    ends = (choice.start, choice.stop, choice.step)
    whole = all(end is None or (hasattr(end, "__index__") and type(end) is not bool) for end in ends)
    if not whole or (choice.step is not None and int(choice.step) < 1):
        raise EditError(
            f"{what} is no slice along an axis",
            got=choice,
            expected="whole numbers, and a step of 1 or more: a choice has no order",
            fix="slice(0, 3), or a list of the numbers",
        )


def _dim(value: Any) -> int:
    return torch.as_tensor(value).dim()


class Seen:
    """The tokens of one pass, both sides, from the arguments of the module that was called."""

    def __init__(self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.given: dict[str, Any] = dict(kwargs)
        if args:
            names = _parameters(type(entry))
            self.given.update(zip(names, args, strict=False))
        # A cache grows while the pass runs, so it is read before.
        self.caches: list[Any] = []
        if not CACHES.isdisjoint(self.given):
            self.caches = [
                given for name, given in self.given.items() if name in CACHES and given is not None
            ]
        self.cached: int = _keys_cached(self.caches) if self.caches else 0

    @cached_property
    def encoder(self) -> Side | None:
        """The only side of most models; the encoder's of an encoder-decoder."""
        ids = self._first("input_ids", "inputs_embeds", "input", "tokens", "inputs", "idx", "x")
        two = "decoder_input_ids" in self.given or "decoder_inputs_embeds" in self.given
        if ids is None or ids.dim() < 2:
            return None
        return self._side(ids, "attention_mask", 0 if two else self.cached)

    @cached_property
    def decoder(self) -> Side | None:
        """The decoder's tokens, None for a model with one side."""
        ids = self._first("decoder_input_ids", "decoder_inputs_embeds")
        if ids is None or ids.dim() < 2:
            return None
        return self._side(ids, "decoder_attention_mask", self.cached)

    def _side(self, ids: Tensor, mask_name: str, cached: int) -> Side:
        batch, length = ids.shape[:2]
        mask = self.given.get(mask_name)
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            return Side(batch, length, cached)
        mask = mask.bool()
        if mask.shape[1] == length and cached:
            mask = torch.cat([mask.new_ones(len(mask), cached), mask], 1)
        if mask.shape[1] != cached + length or bool(mask.all()):
            return Side(batch, length, cached)
        return Side(batch, length, cached, mask)

    def _first(self, *names: str) -> Tensor | None:
        for name in names:
            value = self.given.get(name)
            if isinstance(value, Tensor):
                return value
        return None

    @property
    def uses_cache(self) -> bool:
        """Whether this pass fills or reads a cache: ended early, it would leave it half updated."""
        return bool(self.caches or self.given.get("use_cache"))


@lru_cache(maxsize=512)
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.forward).parameters)[1:]


def _keys_cached(caches: Sequence[Any]) -> int:
    for cache in caches:
        if callable(getattr(cache, "get_seq_length", None)):
            return keys_held(cache)
        if isinstance(cache, list | tuple) and cache and isinstance(cache[0], list | tuple):
            return int(cache[0][0].shape[-2])
        first = getattr(cache, "entries", None)
        if first:
            return int(first[0].past_keys.shape[1])
    return 0


def keys_held(cache: Any) -> int:
    """How many tokens' keys a cache of transformers holds; 0 where it keeps a state and no keys."""
    try:
        return int(cache.get_seq_length())
    except ValueError:  # Mamba's: it does not say how much it has read
        return 0


def take(value: Tensor, axis: int, index: Tensor) -> Tensor:
    """Select positions along `axis`; `index` is [kept] or [batch, kept]."""
    if index.dim() == 1:
        return value.index_select(axis, index)
    shape = [index.shape[0]] + [1] * (value.dim() - 1)
    shape[axis] = index.shape[1]
    target = list(value.shape)
    target[0] = max(value.shape[0], index.shape[0])
    whole = value.expand(target)
    target[axis] = index.shape[1]
    return whole.gather(axis, index.view(shape).expand(target))
