"""F6, the part of `commit`: killed at any system call, a reader finds the old or the new, whole."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from interp.core import store
from interp.core.disk import calls as _disk
from interp.core.errors import StorageError
from tests.support.children import Instants, fork, wait_for

N = 1013


def files(version: int) -> dict[str, object]:
    """A folder whose three files agree on one version."""
    weight = torch.full((N,), float(version))
    return {"w.safetensors": {"w": weight}, "state.json": {"version": version}, "note.txt": f"{version}"}


def version_of(folder: Path) -> int | None:
    """The one version that all files agree on; None if there is no folder."""
    try:
        found = store.open_artefact(folder, schema="run")
    except StorageError as error:
        assert "no folder" in str(error), error
        return None
    version = found.json("state.json")["version"]
    assert found.bytes("note.txt") == str(version).encode()
    assert torch.equal(found.tensors("w.safetensors")["w"], torch.full((N,), float(version)))
    return version


def commit(folder: Path, version: int, overwrite: bool) -> None:
    store.commit(folder, files(version), overwrite=overwrite, schema="run")


def in_child(action: Callable[[], None]) -> int:
    """Run in a forked process; its exit code, negative for a signal."""
    pid = fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at(count: int) -> Callable[[str, Path], None]:
    """A fault hook: SIGKILL before the system call number `count`."""
    seen = 0

    def hook(operation: str, path: Path) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


MODES = ["new", "exchange", "set-aside"]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh target; one exchanged atomically; one replaced where the system cannot do that."""
    if request.param == "set-aside":
        monkeypatch.setattr(_disk, "_renameat2", lambda staged, target: False)
    return request.param


def test_sigkill_before_every_system_call(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, boundary, code = [], 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        boundary += 1
        folder = tmp_path / str(boundary) / "run"
        if mode != "new":
            commit(folder, 1, overwrite=False)

        def die_there(folder: Path = folder, boundary: int = boundary) -> None:
            monkeypatch.setattr(store, "_fault", kill_at(boundary))
            commit(folder, 2, overwrite=mode != "new")

        code = in_child(die_there)
        outcomes.append(version_of(folder))
        # The next writer works, and clears what the killed one left.
        commit(folder, 3, overwrite=True)
        assert version_of(folder) == 3
        assert [p.name for p in folder.parent.iterdir()] == ["run"]
    assert code == 0 and outcomes[-1] == 2  # the last run met no kill
    before = None if mode == "new" else 1
    turn = outcomes.index(2)
    assert outcomes == [before] * turn + [2] * (len(outcomes) - turn)  # old, then new, never else
    assert turn >= 14 and len(outcomes) - turn >= 3  # both sides of the rename were met


class Interrupting:
    """A fault hook: Ctrl-C at the system call number `count`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seen: list[str] = []

    def __call__(self, operation: str, path: Path) -> None:
        self.seen.append(operation)
        if len(self.seen) == self.count:
            raise KeyboardInterrupt


def test_interruption_by_exception_at_every_system_call(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C leaves nothing behind even without a next writer."""
    for boundary in range(1, 100):
        folder = tmp_path / str(boundary) / "run"
        if mode != "new":
            commit(folder, 1, overwrite=False)
        hook = Interrupting(boundary)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(store, "_fault", hook)
            commit(folder, 2, overwrite=mode != "new")
        assert version_of(folder) in ((None, 2) if mode == "new" else (1, 2))
        staging = [p.name for p in folder.parent.glob(".*")]
        assert staging == [] or hook.seen[-1] == "delete"
        if len(hook.seen) < boundary:
            break
        commit(folder, 3, overwrite=True)
        assert version_of(folder) == 3
    else:
        pytest.fail("commit never ended")


def test_everything_is_flushed_before_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut needs: each file, the manifest last, its folder; rename; the parent."""
    trace: list[tuple[str, str]] = []
    monkeypatch.setattr(store, "_fault", lambda operation, path: trace.append((operation, path.name)))
    commit(tmp_path / "run", 1, overwrite=False)
    flushed = [name for operation, name in trace if operation == "fsync"]
    assert flushed[:3] == list(files(1)) and flushed[3] == "manifest.json"
    assert flushed[4].startswith(".tmp-") and flushed[5] == tmp_path.name
    shown = trace.index(("rename", "run"))
    assert trace.index(("fsync", flushed[4])) < shown < trace.index(("fsync", tmp_path.name))
    written = max(i for i, (operation, _) in enumerate(trace) if operation == "write")
    assert trace[written] == ("write", "manifest.json")


def write_for_ever(folder: Path, start: int) -> None:
    for version in range(start, 1_000_000):
        commit(folder, version, overwrite=True)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "set-aside"])
def test_sigkill_at_random_instants(
    tmp_path: Path, full_count: bool, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(_disk, "_renameat2", lambda staged, target: False)
    folder, latest, instants = tmp_path / "run", 0, Instants(random.Random(5), most=5)
    commit(folder, latest, overwrite=False)
    for _ in range(200 if full_count else 20):
        pid = fork()
        if pid == 0:
            try:
                write_for_ever(folder, latest + 1)
            finally:
                os._exit(1)
        instants.wait(pid, lambda: version_of(folder) or 0)
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        found = version_of(folder)
        assert found is not None and found >= latest  # nothing that was committed is lost
        latest = found
    assert latest >= 10  # the writers did write
    commit(folder, latest + 1, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "set-aside"])
def test_readers_beside_a_writer_never_meet_a_mixture(
    tmp_path: Path, full_count: bool, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(_disk, "_renameat2", lambda staged, target: False)
    folder = tmp_path / "run"
    commit(folder, 0, overwrite=False)
    pid = fork()
    if pid == 0:
        try:
            write_for_ever(folder, 1)
        finally:
            os._exit(1)
    try:
        seen: list[int | None] = []

        def read() -> bool:
            seen.append(version_of(folder))
            return len(set(seen)) > (1000 if full_count else 50)

        assert wait_for(read, pid), "the writer ended by itself"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert None not in seen and seen == sorted(seen)
