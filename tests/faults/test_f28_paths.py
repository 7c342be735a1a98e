"""F28: names that come from files or requests never lead outside their folder."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from interp.core import store
from interp.core.errors import BadName, StorageError
from interp.core.names import slug

PIECES = [
    "..",
    ".",
    "/",
    "\\",
    "~",
    "~root",
    "$HOME",
    "%2e%2e",
    "a",
    "weights",
    "escaped",
    "con",
    "NUL",
    "com1",
    "aux.txt",
    "\0",
    "\n",
    " ",
    "-",
    "_",
    ":",
    "C:",
    "//host/share",
    "file://",
    "link",
    "broken",
    "é",
    "\u202e",
    "\ud800",
    "．．",
    "／",
    ".tmp-",
    "manifest.json",
    "x" * 99,
    "y" * 300,
    ".safetensors",
    ".json",
    "*",
    "?",
    "|",
    ";rm",
    "`id`",
    "'",
    '"',
    "<b>",
    "\x7f",
    "etc/passwd",
]


def names(count: int) -> list[str]:
    rng = random.Random(23)
    made = ["".join(rng.choices(PIECES, k=rng.randint(1, 5))) for _ in range(count)]
    return [*PIECES, "", "/etc/passwd", "../../etc/passwd", "a/../../b", *made]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in a folder, with links that lead out of it."""
    root = tmp_path / "parent" / "root"
    root.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "broken").symlink_to(tmp_path / "outside" / "new")
    return root


def outside(tmp_path: Path, root: Path) -> list[tuple[str, bytes | None]]:
    """Everything under `tmp_path` that is not under `root`; `root`'s own links are not followed."""
    found = []
    for folder, folders, filenames in os.walk(tmp_path):
        if Path(folder) == root:
            folders.clear()
            continue
        found += [(os.path.join(folder, name), None) for name in folders]
        for name in filenames:
            path = os.path.join(folder, name)
            found.append((path, Path(path).read_bytes()))
    return sorted(found)


def test_ten_thousand_names_stay_inside(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # thousands of files, durability aside
    monkeypatch.chdir(root)
    before = outside(tmp_path, root)
    accepted, refused = set(), 0
    for name in names(10_000):
        try:
            path = store.child(root, name)
        except BadName as error:
            refused += 1
            assert "\n" not in error.what or "\n" in name
            continue
        assert path.parent == root and path.resolve().parent == root.resolve()
        store.write_text(path, name, overwrite=True)
        accepted.add(name)
    assert outside(tmp_path, root) == before
    assert {p.name for p in root.iterdir()} == accepted | {"link", "broken"}
    assert refused > 5_000 and len(accepted) > 100  # both kinds were met


def test_names_of_files_in_an_artefact(tmp_path: Path, root: Path, full_count: bool) -> None:
    before = outside(tmp_path, root)
    written = 0
    for i, name in enumerate(names(2_000 if full_count else 200)):
        try:
            store.commit(root / f"a{i}", {name: b"x"}, schema="t")
            written += 1
        except BadName:
            continue
        assert {p.name for p in (root / f"a{i}").iterdir()} == {name, "manifest.json"}
    assert outside(tmp_path, root) == before
    assert 5 < written < len(names(200)) * 10


def test_names_asked_of_an_artefact(tmp_path: Path, root: Path) -> None:
    """Reading as well: neither ours nor a foreign folder gives away a file beside it."""
    ours = store.open_artefact(store.commit(root / "a", {"x.txt": "x"}, schema="t"))
    (root / "foreign").mkdir()
    foreign = store.open_artefact(root / "foreign", foreign_ok=True)
    for found in (ours, foreign):
        for name in [*names(300), "../../../outside/secret", str(tmp_path / "outside" / "secret")]:
            with pytest.raises(StorageError):
                found.bytes(name)


def test_links_are_refused_for_names_but_followed_for_the_users_paths(tmp_path: Path, root: Path) -> None:
    for name in ("link", "broken"):
        with pytest.raises(BadName, match="leads outside"):
            store.child(root, name)
    (root / "inner").symlink_to(root / "real")
    with pytest.raises(BadName):
        store.child(root, "inner")  # even inside: where it leads may change
    via = tmp_path / "shortcut"
    via.symlink_to(root)
    assert store.child(via, "new").resolve() == (root / "new").resolve()


@pytest.mark.parametrize("name", ["a", "gpt2-small_v1.0", "A" * 100, "0"])
def test_ordinary_names_pass(root: Path, name: str) -> None:
    assert store.child(root, name) == root / name
    assert slug(name) == name


@pytest.mark.parametrize("name", ["A" * 101, "..", "a..b", "CON", "nul.txt", "lpt9", "a.", "a b"])
def test_names_that_some_system_mistakes_are_refused(root: Path, name: str) -> None:
    with pytest.raises(BadName):
        store.child(root, name)
