"""System calls that change the disk, each announced first so that tests can kill or starve it.

Only `store` and `_lock` use these. Names of staging folders and files say which process made them,
so that a later writer can tell what a killed one left behind.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from interp.core.disk.artefact import MANIFEST, looks_like_ours
from interp.core.disk.tensors import Chunks
from interp.core.errors import BadName, StorageError

STALE_AFTER = 3600.0  # seconds; then a leftover is swept even if its process seems alive
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _silent(operation: str, path: Path) -> None:
    """No one listens."""


announce: Callable[[str, Path], None] = _silent
"""Called with (operation, path) before each system call; `store` points it at its fault hook."""


def resolved(path: str | Path) -> Path:
    """A path as the user typed it: `~` and links are followed.

    Raises:
        BadName: Empty, or no system has such a path.
    """
    try:
        if not os.fspath(path):
            raise BadName("an empty path", expected="the name of a file or folder")
        return Path(os.path.realpath(os.path.expanduser(path)))
    except ValueError as error:  # NUL
        raise BadName(f"{str(path)!r} is no path", got=error) from error


def step(operation: str, path: Path) -> None:
    """Announce a system call."""
    announce(operation, path)


def write(path: Path, chunks: Chunks) -> dict[str, Any]:
    """Write and flush a new file; returns its manifest entry."""
    digest = hashlib.sha256()
    size = 0
    step("open", path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for chunk in chunks:
            write_all(handle, chunk, path)
            digest.update(chunk)
            size += len(chunk)
        step("fsync", path)
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"size": size, "sha256": digest.hexdigest()}


def write_all(handle: int, data: bytes | memoryview, path: Path) -> None:
    """Every byte, however few the system takes at a time."""
    view = memoryview(data)
    while view:
        step("write", path)
        view = view[os.write(handle, view) :]


def sync(directory: Path) -> None:
    """A rename is only durable once the folder that holds the name is."""
    step("fsync", directory)
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(staged: Path, target: Path, overwrite: bool) -> None:
    """Make `staged` visible as `target`; afterwards `staged` holds what was there, if anything."""
    if overwrite and target.exists():
        _exchange(staged, target)
        undo = _exchange
    else:
        step("rename", target)
        try:
            os.rename(staged, target)  # refused by the system if a rival was faster
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise exists_already(target) from error
            raise
        undo = _move_back
    try:
        sync(target.parent)
    except OSError:
        with suppress(OSError):
            undo(staged, target)
        raise


def _move_back(staged: Path, target: Path) -> None:
    os.rename(target, staged)


def _exchange(staged: Path, target: Path) -> None:
    """Swap two folders: in one step where the system can, else with the old one kept aside."""
    step("exchange", target)
    if _renameat2(staged, target):
        return
    aside = target.parent / f"{private('.old-')}-{target.name}"
    step("rename", aside)
    os.rename(target, aside)
    try:
        step("rename", target)
        os.rename(staged, target)
    except BaseException:  # Ctrl-C as well: the target must not stay away
        os.rename(aside, target)
        raise
    try:
        step("rename", staged)
        os.rename(aside, staged)
    except BaseException as error:
        discard(aside)
        if not isinstance(error, OSError):  # the new content is in place; an old copy is no failure
            raise


def _renameat2(staged: Path, target: Path) -> bool:
    """Linux's atomic exchange; False where kernel, C library or file system lack it."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    old, new = os.fsencode(staged), os.fsencode(target)
    if call(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOTTY):
        return False
    raise OSError(code, os.strerror(code), str(target))


def rename_new(staged: Path, target: Path) -> None:
    """Rename a file unless the name is taken; a hard link makes the check atomic."""
    try:
        os.link(staged, target)
    except FileExistsError as error:
        raise exists_already(target) from error
    except OSError:  # no hard links here (FAT, some network mounts)
        if target.exists():
            raise exists_already(target) from None
        os.rename(staged, target)


def keep(target: Path, kept: dict[Path, Path]) -> None:
    """A second name for the file that is about to be replaced, so that it can come back."""
    if not target.exists():
        return
    place = target.parent / private(".tmp-")
    step("link", place)
    try:
        os.link(target, place)
    except OSError as error:  # no hard links here (FAT, some network mounts)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        shutil.copy2(target, place)
    kept[target] = place


