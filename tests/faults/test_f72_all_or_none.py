"""Row 72: what writes several files writes all of them or none, whichever system call fails."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from interp.core import store
from interp.core.errors import StorageError
from interp.reports import PageConfig, Table, report
from tests.faults.test_f08_disk import CODES, Failing
from tests.support.children import fork


def names(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def page(path: Path, version: str, overwrite: bool) -> None:
    rows = [[i, version] for i in range(3)]
    report([Table(["i", "v"], rows, version)], path, version, PageConfig(overwrite=overwrite))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("before", [False, True])
def test_each_system_call_failing_in_turn(
    tmp_path: Path, before: bool, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = 0
    for boundary in range(1, 60):
        folder = tmp_path / str(boundary)
        folder.mkdir()
        if before:
            page(folder / "report.html", "old", False)
        old = names(folder)
        hook = Failing(boundary, getattr(errno, code))
        with monkeypatch.context() as patch:
            patch.setattr(store, "_fault", hook)
            try:
                page(folder / "report.html", "new", before)
            except StorageError as error:
                failed += 1
                assert code in str(error)
                assert names(folder) == old, (boundary, hook.seen)
                continue
        if len(hook.seen) < boundary:
            break
        # what failed was the clean-up: the next writer sweeps
        shown = sorted(name for name in names(folder) if not name.startswith(".tmp-"))
        assert shown == ["report.html", "report.json"]
    assert failed >= 8


def test_a_name_that_is_taken_changes_neither(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("somebody's own")
    with pytest.raises(StorageError, match="exists"):
        page(tmp_path / "report.html", "new", False)
    assert names(tmp_path) == {"report.html": b"somebody's own"}
    (tmp_path / "b.json").mkdir()
    with pytest.raises(StorageError, match="folder"):
        store.write_texts({tmp_path / "a.html": "x", tmp_path / "b.json": "y"}, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.json", "report.html"]


def test_a_real_full_disk(tmp_path: Path) -> None:
    """The system itself refuses: files may not grow beyond what the page needs."""
    import os
    import resource
    import signal

    child = fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
            page(tmp_path / "report.html", "new", False)
        except StorageError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert names(tmp_path) == {}
