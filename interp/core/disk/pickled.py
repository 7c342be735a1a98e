"""Foreign `.pt`, `.pth` and `.bin` files: tensors and plain containers, never code."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.core.disk.tensors import REFETCH, unreadable
from interp.core.errors import CorruptArtefact, StorageError
from interp.core.foreign import one_line, show, zip_directory

MAX_PICKLE = 32 << 20  # bytes of a checkpoint's pickles: names and shapes, no numbers
MAX_STEPS = 1_000_000
_UNNAMED = frozenset("STACK_GLOBAL INST EXT1 EXT2 EXT4".split())
"""Steps that fetch an object by another way than a name one can read; torch writes none of them."""
MAX_DIRECTORY = 16 << 20  # bytes of a zip's directory: some 150,000 tensors
_BENIGN = re.compile(
    r"collections OrderedDict|(__builtin__|builtins) set|_codecs encode|torch Size|torch device"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Parameter|torch Tensor"
    r"|torch(\.storage)? \w+Storage|torch (b?float|u?int|complex|bool|qu?int)\w*"
    r"|torch\.serialization _get_layout"
)


def load_torch(path: str | Path, device: str = "cpu") -> Any:
    """The content of a foreign `.pt`/`.pth`/`.bin` file; no code in it runs.

    Args:
        path: The file.
        device: Where its tensors go; "meta" reads names and shapes alone.

    Only tensors and plain containers are read (`torch.load(weights_only=True)`). torch stores zip
    members uncompressed, so members that sum to much more than the file are a bomb.

    Raises:
        CorruptArtefact: Truncated, malformed, a pickle that calls code, or a zip bomb.
        StorageError: The file cannot be read.
    """
    path = Path(path)
    try:
        _refuse_bomb(path)
        content = torch.load(path, map_location=device, weights_only=True)
        _refuse_claims(content, path)
        return content
    except StorageError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # torch raises a dozen kinds on malformed files; none may pass bare
        raise CorruptArtefact(
            f"{path}: refused, or damaged: torch reads tensors and plain containers only",
            got=f"{type(error).__name__}: {one_line(str(error).partition(chr(10))[0])}",
            fix=f"{REFETCH}; ask its author for safetensors, never load it in full",
        ) from error


def _refuse_claims(content: Any, path: Path) -> None:
    """Refuse tensors that spread few stored numbers over many: every copy would be written out.

    Raises:
        CorruptArtefact: Naming the first.
    """
    stack: list[tuple[str, Any]] = [("", content)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, Mapping):
            stack += [(str(key), part) for key, part in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(f"{name}[{i}]", part) for i, part in enumerate(value)]
        elif isinstance(value, Tensor) and value.layout is torch.strided:
            stored = value.untyped_storage().nbytes()
            if value.numel() * value.element_size() > stored:
                raise CorruptArtefact(
                    f"{path}: {show(repr(name), 80)} claims more numbers than are stored",
                    got=f"shape {list(value.shape)}, {stored:,} bytes",
                )


def check_torch(path: str | Path) -> int:
    """Refuse a `.bin` or `.pt` file that would fill memory or name code; reads no tensor.

    Returns:
        At most how many tensors it holds.

    Raises:
        CorruptArtefact: A bomb, or a pickle that names more than tensors and plain containers.
        StorageError: The file cannot be read.
    """
    path = Path(path)
    try:
        return _refuse_bomb(path)
    except StorageError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # zipfile raises half a dozen kinds
        raise CorruptArtefact(f"{path}: damaged", got=one_line(error), fix=REFETCH) from error


def _refuse_bomb(path: Path) -> int:
    """Refuse what would fill memory: packed members, and `bytearray(n)`, which torch permits."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # what torch asks; a zip may well be appended to a pickle
            file.seek(0)  # five pickles, then the numbers as they are
            _check_pickles(file.read(MAX_PICKLE), path, 5)
            return 100_000
        size, (listed, plain) = file.seek(0, 2), zip_directory(file)
    if not plain or listed > MAX_DIRECTORY:
        raise CorruptArtefact(
            f"{path}: refused, its zip directory is not as torch writes it",
            got=f"{listed:,} bytes" if plain else "not where its end says, or none",
            expected=f"at most {MAX_DIRECTORY:,} bytes, at the end",
            fix=REFETCH,
        )
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        total = sum(member.file_size for member in infos)
        if total > 2 * size + (1 << 20):
            raise CorruptArtefact(
                f"{path}: refused as a zip bomb",
                got=f"{total:,} bytes packed into {size:,}",
                expected="members stored uncompressed, as torch writes them",
            )
        named = [m for m in infos if m.filename.lower().endswith(".pkl")]  # torch ignores case
        if sum(member.file_size for member in named) > MAX_PICKLE:
            raise CorruptArtefact(f"{path}: refused, a pickle of that size holds no tensors")
        for member in named:
            _check_pickles(archive.read(member), path, 1)
    return len(infos)


def _check_pickles(data: bytes, path: Path, count: int) -> None:
    """Refuse pickles that name anything but tensors and plain containers, before torch reads them.

    torch's own list lets through what makes objects of any size out of a number
    (`bytearray(1 << 31)`, `FloatTensor(1 << 40)`).

    Raises:
        CorruptArtefact: Such a name, or more steps than a checkpoint has.
    """
    stream, steps = io.BytesIO(data), 0
    try:
        for step, named, _ in chain.from_iterable(pickletools.genops(stream) for _ in range(count)):
            steps += 1
            if steps > MAX_STEPS:
                raise CorruptArtefact(f"{path}: refused, its pickle goes on and on")
            if step.name in _UNNAMED or (step.name == "GLOBAL" and not _BENIGN.fullmatch(str(named))):
                raise CorruptArtefact(
                    f"{path}: refused, it names {show(named or 'what only running it would tell', 120)}",
                    expected="tensors and plain containers",
                    fix=f"{REFETCH}; ask its author for safetensors",
                )
    except (ValueError, IndexError, OverflowError, UnicodeError) as error:
        raise CorruptArtefact(f"{path}: no pickle ({one_line(error)})", fix=REFETCH) from error


def torch_shapes(path: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a `.bin` or `.pt` file of named tensors holds: name -> dtype, shape. Reads no number.

    Raises:
        CorruptArtefact: As for `load_torch`; no tensors by name; a tensor larger than what is
            stored for it.
        StorageError: The file cannot be read.
    """
    path = Path(path)
    content = load_torch(path, "meta")
    if not isinstance(content, Mapping):
        raise CorruptArtefact(f"{path}: no tensors by name", got=type(content).__name__)
    found = {}
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            continue
        if tensor.layout is not torch.strided:
            raise CorruptArtefact(f"{path}: {show(repr(name), 80)} is no plain tensor")
        found[str(name)] = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    return found
