"""`Trained`: what probes, erasers, lenses and dictionaries share, and folders of every schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import nn

from interp.core import store
from interp.core.artefact import Trained, fill, provenance_from, provenance_json
from interp.core.errors import CorruptArtefact, StorageError
from interp.core.provenance import Provenance
from interp.core.version import VERSION

ORIGIN = Provenance("tiny", "f" * 64, ("blocks.0.hook_resid_post",), 7, "float32", True, "a" * 64, "none")


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
    content = {"w.safetensors": {"log_factor": torch.tensor([0.0])}, "about.json": {"provenance": None}}
    store.commit(tmp_path / "old", content, schema="scaler/1")
    assert float(Scaler.load(tmp_path / "old").factor) == 1.0
    store.commit(tmp_path / "new", content, schema="scaler/3")
    with pytest.raises(StorageError) as caught:
        Scaler.load(tmp_path / "new")
    said = str(caught.value)
    installed = store.open_artefact(tmp_path / "new").manifest["versions"]["interp"]
    for part in (
        f"written by interp {installed}",
        f"you have {VERSION}: upgrade",
        "scaler/3",
        "pip install",
        str(tmp_path / "new"),
    ):
        assert part in said, said


@pytest.mark.parametrize("schema", ["probe/1", "scaler", "scaler/x", "scalers/1", "/2", ""])
def test_other_artefacts_are_refused(schema: str, tmp_path: Path) -> None:
    store.commit(tmp_path / "s", {"about.json": {}}, schema=schema)
    with pytest.raises(StorageError, match="something else"):
        Scaler.load(tmp_path / "s")


@pytest.mark.parametrize(
    "tensors", [{}, {"factor": torch.ones(2)}, {"factor": torch.ones(1), "more": torch.ones(1)}]
)
def test_tensors_that_do_not_fit_are_named(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    content = {"w.safetensors": tensors, "about.json": {"provenance": None}}
    store.commit(tmp_path / "s", content, schema="scaler/2")
    with pytest.raises(CorruptArtefact, match=r"factor|more") as caught:
        Scaler.load(tmp_path / "s")
    assert str(tmp_path / "s") in str(caught.value)


@pytest.mark.parametrize("value", [3, [], {}, {"model": "x"}, {"model": "x", "sights": []}, "x"])
def test_a_provenance_that_is_none_is_corrupt(value: object, tmp_path: Path) -> None:
    with pytest.raises(CorruptArtefact, match="provenance"):
        provenance_from(value, tmp_path)
