"""`interp probe` on a real model: the page, the result, the refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.cli.main import main
from interp.core.result import Result
from interp.probing import ProbeSweep


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> str:
    return str(shared_data / "models" / "stories260k")


def test_words_are_probed_with_every_control(
    stories: str, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = shared_data / "corpora" / "ud_ewt" / "en_ewt-ud-dev.conllu.gz"
    out = tmp_path / "out"
    quick = ["--limit", "60", "--tolerance", "1e-2", "--n-shuffles", "2"]
    assert main(["probe", stories, str(labels), "--out", str(out), *quick]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "report.html", "report.json", "sweep"]
    sweep = Result.load(out / "sweep")
    assert isinstance(sweep, ProbeSweep) and sweep.labels["target"] == ["upos"]
    assert sweep.score.shape == (5, 1)
    assert sweep.control is not None and sweep.random_init is not None
    assert sweep.shuffled is not None
    assert float(sweep.score.max()) > float(sweep.shuffled.max()) + 0.3
    assert json.loads((out / "config.json").read_text())["probing"]["n_shuffles"] == 2
    assert "wrote" in capsys.readouterr().out


def test_texts_are_probed_by_their_label(stories: str, shared_data: Path, tmp_path: Path) -> None:
    labels = shared_data / "tasks" / "geometry_of_truth" / "larger_than.csv"
    out = tmp_path / "out"
    assert main(["probe", stories, str(labels), "--out", str(out), "--limit", "200"]) == 0
    sweep = Result.load(out / "sweep")
    assert isinstance(sweep, ProbeSweep) and sweep.control is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layer", "upoz"], "upos"),
        (["--sites", "blocks.*.hook_resid_pots"], "hook_resid_post"),
        (["--limit", "1"], "too few sentences"),
    ],
)
def test_what_cannot_be_is_explained(
    stories: str,
    shared_data: Path,
    tmp_path: Path,
    options: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = str(shared_data / "corpora" / "ud_ewt" / "en_ewt-ud-dev.conllu.gz")
    assert main(["probe", stories, labels, "--out", str(tmp_path / "out"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_texts_without_a_label_are_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"The {'cats' if i % 2 else 'cat'} sat,{i % 2},{i % 2}" for i in range(60)]
    rows += ["The dog sat,,1", "The dogs sat,1,n/a"]
    labels = tmp_path / "a.csv"
    labels.write_text("\n".join(["text,label,size", *rows]) + "\n")
    given = ["probe", "tiny-grammar", str(labels), "--n-shuffles", "1", "--out"]
    assert main([*given, str(tmp_path / "x")]) == 2
    assert "without a label" in capsys.readouterr().err
    assert main([*given, str(tmp_path / "x"), "--missing", "drop", "--layer", "size"]) == 0
    sweep = Result.load(tmp_path / "x" / "sweep")
    assert isinstance(sweep, ProbeSweep) and sweep.n_train + sweep.n_test == 60
    assert main([*given, str(tmp_path / "y"), "--missing", "drop", "--as-text"]) == 0
