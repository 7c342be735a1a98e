"""docs/glossary.md names only what exists, and says each word once."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "glossary.md"
ROWS = re.findall(r"^\| ([^|`]+?) \| (.+?) \| `(interp[\w.]+)` \|$", PAGE.read_text(encoding="utf-8"), re.M)


def found(path: str) -> Any:
    """What a dotted name leads to: a module, or something in one."""
    parts = path.split(".")
    for n in range(len(parts), 0, -1):
        try:
            value: Any = import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            value = getattr(value, part)
        return value
    raise AttributeError(path)


@pytest.mark.parametrize(("word", "meaning", "place"), ROWS, ids=[row[0] for row in ROWS])
def test_every_word_has_a_place(word: str, meaning: str, place: str) -> None:
    assert found(place) is not None


def test_every_word_stands_once() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(lines) - 2  # the two headings
    words = [row[0] for row in ROWS]
    assert len(words) > 30 and len(set(words)) == len(words)
    with pytest.raises(AttributeError):
        found("interp.models.stream.target.Targe")
