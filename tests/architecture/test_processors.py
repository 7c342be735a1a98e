"""`make test-processors`: every level with every thread count, and they take effect."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.architecture.source import ROOT


@pytest.fixture(scope="module")
def script() -> Any:
    path = ROOT / "scripts" / "test_processors.py"
    spec = importlib.util.spec_from_file_location("processors", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_suite_runs_with_the_threads_it_was_given() -> None:
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


def test_the_matrix_is_every_level_with_one_and_two_threads(script: Any) -> None:
    every = script.combinations([])
    assert len(every) == len(set(every)) == 6
    assert script.combinations(["avx2"]) == [("avx2", 1), ("avx2", 2)]
    assert script.combinations(["sse4.2-2", "default-1"]) == [("default", 1), ("sse4.2", 2)]
    with pytest.raises(SystemExit, match="avx3"):
        script.combinations(["avx3"])


def test_a_level_takes_effect_or_is_refused(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert "ATEN_CPU_CAPABILITY" not in script.environment("default", 1), "the machine's own"
    assert script.probe("sse4.2", 2) == "DEFAULT"
    monkeypatch.setitem(script.TOOK_EFFECT, "sse4.2", "AVX9")
    with pytest.raises(SystemExit, match="torch has DEFAULT"):
        script.probe("sse4.2", 2)


def test_failures_are_listed(script: Any, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_a(): pass\ndef test_b(): assert 0\ndef test_c(nothing): pass\n"
    )
    options = script.parse(["-n", "0", "--", str(tmp_path / "test_it.py"), "-p", "no:cacheprovider"])
    failed = script.run("default", 1, options, tmp_path / "report.xml")
    assert [name.rsplit("::")[-1] for name in failed] == ["test_b", "test_c"]
