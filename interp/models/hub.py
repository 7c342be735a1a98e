"""The hub's door: a repository is fetched as files, and then passes the gate of any folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.core.errors import ModelError
from interp.core.foreign import reason

SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
DEEPER = ("*/*", "*.index.json.tmp", "*.py")


def options_checked(options: Mapping[str, Any]) -> None:
    """Refuse options that would run a stranger's code.

    Raises:
        ModelError: `trust_remote_code=True`.
    """
    if options.get("trust_remote_code"):
        raise ModelError(
            "load_model never runs code from a model's folder",
            got=f"trust_remote_code={options['trust_remote_code']!r}",
            fix="load it with transformers yourself and pass the module to interp.wrap",
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
