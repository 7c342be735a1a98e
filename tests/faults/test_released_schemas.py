"""Folders of every schema ever released still load, and say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from interp.lenses.tuned import TunedLens
from interp.probing.erasing.eraser import Eraser
from interp.probing.probe import Probe
from tests.core.test_artefact import ORIGIN
from tests.support.closeness import assert_close_across

GOLDEN = Path(__file__).parent / "golden"


def test_artefacts_of_schema_1_load() -> None:
    """Written by the code that had no common base (commit a8490d6)."""
    told = load_file(GOLDEN / "expected.safetensors")
    width = told["x"].shape[-1]
    probe = Probe.load(GOLDEN / "probe-1")  # scaled, one product, a bias
    assert_close_across(probe(told["x"]), told["probe"], terms=width + 3)
    eraser = Eraser.load(GOLDEN / "eraser-1")  # a product down, one up, the mean off and on
    assert_close_across(eraser(told["x"]), told["eraser"], terms=2 * width + 2)
    lens = TunedLens.load(GOLDEN / "tuned-lens-1")  # one product and a bias on top of the rows
    assert_close_across(lens("hook_embed", told["x"].float()), told["lens"], terms=width + 2)
    for artefact in (probe, eraser, lens):
        assert artefact.provenance == replace(ORIGIN, normalisation=None)


@pytest.mark.parametrize("name", ["probe", "eraser", "tuned-lens"])
def test_rewriting_changes_no_byte(name: str, tmp_path: Path) -> None:
    kind: Any = {"probe": Probe, "eraser": Eraser, "tuned-lens": TunedLens}[name]
    folder = GOLDEN / f"{name}-1"
    kind.load(folder).save(tmp_path / "again")
    for path in folder.iterdir():
        if path.name != "manifest.json":
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
