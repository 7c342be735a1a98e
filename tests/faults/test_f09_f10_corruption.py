"""F9, F10: a file cut short or changed in one bit is refused, and the message names it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from interp.core import store
from interp.core.errors import CorruptArtefact, StorageError


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(3)
    weights = {
        "W_enc": torch.randn(13, 53, generator=generator),
        "b_dec": torch.randn(13, generator=generator).bfloat16(),
    }
    files = {"w.safetensors": weights, "cfg.json": {"d_in": 13, "act": "relu"}}
    return store.commit(tmp_path / "sae", files, schema="dictionary", metadata={"note": "x"})


def read_all(folder: Path) -> object:
    found = store.open_artefact(folder, schema="dictionary")
    return found.json("cfg.json"), found.tensors("w.safetensors"), found.metadata


def header_length(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def cuts(path: Path) -> list[int]:
    """Every byte of the header, and 200 random points of the data."""
    size, header = path.stat().st_size, header_length(path)
    rng = random.Random(11)
    return [*range(header + 1), *(rng.randrange(header + 1, size) for _ in range(199)), size - 1]


def test_a_truncated_foreign_file_is_refused_by_name_and_size(artefact: Path) -> None:
    path = artefact / "w.safetensors"
    whole, header = path.read_bytes(), header_length(path)
    copy = artefact.parent / "foreign.safetensors"
    for cut in cuts(path):
        copy.write_bytes(whole[:cut])
        with pytest.raises(CorruptArtefact) as caught:
            store.load_tensors(copy)
        assert str(copy) in caught.value.what, cut
        if cut >= header:
            assert f"{cut:,} of {len(whole):,} bytes" in caught.value.what
            assert "re-download" in str(caught.value.fix)
    copy.write_bytes(whole)
    assert store.load_tensors(copy)["W_enc"].shape == (13, 53)


def test_a_foreign_file_that_grew_is_refused(artefact: Path) -> None:
    path = artefact.parent / "foreign.safetensors"
    path.write_bytes((artefact / "w.safetensors").read_bytes() + b"\0")
    with pytest.raises(CorruptArtefact, match=r"foreign\.safetensors"):
        store.load_tensors(path)


def test_a_truncated_artefact_is_refused_by_name_and_size(artefact: Path) -> None:
    for name in ("w.safetensors", "cfg.json", "manifest.json"):
        path = artefact / name
        whole = path.read_bytes()
        points = cuts(path) if name == "w.safetensors" else range(len(whole))
        for cut in points:
            path.write_bytes(whole[:cut])
            with pytest.raises(CorruptArtefact) as caught:
                read_all(artefact)
            assert str(path) in caught.value.what
            if name != "manifest.json":
                assert f"{cut:,} of {len(whole):,} bytes" in caught.value.what
        path.write_bytes(whole)
    read_all(artefact)


def test_truncation_after_opening_is_noticed(artefact: Path) -> None:
    found = store.open_artefact(artefact)
    path = artefact / "w.safetensors"
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CorruptArtefact, match="100 of "):
        found.tensors("w.safetensors")


def test_every_random_bit_flip_is_refused(artefact: Path) -> None:
    rng = random.Random(17)
    paths = sorted(artefact.iterdir())
    assert [p.name for p in paths] == ["cfg.json", "manifest.json", "w.safetensors"]
    refused = 0
    for trial in range(1_000):
        path = paths[trial % len(paths)]
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(CorruptArtefact) as caught:
            read_all(artefact)
        assert str(path) in caught.value.what
        refused += 1
        path.write_bytes(whole)
    assert refused == 1_000
    read_all(artefact)


def test_every_single_bit_of_the_manifest_counts(artefact: Path, full_count: bool) -> None:
    path = artefact / "manifest.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 1 if full_count else 5):
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(CorruptArtefact):
                store.open_artefact(artefact)


def test_the_format_alone_does_not_notice(artefact: Path) -> None:
    """Why the manifest exists: safetensors has no checksum."""
    path = artefact / "w.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    safetensors.torch.load_file(path)
    with pytest.raises(CorruptArtefact, match="has changed since it was written"):
        store.open_artefact(artefact)


@pytest.mark.parametrize("name", ["w.safetensors", "cfg.json", "manifest.json"])
def test_a_missing_file_is_named(artefact: Path, name: str) -> None:
    (artefact / name).unlink()
    with pytest.raises(StorageError, match=name.replace(".", r"\.")):
        store.open_artefact(artefact)


def test_files_of_two_artefacts_do_not_mix(artefact: Path) -> None:
    """Each whole by itself, together never written: as after a careless copy."""
    other = store.commit(artefact.parent / "b", {"cfg.json": {"d_in": 17}}, schema="dictionary")
    shutil.copy(other / "cfg.json", artefact / "cfg.json")
    with pytest.raises(CorruptArtefact, match=r"cfg\.json"):
        store.open_artefact(artefact)
