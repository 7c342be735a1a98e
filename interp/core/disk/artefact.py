"""Reading what `store.commit` wrote: nothing is used before its size and sha256 are verified."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.core.disk.tensors import CHUNK, REFETCH, decode_tensors, load_tensors, unreadable, wrong_size
from interp.core.errors import BadName, CorruptArtefact, StorageError
from interp.core.foreign import JSON_BYTES, LINE, Unparsable, one_line, parse_json, read_bytes
from interp.core.names import did_you_mean, slug

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the manifest's own layout; schemas of contents are named in `schema`."""


def render_manifest(body: Mapping[str, Any]) -> bytes:
    """The manifest's bytes: readable JSON whose last line is the sha256 of all lines above it."""
    text = json.dumps({"interp_format": FORMAT, **body}, indent=2, allow_nan=False)
    head = text.removesuffix("\n}").encode() + b",\n"
    return head + _digest_line(head)


def _digest_line(head: bytes) -> bytes:
    return b'  "sha256_of_lines_above": "%s"\n}\n' % hashlib.sha256(head).hexdigest().encode()


def parse_manifest(raw: bytes, path: Path) -> dict[str, Any]:
    """The manifest, if every byte of it is as written.

    Raises:
        CorruptArtefact: A byte differs.
        StorageError: A newer `interp` wrote it.
    """
    tail = len(_digest_line(b""))
    head = raw[:-tail]
    if raw[-tail:] != _digest_line(head):
        raise CorruptArtefact(f"{path}: the manifest does not match its own sha256", fix=REFETCH)
    try:
        manifest = parse_json(raw)
        written = int(manifest["interp_format"])
        sizes = [int(e["size"]) for e in manifest["files"].values() if str(e["sha256"])]
        whole = isinstance(manifest["schema"], str) and len(sizes) == len(manifest["files"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptArtefact(f"{path}: no manifest of interp ({error!r})") from error
    if written > FORMAT or not whole:
        raise StorageError(
            f"{path}: written by a newer interp",
            got=f"format {written}",
            expected=f"format {FORMAT} or older",
            fix="pip install --upgrade interp",
        )
    return manifest


def looks_like_ours(directory: Path) -> bool:
    """Whether `commit` wrote this folder, be it damaged: only such folders are ever replaced."""
    try:
        raw = read_bytes(directory / MANIFEST, JSON_BYTES)
    except (OSError, Unparsable):
        return False
    return b'"interp_format"' in raw or b'"sha256_of_lines_above"' in raw


def read_foreign(path: Path) -> bytes:
    """The bytes of a small file that no manifest vouches for.

    Raises:
        StorageError: It cannot be read, is no regular file, or is too large for settings.
    """
    try:
        return read_bytes(path, JSON_BYTES)
    except Unparsable as error:
        raise CorruptArtefact(f"{path} is too large", got=error) from error
    except OSError as error:
        raise unreadable(path, error) from error


class Artefact:
    """A folder whose files were verified when it was opened.

    Its files stay open, so it reads on unharmed when another process replaces the folder.

    Attributes:
        directory: Where it was found.
        manifest: Schema, versions, metadata and files (size, sha256). A foreign folder has
            schema None, provenance "unknown" and no files listed.
        foreign: True if no manifest vouches for the content.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], handles: dict[str, int]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.foreign: bool = manifest["schema"] is None
        self._handles = handles
        weakref.finalize(self, _close, handles)

    def __repr__(self) -> str:
        kind = self.manifest["schema"] or "foreign folder"
        return one_line(f"Artefact({kind} at {self.directory}: {', '.join(self.names())})", LINE)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the writer passed as `metadata`; empty for foreign folders."""
        return self.manifest.get("metadata") or {}

    def names(self) -> list[str]:
        """The files in it."""
        if not self.foreign:
            return list(self._handles)
        return sorted(p.name for p in self.directory.iterdir() if p.is_file())

    def path(self, name: str) -> Path:
        """Where the file `name` lies, for libraries that want a path.

        Raises:
            StorageError: There is no such file, or `name` is no plain file name.
        """
        path = self.directory / slug(name)
        if (not path.is_file()) if self.foreign else (name not in self._handles):
            raise StorageError(
                f"{self.directory} has no file {name!r}",
                expected=", ".join(self.names()) or "at least one file",
                fix=did_you_mean(name, self.names()) or None,
            )
        return path

    def bytes(self, name: str) -> bytes:
        """The content of a file."""
        path = self.path(name)
        if self.foreign:
            return read_foreign(path)
        return _read(self._handles[name], self.manifest["files"][name]["size"], path)

    def json(self, name: str) -> Any:
        """A file's JSON value."""
        try:
            return parse_json(self.bytes(name))
        except ValueError as error:
            raise CorruptArtefact(f"{self.path(name)}: no JSON ({one_line(error)})", fix=REFETCH) from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file, on the CPU."""
        if self.foreign:
            return load_tensors(self.path(name))
        return decode_tensors(self.bytes(name), self.path(name))


def _close(handles: dict[str, int]) -> None:
    for handle in handles.values():
        os.close(handle)


def _read(handle: int, size: int, path: Path) -> bytes:
    data = b"".join(_stream(handle))
    if len(data) != size:
        raise wrong_size(path, len(data), size)
    return data


def _stream(handle: int) -> Iterator[bytes]:
    """The file's bytes; by position, so that threads may share the handle."""
    offset = 0
    while chunk := os.pread(handle, CHUNK, offset):
        offset += len(chunk)
        yield chunk


def read_artefact(directory: Path, is_there: Callable[[Path], bool]) -> Artefact | None:
    """Open and verify; None if the folder has no manifest.

    The handles are opened first and the folder's identity compared afterwards, so that all belong
    to one version even if a writer exchanges the folder meanwhile. `is_there` tells a folder that
    is missing from one in the middle of an exchange.

    Raises:
        CorruptArtefact: A file is missing, has another size or another sha256, or is a link.
        StorageError: The folder does not exist or cannot be read.
    """
    for _ in range(100):
        if not is_there(directory):
            raise StorageError(f"no folder {directory}", expected="a folder written by interp")
        before = _identity(directory)
        handles: dict[str, int] = {}
        try:
            manifest = _open_all(directory, handles)
        except StorageError:
            _close(handles)
            if _identity(directory) == before:
                raise
            continue
        if before is None or _identity(directory) != before:
            _close(handles)
            continue
        if manifest is None:
            return None
        artefact = Artefact(directory, manifest, handles)
        for name, entry in manifest["files"].items():
            _verify(handles[name], entry, directory / name)
        return artefact
    raise StorageError(f"{directory} is being replaced again and again", fix="try again later")


def _identity(directory: Path) -> tuple[int, int, int] | None:
    """Changes with every version (an inode's number alone is soon used again); None if missing."""
    try:
        found = directory.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(directory, error) from error
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _open_all(directory: Path, handles: dict[str, int]) -> dict[str, Any] | None:
    """The manifest of a folder, every file of it opened into `handles`."""
    path = directory / MANIFEST
    try:
        raw = read_bytes(path, JSON_BYTES)
    except FileNotFoundError:
        return None
    except Unparsable as error:
        raise CorruptArtefact(f"{path}: no manifest of interp", got=error) from error
    except OSError as error:
        raise unreadable(path, error) from error
    manifest = parse_manifest(raw, path)
    for name in manifest["files"]:
        try:
            handles[name] = _open_plain(directory / slug(name))
        except BadName as error:
            raise CorruptArtefact(f"{path}: names a file {name!r}", got=error.what) from error
        except FileNotFoundError as error:
            raise CorruptArtefact(f"{directory / name} is missing", fix=REFETCH) from error
        except OSError as error:
            raise unreadable(directory / name, error) from error
    return manifest


def _open_plain(path: Path) -> int:
    """A handle to a regular file. The name came from a file, so links and devices are refused."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would block
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return handle


def _verify(handle: int, entry: Mapping[str, Any], path: Path) -> None:
    size = os.fstat(handle).st_size
    if size != entry["size"]:
        raise wrong_size(path, size, entry["size"])
    digest = hashlib.sha256()
    for chunk in _stream(handle):
        digest.update(chunk)
    if digest.hexdigest() != entry["sha256"]:
        raise CorruptArtefact(
            f"{path}: its content has changed since it was written",
            got=f"sha256 {digest.hexdigest()[:16]}…",
            expected=f"sha256 {entry['sha256'][:16]}…",
            fix=REFETCH,
        )
