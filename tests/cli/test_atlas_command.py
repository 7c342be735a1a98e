"""`interp atlas` and `interp neurons` on a real model: what they write, what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.cli.main import main
from interp.core.result import Result


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> str:
    return str(shared_data / "models" / "stories260k")


def test_atlas_writes_both_pages_and_the_results(
    stories: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["atlas", stories, "--out", str(out)]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "attention.html",
        "config.json",
        "distances",
        "heads",
        "report.html",
        "report.json",
        "weights",
    ]
    atlas = Result.load(out / "heads")
    assert atlas.previous.shape == (5, 8)  # type: ignore[attr-defined]
    said = capsys.readouterr().out
    assert "L1H3    previous" in said and "attention.html" in said
    assert (out / "report.html").read_text().count("<iframe") == 1  # the three views


def test_atlas_reads_random_tokens_where_there_is_no_tokenizer(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    folder = str(shared_data / "models" / "induction")
    assert main(["atlas", folder, "--out", str(out), "--n-random", "2"]) == 0
    assert "L1H2    induction" in capsys.readouterr().out


def test_neurons_writes_the_whole_table_and_shows_rows(
    stories: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["neurons", stories, "--out", str(out), "--sides", "in", "out", "--k", "5"]
    assert main([*command, "--rows", "L2N1?.out"]) == 0
    table = Result.load(out / "neurons")
    assert table.scores.shape == (5 * 172 * 2, 2, 5)  # type: ignore[attr-defined]
    assert "L2N13.out" in capsys.readouterr().out
    assert "10 of 10 directions" in (out / "report.html").read_text()
    assert main([*command, "--overwrite", "--shown", "23"]) == 0
    assert "23 of 1,720 directions" in (out / "report.html").read_text(), "not only those that stand out"


def test_neurons_of_a_model_without_mlps_and_unknown_rows_are_refused(
    stories: str, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(shared_data / "models" / "induction")
    assert main(["neurons", folder, "--out", str(tmp_path / "a")]) == 2
    assert "no MLP neurons" in capsys.readouterr().err
    assert main(["neurons", stories, "--rows", "L9N0.out", "--out", str(tmp_path / "b")]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
