"""The code on the rooms' pages runs, block after block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["lenses", "probing", "attribution", "circuits", "rasp"])
def test_the_code_of_a_page_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), names)  # noqa: S102 - our own page
    assert len(blocks) > 1 and "assert" in text


@pytest.mark.parametrize("page", ["lenses", "probing", "attribution", "circuits"])
def test_the_names_of_a_page_exist(page: str) -> None:
    import interp
    from interp import attribution, circuits, lenses, probing, studies

    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    rooms = (interp, attribution, circuits, lenses, probing, studies)
    for name in re.findall(r"`([a-z]\w+)`", "\n".join(table)):
        known = name in attribution.METHODS or any(hasattr(room, name) for room in rooms)
        assert known, name
