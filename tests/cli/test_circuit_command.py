"""`interp circuit` and `interp patch`: what they write, and what they refuse before a model runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.circuits import Circuit, EdgeScores, FaithfulnessCurve, PatchEffects
from interp.cli.main import main


def test_circuit_writes_the_page_and_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["circuit", "tiny-grammar", "indirect-object", "--n", "4", "--n-random", "2", "--edges", "30"]
    assert main([*command, "--method", "eap", "--out", str(tmp_path / "c")]) == 0
    said = capsys.readouterr().out
    assert "FaithfulnessCurve" in said and "report.html" in said
    circuit = Circuit.load(tmp_path / "c" / "circuit")
    scores = EdgeScores.load(tmp_path / "c" / "scores")
    curve = FaithfulnessCurve.load(tmp_path / "c" / "curve")
    assert 20 < circuit.n_edges <= 30 and scores.method == "eap" and float(curve.faithfulness[-1]) > 0.99
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert "Circuit · indirect-object" in page
    assert json.loads((tmp_path / "c" / "config.json").read_text())["method"] == "eap"


def test_patch_writes_a_grid_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["patch", "tiny-grammar", "indirect-object", "--n", "2", "--what", "heads"]
    assert main([*command, "--direction", "noise", "--out", str(tmp_path / "p")]) == 0
    grid = PatchEffects.load(tmp_path / "p" / "heads")
    assert grid.direction == "noise" and tuple(grid.effects.shape) == (4, 4)
    capsys.readouterr()


def test_your_own_task_on_a_real_model(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """stories260k, asked for the pronoun, from a file as a user writes it."""
    rows = []
    for word in ("sad", "happy", "big"):
        for this, that, right, wrong in (("girl", "boy", " she", " he"), ("boy", "girl", " he", " she")):
            texts = (f"The {who} was {word} because" for who in (this, that))
            clean, corrupted = texts
            rows.append({"clean": clean, "corrupted": corrupted, "answers": [right], "distractors": [wrong]})
    (tmp_path / "who.json").write_text(json.dumps({"name": "who", "prompts": rows}))
    model = str(shared_data / "models" / "stories260k")
    told = ["--n", "3", "--out", str(tmp_path / "c"), "--n-random", "2", "--method", "eap"]
    code = main(["circuit", model, str(tmp_path / "who.json"), *told])
    assert code == 0, capsys.readouterr().err
    assert FaithfulnessCurve.load(tmp_path / "c" / "curve").metric == "logit difference"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--metric", "accuracy"], "no gradient"),
        (["--method", "eap", "--steps", "3"], "steps"),
        (["--n", "0"], "prompts"),
        (["--edges", "9999"], "that many edges"),
        (["--metric", "logit_diference"], "logit_difference"),
    ],
)
def test_what_cannot_be_is_refused(
    more: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["circuit", "tiny-grammar", "indirect-object", "--n", "2", "--n-random", "1"]
    assert main([*command, "--out", str(tmp_path / "c"), *more]) == 2
    assert told in capsys.readouterr().err
