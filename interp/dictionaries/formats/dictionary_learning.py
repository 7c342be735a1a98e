"""Reading folders of dictionary_learning (0.1): `config.json` and `ae.pt`.

`ae.pt` is a pickle; only tensors are read from it (`torch.load(weights_only=True)`). What it is
says `config.json` alone: the tensors of its TopK and BatchTopK have the same names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, CorruptArtefact, StorageError
from interp.core.settings import check_choice
from interp.core.store import load_torch, open_artefact
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.formats.building import build, number, origin, take

CONFIG, WEIGHTS = "config.json", "ae.pt"
_LINEAR = {"encoder": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_TOPK = {**_LINEAR, "b_dec": "b_dec", "k": "k", "threshold": "threshold"}
_PLAIN = {"encoder": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "AutoEncoder": ("relu", {**_LINEAR, "b_dec": "bias"}),
    "AutoEncoderNew": ("relu", {**_LINEAR, "b_dec": "decoder.bias"}),
    "GatedAutoEncoder": (
        "gated",
        {
            "encoder": "encoder.weight",
            "W_dec": "decoder.weight",
            "b_dec": "decoder_bias",
            "r_mag": "r_mag",
            "b_gate": "gate_bias",
            "b_mag": "mag_bias",
        },
    ),
    "AutoEncoderTopK": ("topk", _TOPK),
    "BatchTopKSAE": ("batchtopk", _TOPK),
    "MatryoshkaBatchTopKSAE": (
        "batchtopk",
        {**_PLAIN, "k": "k", "threshold": "threshold", "group_sizes": "group_sizes"},
    ),
    "JumpReluAutoEncoder": ("jumprelu", {**_PLAIN, "threshold": "threshold"}),
}
"""Class of dictionary_learning -> our activation, and our tensors' names in its state."""
_UNTIED = ("AutoEncoderNew", "JumpReluAutoEncoder")  # these do not subtract b_dec first


def read_folder(folder: Path) -> Dictionary:
    """The dictionary that `trainSAE` wrote, as `load_dictionary` gives it.

    An `AutoEncoder` comes with decoder norms folded into its latents, as there.

    Raises:
        ConfigError: A class that is not known, or settings that are missing.
        CorruptArtefact: No tensors, or not those of that class.
        StorageError: No `config.json`.
    """
    where = folder / WEIGHTS
    trainer = _trainer(folder)
    name = str(trainer.get("dict_class"))
    check_choice(f"{folder / CONFIG}: dict_class", name, CLASSES)
    activation, names = CLASSES[name]
    state = load_torch(where)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CorruptArtefact(f"{where}: no tensors by name", got=type(state).__name__)
    found = _oriented(take(state, names, where), names)
    d_in = number(trainer, "activation_dim", folder / CONFIG)
    d_sae = number(trainer, "dict_size", folder / CONFIG)
    values: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "activation": activation,
        "apply_b_dec_to_input": name not in _UNTIED,
        "site_in": _site(trainer),
    }
    values |= _counts(found, trainer, where, activation)
    if activation == "batchtopk":
        found["threshold"] = found["threshold"].float().expand(d_sae)
    elif activation == "topk":
        del found["threshold"]
    made = build(
        where,
        values,
        found,
        metadata={"dictionary_learning": _jsonable(trainer)},
        provenance=origin(
            "dictionary_learning",
            model=trainer.get("lm_name"),
            sites=(values["site_in"],),
            d_in=d_in,
            normalisation="none",
        ),
    )
    norms = made.decoder_norms
    if name == "AutoEncoder" and not torch.allclose(norms, torch.ones_like(norms)):
        return made.folded()
    return made


def _trainer(folder: Path) -> dict[str, Any]:
    """The trainer's settings."""
    try:
        config = open_artefact(folder, foreign_ok=True).json(CONFIG)
    except CorruptArtefact:
        raise
    except StorageError as error:
        raise StorageError(
            f"{folder} has {WEIGHTS} but no readable {CONFIG}, which says what it is",
            got="tensors of TopK and BatchTopK have the same names",
            fix=f"put {CONFIG} beside it",
        ) from error
    trainer = config.get("trainer") if isinstance(config, dict) else None
    if not isinstance(trainer, dict):
        raise ConfigError(f"{folder / CONFIG}: no settings of a trainer", expected='{"trainer": {}}')
    return trainer


def _oriented(found: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Linear layers keep the decoder as [d, d_sae]; bare matrices the encoder."""
    if names["W_dec"] == "decoder.weight":
        found["W_dec"] = found["W_dec"].T
    if names["encoder"] == "W_enc":
        found["encoder"] = found["encoder"].T
    return found


def _counts(
    found: dict[str, Tensor], trainer: dict[str, Any], where: Path, activation: str
) -> dict[str, Any]:
    """k and groups, which are stored as tensors; k must be the one in the settings."""
    if activation not in ("topk", "batchtopk"):
        return {}
    k = int(found.pop("k"))
    if trainer.get("k", k) != k:
        raise CorruptArtefact(
            f"{where}: k contradicts {CONFIG}",
            got=k,
            expected=trainer["k"],
            fix="the settings may belong to another file",
        )
    sizes = found.pop("group_sizes", None)
    groups = [] if sizes is None else sizes.cumsum(0).tolist()
    return {"k": k, "groups": groups}


def _site(trainer: dict[str, Any]) -> str:
    """The site of its own names of submodules; others are left open."""
    found = re.fullmatch(r"(resid_post|mlp_out|attn_out)_layer_(\d+)", str(trainer.get("submodule_name")))
    return "" if found is None else f"blocks.{found[2]}.hook_{found[1]}"


def _jsonable(trainer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in trainer.items() if not isinstance(value, dict | list)}
