"""Tensors in files: the safetensors format written as a stream, foreign files read with suspicion.

Writing is ours so that one tensor at a time is in memory, its bytes are hashed as they pass, and
tied, strided or empty tensors need no special care; the bytes equal those of `safetensors.torch`
(a test holds it). Reading is the library's, whose checks have met real attacks; ours add the
file's name, the sizes, and refusal of what it lets through (a name that occurs twice).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from interp.core.errors import CorruptArtefact, StorageError

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
        header[key] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [offset, end],
        }
        offset = end
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise StorageError(
            f"{name}: a tensor's name is no valid text", got=ascii(error.object)
        ) from error
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
        data = flat.view(torch.uint8).numpy().data
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]


def decode_tensors(data: bytes, where: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file; `where` is only named in errors."""
    try:
        _require_distinct(data[8 : 8 + int.from_bytes(data[:8], "little")], where)
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise CorruptArtefact(f"{where}: {error}", fix=REFETCH) from error


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
    header, size = _header(path)
    try:
        tensors = safetensors.torch.load_file(path)
    except SafetensorError as error:
        expected = _expected_size(header)
        if expected is not None and expected != size:
            raise wrong_size(path, size, expected) from error
        raise CorruptArtefact(
            f"{path}: {error}", got=f"a file of {size:,} bytes", fix=REFETCH
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    _require_distinct(header, path)
    return tensors


def _header(path: Path) -> tuple[bytes, int]:
    """The header's bytes, as far as they are there, and the file's size."""
    try:
        size = path.stat().st_size
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


def _expected_size(header: bytes) -> int | None:
    """Bytes in a file with this header; None if it cannot be told."""
    try:
        entries = json.loads(header)
        ends = [e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__"]
        return 8 + len(header) + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _require_distinct(header: bytes, where: Path) -> None:
    """The library keeps the last of two entries with one name; which one was reviewed?"""

    def entries(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise CorruptArtefact(f"{where}: the entry {twice!r} occurs twice in the header")

    try:
        json.loads(header, object_pairs_hook=entries)
    except (ValueError, RecursionError) as error:
        raise CorruptArtefact(f"{where}: its header is no JSON ({error})", fix=REFETCH) from error


def wrong_size(path: Path, actual: int, expected: int) -> CorruptArtefact:
    """The error for a file that was cut short or grew."""
    return CorruptArtefact(f"{path}: {actual:,} of {expected:,} bytes", fix=REFETCH)


def unreadable(path: Path, error: OSError) -> StorageError:
    """The error for a path that the system will not read."""
    wrapped = StorageError(f"cannot read {path}", got=error.strerror or error)
    wrapped.errno = error.errno
    return wrapped


def load_torch(path: str | Path) -> Any:
    """The content of a foreign `.pt`/`.pth`/`.bin` file, tensors on the CPU; no code in it runs.

    Only tensors and plain containers are read (`torch.load(weights_only=True)`). torch stores zip
    members uncompressed, so members that sum to much more than the file are a bomb.

    Raises:
        CorruptArtefact: Truncated, malformed, a pickle that calls code, or a zip bomb.
        StorageError: The file cannot be read.
    """
    path = Path(path)
    try:
        _refuse_bomb(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except StorageError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # torch raises a dozen kinds on malformed files; none may pass bare
        raise CorruptArtefact(
            f"{path}: refused, or damaged: torch reads tensors and plain containers only",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            fix=f"{REFETCH}; ask its author for safetensors, never load it in full",
        ) from error


def _refuse_bomb(path: Path) -> None:
    """Refuse what would fill memory: packed members, and `bytearray(n)`, which torch permits."""
    if zipfile.is_zipfile(path):
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > 2 * size + (1 << 20):
                raise CorruptArtefact(
                    f"{path}: refused as a zip bomb",
                    got=f"{total:,} bytes packed into {size:,}",
                    expected="members stored uncompressed, as torch writes them",
                )
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
    else:
        pickles = [path.read_bytes()]
    if any(b"bytearray" in data for data in pickles):
        raise CorruptArtefact(
            f"{path}: refused, it builds a bytearray", expected="tensors and plain containers"
        )
