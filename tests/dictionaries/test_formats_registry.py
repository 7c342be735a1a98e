"""sae-lens's registry, read from a cache in Hugging Face's layout that the test itself fills."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch

from interp.core.errors import ConfigError, CorruptArtefact, StorageError
from interp.dictionaries.formats import load, registry
from tests.dictionaries.test_formats_golden import GOLDEN, gemma, same
from tests.dictionaries.zoo import D, M, make, rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which sae-lens uses, too."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, repo: str, files: dict[str, bytes]) -> Path:
    """Files as the hub's client leaves them: blobs by hash, linked from a snapshot."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "blobs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        blob = root / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        link = root / "snapshots" / COMMIT / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * len(link.relative_to(root).parent.parts), "blobs", blob.name))
    return root / "snapshots" / COMMIT


def old_folder(name: str, **changes: Any) -> dict[str, bytes]:
    """Files of a release from before sae-lens 6."""
    dictionary = make(name)
    cfg = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": M,
        "dtype": "torch.float32",
        "device": "mps",
        "activation_fn_str": "relu",
        "apply_b_dec_to_input": True,
        "model_name": "gpt2-small",
        "hook_point": "blocks.8.hook_resid_pre",
        "hook_point_layer": 8,
        "context_size": 128,
        "finetuning_scaling_factor": False,
        "normalize_activations": "none",
        **changes,
    }
    state = {k: t.detach() for k, t in dictionary.state_dict().items()}
    state["W_enc"] = state.pop("encoder").T.contiguous()
    return {
        "cfg.json": json.dumps(cfg).encode(),
        "sae_weights.safetensors": safetensors.torch.save(state),
        "sparsity.safetensors": safetensors.torch.save({"sparsity": torch.linspace(-6, 0, M)}),
    }


def put_folder(cache: Path, repo: str, folder: str, files: dict[str, bytes]) -> Path:
    return put(cache, repo, {f"{folder}/{name}": data for name, data in files.items()})


def test_a_release_of_sae_lens(cache: Path) -> None:
    repo, name = "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre"
    put_folder(cache, repo, name, old_folder("standard"))
    dictionary = load(f"gpt2-small-res-jb/{name}")
    sae = SAE.from_pretrained("gpt2-small-res-jb", name)
    widths = dictionary.config.d_in, dictionary.config.d_sae
    same(dictionary.encode(rows()), sae.encode(rows()), widths[0])
    same(dictionary(rows()), sae(rows()), *widths)
    assert dictionary.site_in == name
    assert dictionary.metadata["release"] == "gpt2-small-res-jb"
    assert torch.equal(dictionary.metadata["sparsity"], torch.linspace(-6, 0, M))
    known = dictionary.provenance
    assert known is not None and known.model == "gpt2-small"
    assert any("center_writing_weights" in note for note in known.notes)


def test_the_scale_of_normalised_activations_is_folded(cache: Path) -> None:
    table = get_pretrained_saes_directory()["gpt2-small-mlp-tm"]
    name = "blocks.1.hook_mlp_out"
    files = old_folder("standard", normalize_activations="expected_average_only_in")
    put_folder(cache, table.repo_id, table.saes_map[name], files)
    dictionary = load(f"gpt2-small-mlp-tm/{name}")
    sae = SAE.from_pretrained("gpt2-small-mlp-tm", name)
    widths = dictionary.config.d_in, dictionary.config.d_sae
    same(dictionary.encode(rows()), sae.encode(rows()), widths[0])
    same(dictionary(rows()), sae(rows()), *widths)
    assert dictionary.config.normalize_activations == "none"
    assert table.norm_scaling_factor[name] != 1


def test_topk_is_topk(cache: Path) -> None:
    """Loaded as ReLU, which is what its `architecture` says, it has four times the L0."""
    table = get_pretrained_saes_directory()["gpt2-small-resid-post-v5-32k"]
    name = "blocks.3.hook_resid_post"
    told = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}}
    files = old_folder("topk", normalize_activations="layer_norm", **told)
    put_folder(cache, table.repo_id, table.saes_map[name], files)
    dictionary = load(f"gpt2-small-resid-post-v5-32k/{name}")
    sae = SAE.from_pretrained("gpt2-small-resid-post-v5-32k", name)
    same(dictionary(rows()), sae(rows()), dictionary.config.d_in, dictionary.config.d_sae)
    assert dictionary.config.k == 7 and int((dictionary.encode(rows()) > 0).sum(-1).max()) <= 7


