"""Tensors in files: the safetensors format written as a stream, foreign files read with suspicion.

Writing is ours so that one tensor at a time is in memory, its bytes are hashed as they pass, and
tied, strided or empty tensors need no special care; the bytes equal those of `safetensors.torch`
(a test holds it). Reading is the library's, whose checks have met real attacks; ours add the
file's name, the sizes, and refusal of what it lets through (a name that occurs twice).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from interp.core.errors import CorruptArtefact, StorageError, out_of_memory
from interp.core.foreign import one_line, parse_json, regular_size, show

# In the order in which the library lays tensors out: widest first, so that each stays aligned.
DTYPES: dict[torch.dtype, str] = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
CHUNK = 8 << 20  # bytes handed to one write
MAX_HEADER = 25_000_000  # bytes, some 200,000 tensors; the library would read 100 MB
MAX_NODES = 2_000_000  # values in a header, ten for a tensor
AXES = 64  # as many as torch's operations take
WIDTHS = {
    **{name: dtype.itemsize * 8 for dtype, name in DTYPES.items()},
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Bits of one number of each dtype of the format, those that torch lacks included."""
_LOADED = {*DTYPES.values(), "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
_RANK = {dtype: i for i, dtype in enumerate(DTYPES)}

Chunks = Iterator[bytes | memoryview]


def encode_tensors(name: str, tensors: Mapping[Any, Any]) -> tuple[int, Chunks]:
    """Size in bytes and content of the safetensors file `name` that holds `tensors`.

    Raises:
        StorageError: An entry is no dense tensor with values, or its dtype is not in the format.
    """
    for key, tensor in tensors.items():
        _require_storable(name, key, tensor)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    order = sorted(tensors, key=lambda key: (_RANK[tensors[key].dtype], key))
    offset = 0
    for key in order:
        tensor = tensors[key]
        end = offset + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[key] = {"dtype": DTYPES[tensor.dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"{name}: a tensor's name is no valid text", got=ascii(error.object)) from error
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return len(head) + offset, _chunks(head, (tensors[key] for key in order))


def _require_storable(name: str, key: object, tensor: object) -> None:
    if not isinstance(key, str) or not isinstance(tensor, Tensor) or key == "__metadata__":
        raise StorageError(
            f"{name}: entry {key!r} cannot be stored as a tensor",
            got=f"{type(key).__name__} -> {type(tensor).__name__}",
            expected="a name -> torch.Tensor",
        )
    if tensor.dtype not in _RANK or tensor.layout is not torch.strided or tensor.is_meta:
        raise StorageError(
            f"{name}: tensor {key!r} cannot be stored in safetensors",
            got=f"{tensor.dtype}, {tensor.layout}, on {tensor.device}",
            expected=f"a dense tensor with values, of {', '.join(DTYPES.values())}",
            fix="convert it first: .to_dense(), .to(torch.float32), .to('cpu')",
        )


def _chunks(head: bytes, tensors: Iterator[Tensor]) -> Chunks:
    yield head
    for tensor in tensors:
        if tensor.numel() == 0:
            continue
        flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        # A single number of a wider array keeps that array's step, contiguous or not.
        data = flat.as_strided((flat.numel(),), (1,)).view(torch.uint8).numpy().data
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]


def decode_tensors(data: bytes, where: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file; `where` is only named in errors.

    Raises:
        CorruptArtefact: As for `load_tensors`.
    """
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    with _reading(_shapes(header, len(data), where), where):
        return safetensors.torch.load(data)


REFETCH = "re-download it, or pick an older one"


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file that no manifest vouches for.

    A symbolic link is followed: the caller chose the path.

    Raises:
        CorruptArtefact: Truncated, malformed or hostile; the message has the path and, when the
            header can be read, the actual and the expected size in bytes.
        StorageError: The file cannot be read.
    """
    path = Path(path)
    with _reading(tensor_shapes(path), path):
        return safetensors.torch.load_file(path)


@contextmanager
def _reading(shapes: Mapping[str, tuple[str, tuple[int, ...]]], where: Path) -> Iterator[None]:
    """Refuse what torch has no numbers for; what the library says of the rest names the file."""
    for name, (dtype, _) in shapes.items():
        if dtype not in _LOADED:
            raise CorruptArtefact(
                f"{where}: torch has no numbers like those of {name!r}",
                got=dtype,
                expected=", ".join(sorted(_LOADED)),
            )
    try:
        yield
    except (SafetensorError, MemoryError) as error:
        damage = CorruptArtefact(f"{where}: {one_line(error)}", fix=REFETCH)
        raise out_of_memory(error, where) or damage from error
    except OSError as error:
        raise unreadable(where, error) from error


def _header(path: Path) -> tuple[bytes, int]:
    """The header's bytes, as far as they are there, and the file's size."""
    try:
        size = regular_size(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length <= MAX_HEADER:
                return file.read(length), size
    except OSError as error:
        raise unreadable(path, error) from error
    raise CorruptArtefact(
        f"{path}: not a safetensors file, or a hostile one",
        got=f"a header of {length:,} bytes in a file of {size:,}",
        expected=f"at most {MAX_HEADER:,}",
    )


def tensor_shapes(path: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What the header of a safetensors file says it holds: name -> dtype, shape. Reads no tensor.

    Raises:
        CorruptArtefact: Truncated or malformed, a name that occurs twice, entries that overlap,
            leave holes or contradict their shapes.
        StorageError: The file cannot be read.
    """
    path = Path(path)
    return _shapes(*_header(path), path)


def _shapes(header: bytes, size: int, path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What `tensor_shapes` tells, from a header and the size of its file."""
    try:
        entries = parse_json(header, limit=MAX_HEADER, nodes=MAX_NODES)
    except ValueError as error:
        raise CorruptArtefact(
            f"{path}: its header is refused",
            got=f"{one_line(error)} in a header of {len(header):,} bytes",
            fix=REFETCH,
        ) from error
    if not isinstance(entries, dict):
        raise CorruptArtefact(f"{path}: its header is no object", fix=REFETCH)
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        dtype, shape, start, end = _checked_entry(entry, name, path)
        found[name] = dtype, shape
        places.append((start, end, name))
    at = 0
    for start, end, name in sorted(places):
        if start != at:
            raise CorruptArtefact(f"{path}: the bytes of {name!r} overlap others or leave a hole")
        at = end
    if 8 + len(header) + at != size:
        raise wrong_size(path, size, 8 + len(header) + at)
    return found


def _checked_entry(entry: Any, name: str, where: Path) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape and place of one entry; its bytes are as many as its shape asks for."""
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = len(shape) <= AXES and all(type(n) is int and n >= 0 for n in (*shape, start, end))
        whole = whole and math.prod(n or 1 for n in shape) < 2**63  # strides of what is empty
        bits = WIDTHS.get(dtype) if isinstance(dtype, str) else None
        if whole and bits is not None and (end - start) * 8 == math.prod(shape) * bits:
            return dtype, shape, start, end
    except (TypeError, ValueError, KeyError):
        pass
    raise CorruptArtefact(
        f"{where}: the entry {name!r} of its header contradicts itself",
        got=show(repr(entry), 200),
        expected="dtype, shape and as many bytes as they need",
        fix=REFETCH,
    )


def wrong_size(path: Path, actual: int, expected: int) -> CorruptArtefact:
    """The error for a file that was cut short or grew."""
    return CorruptArtefact(
        f"{path}: {actual:,} of {expected:,} bytes", expected=f"{expected:,} bytes", fix=REFETCH
    )


def unreadable(path: Path, error: OSError) -> StorageError:
    """The error for a path that the system will not read."""
    wrapped = StorageError(f"cannot read {path}", got=error.strerror or error)
    wrapped.errno = error.errno
    return wrapped
