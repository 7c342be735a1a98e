"""The hub's door: a repository is fetched as files, and then passes the gate of any folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.core.errors import ConfigError, ModelError
from interp.core.foreign import reason
from interp.core.names import did_you_mean
from interp.models.gate import ATTENTION

SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
DEEPER = ("*/*", "*.index.json.tmp", "*.py")


OPTIONS = (
    "attn_implementation",
    "experts_implementation",
    "key_mapping",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "quantization_config",
)
"""What transformers' `from_pretrained` is told besides dtype and device: how weights are laid out,
and by which kernels they are run. What a model *is* stands in its folder."""

_SAID_ELSEWHERE = {
    "torch_dtype": "dtype=",
    "load_in_8bit": "quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True)",
    "load_in_4bit": "quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True)",
}


def options_checked(options: Mapping[str, Any]) -> None:
    """Refuse options that would run a stranger's code, and those that nobody reads here.

    Raises:
        ModelError: `trust_remote_code=True`.
        ConfigError: No such option, or a value that transformers could not take.
    """
    if options.get("trust_remote_code"):
        raise ModelError(
            "load_model never runs code from a model's folder",
            got=f"trust_remote_code={options['trust_remote_code']!r}",
            fix="load it with transformers yourself and pass the module to interp.wrap",
        )
    for name in options:
        if name not in OPTIONS and name != "trust_remote_code":
            own = ("dtype", "device", "device_map", "allow_download", "backend")
            near = _SAID_ELSEWHERE.get(name) or did_you_mean(name, (*own, *OPTIONS))
            raise ConfigError(
                f"load_model has no option {name!r}",
                got=f"{name}={options[name]!r}"[:120],
                expected=", ".join((*own, *OPTIONS)),
                fix=f"{near}; or load it with transformers yourself and pass the module to interp.wrap",
            )
    attention = options.get("attn_implementation")
    if not isinstance(attention, dict) and repr(attention) not in map(repr, ATTENTION):
        known = sorted(filter(None, ATTENTION))
        raise ConfigError(
            "attn_implementation names kernels that transformers does not have by itself",
            got=repr(attention)[:80],
            expected=", ".join(known),
            fix=did_you_mean(str(attention), known),
        )
    packing = options.get("quantization_config")
    if packing is not None and not isinstance(packing, dict) and not hasattr(packing, "quant_method"):
        raise ConfigError(
            "quantization_config is an object of transformers",
            got=repr(packing)[:80],
            fix=_SAID_ELSEWHERE["load_in_8bit"].partition("=")[2],
        )


def fetched(name: str) -> Path:
    """The folder of a repository in the local cache, filled from the hub; files only, no code.

    Raises:
        ModelError: The hub cannot be asked, or has no such repository.
    """
    from huggingface_hub import snapshot_download

    try:
        root = Path(snapshot_download(name, allow_patterns=[*SETTINGS], ignore_patterns=[*DEEPER]))
        snapshot_download(name, allow_patterns=["model*.safetensors"], ignore_patterns=[*DEEPER])
        if not any(root.glob("model*.safetensors")):
            pickled = ["pytorch_model*.bin"]
            snapshot_download(name, allow_patterns=pickled, ignore_patterns=[*DEEPER])
    except Exception as error:  # httpx, the hub's own dozen, validation of the name
        raise ModelError(
            f"cannot fetch the model {name!r} from the hub",
            got=reason(error),
            expected="a repository that can be reached",
            fix="check the name and the network, or load a folder",
        ) from error
    return root
