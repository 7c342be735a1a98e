"""F8: a full or failing disk stops the save with one clear error and harms nothing saved before."""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from interp.core import store
from interp.core.disk import calls as _disk
from interp.core.errors import StorageError
from tests.support.children import fork

CODES = ["ENOSPC", "EIO", "EROFS", "EACCES", "EDQUOT", "EFBIG"]
ROOT = Path(__file__).parents[2]


def files(version: int) -> dict[str, object]:
    return {"w.safetensors": {"w": torch.full((503,), float(version))}, "v.json": {"v": version}}


class Failing:
    """A fault hook: the system call number `count` (or every one from there) fails with `code`."""

    def __init__(self, count: int, code: int, persistent: bool = False) -> None:
        self.count, self.code, self.persistent = count, code, persistent
        self.seen: list[str] = []

    def __call__(self, operation: str, path: Path) -> None:
        self.seen.append(operation)
        if len(self.seen) == self.count or (self.persistent and len(self.seen) > self.count):
            raise OSError(self.code, os.strerror(self.code), str(path))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("kind", ["new", "exchange", "set-aside"])
def test_each_system_call_failing_in_turn(
    tmp_path: Path, kind: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(errno, code)
    if kind == "set-aside":
        monkeypatch.setattr(_disk, "_renameat2", lambda staged, target: False)
    harmless = []
    for boundary in range(1, 100):
        folder = tmp_path / str(boundary) / "run"
        if kind != "new":
            store.commit(folder, files(1), schema="run")
        hook = Failing(boundary, number)
        error = None
        with monkeypatch.context() as patch:
            patch.setattr(store, "_fault", hook)
            try:
                store.commit(folder, files(2), schema="run", overwrite=kind != "new")
            except StorageError as caught:
                error = caught
        if len(hook.seen) < boundary:
            break  # a run without failure
        left = {p.name for p in folder.parent.glob("*")} | {p.name for p in folder.parent.glob(".*")}
        if error is None:  # the call was one of the clean-up's
            harmless.append(hook.seen[boundary - 1])
            assert store.open_artefact(folder).json("v.json") == {"v": 2}
            continue
        assert error.errno == number and code in str(error)
        assert str(folder) in error.what
        assert re.fullmatch(r"[\d,]+ bytes needed, [\d,]+ bytes free", error.expected or "")
        assert left == (set() if kind == "new" else {"run"})
        if kind != "new":
            assert store.open_artefact(folder).json("v.json") == {"v": 1}
    assert boundary > 14
    assert harmless == (["rename", "delete"] if kind == "set-aside" else ["delete"])


@pytest.mark.parametrize("kind", ["exchange", "set-aside"])
def test_a_disk_that_stays_broken(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the clean-up and the way back fail as well; still a reader finds old or new, whole."""
    if kind == "set-aside":
        monkeypatch.setattr(_disk, "_renameat2", lambda staged, target: False)
    for boundary in range(1, 24):
        folder = tmp_path / str(boundary) / "run"
        store.commit(folder, files(1), schema="run")
        with monkeypatch.context() as patch:
            patch.setattr(store, "_fault", Failing(boundary, errno.EIO, persistent=True))
            try:
                store.commit(folder, files(2), schema="run", overwrite=True)
            except StorageError as error:
                assert error.errno == errno.EIO
        found = store.open_artefact(folder)
        version = found.json("v.json")["v"]
        assert version in (1, 2)
        assert found.tensors("w.safetensors")["w"].unique().tolist() == [float(version)]


def test_single_files_survive_each_failing_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, log = tmp_path / "r.html", tmp_path / "m.jsonl"
    failures = 0
    for boundary in range(1, 20):
        store.write_text(path, "old", overwrite=True)
        log.unlink(missing_ok=True)
        store.append(log, {"step": 1})
        for action, intact in (
            (lambda: store.write_text(path, "new", overwrite=True), lambda: path.read_text()),
            (lambda: store.append(log, {"step": 2}), lambda: store.read_jsonl(log)),
        ):
            before = intact()
            with monkeypatch.context() as patch:
                patch.setattr(store, "_fault", Failing(boundary, errno.ENOSPC))
                try:
                    action()
                except StorageError as error:
                    failures += 1
                    assert "bytes free" in str(error)
                    # the last call makes the rename durable; by then the new file is whole
                    assert intact() in (before, "new")
        assert {p.name for p in tmp_path.iterdir()} == {"r.html", "m.jsonl"}
    assert failures >= 8


def test_a_torn_append_is_repaired_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "m.jsonl"
    store.append(log, {"step": 1})
    real = os.write

    def half(handle: int, data: memoryview) -> int:
        real(handle, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(StorageError):
            store.append(log, {"step": 2})
    assert store.read_jsonl(log) == [{"step": 1}]
    store.append(log, {"step": 3})
    assert store.read_jsonl(log) == [{"step": 1}, {"step": 3}]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
    store.commit(tmp_path / "run", files(5), schema="run")
    monkeypatch.undo()
    assert store.open_artefact(tmp_path / "run").tensors("w.safetensors")["w"].tolist() == [5.0] * 503


def test_a_real_limit_of_the_file_size(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the kernel itself refuses in the middle of a write."""
    folder = tmp_path / "run"
    store.commit(folder, files(1), schema="run")
    big = {"w.safetensors": {"w": torch.zeros(1 << 20)}}
    pid = fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
            store.commit(folder, big, schema="run", overwrite=True)
        except StorageError as error:
            code = 7 if error.errno == errno.EFBIG and "4,194," in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert store.open_artefact(folder).json("v.json") == {"v": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


FILL = """
import sys, torch
from interp.core import store
from interp.core.errors import StorageError
folder = sys.argv[1] + "/run"
store.commit(folder, {"v.json": {"v": 1}}, schema="run")
try:
    big = {"w.safetensors": {"w": torch.zeros(1 << 20)}}
    store.commit(folder, big, schema="run", overwrite=True)
except StorageError as error:
    assert "ENOSPC" in str(error) and "4,194," in str(error), error
    assert store.open_artefact(folder).json("v.json") == {"v": 1}
    store.commit(folder, {"v.json": {"v": 2}}, schema="run", overwrite=True)
    sys.exit(7)
"""


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file system of 2 MB, where the machine lets us mount one."""
    mount = f"mount -t tmpfs -o size=2m tmpfs {tmp_path}"
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        if subprocess.run([*inside, mount], capture_output=True, check=False).returncode:
            pytest.skip("this machine lets no one mount a tmpfs")
    except FileNotFoundError:
        pytest.skip("no unshare on this machine")
    script = f'{mount} && exec "{sys.executable}" -c "$0" {tmp_path}'
    run = subprocess.run([*inside, script, FILL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 7, run.stderr
