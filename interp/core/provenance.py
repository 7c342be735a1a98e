"""Where an artefact or a result came from, and refusal when it meets something else."""

from __future__ import annotations

import hashlib
import json
import platform
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ProvenanceError
from interp.core.names import did_you_mean
from interp.core.settings import Settings, check_flags

UNKNOWN = "unknown"
"""Stands for a model or fingerprint that was not recorded (foreign files)."""

MATCHED = ("model_fingerprint", "sites", "d_in", "dtype", "prepend_bos", "tokenizer_hash", "normalisation")
"""What must agree before an artefact is applied. Not the data: held-out text is meant to differ."""

_WHOLE = 1_000_000  # tensors up to this many elements are hashed whole
_SAMPLED = 65_536  # elements taken from larger ones
_PACKAGES = ("torch", "numpy", "safetensors", "transformers", "transformer-lens", "sae-lens")


@dataclass(frozen=True)
class Provenance(Settings):
    """The circumstances that a number depends on. None and "unknown" mean: not recorded."""

    model: str
    """Name of the model."""
    model_fingerprint: str
    """`fingerprint_state` of its weights and config."""
    sites: tuple[str, ...] = ()
    """Sites read, in order."""
    d_in: int | None = None
    """Width of the activations read."""
    dtype: str = UNKNOWN
    """Dtype of the activations, as `float32`."""
    prepend_bos: bool | None = None
    """Whether a beginning-of-sequence token was put before each text."""
    tokenizer_hash: str | None = None
    """`fingerprint_text` of the tokenizer's serialised form."""
    normalisation: str | None = None
    """How activations were scaled before the artefact saw them."""
    data_fingerprint: str | None = None
    """`fingerprint_text` of the text or its manifest."""
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    """Versions of python and packages."""
    notes: tuple[str, ...] = ()
    """Mismatches that were accepted, and other remarks."""

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; `from_json` is its inverse."""
        values = asdict(self)
        return values | {"sites": list(self.sites), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Provenance:
        """From `to_json`'s dict.

        Raises:
            ProvenanceError: A required key is missing or a key is unknown.
            ConfigError: A value of another type.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ProvenanceError(
                    f"provenance has no field {key!r}", got=key, fix=did_you_mean(key, known)
                )
        missing = [key for key in ("model", "model_fingerprint") if key not in values]
        if missing:
            raise ProvenanceError("provenance is incomplete", expected=", ".join(missing))
        lists = {key: values[key] for key in ("sites", "notes") if isinstance(values.get(key), list)}
        tuples = {key: tuple(value) for key, value in lists.items()}
        return cls(**{**values, **tuples})

    def require_match(
        self, other: Provenance, fields: Sequence[str] = MATCHED, strict: bool = True
    ) -> Provenance:
        """This artefact's provenance, if it may be applied where `other` describes.

        `sites` match when `other` offers all of this artefact's. What one side did not record
        cannot contradict; it is noted.

        Args:
            other: The provenance of what the artefact is applied to.
            fields: The fields that must agree.
            strict: Raise on a mismatch; otherwise record it in the notes.

        Returns:
            `self`, its notes extended by what was not recorded and, if not strict, by mismatches.

        Raises:
            ProvenanceError: Names each contradicting field with both values.
        """
        check_flags(strict=strict)
        wrong: list[str] = []
        notes: list[str] = []
        for name in fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if _agree(name, mine, theirs):
                continue
            if _recorded(mine) and _recorded(theirs):
                wrong.append(f"{name}: made for {_say(mine)}, applied to {_say(theirs)}")
            else:
                notes.append(f"{name}: made for {_say(mine)}, applied to {_say(theirs)}")
        if wrong and strict:
            raise ProvenanceError(
                f"this artefact was made for something else ({self.model}, applied to {other.model})",
                got="; ".join(wrong),
                expected="the same " + ", ".join(fields),
                fix="use the artefact made for this, or pass strict=False to go on and have the "
                "mismatch recorded",
            )
        fresh = [note for note in [*wrong, *notes] if note not in self.notes]
        return replace(self, notes=(*self.notes, *fresh)) if fresh else self


def _recorded(value: object) -> bool:
    return value is not None and value != UNKNOWN and value != ()


def _agree(name: str, mine: Any, theirs: Any) -> bool:
    if name == "sites" and _recorded(mine) and _recorded(theirs):
        return set(mine) <= set(theirs)
    if name == "model_fingerprint" and _recorded(mine) and _recorded(theirs):
        return same_model(mine, theirs)
    return mine == theirs


def same_model(one: str, other: str) -> bool:
    """Whether two fingerprints are of one model; older ones lack the part behind the dash."""
    (weights, _, rest), (weights_too, _, rest_too) = one.partition("-"), other.partition("-")
    return weights == weights_too and (rest == rest_too or not rest or not rest_too)


