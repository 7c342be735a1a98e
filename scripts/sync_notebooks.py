"""Make every notebooks/*.ipynb from its source notebooks/*.py, without outputs.

    python scripts/sync_notebooks.py [NAME ...]

The sources are jupytext percent scripts: they are what is edited, reviewed and linted. Cell ids are
numbered so that the same source always gives the same file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext

FOLDER = Path(__file__).parents[1] / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sync(source: Path) -> Path:
    """Write the page of one source; returns its path."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    page = source.with_suffix(".ipynb")
    jupytext.write(notebook, page, fmt="ipynb")
    return page


def main(names: list[str]) -> None:
    """Sync the named notebooks, or all of them."""
    for source in sorted(FOLDER.glob("*.py")):
        if not names or source.stem in names:
            print(sync(source))


if __name__ == "__main__":
    main(sys.argv[1:])
