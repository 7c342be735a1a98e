"""Rows of the fault matrix for dictionaries on disk: F9, F10, F11, F14, F17, F30."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from interp.core import store
from interp.core.errors import ConfigError, CorruptArtefact, InterpError, ProvenanceError, StorageError
from interp.core.provenance import MATCHED
from interp.core.version import VERSION
from interp.dictionaries import DictionaryConfig, load, load_transcoders, save
from interp.dictionaries.formats import saelens_layout
from interp.dictionaries.formats.building import config_from_json, config_to_json
from tests.dictionaries.test_formats_golden import GOLDEN, gemma
from tests.dictionaries.zoo import MAKES, OURS, make
from tests.faults.test_f11_malicious import CALLS, SAFETENSORS, TORCH, evil_code, torch_zip
from tests.support.closeness import assert_close_across
from tests.support.work import counted_calls

NATIVE = GOLDEN / "native-1"


@pytest.fixture
def _as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files bring in wrong types; the suite's type checker would stop them before our own does."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# --- F9: cut short --------------------------------------------------------------------------------


def cuts(size: int, header: int, n: int) -> list[int]:
    draw = random.Random(5)
    return [*range(header), *(draw.randrange(header, size) for _ in range(n)), size - 1]


def test_f9_a_native_folder_cut_anywhere(tmp_path: Path, full_count: bool) -> None:
    folder = save(make("jumprelu"), tmp_path / "d")
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little") if "weights" in path.name else len(whole)
        points = cuts(len(whole), min(header, len(whole) - 1), 200)
        for cut in points if full_count else points[::7]:
            path.write_bytes(whole[:cut])
            with pytest.raises(CorruptArtefact) as caught:
                load(folder)
            assert str(path) in str(caught.value), cut
            if path.name != "manifest.json":
                assert f"{cut:,} of {len(whole):,} bytes" in str(caught.value)
        path.write_bytes(whole)
    load(folder)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sparsify/layers.3", "sae.safetensors"),
        ("dictionary_learning/AutoEncoderTopK", "ae.pt"),
        ("circuit_tracer/relu", "layer_1.safetensors"),
        ("gemma", "params.npz"),
    ],
)
def test_f9_foreign_files_cut_anywhere(name: str, file: str, tmp_path: Path, full_count: bool) -> None:
    if name == "gemma":
        folder = gemma(tmp_path / "d")
    else:
        folder = Path(shutil.copytree(GOLDEN / name, tmp_path / "d"))
    whole = (folder / file).read_bytes()
    points = cuts(len(whole), 64, 200)
    for cut in points if full_count else points[::9]:
        (folder / file).write_bytes(whole[:cut])
        with pytest.raises(StorageError) as caught:
            load_transcoders(folder) if "circuit" in name else load(folder)
        assert str(folder / file) in str(caught.value), cut


# --- F10: a bit flipped ---------------------------------------------------------------------------


def test_f10_every_flip_is_refused(tmp_path: Path, full_count: bool) -> None:
    folder = save(make("topk"), tmp_path / "d")
    paths = sorted(folder.iterdir())
    draw = random.Random(7)
    n = 1_000 if full_count else 200
    for trial in range(n):
        path = paths[trial % len(paths)]
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(CorruptArtefact) as caught:
            load(folder)
        assert str(path) in str(caught.value)
        path.write_bytes(whole)
    load(folder)


# --- F11: hostile files ---------------------------------------------------------------------------


def refused(folder: Path, where: Path, transcoders: bool = False) -> None:
    """Refused with little work and 100 MB, and the file is named."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InterpError) as caught, counted_calls() as calls:
        load_transcoders(folder) if transcoders else load(folder)
    assert str(where) in str(caught.value)
    assert calls.n < CALLS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize("attack", [name for name in SAFETENSORS if "MB" not in name])
def test_f11_hostile_safetensors_in_every_layout(attack: str, tmp_path: Path) -> None:
    for name, file in (
        ("native-1/gated", "sae_weights.safetensors"),
        ("sparsify/layers.3", "sae.safetensors"),
        ("circuit_tracer/relu", "layer_0.safetensors"),
    ):
        folder = Path(shutil.copytree(GOLDEN / name, tmp_path / file))
        (folder / "manifest.json").unlink(missing_ok=True)
        (folder / file).write_bytes(SAFETENSORS[attack])
        refused(folder, folder / file, transcoders="circuit" in name)


@pytest.mark.parametrize("attack", [name for name in TORCH if "bomb" not in name])
def test_f11_hostile_pickles(attack: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "dictionary_learning/BatchTopKSAE", tmp_path / "d"))
    canary = tmp_path / "canary"
    TORCH[attack](folder / "ae.pt", canary)
    refused(folder, folder / "ae.pt")
    assert not canary.exists()


def test_f11_pickles_of_other_things_than_tensors(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "dictionary_learning/AutoEncoder", tmp_path / "d"))
    for content in ([1, 2], {"encoder.weight": 3}, {"bias": torch.ones(3)}, torch.ones(3), {}):
        torch.save(content, folder / "ae.pt")
        refused(folder, folder / "ae.pt")


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}"


