"""The native layout against the installed sae-lens, both ways, for every make both know."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from interp.core.errors import ConfigError, CorruptArtefact, InterpError, NonFiniteError
from interp.core.provenance import UNKNOWN
from interp.dictionaries import Dictionary
from interp.dictionaries.formats import from_saelens, load, save
from tests.dictionaries.zoo import MAKES, OURS, D, M, make, rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sae_lens
    from sae_lens import SAE


@pytest.fixture
def _as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files bring in wrong types; the suite's type checker would stop them before our own does."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def inputs(dictionary: Dictionary) -> Tensor:
    x = rows().to(getattr(torch, dictionary.config.dtype))
    return x.reshape(-1, D, 1) if dictionary.config.reshape == "hook_z" else x


def same(a: Tensor, b: Tensor, scale: float = 1e-6) -> None:
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= scale * max(1.0, float(b.abs().max()))
    assert float(b.abs().max()) > 0


@torch.no_grad()
def agree(dictionary: Dictionary, sae: Any) -> None:
    """Latents and reconstruction are equal to 1e-6 of their size."""
    x = inputs(dictionary)
    bound = 1e-2 if dictionary.config.dtype == "bfloat16" else 1e-6
    same(dictionary.encode(x), sae.encode(x), bound)
    same(dictionary(x), sae(x), bound)
    active = (sae.encode(x) != 0).float().mean()
    assert 0.01 < active < 0.9  # neither everything nor nothing fires


@pytest.mark.parametrize("name", MAKES)
def test_sae_lens_reads_what_we_write(name: str, tmp_path: Path) -> None:
    dictionary = make(name)
    save(dictionary, tmp_path / "d")
    sae = SAE.load_from_disk(tmp_path / "d")
    agree(dictionary, sae)
    assert sae.cfg.metadata.hook_name == dictionary.site_in
    assert sae.cfg.metadata.model_name == "tiny" and sae.cfg.metadata.prepend_bos is True
    assert sae.cfg.metadata.l0 == 7.5


@torch.no_grad()
@pytest.mark.parametrize("name", MAKES)
def test_it_is_the_same_function(name: str, tmp_path: Path) -> None:
    """In float64, where rounding hides nothing: latents and reconstruction to 1e-12, absolute.

    In float32 products of the same numbers in another order differ by 1e-6 of values above 1.
    """
    dictionary = make(name, dtype="float64")
    save(dictionary, tmp_path / "d")
    sae, x = SAE.load_from_disk(tmp_path / "d", dtype="float64"), inputs(dictionary)
    for ours, theirs in ((dictionary.encode(x), sae.encode(x)), (dictionary(x), sae(x))):
        assert ours.dtype == theirs.dtype == torch.float64
        assert float((ours - theirs).abs().max()) <= 1e-12 < float(ours.abs().max())


@pytest.mark.parametrize("name", MAKES)
def test_we_read_what_sae_lens_writes(name: str, tmp_path: Path) -> None:
    dictionary = make(name)
    save(dictionary, tmp_path / "ours")
    SAE.load_from_disk(tmp_path / "ours").save_model(tmp_path / "theirs")
    assert "interp" not in json.loads((tmp_path / "theirs" / "cfg.json").read_text())
    again = load(tmp_path / "theirs")
    agree(again, SAE.load_from_disk(tmp_path / "theirs"))
    same(again(inputs(dictionary)), dictionary(inputs(dictionary)), 1e-2 if "bf" in name else 1e-6)
    assert (again.site_in, again.site_out) == (dictionary.site_in, dictionary.site_out)
    known = again.provenance
    assert known is not None and known.model_fingerprint == UNKNOWN
    assert known.model == "tiny" and known.prepend_bos is True and known.d_in == D


@pytest.mark.parametrize("name", MAKES)
def test_an_sae_in_memory(name: str, tmp_path: Path) -> None:
    save(make(name), tmp_path / "ours")
    sae = SAE.load_from_disk(tmp_path / "ours")
    dictionary = from_saelens(sae)
    agree(dictionary, sae)
    with torch.no_grad():
        sae.W_dec.zero_()
    assert dictionary.W_dec.abs().max() > 0  # a copy


@pytest.mark.parametrize("name", [*MAKES, *OURS])
def test_our_own_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    dictionary = make(name)
    dictionary.metadata["sparsity"] = torch.linspace(-5, 0, M)
    save(dictionary, tmp_path / "d")
    again = load(tmp_path / "d")
    if name == "batchtopk, rescaled":  # saved as the JumpReLU that it is, norms folded in
        assert not again.config.rescale_acts_by_decoder_norm
        same(again(rows()), dictionary(rows()))
    else:
        assert again.config == dictionary.config
        for key, tensor in dictionary.state_dict().items():
            assert torch.equal(again.state_dict()[key], tensor), key
    assert again.provenance == dictionary.provenance
    assert torch.equal(again.metadata.pop("sparsity"), dictionary.metadata.pop("sparsity"))
    assert again.metadata == dictionary.metadata
    save(again, tmp_path / "twice")
    for file in ("cfg.json", "sae_weights.safetensors"):
        first, second = (tmp_path / at / file for at in ("d", "twice"))
        if name != "batchtopk, rescaled" or file != "sae_weights.safetensors":
            assert first.name == "cfg.json" or first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", OURS)
def test_sae_lens_refuses_what_it_has_not(name: str, tmp_path: Path) -> None:
    """Never as something else: a TopK transcoder loaded as ReLU has another L0."""
    save(make(name), tmp_path / "d")
    with pytest.raises(KeyError):
        SAE.load_from_disk(tmp_path / "d")


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk", "topk", "jumprelu"])
def test_training_checkpoints_of_sae_lens(architecture: str, tmp_path: Path) -> None:
    """With the threshold measured so far, as sae-lens itself exports them."""
    kinds = {
        "batchtopk": sae_lens.BatchTopKTrainingSAE,
        "matryoshka_batchtopk": sae_lens.MatryoshkaBatchTopKTrainingSAE,
        "topk": sae_lens.TopKTrainingSAE,
        "jumprelu": sae_lens.JumpReLUTrainingSAE,
    }
    settings: dict[str, Any] = {} if architecture == "jumprelu" else {"k": 7}
    if "matryoshka" in architecture:
        settings["matryoshka_widths"] = [11, 29, M]
    config = getattr(sae_lens, kinds[architecture].__name__ + "Config")
    sae = kinds[architecture](config(d_in=D, d_sae=M, **settings))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter) / 3)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.75)
        else:
            sae.b_enc.fill_(0.1)
    sae.save_inference_model(tmp_path / "exported")
    exported = SAE.load_from_disk(tmp_path / "exported")
    for dictionary in (load(tmp_path / "exported"), from_saelens(sae)):
        x = rows()
        same(dictionary(x), exported(x))
        if "batchtopk" in architecture:
            latents = dictionary.folded().encode(x)
        else:
            latents = dictionary.encode(x)
        same(latents, exported.encode(x)) if architecture != "topk" else None
    if "matryoshka" in architecture:
        assert from_saelens(sae).config.groups == (11, 29, M)


# --- folders that are not what they say -----------------------------------------------------------


def foreign(tmp_path: Path, name: str = "topk", **changes: Any) -> Path:
    """A folder of sae-lens with some settings changed; None deletes a key."""
    save(make(name), tmp_path / "ours")
    SAE.load_from_disk(tmp_path / "ours").save_model(tmp_path / "theirs")
    path = tmp_path / "theirs" / "cfg.json"
    cfg = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in cfg.items() if v is not None}))
    return path.parent


@pytest.mark.usefixtures("_as_in_production")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": None}, "without k"),
        ({"k": True}, "without k"),
        ({"k": 0}, "needs k"),
        ({"k": M + 1}, "needs k"),
        ({"architecture": "top_k"}, "topk"),
        ({"architecture": "temporal"}, "temporal"),
        ({"architecture": None}, "architecture"),
        ({"architecture": ["topk"]}, "architecture"),
        ({"architecture": "jumprelu"}, "threshold"),
        ({"architecture": "gated"}, "b_gate"),
        ({"d_in": D + 1}, "W_enc"),
        ({"d_sae": 10**30}, "W_enc"),
        ({"d_in": "13"}, "whole number"),
        ({"dtype": "float8"}, "dtype"),
        ({"normalize_activations": "layernorm"}, "layer_norm"),
        ({"normalize_activations": "covariance_whitening"}, "whitening"),
        ({"reshape_activations": "hook_q"}, "reshape"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path, **changes)
    with pytest.raises(InterpError, match=said) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_a_transposed_encoder_is_refused(tmp_path: Path) -> None:
    import safetensors.torch

    folder = foreign(tmp_path)
    path = folder / "sae_weights.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**tensors, "W_enc": tensors["W_enc"].T.contiguous()}, path)
    with pytest.raises(CorruptArtefact, match="W_enc"):
        load(folder)
    safetensors.torch.save_file({k: t for k, t in tensors.items() if k != "b_enc"}, path)
    with pytest.raises(CorruptArtefact, match="b_enc"):
        load(folder)
    safetensors.torch.save_file({**tensors, "surprise": torch.ones(1)}, path)
    with pytest.raises(CorruptArtefact, match="surprise"):
        load(folder)
    tensors["W_dec"][3, 5] = float("nan")
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(NonFiniteError, match="W_dec"):
        load(folder)


def test_strict_false_reads_as_sae_lens_does_and_says_so(tmp_path: Path) -> None:
    folder = foreign(tmp_path, normalize_activations="covariance_whitening")
    dictionary = load(folder, strict=False)
    agree(dictionary, SAE.load_from_disk(folder))
    assert dictionary.provenance is not None
    assert any("whitening" in note for note in dictionary.provenance.notes)


def test_one_head_has_no_site(tmp_path: Path) -> None:
    folder = foreign(
        tmp_path,
        metadata={"sae_lens_version": "6.5.0", "hook_head_index": 3, "hook_name": "blocks.0.attn.hook_z"},
    )
    with pytest.raises(ConfigError, match="one attention head"):
        load(folder)
    assert load(folder, strict=False).site_in == ""


def test_our_settings_outlive_the_manifest_but_its_word_does_not(tmp_path: Path) -> None:
    dictionary = make("matryoshka")
    folder = save(dictionary, tmp_path / "d")
    (folder / "manifest.json").unlink()
    again = load(folder)
    assert again.config == dictionary.config
    assert again.provenance is not None and again.provenance.model_fingerprint == UNKNOWN
    assert any("manifest" in note for note in again.provenance.notes)
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(cfg | {"apply_b_dec_to_input": False}))
    with pytest.raises(CorruptArtefact, match="apply_b_dec_to_input"):
        load(folder)


# --- before version 6 -----------------------------------------------------------------------------


def old(tmp_path: Path, name: str, **changes: Any) -> Path:
    """The same folder as sae-lens 3 to 5 wrote it."""
    settings = {
        "activation_fn_str": "relu",
        "architecture": "standard",
        "hook_name": "blocks.2.hook_mlp_out",
        "hook_layer": 2,
        "hook_head_index": None,
        "model_name": "gpt2-small",
        "context_size": 128,
        "finetuning_scaling_factor": False,
        "sae_lens_training_version": "3.1.0",
        "normalize_activations": False,
        "dataset_path": "x",
    }
    return foreign(tmp_path, name, metadata=None, **{**settings, **changes})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("standard", {}),
        ("standard", {"architecture": None}),
        ("standard", {"hook_name": None, "hook_point": "blocks.2.hook_mlp_out"}),
        ("topk", {"k": None, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}}),
        ("jumprelu", {"architecture": "jumprelu"}),
        ("gated", {"architecture": "gated"}),
        ("layer_norm", {"normalize_activations": "layer_norm"}),
    ],
)
def test_settings_before_version_6_convert_exactly(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = old(tmp_path, name, **changes)
    dictionary = load(folder)
    agree(dictionary, SAE.load_from_disk(folder))
    assert dictionary.site_in == "blocks.2.hook_mlp_out"
    assert dictionary.provenance is not None and dictionary.provenance.model == "gpt2-small"
    assert dictionary.provenance.prepend_bos is True


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("standard", {"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ("standard", {"noise_scale": 0.1}, "noise_scale"),
        ("topk", {"activation_fn_str": "topk", "k": None}, "without k"),
        ("gated", {"activation_fn_str": "topk", "architecture": "gated"}, "gated"),
        ("jumprelu", {}, "jumprelu"),
        ("gated", {"architecture": None}, "gated"),
    ],
)
def test_settings_before_version_6_without_exact_meaning_are_refused(
    name: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """sae-lens 6 reads the first two, with ReLU and without the noise."""
    with pytest.raises(InterpError, match=said):
        load(old(tmp_path, name, **changes))


def test_a_finetuning_scale_is_refused_unless_it_is_one(tmp_path: Path) -> None:
    import safetensors.torch

    folder = old(tmp_path, "standard")
    path = folder / "sae_weights.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**tensors, "scaling_factor": torch.ones(M)}, path)
    agree(load(folder), SAE.load_from_disk(folder))
    safetensors.torch.save_file({**tensors, "scaling_factor": torch.full((M,), 1.5)}, path)
    with pytest.raises(ConfigError, match="scaling factor"):
        load(folder)


def test_a_hook_z_dictionary_before_version_6_flattens_heads(tmp_path: Path) -> None:
    folder = old(
        tmp_path,
        "hook_z",
        hook_name="blocks.0.attn.hook_z",
        reshape_activations=None,
        activation_fn_str="topk",
        activation_fn_kwargs={"k": 7},
    )
    assert load(folder).config == replace(
        load(folder).config, reshape="hook_z", site_in="blocks.0.attn.hook_z"
    )
