"""Tiny folders written by the libraries themselves (golden/README.md), read to the last digit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor

from interp.core.errors import ConfigError, CorruptArtefact, InterpError, StorageError
from interp.core.provenance import UNKNOWN
from interp.dictionaries import Dictionary
from interp.dictionaries.formats import load, load_transcoders, recognise, save, save_transcoders
from tests.dictionaries.zoo import make
from tests.support.closeness import assert_close_across

GOLDEN = Path(__file__).parent / "golden"
LIBRARY = [
    *(
        f"dictionary_learning/{name}"
        for name in (
            "AutoEncoder",
            "GatedAutoEncoder",
            "AutoEncoderTopK",
            "BatchTopKSAE",
            "MatryoshkaBatchTopKSAE",
            "JumpReluAutoEncoder",
        )
    ),
    "sparsify/layers.3",
    "sparsify/layers.3.mlp",
    "sparsify/h.1.mlp",
]


def same(found: Tensor, told: Tensor, *widths: int) -> None:
    """Another machine's file, to the last digits: products over `widths`, a bias and mean each."""
    assert widths, "nothing was summed: no bound follows"
    assert_close_across(found.detach(), told, terms=sum(widths) + 2 * len(widths))


def copied(name: str, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(GOLDEN / name, tmp_path / Path(name).name))


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_and_we_compute_the_same(name: str, tmp_path: Path) -> None:
    dictionary = load(GOLDEN / name)
    told = safetensors.torch.load_file(GOLDEN / name / "expected.safetensors")
    same(dictionary.encode(told["x"]), told["latents"], dictionary.config.d_in)
    same(dictionary(told["x"]), told["out"], dictionary.config.d_in, dictionary.config.d_sae)
    save(dictionary, tmp_path / "native")
    again = load(tmp_path / "native")
    assert again.config == dictionary.config and torch.equal(again(told["x"]), dictionary(told["x"]))
    assert 0.02 < float((told["latents"] != 0).float().mean()) < 0.6


@pytest.mark.parametrize("name", LIBRARY)
def test_imports_know_where_they_belong_and_that_nobody_vouches(name: str) -> None:
    dictionary = load(GOLDEN / name)
    known = dictionary.provenance
    assert known is not None and known.model_fingerprint == UNKNOWN
    assert "no manifest" in known.notes[0]
    sites = (dictionary.site_in, dictionary.site_out)
    if name.startswith("dictionary_learning"):
        assert sites == ("blocks.2.hook_resid_post",) * 2 and known.model == "EleutherAI/pythia-70m"
    elif name.endswith("mlp"):
        block = f"blocks.{name.split('.')[-2]}."
        assert sites == (block + "ln2.hook_normalized", block + "hook_mlp_out")
        assert dictionary.config.skip is ("layers" in name)
    else:
        assert sites == ("blocks.3.hook_resid_post",) * 2


def test_matryoshka_groups_are_kept() -> None:
    dictionary = load(GOLDEN / "dictionary_learning/MatryoshkaBatchTopKSAE")
    assert dictionary.config.groups == (8, 29) and dictionary.config.k == 5


def test_groupmax_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="groupmax"):
        load(GOLDEN / "sparsify/groupmax")


# --- what an importer gets wrong in silence -------------------------------------------------------


