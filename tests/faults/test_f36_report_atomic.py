"""F36: a report interrupted at any moment leaves the old page whole; equal input, equal bytes."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from interp.reports import PageConfig, Table, report
from tests.support.children import Instants, fork

OVER = PageConfig(overwrite=True)


def content(version: str) -> list[object]:
    """About 200 KB of page, so that a kill can land inside the write."""
    return [Table(["i", "word"], [[i, f"{version} {i}" * 20] for i in range(200)], version)]


def write_forever(path: Path) -> None:
    while True:
        for version in ("old", "new"):
            report(content(version), path, version, OVER)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked child")
def test_killed_while_writing_the_page_is_one_of_the_two(tmp_path: Path, full_count: bool) -> None:
    path = tmp_path / "report.html"
    whole = {}
    for version in ("old", "new"):
        report(content(version), path, version, OVER)
        whole[version] = (path.read_bytes(), path.with_suffix(".json").read_bytes())
    pages, numbers = map(set, zip(*whole.values(), strict=True))
    instants = Instants(random.Random(0), most=3)
    seen = set()
    for _ in range(100 if full_count else 10):
        child = fork()
        if child == 0:
            try:
                write_forever(path)
            finally:
                os._exit(1)
        instants.wait(child, lambda: path.stat().st_mtime_ns)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child ended by itself: it failed to write"
        assert path.read_bytes() in pages
        assert path.with_suffix(".json").read_bytes() in numbers
        seen.add(path.read_bytes())
    report(content("new"), path, "new", OVER)
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == whole["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert len(seen) > 1 or not full_count, "no kill landed after a change: nothing was tested"


def test_killed_before_each_system_call_the_old_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.core import store

    class Killed(BaseException):
        """Stands for SIGKILL: no handler may catch it."""

    path = tmp_path / "report.html"
    report(content("old"), path, "old", OVER)
    old = path.read_bytes()
    steps: list[str] = []
    monkeypatch.setattr(store, "_fault", lambda operation, place: steps.append(operation))
    report(content("old"), path, "old", OVER)
    monkeypatch.undo()
    assert len(steps) >= 6  # two files: open, fsync, rename each
    for last in range(len(steps)):
        left = iter(range(last))

        def die(operation: str, place: Path, left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(store, "_fault", die)
            with pytest.raises(Killed):
                report(content("new"), path, "new", OVER)
        kept = path.read_bytes()
        renamed = last > len(steps) - 1 - steps[::-1].index("rename")
        assert (kept == old) != renamed, f"killed before step {last} ({steps[last]})"
        if renamed:
            report(content("old"), path, "old", OVER)
