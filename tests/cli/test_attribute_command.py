"""`interp attribute`: one page for many texts, resumed where it stopped, bad requests refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.cli.main import main

TEXTS = ["When Mary and John went to the park, John gave a book to", "The <b>keys</b> to the cabinet"]
METHODS = ["--methods", "deeplift", "gradient_x_input"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run; the tests look at what it wrote."""
    folder = tmp_path_factory.mktemp("attribute") / "out"
    assert main(["attribute", "tiny-grammar", "--text", *TEXTS, *METHODS, "--out", str(folder)]) == 0
    return folder


def test_it_writes_the_page_and_the_numbers(page: Path) -> None:
    names = sorted(path.name for path in page.iterdir())
    assert names == ["config.json", "examples.jsonl", "report.html", "report.json"]
    data = json.loads((page / "report.json").read_text())
    assert len(data["examples"]) == 2
    deeplift = data["examples"][0]["strips"][0]
    assert deeplift["name"] == "deeplift"
    assert "no gap" in deeplift["note"]
    assert sum(deeplift["scores"]) == pytest.approx(
        data["examples"][0]["numbers"]["f(text) - f(baseline)"], rel=1e-3
    )
    assert {"Agreement", "Faithfulness", "Completeness and cost"} <= {
        grid["name"] for grid in data["summary"]
    }


def test_what_the_model_writes_is_a_matrix_of_source_and_generated(tmp_path: Path) -> None:
    asked = ["--text", TEXTS[0], "--methods", "deeplift", "--generate", "3"]
    assert main(["attribute", "tiny-grammar", *asked, "--out", str(tmp_path / "out")]) == 0
    example = json.loads((tmp_path / "out/report.json").read_text())["examples"][0]
    (grid,) = example["grids"]
    known = len(example["strips"][0]["tokens"])
    assert len(grid["rows"]) == 3
    assert [len(row) for row in grid["values"]] == [known + 2] * 3
    for i, row in enumerate(grid["values"]):
        assert all(v is not None for v in row[: known + i])  # each token rests on all before it
        assert all(v is None for v in row[known + i :])
    assert grid["columns"][known:] == grid["rows"][:2]
    refused = [*asked, "--at", "blocks.1.hook_resid_pre", "--out", str(tmp_path / "no")]
    assert main(["attribute", "tiny-grammar", *refused]) == 2


def test_the_page_is_offline_and_escaped(page: Path) -> None:
    html = (page / "report.html").read_text()
    assert "default-src &#x27;none&#x27;" in html or "default-src 'none'" in html
    assert "<b>keys" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_an_interrupted_run_goes_on(page: Path) -> None:
    lines = (page / "examples.jsonl").read_text().splitlines(keepends=True)
    whole = (page / "report.json").read_text()
    (page / "report.html").unlink()
    (page / "examples.jsonl").write_text(lines[0] + '{"torn')
    assert main(["attribute", "tiny-grammar", "--text", *TEXTS, *METHODS, "--out", str(page)]) == 0
    assert (page / "examples.jsonl").read_text().splitlines(keepends=True) == lines
    assert (page / "report.json").read_text() == whole


def test_bad_requests_are_refused_before_work(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attribute", "tiny-grammar", "--text", "x", "--out", str(page)]) == 2
    assert "already holds" in capsys.readouterr().err
    assert main(["attribute", "tiny-grammar", "--out", str(tmp_path / "a")]) == 2
    assert "--text and --file" in capsys.readouterr().err
    none = ["--limit", "0", "--out", str(tmp_path / "c")]
    assert main(["attribute", "tiny-grammar", "--text", "x", *none]) == 2
    assert "at least one example" in capsys.readouterr().err
    missing = str(tmp_path / "none.txt")
    assert main(["attribute", "tiny-grammar", "--file", missing, "--out", str(tmp_path / "b")]) == 2
    assert "cannot read the texts" in capsys.readouterr().err


def test_a_limit_takes_rows_from_the_whole_file(tmp_path: Path) -> None:
    from interp.cli.attribute import Attribute

    (tmp_path / "texts.txt").write_text("\n".join(f"line {i}" for i in range(15)))
    rows = Attribute(model="m", file=tmp_path / "texts.txt", limit=10)._rows()
    assert len(rows) == 10
    assert rows[0] == ("line 0",)
    assert rows[-1] == ("line 13",)  # and not the tenth