def test_topk_without_settings_is_not_guessed(tmp_path: Path) -> None:
    """TopK and BatchTopK have the same tensors; as ReLU either has several times the L0."""
    folder = copied("dictionary_learning/AutoEncoderTopK", tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(StorageError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dict_class": "AutoEncoder"}, "tensors"),
        ({"dict_class": "AutoEncoderTopk"}, "did you mean 'AutoEncoderTopK'"),
        ({"dict_class": None}, "dict_class"),
        ({"dict_class": ["AutoEncoderTopK"]}, "dict_class has a wrong value"),
        ({"k": 6}, "contradicts"),
        ({"dict_size": 28}, "W_dec"),
        ({"activation_dim": "13"}, "activation_dim"),
        ({"activation_dim": 14}, "W_dec"),
    ],
)
def test_dictionary_learning_settings_must_fit(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = copied("dictionary_learning/AutoEncoderTopK", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["trainer"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InterpError, match=said) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": 30}, "needs k"),
        ({"k": None}, "'k'"),
        ({"num_latents": 31}, "W_dec"),
        ({"num_latents": 0, "expansion_factor": 32}, "W_dec"),
        ({"signed": True}, "signed"),
        ({"skip_connection": True}, "skip"),
        ({"transcode": True, "skip_connection": True}, "W_skip"),
        ({"d_in": 13.0}, "d_in"),
        ({"sparsity": 3}, "sparsity"),
    ],
)
def test_sparsify_settings_must_fit(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = copied("sparsify/layers.3", tmp_path)
    cfg = json.loads((folder / "cfg.json").read_text()) | changes
    (folder / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(InterpError, match=said) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_sparsify_widths_by_expansion(tmp_path: Path) -> None:
    folder = copied("sparsify/layers.3", tmp_path)
    cfg = json.loads((folder / "cfg.json").read_text()) | {"num_latents": 0, "expansion_factor": 2}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    path = folder / "sae.safetensors"
    tensors = safetensors.torch.load_file(path)
    wide = {n: t[:26].clone() if len(t) == 29 else t for n, t in tensors.items()}
    safetensors.torch.save_file(wide, path)
    assert load(folder).config.d_sae == 26


def test_a_place_without_a_name_is_left_open_and_can_be_told(tmp_path: Path) -> None:
    folder = copied("sparsify/layers.3", tmp_path)
    other = folder.rename(tmp_path / "custom.module")
    assert load(other).site_in == ""
    dictionary = load(other, site_in="blocks.7.hook_resid_pre")
    assert dictionary.site_in == dictionary.site_out == "blocks.7.hook_resid_pre"
    assert dictionary.provenance is not None
    assert dictionary.provenance.sites == ("blocks.7.hook_resid_pre",)


# --- circuit-tracer -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "jumprelu_skip"])
def test_circuit_tracer_sets_both_ways(name: str, tmp_path: Path) -> None:
    folder = GOLDEN / "circuit_tracer" / name
    layers = load_transcoders(folder)
    told = safetensors.torch.load_file(folder / "expected.safetensors")
    for i, transcoder in enumerate(layers):
        config = transcoder.config
        same(transcoder.encode(told["x"]), told["latents"][i], config.d_in)
        same(transcoder(told["x"]), told["out"][i], config.d_in, config.d_sae)
        assert transcoder.site_in == f"blocks.{i}.ln2.hook_normalized"
        assert transcoder.site_out == f"blocks.{i}.hook_mlp_out"
        save(transcoder, tmp_path / f"native_{i}")
    again = [load(tmp_path / f"native_{i}") for i in (1, 0)]
    save_transcoders(again, tmp_path / "set", scan="golden")
    for i in range(2):
        ours = safetensors.torch.load_file(tmp_path / "set" / f"layer_{i}.safetensors")
        theirs = safetensors.torch.load_file(folder / f"layer_{i}.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    written = yaml.safe_load((tmp_path / "set" / "config.yaml").read_text())
    assert written == yaml.safe_load((folder / "config.yaml").read_text())
    one = load(tmp_path / "set" / "layer_1.safetensors")
    assert torch.equal(one(told["x"]), layers[1](told["x"]))


def test_a_set_has_every_layer_once_and_says_only_what_the_format_can(tmp_path: Path) -> None:
    layers = load_transcoders(GOLDEN / "circuit_tracer/relu")
    with pytest.raises(ConfigError, match="without a gap"):
        save_transcoders(layers[1:], tmp_path / "set")
    with pytest.raises(ConfigError, match="without a gap"):
        save_transcoders([layers[0], layers[0]], tmp_path / "set")
    with pytest.raises(ConfigError, match="at least one"):
        save_transcoders([], tmp_path / "set")
    with pytest.raises(ConfigError, match="one site of a block to another"):
        save_transcoders([make("standard")], tmp_path / "set")
    square = {"d_out": 13, "site_in": "blocks.0.a", "site_out": "blocks.0.b"}
    topk = from_make("topk transcoder", **square)
    with pytest.raises(ConfigError, match="to_jumprelu"):
        save_transcoders([topk], tmp_path / "set")
    other = from_make("transcoder", **square)
    with pytest.raises(ConfigError, match="one kind of site"):
        save_transcoders([other, layers[1]], tmp_path / "set")
    assert not (tmp_path / "set").exists()
    with pytest.raises(StorageError, match="one transcoder per layer"):
        load(GOLDEN / "circuit_tracer/relu")


def from_make(name: str, **changes: Any) -> Dictionary:
    from dataclasses import replace

    return Dictionary(replace(make(name).config, **changes))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model_kind: cross_layer_transcoder\n", "cross_layer_transcoder"),
        ("model_kind: transcoder_set\nfeature_input_hook: a\n", "feature_output_hook"),
        ("- 3\n", "model_kind"),
        ("a: [\n", "no YAML"),
        ("!!python/object/apply:os.system ['touch canary']\n", "no YAML"),
        (None, "has no config.yaml"),
    ],
)
def test_a_set_without_sites_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    folder = copied("circuit_tracer/relu", tmp_path)
    (folder / "config.yaml").unlink()
    if content is not None:
        (folder / "config.yaml").write_text(content)
    with pytest.raises(InterpError, match=said):
        load_transcoders(folder)
    assert not Path("canary").exists()


def test_a_set_with_a_gap_or_a_transposed_encoder_is_refused(tmp_path: Path) -> None:
    folder = copied("circuit_tracer/relu", tmp_path)
    path = folder / "layer_1.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(CorruptArtefact, match="transpose"):
        load_transcoders(folder)
    path.rename(folder / "layer_2.safetensors")
    with pytest.raises(StorageError, match=r"\[0, 2\]"):
        load_transcoders(folder)


# --- Gemma Scope ----------------------------------------------------------------------------------


def gemma(folder: Path, **arrays: Any) -> Path:
    """A folder as Google published it, 13 wide."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    content = {
        "W_enc": draw.normal(size=(13, 29)),
        "W_dec": draw.normal(size=(29, 13)),
        "b_enc": draw.normal(size=29),
        "b_dec": draw.normal(size=13),
        "threshold": draw.uniform(0.5, 2, size=29),
    } | arrays
    kept = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in content.items()}
    np.savez(folder / "params.npz", **kept)
    return folder


@pytest.mark.parametrize(
    ("path", "site_in", "site_out"),
    [
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "blocks.20.hook_resid_post", ""),
        ("gemma-scope-9b-it-mlp/layer_3/width_16k/average_l0_5", "blocks.3.hook_mlp_out", ""),
        ("gemma-scope-2b-pt-att/layer_0/width_16k/average_l0_9", "blocks.0.attn.hook_z", ""),
        (
            "gemma-scope-2b-pt-transcoders/layer_5/width_16k/average_l0_7",
            "blocks.5.ln2.hook_normalized",
            "blocks.5.hook_mlp_out",
        ),
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", "hook_embed", ""),
        ("mine", "", ""),
    ],
)
def test_gemma_scope_against_the_formula(path: str, site_in: str, site_out: str, tmp_path: Path) -> None:
    folder = gemma(tmp_path / path)
    dictionary = load(folder)
    assert dictionary.config.site_in == site_in and dictionary.config.site_out == site_out
    assert dictionary.config.is_transcoder is bool(site_out)
    params = {n: torch.from_numpy(a) for n, a in np.load(folder / "params.npz").items()}
    x = torch.randn(17, 13)
    factor = 13**0.5 if "embedding" in path else 1.0
    pre = x / factor @ params["W_enc"] + params["b_enc"]
    latents = torch.where(pre > params["threshold"], pre, torch.zeros(())).relu()
    width, high = params["W_enc"].shape
    same(dictionary.encode(x), latents, width)
    same(dictionary(x), latents @ params["W_dec"] * factor + params["b_dec"], width, high)
    assert dictionary.metadata == ({} if path == "mine" else {"l0": int(path.split("_")[-1])})


def test_gemma_scope_arrays_must_fit(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtefact, match="W_dec"):
        load(gemma(tmp_path / "a", W_enc=np.zeros((29, 13))))
    with pytest.raises(CorruptArtefact, match="surprise"):
        load(gemma(tmp_path / "b", surprise=np.zeros(3)))
    with pytest.raises(CorruptArtefact, match="object"):
        load(gemma(tmp_path / "c", threshold=np.array([object()] * 29)))
    with pytest.raises(InterpError, match="b_enc"):
        load(gemma(tmp_path / "d", b_enc=np.zeros(28)))


# --- which is which -------------------------------------------------------------------------------


def test_layouts_are_told_apart_by_their_files(tmp_path: Path) -> None:
    assert recognise(GOLDEN / "sparsify/layers.3") == "sparsify"
    assert recognise(GOLDEN / "dictionary_learning/AutoEncoder") == "dictionary_learning"
    assert recognise(GOLDEN / "circuit_tracer/relu") == "circuit_tracer"
    assert recognise(save(make("topk"), tmp_path / "ours")) == "saelens"
    assert recognise(gemma(tmp_path / "g")) == "gemma_scope"
    assert recognise(GOLDEN) is None
    folder = copied("sparsify/layers.3", tmp_path)
    shutil.copy(GOLDEN / "dictionary_learning/AutoEncoder/ae.pt", folder)
    with pytest.raises(StorageError, match="two layouts"):
        load(folder)


def test_folders_without_a_dictionary_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"did you mean .*layers\.3"):
        load(GOLDEN / "sparsify")
    save(make("topk"), tmp_path / "layer_3")
    with pytest.raises(StorageError, match="did you mean 'layer_3'"):
        load(tmp_path / "layer_4")
    for odd in ("x" * 5000, "a\0b", "~nobody/x", "", "release/" + "x" * 300, "a/b/c/d"):
        with pytest.raises(StorageError):
            load(odd)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="no dictionary of a known layout"):
        load(tmp_path / "empty")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(StorageError, match="is no dictionary"):
        load(tmp_path / "x.txt")
    assert load(tmp_path / "layer_3" / "sae_weights.safetensors").config.k == 7
