"""Files and archives opened under a budget: what they would unpack to is said before it is spent.

A zip or tar of a few kilobytes can name gigabytes, or name few and hold gigabytes; so the names and
sizes in it are read first, and the streams are counted as they are read.
"""

from __future__ import annotations

import difflib
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.core.errors import ConfigError, StorageError
from interp.core.foreign import MIB, TEXT_BYTES, Unparsable, one_line, read_bytes, too_large, zip_directory
from interp.core.names import did_you_mean
from interp.tasks.formats.source import File, stem_of

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_MEMBERS = 20_000
"""Most files in one archive."""
MAX_DIRECTORY = 8 * MIB
"""Longest directory of a zip: 400 bytes for each of its files."""
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    IndexError,
    MemoryError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def open_files(
    path: str | Path, member: str | None = None, encoding: str = "utf-8", max_bytes: int = TEXT_BYTES
) -> list[File]:
    """The file at `path`, gunzipped; or the files of an archive, or the one of them named.

    Args:
        path: A file, a `.gz`, or a tar or zip archive.
        member: A file of the archive: its path, its name, or its name without ending.
        encoding: Of the text.
        max_bytes: Most bytes to read, unpacked: of the file, or of all chosen members together.

    Raises:
        StorageError: No such file (the nearest names are suggested), a folder, a damaged archive,
            or more than `max_bytes`.
        ConfigError: No such member.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise _no_file(path)
        if path.name.endswith(ARCHIVES):
            return _members(path, member, encoding, max_bytes)
        if path.suffix == ".gz":
            with gzip.open(filename=path) as stream:
                data = _bounded(stream, max_bytes, path.name)
        else:
            data = read_bytes(path, max_bytes)
    except Unparsable as error:
        raise _too_much(path.name, error) from error
    except _UNREADABLE as error:
        if isinstance(error, StorageError | ConfigError):
            raise
        raise StorageError("this file cannot be read", got=f"{path}: {one_line(error)}") from error
    if member is not None:
        raise ConfigError(f"{path.name} is no archive, so it has no members", got=member)
    return [File(path.name, data, encoding, max_bytes)]


def _no_file(path: Path) -> StorageError:
    if path.is_dir():
        return StorageError("this is a folder, not a file", got=path, fix="name a file in it")
    if path.exists():
        return StorageError("this is no regular file", got=path)
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, cutoff=0.7)
    fix = f"did you mean {' or '.join(map(repr, near))}?" if near else None
    return StorageError("no such file", got=path, fix=fix)


def _members(path: Path, member: str | None, encoding: str, max_bytes: int) -> list[File]:
    """The chosen members of an archive."""
    if path.suffix == ".zip":
        with path.open("rb") as file:
            listed, _ = zip_directory(file)
        if listed > MAX_DIRECTORY:
            raise StorageError(
                f"{path.name} holds too many files", got=f"a directory of {too_large(listed, MAX_DIRECTORY)}"
            )
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            sizes = {info.filename: info.file_size for info in infos if not info.is_dir()}
            if len(sizes) < sum(not info.is_dir() for info in infos):
                raise _one_name(path)
            chosen = _chosen(path, sizes, member, max_bytes)
            return _read(path, chosen, archive.open, encoding, max_bytes)
    with _tar(path, max_bytes) as archive:
        members = {}
        while (info := archive.next()) is not None and len(members) <= MAX_MEMBERS:
            if info.isfile() and info.name in members:
                raise _one_name(path)
            if info.isfile():
                members[info.name] = info
        chosen = _chosen(path, {n: info.size for n, info in members.items()}, member, max_bytes)
        return _read(path, chosen, lambda name: archive.extractfile(members[name]), encoding, max_bytes)


def _one_name(path: Path) -> StorageError:
    return StorageError("two members of this archive have one name", got=path)


@contextmanager
def _tar(path: Path, max_bytes: int) -> Iterator[tarfile.TarFile]:
    """A tar that can be sought in; a packed one is unpacked first, up to the budget."""
    if path.name.endswith(".tar"):
        with tarfile.open(name=path, mode="r:") as archive:
            yield archive
        return
    with gzip.open(filename=path) as stream:
        # headers and padding come on top of the members
        data = _bounded(stream, max_bytes + max_bytes // 4 + MIB, path.name)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        yield archive


def _chosen(path: Path, sizes: Mapping[str, int], member: str | None, max_bytes: int) -> list[str]:
    """The members asked for, if they are not too many and not too large.

    Raises:
        StorageError: Beyond a budget.
        ConfigError: No such member.
    """
    if len(sizes) > MAX_MEMBERS:
        raise StorageError(
            f"{path.name} holds too many files", got=f"{len(sizes):,}", expected=f"at most {MAX_MEMBERS:,}"
        )
    if not sizes:
        raise StorageError(f"{path.name} holds no files")
    chosen = sorted(sizes)
    if member is not None:
        chosen = [name for name in chosen if member in (name, name.rpartition("/")[2], stem_of(name))]
        if not chosen:
            stems = [stem_of(name) for name in sorted(sizes)]
            raise ConfigError(
                f"{path.name} has no such member",
                got=member,
                expected=", ".join(stems),
                fix=did_you_mean(member, stems) or None,
            )
    total = sum(sizes[name] for name in chosen)
    if total > max_bytes:
        raise _too_much(path.name, too_large(total, max_bytes))
    return chosen


def _read(
    path: Path, chosen: Sequence[str], opened: Callable[[str], Any], encoding: str, max_bytes: int
) -> list[File]:
    """Read members; a header that names fewer bytes than there are buys nothing."""
    files, left = [], max_bytes
    for name in chosen:
        with opened(name) as stream:
            data = _bounded(stream, left, path.name)
        left -= len(data)
        files.append(File(f"{path.name}: {name}", data, encoding, max_bytes))
    return files


def _bounded(stream: Any, limit: int, name: str) -> bytes:
    """What a stream unpacks to, as long as it stays within the budget.

    Raises:
        StorageError: It goes on beyond.
    """
    pieces, size = [], 0
    while piece := stream.read(min(MIB, limit - size + 1)):
        size += len(piece)
        if size > limit:
            raise _too_much(name, f"more than the {limit:,} bytes that are read")
        pieces.append(piece)
    return b"".join(pieces)


def _too_much(name: str, why: object) -> StorageError:
    return StorageError(
        f"{name} holds too much to read", got=why, fix="max_bytes= takes more, if you trust it"
    )
