"""`interp evaluate`: table, page, JSON and results; refusals before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from interp.cli.main import main
from interp.core.result import Result
from interp.dictionaries import Dictionary, DictionaryConfig, DictionaryReport

SITE = "blocks.3.hook_resid_post"


@pytest.fixture
def places(shared_data: Path, tmp_path: Path) -> list[str]:
    """Model, text, and two dictionaries of different sparsity."""
    for k in (7, 29):
        dictionary = Dictionary(DictionaryConfig(d_in=64, d_sae=97, k=k, site_in=SITE))
        with torch.no_grad():
            dictionary.encoder.mul_(0.5)
        dictionary.save(tmp_path / f"k{k}")
    model = shared_data / "models" / "stories260k"
    text = shared_data / "corpora" / "tinystories" / "tinystories_1000.json"
    return [str(model), str(text), str(tmp_path / "k7"), str(tmp_path / "k29")]


def test_two_dictionaries_are_compared(
    places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    quick = ["--max-sequences", "5", "--n-ctx", "61"]
    assert main(["evaluate", *places, "--out", str(out), *quick]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "evaluation-0",
        "evaluation-1",
        "report.html",
        "report.json",
        "scores.json",
    ]
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores) == ["k7", "k29"] and scores["k7"]["l0"] == 7
    assert scores["k29"]["ce_recovered"] > scores["k7"]["ce_recovered"]
    result = Result.load(out / "evaluation-1")
    assert isinstance(result, DictionaryReport)
    assert result.summary() == scores["k29"]
    printed = capsys.readouterr().out
    assert "CE recovered" in printed and "k29" in printed and "wrote" in printed
    assert main(["evaluate", *places, "--out", str(out), *quick]) == 2  # it is taken


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p[:2], "no dictionary"),
        (lambda p: [*p, p[-1]], "named twice"),
        (lambda p: [p[0], "nowhere.txt", p[2]], "nowhere.txt"),
        (lambda p: [*p[:2], "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_explained(
    places: list[str], tmp_path: Path, change: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = change(places)  # type: ignore[operator]
    assert main(["evaluate", *changed, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