def test_f11_hostile_arrays(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = gemma(tmp_path / "d")
    path = folder / "params.npz"
    pickled = io.BytesIO()
    np.save(pickled, np.array([None], dtype=object), allow_pickle=True)
    head = pickled.getvalue()[: pickled.getvalue().index(b"\n") + 1]
    members = {
        "evil pickle": {"W_enc.npy": head + evil_code(canary)},
        "shape that lies": {"W_enc.npy": npy(HUGE)},
        "no array": {"W_enc.npy": b"not an array"},
        "empty": {},
        "other file": {"../../canary": b"x"},
        "bomb": {
            "W_enc.npy": npy(
                "{'descr': '<f4', 'fortran_order': False, 'shape': (25000000,)}", b"\0" * 100_000_000
            )
        },
        "negative shape": {"W_enc.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,)}")},
        "code for a header": {"W_enc.npy": npy("__import__('os').system('touch x')")},
    }
    for name, content in members.items():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in content.items():
                archive.writestr(member, data)
        refused(folder, path)
        assert not canary.exists(), name
    path.write_bytes(evil_code(canary))
    refused(folder, path)
    torch_zip(path, b"\x80\x02" + evil_code(canary))
    refused(folder, path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{",
        '"x"',
        "3",
        "null",
        "[]",
        '{"d_in": 1e999}',
        '{"interp": {}}',
        '{"interp": {"schema": "dictionary/1", "config": null}}',
        "{}".encode("utf-16"),
        '{"interp": {"schema": "dictionary/1", "config": {"d_in": 13}}}',
        "{}",
        b"\xff\xfe\x00",
    ],
)
@pytest.mark.usefixtures("_as_in_production")
def test_f11_settings_that_are_junk(text: str | bytes, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(NATIVE / "gated", tmp_path / "d"))
    (folder / "manifest.json").unlink()
    data = text.encode() if isinstance(text, str) else text
    (folder / "cfg.json").write_bytes(data)
    refused(folder, folder)


def test_f11_a_yaml_bomb_stays_small(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "circuit_tracer/relu", tmp_path / "d"))
    lines = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9) if i else '1'}]" for i in range(12)]
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text("\n".join([*lines, text]))
    with counted_calls() as calls, pytest.raises(CorruptArtefact, match="aliases"):
        load_transcoders(folder)
    assert calls.n < CALLS


