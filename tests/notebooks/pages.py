"""The notebooks of the repository: jupytext sources and the pages made from them."""

from __future__ import annotations

from pathlib import Path

import jupytext
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


def cells(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Kind and text of every cell: what source and page must share."""
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def read(path: Path) -> NotebookNode:
    """A notebook from its percent source or from its page."""
    return jupytext.read(path)
