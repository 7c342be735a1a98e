"""Randomness from (seed, purpose, step), never from state: nothing to save, exact resume.

Batch t of a stream is drawn by `generator(seed, "batch", t)`, whatever came before and however
many workers there are. Shuffles are permutations that can be asked for one entry at a time.
"""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import blake2b
from typing import TypeVar

import torch
from torch import Tensor

from interp.core.errors import ConfigError

_TABLE = 4096  # up to here a permutation is a table, and uniformly random
_ROUNDS = 8
_MASK = 0xFFFFFFFF

Number = TypeVar("Number", int, Tensor)


def generator(seed: int, purpose: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator that depends on these values only (blake2b of the triple).

    Different purposes and steps give independent streams; the same triple the same stream in every
    process. Streams differ between device types, as torch's do.
    """
    fresh = torch.Generator(device=device)
    fresh.manual_seed(int.from_bytes(_hash(read_seed(seed), purpose, step)[:8], "little"))
    return fresh


def read_seed(seed: object) -> int:
    """A seed as a whole number.

    Raises:
        ConfigError: It is none.
    """
    if hasattr(seed, "__index__") and not isinstance(seed, bool):
        return int(seed.__index__())  # type: ignore[attr-defined]
    raise ConfigError("a seed is a whole number", got=repr(seed)[:80], fix="seed=0")


def permutation(n: int, seed: int, purpose: str, epoch: int = 0) -> Tensor:
    """The numbers 0 to n-1 in random order, int64 [n]: entry i is `permuted_index(i, n, ...)`.

    Raises:
        ConfigError: `n` is negative or above 2^62.
    """
    _check_size(n)
    if n <= _TABLE:
        return torch.tensor(_table(n, seed, purpose, epoch), dtype=torch.int64)
    keys, low, high = _network(n, seed, purpose, epoch)
    order = _encrypt(torch.arange(n), keys, low, high)
    outside = (order >= n).nonzero().flatten()
    while outside.numel():
        order[outside] = _encrypt(order[outside], keys, low, high)
        outside = outside[order[outside] >= n]
    return order


def permuted_index(i: int, n: int, seed: int, purpose: str, epoch: int = 0) -> int:
    """Entry `i` of a random permutation of 0 to n-1, in constant memory.

    Up to 4,096 entries the permutation is a uniformly random table; above, a Feistel network on
    the next power of two, followed until it lands inside (cycle walking; Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains").

    Raises:
        ConfigError: `n` is negative or above 2^62, or `i` is not an index of it.
    """
    _check_size(n)
    if not 0 <= i < n:
        raise ConfigError(
            "index outside the permutation", got=i, expected=f"0 to {n - 1}" if n else "n above 0"
        )
    if n <= _TABLE:
        return _table(n, seed, purpose, epoch)[i]
    keys, low, high = _network(n, seed, purpose, epoch)
    i = _encrypt(int(i), keys, low, high)
    while i >= n:
        i = _encrypt(i, keys, low, high)
    return i


def _hash(*parts: object) -> bytes:
    # JSON keeps ("a", 12) and ("a1", 2) apart
    return blake2b(json.dumps(parts).encode(), digest_size=4 * _ROUNDS).digest()


def _check_size(n: int) -> None:
    if not 0 <= n <= 2**62:
        raise ConfigError("a permutation needs a size from 0 to 2^62", got=n)


@lru_cache(maxsize=16)
def _table(n: int, seed: int, purpose: str, epoch: int) -> tuple[int, ...]:
    chosen = torch.randperm(n, generator=generator(seed, f"permutation/{purpose}", epoch))
    return tuple(chosen.tolist())


@lru_cache(maxsize=256)
def _network(n: int, seed: int, purpose: str, epoch: int) -> tuple[tuple[int, ...], int, int]:
    """Round keys, and the widths in bits of the low and high half of the smallest 2^k >= n."""
    raw = _hash(seed, f"permutation/{purpose}", epoch, n)
    keys = tuple(int.from_bytes(raw[4 * k : 4 * k + 4], "little") for k in range(_ROUNDS))
    bits = (n - 1).bit_length()
    return keys, bits // 2, bits - bits // 2


def _encrypt(value: Number, keys: tuple[int, ...], low: int, high: int) -> Number:
    """A bijection of `low + high` bits; ints and int64 tensors alike.

    Halves stay below 2^32 and products are cut to 32 bits, where int64 wraps harmlessly.
    """
    left, right = value >> low, value & ((1 << low) - 1)
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & ((1 << high) - 1))
        low, high = high, low
    return left << low | right


def _mix(value: Number) -> Number:
    """A 32-bit hash with low bias (Wellons 2018, "lowbias32")."""
    value = (value ^ value >> 16) * 0x7FEB352D & _MASK
    value = (value ^ value >> 15) * 0x846CA68B & _MASK
    return value ^ value >> 16