def test_f11_links_out_of_a_vouched_folder_are_refused(tmp_path: Path) -> None:
    folder = save(make("topk"), tmp_path / "d")
    path = folder / "sae_weights.safetensors"
    os.rename(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refused(folder, path)


# --- F14: applied where it does not belong --------------------------------------------------------

OTHER: dict[str, Any] = {
    "model_fingerprint": "0" * 64,
    "sites": ("blocks.0.hook_mlp_out",),
    "d_in": 17,
    "dtype": "bfloat16",
    "prepend_bos": False,
    "tokenizer_hash": "b" * 64,
    "normalisation": "layer_norm",
}


def test_f14_the_table_has_every_field() -> None:
    assert set(OTHER) == set(MATCHED)


@pytest.mark.parametrize("first", MATCHED)
@pytest.mark.parametrize("second", MATCHED)
def test_f14_every_pair_of_mismatches_is_caught(first: str, second: str, tmp_path: Path) -> None:
    save(make("topk"), tmp_path / "d")
    dictionary = load(tmp_path / "d")
    mine = dictionary.provenance
    assert mine is not None
    changes = {first: OTHER[first], second: OTHER[second]}
    with pytest.raises(ProvenanceError) as caught:
        dictionary.for_model(replace(mine, **changes))
    for field in changes:
        for value in (getattr(mine, field), OTHER[field]):
            shown = value[0] if isinstance(value, tuple) else value
            assert field in str(caught.value) and str(shown) in str(caught.value)
    assert dictionary.provenance == mine
    noted = dictionary.for_model(replace(mine, **changes), strict=False).provenance
    assert noted is not None and len(noted.notes) == len(changes)
    assert dictionary.for_model(replace(mine, notes=("x",))) is dictionary


def test_f14_in_a_model(tmp_path: Path) -> None:
    """A dictionary of one bundled model meets another (SAELens: no warning)."""
    import interp

    small, other = interp.load_model("induction-2l"), interp.load_model("tiny-grammar")
    site = "blocks.1.hook_resid_post"
    config = DictionaryConfig(d_in=small.cfg.d_model, d_sae=67, k=3, site_in=site)
    from interp.dictionaries import Dictionary

    dictionary = Dictionary(config)
    dictionary.provenance = small.provenance([site], d_in=config.d_in)
    save(dictionary, tmp_path / "d")
    again = load(tmp_path / "d").for_model(small)
    assert again.provenance == dictionary.provenance
    with pytest.raises(InterpError):
        load(tmp_path / "d").for_model(other)
    moved = load(tmp_path / "d", site_in="blocks.0.hook_resid_post")
    assert moved.for_model(small).site_in == "blocks.0.hook_resid_post"
    with pytest.raises(InterpError, match="hook_resid_post"):
        load(tmp_path / "d", site_in="blocks.9.hook_resid_post").for_model(small)


# --- F17: settings from JSON ----------------------------------------------------------------------

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["topk", "relu", "float32", "hook_z", "none", 10**30, -1, 0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([field.name for field in fields(DictionaryConfig)]) | st.text(max_size=12)


@pytest.mark.usefixtures("_as_in_production")
def test_f17_any_json_is_settings_or_a_config_error(full_count: bool) -> None:
    good = config_to_json(make("batchtopk").config)
    made = 0

    @settings(max_examples=10_000 if full_count else 1_000)
    @given(st.dictionaries(KEYS, JUNK, max_size=3), st.booleans(), JUNK)
    def each(changes: dict[str, Any], over_good: bool, whole: Any) -> None:
        nonlocal made
        for values in ({**good, **changes} if over_good else changes, whole):
            try:
                config = config_from_json(values)
            except ConfigError as error:
                assert error.what
                continue
            assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config
            made += 1

    each()
    assert made > 10  # it does not refuse everything


@pytest.mark.usefixtures("_as_in_production")
def test_f17_the_same_in_a_folder(tmp_path: Path, full_count: bool) -> None:
    """cfg.json of a folder without manifest: a dictionary, or an error that names the folder."""
    folder = Path(shutil.copytree(NATIVE / "gated", tmp_path / "d"))
    (folder / "manifest.json").unlink()
    cfg = json.loads((folder / "cfg.json").read_text())
    plain = {key: value for key, value in cfg.items() if key != "interp"}
    names = st.sampled_from([*plain, "k", "metadata", "interp", "d_out"]) | st.text(max_size=6)

    @settings(max_examples=2_000 if full_count else 200)
    @given(st.dictionaries(names, JUNK, min_size=1, max_size=3), st.booleans())
    def each(changes: dict[str, Any], own: bool) -> None:
        (folder / "cfg.json").write_text(json.dumps({**(cfg if own else plain), **changes}))
        try:
            load(folder)
        except InterpError as error:
            assert str(folder) in str(error)

    each()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"d_in": 3, "d_sea": 5}, "did you mean 'd_sae'"),
        ({"d_in": 3}, "d_sae"),
        ({"d_in": True, "d_sae": 5, "k": 1}, "d_in"),
        ({"d_in": 3, "d_sae": 5, "k": 6}, "at most d_sae = 5"),
        ({"d_in": 3, "d_sae": 5, "k": float("nan")}, "k"),
        ({"d_in": 3, "d_sae": 5, "k": 1, "activation": "top-k"}, "did you mean 'topk'"),
        ({"d_in": 3, "d_sae": 5, "k": 1, "groups": [1, 3]}, "ending in d_sae"),
        ({"d_in": 3, "d_sae": 5, "k": 1, "groups": "15"}, "groups"),
        ([["d_in", 3]], "settings"),
        (None, "settings"),
    ],
)
@pytest.mark.usefixtures("_as_in_production")
def test_f17_errors_name_key_and_cure(values: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_from_json(values)


@pytest.mark.parametrize("name", [*MAKES, *OURS])
def test_f17_settings_survive_json(name: str) -> None:
    config = make(name).config
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


# --- F30: older and newer -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gated", "matryoshka", "topk-skip-transcoder"])
def test_f30_every_schema_released_loads(name: str) -> None:
    told = load_file(NATIVE / f"{name}.safetensors")
    dictionary = load(NATIVE / name)
    wide, high = dictionary.config.d_in, dictionary.config.d_sae
    assert_close_across(dictionary.encode(told["x"]), told["latents"], terms=wide + 2)
    assert_close_across(dictionary(told["x"]), told["out"], terms=wide + high + 4)
    assert dictionary.config == make(name.replace("-", " ")).config
    assert dictionary.provenance == make("gated").provenance or "transcoder" in name


@pytest.mark.parametrize("with_manifest", [True, False])
def test_f30_a_newer_schema_asks_for_an_upgrade(with_manifest: bool, tmp_path: Path) -> None:
    files = saelens_layout.files_of(make("topk"))
    files["cfg.json"]["interp"]["schema"] = "dictionary/2"
    files["cfg.json"]["interp"]["config"]["colour"] = "red"  # what this version cannot know
    folder = store.commit(tmp_path / "d", files, schema="dictionary/2")
    if not with_manifest:
        (folder / "manifest.json").unlink()
    with pytest.raises(StorageError) as caught:
        load(folder)
    said = str(caught.value)
    assert "written by interp" in said and f"you have {VERSION}: upgrade" in said
    assert "dictionary/2" in said and str(folder) in said


def test_f30_another_artefact_is_no_dictionary(tmp_path: Path) -> None:
    files = saelens_layout.files_of(make("topk"))
    folder = store.commit(tmp_path / "d", files, schema="probe/1")
    with pytest.raises(StorageError, match="something else"):
        load(folder)
