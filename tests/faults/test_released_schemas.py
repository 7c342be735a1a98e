"""Folders of every schema ever released still load, and say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from interp import load_model
from interp.dictionaries.formats import load
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


# --- everything trained that the code before the rooms could make (commit d6416e5) -----------------

BEFORE = GOLDEN / "before-the-rooms"
TOLD = load_file(BEFORE / "expected.safetensors")
"""What that code computed from the rows `x`, by the folder's name."""


def named(kind: str) -> list[str]:
    return sorted(folder.name for folder in (BEFORE / kind).iterdir())


@pytest.mark.parametrize("name", named("dictionaries"))
def test_dictionaries_of_every_make_load(name: str) -> None:
    dictionary = load(BEFORE / "dictionaries" / name)
    rows = TOLD["x"][:, None] if name == "hook-z" else TOLD["x"]
    config = dictionary.config
    told = TOLD[f"dictionary/{name}"]
    found = dictionary(rows).reshape(told.shape)
    # Latents are added up, decoder entries are of size 1; matching pursuit subtracts them again.
    size = float(dictionary.encode(rows).detach().float().abs().sum(-1).max())
    terms = (config.max_iterations or 1) * (config.d_in + config.d_sae + 4)
    if config.dtype == "bfloat16":  # sums are taken in float32, what they become is rounded
        size, terms = float(told.abs().max()), 4 * 2**16
    assert_close_across(found, told, terms=terms, scale=size)
    assert dictionary.provenance is not None and dictionary.provenance.model == "tiny"
    assert dictionary.metadata["scores"] == {"fvu": 0.25}


@pytest.mark.parametrize("name", named("probes"))
def test_probes_of_every_kind_load(name: str) -> None:
    probe = Probe.load(BEFORE / "probes" / name)
    kind, _, what = name.rpartition("-")
    assert probe.shape.kind.replace("_", "-") == kind and probe.shape.name == what
    assert_close_across(probe(TOLD["x"]), TOLD[f"probe/{name}"], terms=len(TOLD["x"][0]) + 8 + 4)
    assert probe.provenance is not None and probe.provenance.model == "tiny-grammar"


@pytest.mark.parametrize("name", named("erasers"))
def test_erasers_of_every_method_load(name: str) -> None:
    eraser = Eraser.load(BEFORE / "erasers" / name)
    assert eraser.method.replace("_", "-") == name and bool(eraser.history) is (name == "inlp")
    assert_close_across(eraser(TOLD["x"]), TOLD[f"eraser/{name}"], terms=2 * len(TOLD["x"][0]) + 2)


def test_a_lens_loads_and_still_belongs_to_its_model() -> None:
    lens = TunedLens.load(BEFORE / "lenses" / "noise")
    lens.check_model(load_model("tiny-grammar"))
    for site in lens.rows.values():
        assert_close_across(
            lens(site, TOLD["stream"]), TOLD[f"lens/{site}"], terms=TOLD["stream"].shape[-1] + 2
        )