@pytest.mark.parametrize("kind", ["AutoEncoderTopK", "JumpReluAutoEncoder", "GatedAutoEncoder"])
def test_a_release_of_dictionary_learning(cache: Path, kind: str) -> None:
    release = "sae_bench_gemma-2-2b_topk_width-2pow12_date-1109"
    table = get_pretrained_saes_directory()[release]
    name = "blocks.12.hook_resid_post__trainer_0"
    source = GOLDEN / "dictionary_learning" / kind
    files = {file: (source / file).read_bytes() for file in ("ae.pt", "config.json")}
    config = json.loads(files["config.json"])
    config["trainer"]["submodule_name"] = "model.layers.12"
    files["config.json"] = json.dumps(config).encode()
    put_folder(cache, table.repo_id, table.saes_map[name], files)
    dictionary = load(f"{release}/{name}")
    widths = dictionary.config.d_in, dictionary.config.d_sae
    same(dictionary(rows()), SAE.from_pretrained(release, name)(rows()), *widths)
    assert dictionary.site_in == "blocks.12.hook_resid_post"


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("gemma-scope-2b-pt-res-canonical", "layer_20/width_16k/canonical"),
        ("gemma-scope-2b-pt-transcoders", "layer_0/width_16k/average_l0_76"),
    ],
)
def test_a_release_of_gemma_scope(cache: Path, tmp_path: Path, release: str, name: str) -> None:
    table = get_pretrained_saes_directory()[release]
    data = (gemma(tmp_path / "made") / "params.npz").read_bytes()
    put(cache, table.repo_id, {f"{table.saes_map[name]}/params.npz": data})
    dictionary = load(f"{release}/{name}")
    layer = name.split("/")[0].removeprefix("layer_")
    reads = "hook_resid_post" if "res" in release.split("-") else "ln2.hook_normalized"
    assert dictionary.site_in == f"blocks.{layer}.{reads}"
    assert dictionary.config.is_transcoder is ("transcoders" in release)
    assert dictionary.metadata["repository"] == table.repo_id


def test_a_layout_that_only_sae_lens_reads(cache: Path) -> None:
    table = get_pretrained_saes_directory()["gpt2-small-hook-z-kk"]
    name = "blocks.0.hook_z"
    dictionary = make("standard")
    state = {k: t.detach() for k, t in dictionary.state_dict().items()}
    state["W_enc"] = state.pop("encoder").T
    file = table.saes_map[name]
    cache.mkdir()
    torch.save(state, cache / "w.pt")
    cfg = {"act_size": D, "dict_size": M, "act_name": "blocks.0.attn.hook_z"}
    content = {file: (cache / "w.pt").read_bytes()}
    content[file.split(".pt")[0] + "_cfg.json"] = json.dumps(cfg).encode()
    put(cache, table.repo_id, content)
    loaded = load(f"gpt2-small-hook-z-kk/{name}")
    x = rows().reshape(-1, D, 1)
    assert loaded.config.reshape == "hook_z"
    widths = dictionary.config.d_in, dictionary.config.d_sae
    same(loaded(x), dictionary(rows()).detach().reshape(-1, D, 1), *widths)


# --- what is missing ------------------------------------------------------------------------------

NAME = "gpt2-small-res-jb/blocks.8.hook_resid_pre"


def test_nothing_is_downloaded_unasked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hub allowed by the environment: the suite's guard would stop a request."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(StorageError) as caught:
        load(NAME)
    said = str(caught.value)
    looked = cache / "models--jbloom--GPT2-Small-SAEs-Reformatted"
    for part in (NAME, "cfg.json", "sae_weights.safetensors", str(looked), "allow_download=True"):
        assert part in said, said
    with pytest.raises(StorageError, match="allow_download"):
        load("gpt2-small-hook-z-kk/blocks.0.hook_z")


def test_a_download_that_cannot_be_says_why(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="HF_HUB_OFFLINE"):
        load(NAME, allow_download=True)

    def fails(*args: Any, **kwargs: Any) -> str:
        assert kwargs["local_files_only"] is False
        assert kwargs["allow_patterns"][0] == "blocks.8.hook_resid_pre/cfg.json"
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(StorageError, match="no route to host"):
        load(NAME, allow_download=True)


def test_a_half_filled_cache_names_the_file(cache: Path) -> None:
    files = old_folder("standard")
    del files["sae_weights.safetensors"]
    put_folder(cache, "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre", files)
    with pytest.raises(StorageError, match=r"without sae_weights\.safetensors"):
        load(NAME)


def test_another_cache_can_be_named(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    put_folder(other, "jbloom/GPT2-Small-SAEs-Reformatted", NAME.split("/")[1], old_folder("standard"))
    with pytest.raises(StorageError):
        load(NAME)
    assert load(NAME, cache_dir=other).config.d_sae == M


def test_a_damaged_file_in_the_cache_is_refused(cache: Path) -> None:
    files = old_folder("standard")
    files["sae_weights.safetensors"] = files["sae_weights.safetensors"][:-5]
    put_folder(cache, "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre", files)
    with pytest.raises(CorruptArtefact, match=r"sae_weights\.safetensors"):
        load(NAME)


def test_misspelt_names_are_helped() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'blocks\.8\.hook_resid_pre'"):
        load("gpt2-small-res-jb/blocks.8.hook_resid_prae")
    with pytest.raises(StorageError, match="gpt2-small-res-jb"):
        load("gpt2-small-res-jp/blocks.8.hook_resid_pre")


def test_our_reading_of_the_table_is_sae_lens_s() -> None:
    """Ours parses one release at a time."""
    theirs = get_pretrained_saes_directory()
    assert list(registry._index() or {}) == list(theirs)
    for release in list(theirs)[::23]:
        table = theirs[release]
        for name in list(table.saes_map)[::19]:
            entry = registry.find(f"{release}/{name}")
            assert (entry.repo, entry.folder) == (table.repo_id, table.saes_map[name])
            assert entry.conversion == table.conversion_func
            assert entry.scale == table.norm_scaling_factor.get(name)
            assert dict(entry.overrides) == (table.config_overrides or {})
