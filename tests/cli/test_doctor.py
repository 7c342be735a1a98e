"""`interp doctor`: true facts, in a table and as JSON."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from interp.cli import doctor
from interp.cli.main import main


def test_it_prints_and_writes_the_same_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["system"]["python"] == platform.python_version()
    assert facts["packages"]["torch"] == torch.__version__
    assert len(facts["devices"]["cuda"]) == torch.cuda.device_count()
    written = json.loads((tmp_path / "interp-out" / "doctor.json").read_text())
    assert written["packages"] == facts["packages"]


def test_it_knows_every_requirement_of_the_package() -> None:
    names = doctor.examine()["packages"]
    assert {"torch", "jinja2", "pyyaml", "sae-lens", "transformer-lens", "scikit-learn"} <= set(names)
    assert None not in names.values()
    assert "pytest" not in names


def test_a_missing_requirement_is_named_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "captum" else "1.0")
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "captum" in captured.err
    assert "pip install" in captured.err
    assert "not found" in captured.out


def test_the_browser_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/somewhere/chrome")
    assert doctor.examine()["browser"] == {"chromium": "/somewhere/chrome"}
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setenv("PATH", "")
    assert doctor.examine()["browser"] == {"chromium": None}
