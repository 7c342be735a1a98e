"""Settings that sae-lens wrote before version 6: converted exactly, or refused.

sae-lens 6 fills what is missing and drops what it does not know, in silence; an activation function
it no longer has becomes ReLU. Here each such key is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, CorruptArtefact

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_METADATA = tuple(
    """
    model_name hook_name hook_name_out hook_head_index model_from_pretrained_kwargs prepend_bos
    neuronpedia_id context_size seqpos_slice dataset_path sae_lens_training_version model_class_name
    exclude_special_tokens
    """.split()
)


def is_old(cfg: Mapping[str, Any]) -> bool:
    """Whether these settings name no sae-lens, or one before 6."""
    metadata = cfg.get("metadata")
    version = cfg.get("sae_lens_version")
    if not version and isinstance(metadata, Mapping):
        version = metadata.get("sae_lens_version")
    first = str(version or "0").partition(".")[0]
    return not first.isdecimal() or int(first) < 6


def upgraded(
    cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], where: Path
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """Settings and tensors as sae-lens 6 has them, and what to note.

    Raises:
        ConfigError: An activation function or a scaling that version 6 cannot express.
        CorruptArtefact: A scaling factor that the settings do not announce.
    """
    told = {_RENAMED.get(key, key): value for key, value in cfg.items()}
    new = {key: value for key, value in told.items() if key not in (*_METADATA, "metadata")}
    new["architecture"] = _architecture(told, tensors, where)
    if new["architecture"] == "topk":
        kwargs = told.get("activation_fn_kwargs")
        kwargs = kwargs if isinstance(kwargs, Mapping) else {}
        new["k"] = kwargs.get("k", told.get("k"))
        if kwargs.get("signed"):
            raise _refusal(where, "activation_fn_kwargs", kwargs, "an unsigned topk")
    new["normalize_activations"] = _normalisation(told.get("normalize_activations"))
    new.setdefault("apply_b_dec_to_input", True)
    in_heads = "hook_z" in str(told.get("hook_name", ""))
    new.setdefault("reshape_activations", "hook_z" if in_heads else "none")
    new["metadata"] = {key: told[key] for key in _METADATA if key in told}
    new["metadata"].setdefault("prepend_bos", True)
    return new, _unscaled(told, dict(tensors), where), ["settings of sae-lens before 6"]


def _architecture(told: Mapping[str, Any], tensors: Mapping[str, Tensor], where: Path) -> str:
    """What it is; a TopK must say so, and a JumpReLU's or Gated's tensors must not contradict."""
    name, function = told.get("architecture", "standard"), told.get("activation_fn", "relu")
    if function not in ("relu", "topk"):
        raise _refusal(where, "activation_fn", function, "relu or topk")
    if told.get("noise_scale"):
        raise _refusal(where, "noise_scale", told["noise_scale"], "0")
    if function == "topk":
        if name not in ("standard", "topk"):
            raise _refusal(where, "activation_fn", "topk", f"relu for architecture {name!r}")
        name = "topk"
    shown = "jumprelu" if "threshold" in tensors else "gated" if "r_mag" in tensors else None
    if shown is not None and name != shown:
        raise CorruptArtefact(
            f"{where}: its tensors are those of a {shown} dictionary, its settings say {name!r}",
            got=", ".join(sorted(tensors)),
            fix=f'"architecture": "{shown}", if that is what it is',
        )
    return name


def _normalisation(told: Any) -> Any:
    if told is True:
        return "expected_average_only_in"
    return "none" if told is False or told is None else told


def _unscaled(told: Mapping[str, Any], tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Without the factor of finetuning, where it is 1."""
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not torch.equal(factor.float(), torch.ones_like(factor).float()):
        raise _refusal(
            where,
            "finetuning_scaling_factor",
            told.get("finetuning_scaling_factor"),
            "a scaling factor of 1: version 6 has no place for another",
        )
    return tensors


def _refusal(where: Path, key: str, got: object, expected: str) -> ConfigError:
    return ConfigError(
        f"{where}: sae-lens wrote this before version 6, and {key!r} has no exact meaning today",
        got=got,
        expected=expected,
        fix="convert it with the sae-lens that wrote it",
    )
