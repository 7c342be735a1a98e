"""The one writer. A reader finds the old content or the new, whole, whatever kills the writer.

A folder is staged beside its target, every file flushed to disk, `manifest.json` last; then one
rename shows it. Nothing else in `interp` opens a file for writing.

```python
commit("runs/sae", {"weights.safetensors": {"W": weight}, "cfg.json": cfg}, schema="dictionary")
weights = open_artefact("runs/sae", schema="dictionary").tensors("weights.safetensors")
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.core.disk import calls as _disk
from interp.core.disk.artefact import MANIFEST, Artefact, looks_like_ours, read_artefact, render_manifest
from interp.core.disk.lock import lock
from interp.core.disk.pickled import check_torch, load_torch, torch_shapes
from interp.core.disk.tensors import CHUNK, Chunks, encode_tensors, load_tensors, tensor_shapes, unreadable
from interp.core.errors import BadName, CorruptArtefact, StorageError
from interp.core.foreign import JSON_BYTES, Unparsable, parse_json, read_bytes
from interp.core.names import slug
from interp.core.provenance import versions
from interp.core.settings import check_flags

__all__ = [
    "Artefact",
    "append",
    "check_torch",
    "child",
    "commit",
    "load_tensors",
    "load_torch",
    "lock",
    "is_ours",
    "open_artefact",
    "read_jsonl",
    "remove",
    "tensor_shapes",
    "torch_shapes",
    "write_text",
    "write_texts",
]

Payload = bytes | str | Mapping[str, Any] | list[Any] | Mapping[str, Tensor]

_fault: Callable[[str, Path], None] | None = None
"""Called with (operation, path) before each system call that changes the disk; tests kill there."""


def _announce(operation: str, path: Path) -> None:
    if _fault is not None:
        _fault(operation, path)


_disk.announce = _announce


# ------------------------------------------------------------------ folders


def commit(
    directory: str | Path,
    files: Mapping[str, Payload],
    *,
    overwrite: bool = False,
    schema: str,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder of files so that it appears complete or not at all.

    Args:
        directory: The folder to make. Parents are made; a link is followed.
        files: File name -> bytes, text (UTF-8), a JSON value, or for `*.safetensors` a mapping of
            tensors (any device, strides, ties, sizes).
        overwrite: Replace a folder that `commit` wrote before, in one exchange.
        schema: What the folder is, as `dictionary` or `result/LensResult`.
        metadata: JSON values to keep in the manifest.

    Returns:
        The folder's resolved path.

    Raises:
        StorageError: It exists and `overwrite` is False, or it is not ours to replace; a value
            cannot be stored; the disk is full or failing (then nothing has changed).
        BadName: A file name is no plain name.
    """
    check_flags(overwrite=overwrite)
    target = _disk.resolved(directory)
    content = {name: _encode(name, value) for name, value in files.items()}
    body = {"schema": schema, "versions": versions(), "metadata": dict(metadata or {})}
    _as_json(MANIFEST, body)
    needed = sum(size for size, _ in content.values())
    with _disk.explained(target, needed):
        _disk.step("mkdir", target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        _disk.recover(target)
        _disk.require_free(target, overwrite)
        _disk.sweep(target.parent)
        staged = target.parent / _disk.private(".tmp-")
        try:
            _disk.step("mkdir", staged)
            staged.mkdir()
            entries = {name: _disk.write(staged / name, chunks) for name, (_, chunks) in content.items()}
            _disk.write(staged / MANIFEST, iter([render_manifest({**body, "files": entries})]))
            _disk.sync(staged)
            _disk.publish(staged, target, overwrite)
        finally:
            _disk.discard(staged)  # it holds what failed, or what was replaced
    return target


def open_artefact(directory: str | Path, *, schema: str | None = None, foreign_ok: bool = False) -> Artefact:
    """Open a folder that `commit` wrote; sizes and sha256 of all its files are verified first.

    Args:
        directory: The folder; a link is followed.
        schema: What the folder must be.
        foreign_ok: Accept a folder without manifest, as an import of unknown provenance.

    Raises:
        CorruptArtefact: A byte differs from what was written, or a file is missing.
        StorageError: No such folder, no manifest, or another schema.
    """
    target = _disk.resolved(directory)
    artefact = read_artefact(target, _disk.await_exchange)
    if artefact is None:
        if not foreign_ok:
            raise StorageError(
                f"{target} has no {MANIFEST}: its content cannot be verified",
                expected="a folder written by interp",
                fix="import foreign formats with their own loader",
            )
        return Artefact(target, {"schema": None, "provenance": "unknown", "files": {}}, {})
    if schema is not None and artefact.manifest["schema"] != schema:
        raise StorageError(f"{target} holds something else", got=artefact.manifest["schema"], expected=schema)
    return artefact


def is_ours(directory: str | Path) -> bool:
    """Whether `commit` wrote this folder, be it damaged since: it has a manifest of ours."""
    return looks_like_ours(Path(directory))


def remove(directory: str | Path) -> None:
    """Delete a folder that `commit` wrote; no reader sees it half gone.

    Raises:
        StorageError: It does not exist, or `commit` did not write it.
    """
    target = _disk.resolved(directory)
    if not looks_like_ours(target):
        raise StorageError(f"refusing to delete {target}: interp did not write it")
    with _disk.explained(target, 0):
        gone = target.parent / _disk.private(".tmp-")
        _disk.step("rename", target)
        os.rename(target, gone)
        _disk.discard(gone)


def withdraw(root: str | Path, folders: Sequence[Path]) -> None:
    """Take back folders that `commit` wrote into `root`, and `root` itself if nothing is left."""
    for folder in folders:
        remove(folder)
    with suppress(OSError):  # not there, or something else is in it
        _disk.resolved(root).rmdir()


def child(root: str | Path, name: str) -> Path:
    """The path of `name` under `root`, for names that come from files or from requests.

    Raises:
        BadName: `name` is no slug, leads outside `root`, or is a symbolic link.
    """
    root = Path(root)
    path = root / slug(name)
    if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
        raise BadName(f"{name!r} leads outside {root}", got=os.path.realpath(path))
    return path


# ------------------------------------------------------------------ single files


def write_text(path: str | Path, text: str | bytes, overwrite: bool = False) -> Path:
    """Write one file so that it appears complete or not at all (reports, exports).

    Raises:
        StorageError: It exists and `overwrite` is False, is a folder, or cannot be written.
    """
    check_flags(overwrite=overwrite)
    target = _disk.resolved(path)
    size, chunks = _encode(target.name, text, check_name=False)
    with _disk.explained(target, size):
        _disk.step("mkdir", target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise StorageError(f"{target} is a folder", expected="the name of a file")
        if target.exists() and not overwrite:
            raise _disk.exists_already(target)
        _disk.sweep(target.parent)
        staged = target.parent / _disk.private(".tmp-")
        try:
            _disk.write(staged, chunks)
            _disk.step("rename", target)
            if overwrite:
                os.replace(staged, target)
            else:
                _disk.rename_new(staged, target)
            _disk.sync(target.parent)
        finally:
            _disk.discard(staged)
    return target


def write_texts(files: Mapping[Any, str] | Mapping[Any, bytes], overwrite: bool = False) -> list[Path]:
    """Write several files, all or none: a page and its numbers.

    All are staged and flushed before the first is renamed; if a rename fails, those before it are
    put back. No system renames several files in one step: a kill between two renames leaves files
    of two versions, or where they are new the first without the rest; each is whole.

    Args:
        files: Path -> content.
        overwrite: Replace files that are there.

    Returns:
        Their resolved paths, in order.

    Raises:
        StorageError: One exists and `overwrite` is False, is a folder, or cannot be written; then
            nothing has changed.
    """
    check_flags(overwrite=overwrite)
    contents = {_disk.resolved(path): text for path, text in files.items()}
    staged: dict[Path, Path] = {}
    kept: dict[Path, Path] = {}
    done: list[Path] = []
    encoded = {target: _encode(target.name, text, False) for target, text in contents.items()}
    with _disk.explained(next(iter(encoded)), sum(size for size, _ in encoded.values())):
        try:
            for target, (_, chunks) in encoded.items():
                _disk.step("mkdir", target.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_dir():
                    raise StorageError(f"{target} is a folder", expected="the name of a file")
                if target.exists() and not overwrite:
                    raise _disk.exists_already(target)
                _disk.sweep(target.parent)
                staged[target] = target.parent / _disk.private(".tmp-")
                _disk.write(staged[target], chunks)
            for target, place in staged.items():
                _disk.keep(target, kept)
                _disk.step("rename", target)
                if overwrite:
                    os.replace(place, target)
                else:
                    _disk.rename_new(place, target)
                done.append(target)
                _disk.sync(target.parent)
        except (Exception, KeyboardInterrupt):
            for target in reversed(done):
                _disk.put_back(target, kept.get(target))
            raise
        finally:
            for place in (*staged.values(), *kept.values()):
                _disk.discard(place)
    return list(contents)


def append(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append one line to a JSONL file and flush it to the system.

    A line torn by a kill (the last one, without newline) is cut off first: it was never whole.

    Raises:
        StorageError: The record is no JSON (NaN included), or the file cannot be written.
    """
    path = _disk.resolved(path)
    line = _as_json(path.name, record, indent=None) + b"\n"
    with _disk.explained(path, len(line)):
        _disk.step("mkdir", path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        _disk.step("open", path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                _disk.step("truncate", path)
                os.ftruncate(handle, path.read_bytes().rfind(b"\n") + 1)
            _disk.write_all(handle, line, path)
        finally:
            os.close(handle)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The records of a JSONL file; a last line torn by a kill is left out.

    Raises:
        CorruptArtefact: Another line is no JSON object.
        StorageError: The file cannot be read.
    """
    path = Path(path)
    try:
        *lines, _torn = read_bytes(path, JSON_BYTES).split(b"\n")
        if len(lines) > RECORDS:
            raise Unparsable(f"{len(lines):,} lines, where at most {RECORDS:,} are read")
    except OSError as error:
        raise unreadable(path, error) from error
    except Unparsable as error:
        raise CorruptArtefact(f"{path} is too large", got=error) from error
    records = _objects(lines)
    if records is not None:
        return records
    low, high = 0, len(lines)  # the first fault lies in here
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _objects(lines[low:middle]) is None else (middle, high)
    if _objects(lines[low:high]) is not None:
        raise CorruptArtefact(f"{path} is too large", got="more values than are read")
    raise CorruptArtefact(f"{path}, line {high}: no JSON object", got=lines[low][:80])


RECORDS = 1_000_000
"""Most lines of a JSONL file: each is some 250 bytes in memory."""


def _objects(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """The objects of these lines, parsed at once, ten times as fast as one by one; None if one is none."""
    try:
        found = parse_json(b"[%b]" % b",".join(lines))
    except ValueError:
        return None
    whole = len(found) == len(lines) and all(isinstance(each, dict) for each in found)
    return found if whole and all(line.lstrip()[:1] == b"{" for line in lines) else None


# ------------------------------------------------------------------ what is written


def _encode(name: str, value: Payload, check_name: bool = True) -> tuple[int, Chunks]:
    if check_name and slug(name) == MANIFEST:
        raise BadName(f"the file name {name!r} is reserved", fix="choose another name")
    if name.endswith(".safetensors") and isinstance(value, Mapping):
        return encode_tensors(name, value)
    if isinstance(value, str):
        try:
            data = value.encode()
        except UnicodeEncodeError as error:
            raise StorageError(f"{name}: the text has no UTF-8 form", got=error) from error
    else:
        data = bytes(value) if isinstance(value, bytes) else _as_json(name, value)
    return len(data), (data[i : i + CHUNK] for i in range(0, len(data), CHUNK))


def _as_json(name: str, value: object, indent: int | None = 2) -> bytes:
    try:
        return json.dumps(value, indent=indent, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(
            f"{name}: the value is no JSON",
            got=error,
            expected="dict, list, str, int, float, bool, None; numbers finite; tensors only in *.safetensors",
        ) from error