def _say(value: object) -> str:
    if not _recorded(value):
        return "not recorded"
    return ", ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)


def fingerprint_state(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """sha256 (hex) of named tensors and a config, whatever their order and device.

    Name, dtype, shape and bytes of every tensor count. Of tensors above a million elements, a
    strided sample of bytes and the exact integer sum of all bit patterns are taken, so that
    changing any one weight still changes the fingerprint.

    Raises:
        ProvenanceError: A tensor has no values (meta device).
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name in sorted(state_dict):
        t = state_dict[name].detach()
        if t.is_meta:
            raise ProvenanceError(
                f"cannot fingerprint {name!r}: it has no values",
                got="a tensor on the meta device",
                fix="load the weights first",
            )
        digest.update(f"\0{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        for piece in _pieces(t):
            digest.update(piece)
    return digest.hexdigest()


def checksum_state(state_dict: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], ...]:
    """A cheap value that changes with any tensor's name, dtype, shape or contents, place included.

    It decides whether a remembered `fingerprint_state` still holds, whatever way a weight was
    changed; it is never stored. One reading of the weights, no copy of them.
    """
    state = sorted(state_dict.items())
    sums = _checksums([t.detach() for _, t in state])
    return tuple((name, str(t.dtype), tuple(t.shape), s) for (name, t), s in zip(state, sums, strict=True))


_LANES = 1 << 22  # int64s per step on a device: large enough to keep one busy
_STEP, _MASK = 6364136223846793005, (1 << 64) - 1


def _checksums(tensors: Sequence[Tensor]) -> list[int]:
    """One of each; those of an accelerator are fetched together, one wait for a device."""
    found = [0] * len(tensors)
    there: dict[torch.device, list[tuple[int, list[Tensor]]]] = {}
    for i, t in enumerate(tensors):
        if t.is_meta or not t.numel():
            continue
        bits = _bit_patterns(t)
        if bits.is_cpu:
            found[i] = zlib.crc32(bits.numpy().data.cast("B"))
        else:
            there.setdefault(bits.device, []).append((i, _mixed_parts(bits)))
    for sums in there.values():
        told = iter(torch.stack([part for _, parts in sums for part in parts]).tolist())
        for i, parts in sums:
            found[i] = _joined([next(told) for _ in parts])
    return found


def _joined(parts: Sequence[int]) -> int:
    total = 0
    for part in parts:
        total = (total * _STEP + part) & _MASK
    return total


def _mixed_parts(bits: Tensor, lanes: int = _LANES) -> list[Tensor]:
    """The sums of `lanes` words each, int64, where the bits are."""
    if bits.storage_offset() * bits.element_size() % 8:
        bits = bits.clone()  # views must start where an int64 may
    whole = bits.numel() - bits.numel() % (8 // bits.element_size())
    found = []
    # The last words, short of eight bytes, are widened to eight.
    for words in (bits[:whole].view(torch.int64), bits[whole:].to(torch.int64)):
        for part in words.split(lanes) if len(words) else ():
            place = torch.arange(1, 2 * len(part), 2, device=part.device) * 0x5851F42D4C957F2D
            # The shift brings the sign bit down: alone it would be lost in products modulo 2^64.
            mixed = (part >> 32).bitwise_xor_(part).mul_(place)
            found.append(mixed.sum())
    return found


def _pieces(t: Tensor) -> list[bytes]:
    bits = _bit_patterns(t)
    if bits.numel() <= _WHOLE:
        return [bits.cpu().numpy().tobytes()]
    # an odd stride does not fall into step with rows of even width
    sample = bits[:: bits.numel() // _SAMPLED | 1].cpu()
    return [sample.numpy().tobytes(), str(_bit_sum(bits)).encode()]


def _bit_sum(bits: Tensor) -> int:
    """The sum, modulo 2^64, of the flat tensor's bits read as 64-bit integers, and of the rest."""
    if bits.storage_offset() * bits.element_size() % 8:
        bits = bits.clone()  # views must start where an int64 may
    whole = bits.numel() - bits.numel() % (8 // bits.element_size())
    total = int(bits[:whole].view(torch.int64).sum().item())
    return total + 3 * int(bits[whole:].sum().item())


def _bit_patterns(t: Tensor) -> Tensor:
    """The flat tensor seen as integers of the same width: exact for every dtype, bf16 included."""
    if t.is_complex():
        t = torch.view_as_real(t.resolve_conj())
    flat = t.contiguous().reshape(-1)
    if t.dtype == torch.bool:
        return flat.to(torch.uint8)
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return flat.view(whole[t.element_size()])


def fingerprint_text(text: str | bytes) -> str:
    """sha256 (hex) of text as UTF-8 (lone surrogates kept) or of bytes."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()


def versions() -> dict[str, str]:
    """Versions of python and of the packages that numbers depend on; absent packages left out."""
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for package in ("interp", *_PACKAGES):
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)
