"""One process at a time in a run folder. It saves work; what is saved is safe without it."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from interp.core.disk import calls as _disk
from interp.core.errors import StorageError


@contextmanager
def lock(directory: str | Path) -> Iterator[Path]:
    """Hold `directory` (which need not exist yet) for this process.

    The lock is a small JSON file `.lock-<name>` beside the folder: process id, host, start time.
    It is taken over only if that process is dead.

    Yields:
        The path of the lock file.

    Raises:
        StorageError: Another process holds it; the message names its pid, host and start time.
    """
    target = _disk.resolved(directory)
    path = target.parent / f".lock-{target.name}"
    me = {
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "host": socket.gethostname(),
        "machine": _disk.machine(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex[:12],
    }
    with _disk.explained(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(path, me)
    try:
        yield path
    finally:
        if _holder(path) == me:
            path.unlink(missing_ok=True)


def _acquire(path: Path, me: dict[str, Any]) -> None:
    """Create the lock, or take over a dead process's.

    To take over needs a ticket, itself a lock, named after the dead holder's token. So only one
    process can ever replace a given dead lock, and it looks again once it has the ticket.
    """
    while not _create(path, me):
        holder = _holder(path)
        if holder is None:
            continue  # released meanwhile
        if not _dead(holder):
            raise _in_use(path, holder)
        ticket = path.with_name(f"{path.name}.{holder['token']}")
        _acquire(ticket, me)
        try:
            if _holder(path) == holder:
                fresh = _written(path, me)
                _disk.step("rename", path)
                os.replace(fresh, path)
                return
        finally:
            ticket.unlink(missing_ok=True)


def _written(path: Path, me: dict[str, Any]) -> Path:
    """A private file with the lock's content."""
    fresh = path.parent / _disk.private(".tmp-")
    _disk.write(fresh, iter([json.dumps(me).encode()]))
    return fresh


def _create(path: Path, me: dict[str, Any]) -> bool:
    """Create the lock with its content in one step, so that no one ever reads half of it."""
    fresh = _written(path, me)
    try:
        _disk.rename_new(fresh, path)
    except StorageError:  # it exists
        return False
    finally:
        _disk.discard(fresh)
    return True


def _holder(path: Path) -> dict[str, Any] | None:
    """What the lock says; None if there is no lock."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        holder = json.loads(text)
        return {"pid": int(holder["pid"]), "token": str(holder["token"]), **holder}
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(
            f"{path} is no lock that interp wrote", fix="delete it if no run is using the folder"
        ) from error


def _dead(holder: dict[str, Any]) -> bool:
    """Only certain where process ids are ours to look up. A reused id has another birth time."""
    if holder.get("machine") != _disk.machine():
        return False
    return not _disk.alive(holder["pid"]) or holder.get("born") != _born(holder["pid"])


def _born(pid: int) -> str | None:
    """When a process started, in the kernel's ticks since boot; None where that is not told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]  # field 22; the name in brackets may hold spaces


def _in_use(path: Path, holder: dict[str, Any]) -> StorageError:
    name = path.name.removeprefix(".lock-").partition(f".{holder['token']}")[0]
    return StorageError(
        f"{path.with_name(name)} is in use by process {holder['pid']} on {holder.get('host')} "
        f"since {holder.get('since')}",
        fix=f"wait for it or stop it; if that machine is gone for good, delete {path}",
    )