def put_back(target: Path, kept: Path | None) -> None:
    """Undo one rename of several: the old file again, or none where there was none."""
    with suppress(OSError):  # the disk is failing: what could be done is done
        if kept is None:
            os.unlink(target)
        else:
            os.replace(kept, target)


def require_free(target: Path, overwrite: bool) -> None:
    """Refuse a target that something stands at, unless it is ours and to be replaced.

    Raises:
        StorageError: Naming what is there.
    """
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise StorageError(f"{target} is a file", expected="the name of a folder")
    if next(target.iterdir(), None) is None:
        return  # an empty folder holds nothing to lose; rename takes its place
    if not overwrite:
        raise exists_already(target)
    if not looks_like_ours(target):
        raise StorageError(
            f"refusing to replace {target}: interp did not write it (no {MANIFEST})",
            fix="choose another folder, or remove it yourself",
        )


def exists_already(target: Path) -> StorageError:
    """The error for a name that is taken."""
    return StorageError(
        f"{target} exists already",
        fix="choose another name, or replace it: --overwrite (in Python overwrite=True)",
    )


# ------------------------------------------------------------------ leftovers

# `.old-...` names end in the folder's own name, so that it can be put back.
_LEFTOVER = re.compile(r"\.(?:tmp|old)-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}(?:-(.+))?")


def private(prefix: str) -> str:
    """A fresh hidden name that says which process made it."""
    return f"{prefix}{machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def machine() -> str:
    """Where process ids mean what they mean here: the host, and the container's pid space."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()}|{space}".encode()).hexdigest()[:8]


def _abandoned(path: Path) -> bool:
    """Whether the process that made this leftover is gone."""
    found = _LEFTOVER.fullmatch(path.name)
    if found is None:
        return False
    if found[1] == machine() and not alive(int(found[2])):
        return True
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > STALE_AFTER
    return False


def alive(pid: int) -> bool:
    """Whether a process of this number runs, ours or anybody's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def sweep(parent: Path) -> None:
    """Delete staging folders and files of writers that were killed."""
    for path in filter(_abandoned, parent.glob(".tmp-*")):
        discard(path)


def discard(path: Path) -> None:
    """Delete a staging folder or file. What resists is left to the next writer's sweep."""
    with suppress(OSError):
        step("delete", path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _set_aside(target: Path) -> list[Path]:
    found = target.parent.glob(".old-*")
    return [p for p in found if (m := _LEFTOVER.fullmatch(p.name)) and m[3] == target.name]


def recover(target: Path) -> None:
    """Put back the old copy if its replacer was killed in between; delete one not needed."""
    for path in filter(_abandoned, _set_aside(target)):
        if target.exists():
            discard(path)
        else:
            with suppress(OSError):  # another process recovered it first
                step("rename", path)
                os.rename(path, target)


def await_exchange(target: Path) -> bool:
    """Whether `target` is there, once no living writer is between the renames of an exchange.

    What a dead one set aside is put back.
    """
    absent = 0
    for _ in range(100):
        if target.exists():
            return True
        if _set_aside(target):
            recover(target)
            time.sleep(0.02)
        else:  # or one exchange ended and the next began between these two looks
            absent += 1
            if absent == 5:
                return False
    return False


@contextmanager
def explained(path: Path, needed: int) -> Iterator[None]:
    """Turns the system's refusals into one error that names the path and the space."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        free = "unknown"
        with suppress(OSError):
            existing = next(p for p in (path, *path.parents) if p.exists())
            free = f"{shutil.disk_usage(existing).free:,} bytes"
        wrapped = StorageError(
            f"cannot write {path}",
            got=f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'no code')})",
            expected=f"{needed:,} bytes needed, {free} free",
            fix=_FIXES.get(error.errno or 0, "nothing was changed; choose another place"),
        )
        wrapped.errno = error.errno
        raise wrapped from error


_FULL = "nothing was changed; free some space or choose another place"
_FIXES = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EFBIG: _FULL}
