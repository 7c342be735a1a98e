"""F31: every notebook runs offline from nothing, is in step with its source, ends in a fact."""

from __future__ import annotations

import ast
import os
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.notebooks.pages import SOURCES, cells, read
from tests.support.children import HANG

CDN = ("notebook_connected", "cdn.plot.ly", "https://unpkg", "https://cdn")

every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def test_every_page_has_a_source() -> None:
    pages = {path.stem for source in SOURCES for path in source.parent.glob("*.ipynb")}
    assert pages <= {source.stem for source in SOURCES}


@every_notebook
def test_page_is_in_step_with_its_source(source: Path) -> None:
    page = source.with_suffix(".ipynb")
    assert page.exists(), "make it with scripts/sync_notebooks.py"
    assert cells(read(page)) == cells(read(source)), "scripts/sync_notebooks.py"


@every_notebook
def test_page_is_committed_without_outputs(source: Path) -> None:
    # Stored outputs drift from the code; the page a reader runs is the page we ran.
    for cell in code_cells(read(source.with_suffix(".ipynb"))):
        assert cell.outputs == []
        assert cell.execution_count is None


@every_notebook
def test_notebook_ends_in_an_assertion_of_a_known_fact(source: Path) -> None:
    last = ast.parse(code_cells(read(source))[-1].source)
    facts = [node for node in ast.walk(last) if isinstance(node, ast.Assert)]
    assert facts
    assert not any(isinstance(fact.test, ast.Constant) for fact in facts)


@pytest.mark.notebook
@every_notebook
def test_notebook_runs_offline_from_nothing(source: Path, tmp_path: Path) -> None:
    notebook = nbformat.from_dict(read(source))
    environment = os.environ | {"INTERP_TEST_LOOPBACK": "1"}  # a kernel speaks to its client only
    client = NotebookClient(
        notebook, timeout=HANG, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    start = time.process_time()
    client.execute(env=environment)
    print(f"{source.stem}: {time.process_time() - start:.1f} s in the client")
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == sorted(set(counts))
    text = nbformat.writes(notebook)
    assert not any(mark in text for mark in CDN), "a figure reaches for the network"
