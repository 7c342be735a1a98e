"""F13: output that exists is refused with the name of the flag; with it, only ours is replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from interp.core import store
from interp.core.errors import CorruptArtefact, StorageError


def nothing(path: Path) -> None: ...


def empty_folder(path: Path) -> None:
    path.mkdir()


def ours(path: Path) -> None:
    store.commit(path, {"old.txt": "old"}, schema="t")


def ours_damaged(path: Path) -> None:
    ours(path)
    (path / "old.txt").write_text("changed")


def somebody_elses(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years")


def a_web_page(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").write_text('{"name": "an app", "icons": []}')


def a_file(path: Path) -> None:
    path.write_text("x")


def a_link_to_ours(path: Path) -> None:
    ours(path.with_name("linked"))
    path.symlink_to("linked")


TABLE = [
    (nothing, "written", "written"),
    (empty_folder, "written", "written"),
    (ours, "--overwrite", "written"),
    (ours_damaged, "--overwrite", "written"),
    (a_link_to_ours, "--overwrite", "written"),
    (somebody_elses, "--overwrite", "interp did not write it"),
    (a_web_page, "--overwrite", "interp did not write it"),
    (a_file, "is a file", "is a file"),
]


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


@pytest.mark.parametrize("overwrite", [False, True], ids=["plain", "overwrite"])
@pytest.mark.parametrize(("found", "plain", "replacing"), TABLE, ids=[t[0].__name__ for t in TABLE])
def test_table(
    tmp_path: Path, found: Callable[[Path], None], plain: str, replacing: str, overwrite: bool
) -> None:
    target = tmp_path / "out"
    found(target)
    before = snapshot(tmp_path)
    expected = replacing if overwrite else plain

    def write() -> None:
        store.commit(target, {"new.txt": "new"}, schema="t", overwrite=overwrite)

    if expected == "written":
        write()
        assert store.open_artefact(target).bytes("new.txt") == b"new"
        assert sorted(p.name for p in target.iterdir()) == ["manifest.json", "new.txt"]
    else:
        with pytest.raises(StorageError) as caught:
            write()
        assert expected in str(caught.value) and str(target.resolve()) in str(caught.value)
        assert snapshot(tmp_path) == before


def test_the_old_stays_until_the_new_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every moment before and after the exchange the folder verifies."""
    target = tmp_path / "out"
    ours(target)
    seen: list[str] = []

    def look(operation: str, path: Path) -> None:
        seen.append(store.open_artefact(target).names()[0])

    monkeypatch.setattr(store, "_fault", look)
    store.commit(target, {"new.txt": "new"}, schema="t", overwrite=True)
    turn = seen.index("new.txt")
    assert turn > 5 and seen == ["old.txt"] * turn + ["new.txt"] * (len(seen) - turn)


def test_a_rival_that_was_faster_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check happens in the rename itself, not before it."""
    target = tmp_path / "out"

    def rival(operation: str, path: Path) -> None:
        if operation == "rename":
            monkeypatch.setattr(store, "_fault", None)
            ours(target)

    monkeypatch.setattr(store, "_fault", rival)
    with pytest.raises(StorageError, match="exists already"):
        store.commit(target, {"new.txt": "new"}, schema="t")
    assert store.open_artefact(target).names() == ["old.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_damaged_manifest_can_be_replaced_but_not_read(tmp_path: Path) -> None:
    ours(tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    with pytest.raises(CorruptArtefact):
        store.open_artefact(tmp_path / "out")
    store.commit(tmp_path / "out", {"new.txt": "new"}, schema="t", overwrite=True)
    assert store.open_artefact(tmp_path / "out").names() == ["new.txt"]
