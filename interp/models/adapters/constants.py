"""What a model computes with besides the tensors of its state: settings, and buffers not saved.

Two models of equal weights differ where one rotates with another base or normalises with another
epsilon. Such numbers stand in the configuration, in the modules' own attributes, and in buffers
that no state dict holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from interp.core.provenance import checksum_state
from interp.models.adapters.effective import adapted_parts, is_adapted
from interp.models.hooks.modes import original

_NOT_COMPUTED = set(
    """
    architectures auto_map chunk_size_feed_forward dtype finetuning_task id2label label2id
    output_attentions output_hidden_states prefix problem_type return_dict task_specific_params
    tie_word_embeddings tokenizer_class torch_dtype transformers_version use_cache
    """.split()
)
"""Entries of a configuration that say nothing about the numbers a forward pass gives."""
_NOT_SETTINGS = {
    "training",
    "name_or_path",
    "gradient_checkpointing",
    "is_gradient_checkpointing",
    "call_super_init",
    "dump_patches",
}
_KNOWN_ROOTS = ("torch", "transformers", "interp", "transformer_lens")
"""Packages whose modules keep no counters among their attributes."""


def settings_digest(module: nn.Module) -> str:
    """16 hexadecimal digits of everything but the state that decides what a model computes.

    Numbers that a module of the user's own keeps as integers are left out: they may be counters.
    """
    told = {"config": _config(module), "modules": dict(_attributes(module))}
    buffers = checksum_state(_unsaved(module))
    text = json.dumps([told, buffers], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _config(module: nn.Module) -> Any:
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_dict"):
        return None
    return _computed(config.to_dict())


def _computed(entries: dict[str, Any]) -> dict[str, Any]:
    return {
        str(key): _computed(value) if isinstance(value, dict) else value
        for key, value in entries.items()
        if key not in _NOT_COMPUTED and not str(key).startswith("_")
        if not str(key).endswith(("_token_id", "attn_implementation"))
    }


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(path, attributes) of every module that has any; an adapted layer's are its base layer's."""
    stack: list[tuple[str, Any]] = [("", module)]
    while stack:
        path, part = stack.pop()
        if is_adapted(part):
            part = part.get_base_layer() if hasattr(part, "get_base_layer") else _original(part)
        kind = original(type(part))
        whole = kind.__module__.partition(".")[0] in _KNOWN_ROOTS
        kept = (bool, int, float, str) if whole else (bool, float, str)
        found = {
            name: value
            for name, value in vars(part).items()
            if not name.startswith("_") and name not in _NOT_SETTINGS and "cache" not in name
            if _is_setting(value, kept)
        }
        if not part._parameters and not part._modules:
            found["kind"] = kind.__qualname__
        if found:
            yield path, found
        stack += [(f"{path}.{name}", child) for name, child in part._modules.items() if child]


def _original(part: Any) -> Any:
    """The module that a wrapper for training stands before."""
    return getattr(part, "original_module", part)


def _is_setting(value: Any, kept: tuple[type, ...]) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_setting(part, kept) for part in value)
    return type(value) in kept


def _unsaved(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that no state dict holds, and tensors kept as plain attributes."""
    found: dict[str, Tensor] = {}
    adapted = tuple(f"{path}." for path in adapted_parts(module))
    for path, part in module.named_modules():
        if f"{path}.".startswith(adapted):
            continue
        for name in part._non_persistent_buffers_set:
            value = part._buffers.get(name)
            if value is not None:
                found[f"{path}.{name}"] = value
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and not value.is_meta and not value.requires_grad:
                found[f"{path}.{name}"] = value
    return found
