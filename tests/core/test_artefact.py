"""`Trained`: what probes, erasers, lenses and dictionaries share, and folders of every schema."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import interp
from interp.core import store
from interp.core.artefact import Trained, fill, provenance_from, provenance_json
from interp.core.errors import CorruptArtefact, ProvenanceError, StorageError
from interp.core.provenance import Provenance
from interp.core.version import VERSION

GOLDEN = Path(__file__).parent / "golden"
ORIGIN = Provenance(
    "tiny", "f" * 64, ("blocks.0.hook_resid_post",), 7, "float32", True, "a" * 64, "none"
)


class Scaler(Trained):
    """The smallest artefact; version 1 kept the logarithm of its factor."""

    schema: ClassVar[str] = "scaler/2"

    def __init__(self, factor: float = 1.0, provenance: Provenance | None = None) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([factor]))
        self.provenance = provenance

    def files(self) -> dict[str, Any]:
        about = {"provenance": provenance_json(self)}
        return {"w.safetensors": self.state_dict(), "about.json": about}

    @classmethod
    def from_files(cls, stored: store.Artefact, version: int) -> Self:
        about = stored.json("about.json")
        made = cls(provenance=provenance_from(about["provenance"], stored.directory))
        tensors = stored.tensors("w.safetensors")
        if version == 1:
            tensors = {"factor": tensors["log_factor"].exp()}
        fill(made, tensors, stored.directory)
        return made


def test_it_comes_back_whole(tmp_path: Path) -> None:
    for origin in (None, ORIGIN):
        Scaler(2.5, origin).save(tmp_path / "s", overwrite=True)
        again = Scaler.load(tmp_path / "s")
        assert float(again.factor) == 2.5 and again.provenance == origin
    with pytest.raises(StorageError, match="overwrite"):
        Scaler().save(tmp_path / "s")


def test_older_schemas_are_migrated_and_newer_ones_named(tmp_path: Path) -> None:
    content = {"w.safetensors": {"log_factor": torch.tensor([0.0])},
               "about.json": {"provenance": None}}  # fmt: skip
    store.commit(tmp_path / "old", content, schema="scaler/1")
    assert float(Scaler.load(tmp_path / "old").factor) == 1.0
    store.commit(tmp_path / "new", content, schema="scaler/3")
    with pytest.raises(StorageError) as caught:
        Scaler.load(tmp_path / "new")
    said = str(caught.value)
    installed = store.open_artefact(tmp_path / "new").manifest["versions"]["interp"]
    for part in (f"written by interp {installed}", f"you have {VERSION}: upgrade", "scaler/3",
                 "pip install", str(tmp_path / "new")):  # fmt: skip
        assert part in said, said


@pytest.mark.parametrize("schema", ["probe/1", "scaler", "scaler/x", "scalers/1", "/2", ""])
def test_other_artefacts_are_refused(schema: str, tmp_path: Path) -> None:
    store.commit(tmp_path / "s", {"about.json": {}}, schema=schema)
    with pytest.raises(StorageError, match="something else"):
        Scaler.load(tmp_path / "s")


@pytest.mark.parametrize(
    "tensors", [{}, {"factor": torch.ones(2)}, {"factor": torch.ones(1), "more": torch.ones(1)}]
)
def test_tensors_that_do_not_fit_are_named(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    content = {"w.safetensors": tensors, "about.json": {"provenance": None}}
    store.commit(tmp_path / "s", content, schema="scaler/2")
    with pytest.raises(CorruptArtefact, match=r"factor|more") as caught:
        Scaler.load(tmp_path / "s")
    assert str(tmp_path / "s") in str(caught.value)


@pytest.mark.parametrize("value", [3, [], {}, {"model": "x"}, {"model": "x", "sights": []}, "x"])
def test_a_provenance_that_is_none_is_corrupt(value: object, tmp_path: Path) -> None:
    with pytest.raises(CorruptArtefact, match="provenance"):
        provenance_from(value, tmp_path)


# --- belonging ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    return interp.load_model("induction-2l")


def test_its_own_model_is_accepted_and_another_is_not(model: interp.HookedModel) -> None:
    site = "blocks.1.hook_resid_post"
    here = model.provenance([site], d_in=model.cfg.d_model, normalisation="none")
    scaler = Scaler(2.0, here)
    assert scaler.for_model(model) is scaler and scaler.provenance == here
    for changes, said in (
        ({"model_fingerprint": "0" * 64}, "model_fingerprint"),
        ({"d_in": 5}, "d_in"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"prepend_bos": not here.prepend_bos}, "prepend_bos"),
        ({"sites": ("blocks.1.hook_resid_pots",)}, "did you mean 'blocks.1.hook_resid_post'"),
    ):
        other = Scaler(2.0, replace(here, **changes))
        with pytest.raises(ProvenanceError, match=said):
            other.for_model(model)
        other.for_model(model, strict=False)
        assert other.provenance is not None and other.provenance.notes


def test_heads_are_read_singly_or_side_by_side(model: interp.HookedModel) -> None:
    site = "blocks.0.attn.hook_z"
    cfg = model.cfg
    for width in (cfg.d_head, cfg.n_heads * cfg.d_head):
        Scaler(1.0, model.provenance([site], d_in=width)).for_model(model)
    with pytest.raises(ProvenanceError, match="d_in"):
        Scaler(1.0, model.provenance([site], d_in=3)).for_model(model)


def test_without_provenance_everything_is_noted_and_nothing_kept(
    model: interp.HookedModel,
) -> None:
    scaler = Scaler()
    assert scaler.for_model(model).provenance is None
    assert any("model_fingerprint" in note for note in scaler.check_model(model).notes)


def test_an_import_notes_the_name_of_another_model(model: interp.HookedModel) -> None:
    """sae-lens keeps `model_name` and never looks at it."""
    for name, is_noted in (("gpt2-small", True), (model.cfg.model_name, False), ("unknown", False)):
        scaler = Scaler(1.0, Provenance(name, "unknown"))
        for _ in range(2):
            scaler.for_model(model)
        assert scaler.provenance is not None
        found = [note for note in scaler.provenance.notes if "made for 'gpt2-small'" in note]
        assert len(found) == is_noted


# --- folders of every schema ever released --------------------------------------------------------


def test_artefacts_of_schema_1_load() -> None:
    """Written by the code that had no common base (commit a8490d6)."""
    from interp.lenses.tuned import TunedLens
    from interp.probing.erasure import Eraser
    from interp.probing.probe import Probe

    told = load_file(GOLDEN / "expected.safetensors")
    probe = Probe.load(GOLDEN / "probe-1")
    assert torch.equal(probe(told["x"]), told["probe"])
    eraser = Eraser.load(GOLDEN / "eraser-1")
    assert torch.allclose(eraser(told["x"]), told["eraser"], rtol=0, atol=1e-12)
    lens = TunedLens.load(GOLDEN / "tuned-lens-1")
    assert torch.allclose(lens("hook_embed", told["x"].float()), told["lens"], rtol=0, atol=1e-6)
    for artefact in (probe, eraser, lens):
        assert artefact.provenance == replace(ORIGIN, normalisation=None)


@pytest.mark.parametrize("name", ["probe", "eraser", "tuned-lens"])
def test_rewriting_changes_no_byte(name: str, tmp_path: Path) -> None:
    from interp.lenses.tuned import TunedLens
    from interp.probing.erasure import Eraser
    from interp.probing.probe import Probe

    kind: Any = {"probe": Probe, "eraser": Eraser, "tuned-lens": TunedLens}[name]
    folder = GOLDEN / f"{name}-1"
    kind.load(folder).save(tmp_path / "again")
    for path in folder.iterdir():
        if path.name != "manifest.json":
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
