"""Folders stay small enough to see at once, and the table of them in the docs is the package's."""

from __future__ import annotations

import ast

from tests.architecture.source import PACKAGE, ROOT, modules

MAX_FILES = 20
PAGE = ROOT / "docs" / "folders.md"
HEAD = """\
# Where things are

Every folder of the package and what it is for, from the folders' own first sentences. Each room may
use the rooms above it in this list, never its siblings or what stands below
([tests/architecture/test_rooms.py](../tests/architecture/test_rooms.py) holds that).

| folder | what it is for |
|---|---|
"""
ORDER = (
    "core models activations tasks rasp dictionaries lenses probing attribution circuits geometry "
    "vision features studies plotting reports cli"
).split()


def folders() -> dict[str, str]:
    """Folder -> its first sentence, room by room upward."""
    found = {
        module.place.removesuffix("/__init__.py"): (ast.get_docstring(module.tree) or "")
        for module in modules().values()
        if module.path.name == "__init__.py" and module.path.parent != PACKAGE
    }

    def place(folder: str) -> tuple[int, str]:
        return ORDER.index(folder.split("/")[1]), folder

    return {f: found[f].split("\n\n")[0].replace("\n", " ") for f in sorted(found, key=place)}


def table() -> str:
    """The page as it should be."""
    rows = [f"| `{folder}` | {sentence} |\n" for folder, sentence in folders().items()]
    return HEAD + "".join(rows)


def test_no_folder_holds_more_than_can_be_seen_at_once() -> None:
    count: dict[str, int] = {}
    for module in modules().values():
        if module.path.name != "__init__.py":
            folder = str(module.path.parent.relative_to(ROOT))
            count[folder] = count.get(folder, 0) + 1
    assert {folder: n for folder, n in count.items() if n > MAX_FILES} == {}


def test_the_docs_list_every_folder_with_its_sentence() -> None:
    # Mend with: python -m tests.architecture.test_folders
    assert all(folders().values())
    assert PAGE.read_text(encoding="utf-8") == table()


if __name__ == "__main__":
    PAGE.write_text(table(), encoding="utf-8")
