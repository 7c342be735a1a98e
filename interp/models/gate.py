"""The gate for model folders of strangers: everything is looked at before a library sees it.

Nothing in a folder may run code, name a file outside it, or ask for more memory than its weights
have: settings are parsed under bounds and compared with the headers of the weight files, pickles
are read by name only, a manifest that is there is verified.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.core import store
from interp.core.errors import CorruptArtefact, InterpError, ModelError
from interp.core.foreign import MIB, one_line, read_json, reason, show
from interp.core.names import did_you_mean
from interp.core.store import tensor_shapes, torch_shapes

CONFIG, GENERATION, MANIFEST = "config.json", "generation_config.json", "manifest.json"
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
READ = {".json", ".safetensors", ".bin", ".pt", ".pth", ".model", ".txt", ".py", ".jinja"}
"""Endings of files that a loader would read; with a manifest, it must list each of them."""

SETTINGS = 1_000_000
"""Most values in settings: names of 200,000 classes and their numbers, several times over."""
GENERATION_NODES = 100_000
"""Most values in settings of generation: lists of tokens; the library copies them many times."""
LAYERS = 10_000
"""Most layers, blocks, stages or experts that settings may ask for beyond what weights show."""
COUNT = 2_000_000
"""Largest other number of things (`num_...`, `n_...`) in settings."""
LABELS = 200_000
"""Most classes; the library writes a name for each."""
SLACK = 16 * MIB
"""Numbers that a model may have beyond four times its weights: masks, tables of positions."""

_LAYERS = re.compile(r"layer|depth|block|stage|expert|stack", re.I)
_COUNT = re.compile(r"^(n|num)_", re.I)
_POSITIONS = re.compile(r"position|ctx|length|token", re.I)
ATTENTION: set[str | None] = {
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
    "paged|eager",
    "paged|sdpa",
    "paged|flash_attention_2",
    None,
    "",
}
"""What settings may ask for; any other text names a repository whose kernels would be fetched."""


@dataclass(frozen=True)
class Inspected:
    """What the gate found in a folder.

    Attributes:
        config: The content of config.json.
        architecture: The model class it was saved from; None: the library's default.
        tensors: How many tensors its weight files hold.
        numbers: How many numbers these are.
    """

    config: Mapping[str, Any]
    architecture: str | None
    tensors: int
    numbers: int


def inspect_folder(folder: Path) -> Inspected:
    """Look at a Hugging Face folder before transformers does.

    Args:
        folder: With config.json and weights.

    Raises:
        ModelError: Settings that ask for code, for a class that is no model, or for more than the
            weights hold; no weights.
        CorruptArtefact: A file that contradicts the manifest, itself, or the index.
        StorageError: A file that cannot be read.
    """
    verify_manifest(folder)
    config = settings(folder / CONFIG)
    if (folder / GENERATION).exists():
        settings(folder / GENERATION, GENERATION_NODES)
    _check_code(config, folder)
    architecture = _architecture(config, folder)
    tensors, numbers = _weights(folder)
    _check_sizes(config, tensors, folder / CONFIG)
    return Inspected(config, architecture, tensors, numbers)


def verify_manifest(folder: Path) -> None:
    """If `interp` wrote the folder, every byte must be as written and nothing may lie beside it.

    Raises:
        CorruptArtefact: A changed file, or one that a loader reads and the manifest does not list.
    """
    if not store.is_ours(folder):
        return
    artefact = store.open_artefact(folder)
    known = {*artefact.names(), MANIFEST}
    there = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in READ)
    beside = [name for name in there if name not in known]
    if beside:
        raise CorruptArtefact(
            f"{folder / sorted(beside)[0]} lies beside a manifest that does not list it",
            expected=", ".join(sorted(known)),
            fix="remove it, or save the model again",
        )


def settings(path: Path, nodes: int = SETTINGS) -> dict[str, Any]:
    """A file of settings: a JSON object within bounds.

    Raises:
        ModelError: No JSON object, or beyond a bound.
    """
    try:
        found = read_json(path, nodes=nodes, nonfinite=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as settings", got=reason(error)) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no settings", got=type(found).__name__, expected="{...}")
    return found


# ------------------------------------------------------------------ code


def _check_code(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse what would need or fetch code: an unknown kind of model, kernels by name."""
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    wants = "auto_map" in config
    if kind is not None and (not isinstance(kind, str) or kind not in CONFIG_MAPPING):
        known = [*CONFIG_MAPPING.keys()]
        raise ModelError(
            f"{folder / CONFIG}: transformers has no model of the type {kind!r}",
            got="auto_map asks to run the folder's own code, which is never done" if wants else None,
            expected="a model_type that the installed transformers knows",
            fix=(did_you_mean(kind, known) if isinstance(kind, str) else "") or None,
        )
    if kind is None and wants:
        raise ModelError(
            f"{folder / CONFIG} asks to run its own code (auto_map), which is never done",
            fix="convert it with its author's code to a model that transformers has",
        )
    if "transformers_weights" in config:
        raise ModelError(
            f"{folder / CONFIG} names weight files of its own (transformers_weights)",
            got=show(repr(config["transformers_weights"]), 120),
            expected=f"{SAFE} or {PICKLED}, which are looked at before they are loaded",
        )
    kernels = next((key for key in ("use_kernels", "kernel_config") if config.get(key)), None)
    if kernels is not None:
        raise ModelError(
            f"{folder / CONFIG}: {kernels} asks for kernels of a stranger",
            got=show(repr(config[kernels]), 120),
            fix=f"remove {kernels}: the model computes the same without",
        )
    if config.get("quantization_config") is not None:
        _check_quantised(config["quantization_config"], folder)
    for where, key, value in _entries(config):
        if key.endswith("attn_implementation"):
            chosen = [*value.values()] if isinstance(value, dict) else [value]
            for one in chosen:
                if not isinstance(one, str | None) or one not in ATTENTION:
                    raise ModelError(
                        f"{folder / CONFIG}: {where} asks for kernels of a stranger",
                        got=show(repr(one), 120),
                        expected=", ".join(sorted(filter(None, ATTENTION))),
                    )


def _check_quantised(value: Any, folder: Path) -> None:
    """Refuse a way of packing that transformers does not know: it would be read as unpacked."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    method = value.get("quant_method") if isinstance(value, dict) else value
    packs = isinstance(value, dict) and ("load_in_4bit" in value or "load_in_8bit" in value)
    if not packs and (not isinstance(method, str) or method not in AUTO_QUANTIZATION_CONFIG_MAPPING):
        raise ModelError(
            f"{folder / CONFIG}: quantised in a way that transformers does not know",
            got=show(repr(method), 120),
            expected=", ".join(sorted(AUTO_QUANTIZATION_CONFIG_MAPPING)),
        )


def _entries(value: Any, where: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every entry of nested settings: its path, its key, its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{where}.{key}" if where else str(key)
            yield path, str(key), inner
            yield from _entries(inner, path)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict | list):
                yield from _entries(inner, where)


def _architecture(config: Mapping[str, Any], folder: Path) -> str | None:
    """The first of `architectures`, if it is a model class.

    Raises:
        ModelError: No list of names, or a class that is no model.
    """
    named = config.get("architectures")
    if named is None:
        return None
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ModelError(f"{folder / CONFIG}: architectures is a list of names", got=show(repr(named), 120))
    return named[0] if named else None


def model_class(architecture: str | None) -> Any:
    """The transformers class of that name; None where transformers has none.

    Raises:
        ModelError: transformers has something of that name which is no model.
    """
    import transformers

    if architecture is None or not architecture.isidentifier():
        return None
    try:
        found = getattr(transformers, architecture, None)
    except Exception as error:  # a module that misses a package raises what it likes
        raise ModelError(f"transformers cannot import {architecture}", got=reason(error)) from error
    if found is None:
        return None
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise ModelError(
            f"architectures names {architecture}, which is no model",
            expected="a class of transformers that derives from PreTrainedModel",
        )
    return found


# ------------------------------------------------------------------ weights


def _weights(folder: Path) -> tuple[int, int]:
    """How many tensors, and numbers in them, the files hold that transformers would take.

    Raises:
        ModelError: There are none.
        CorruptArtefact: An index that names other files, or tensors that are not in them.
    """
    for name, shapes in ((SAFE, tensor_shapes), (PICKLED, torch_shapes)):
        single, index = folder / name, folder / f"{name}.index.json"
        if single.is_file() and name == PICKLED:  # a number has a byte or more
            return store.check_torch(single), single.stat().st_size
        found = shapes(single) if single.is_file() else None
        if index.is_file() and found is None:
            found = _indexed(folder, index, shapes)
        if found is not None:
            return len(found), sum(math.prod(shape) for _, shape in found.values())
    listed = ", ".join(sorted(p.name for p in folder.iterdir())[:8])
    raise ModelError(f"{folder} holds no weights", got=show(listed, 300), expected=f"{SAFE} or {PICKLED}")


def _indexed(folder: Path, index: Path, shapes: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    try:
        told = read_json(index)
    except (OSError, ValueError) as error:
        raise CorruptArtefact(f"{index} cannot be read", got=one_line(error)) from error
    places = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise CorruptArtefact(f"{index} holds no map of weights", expected='{"weight_map": {...}}')
    files = sorted(set(places.values()))
    for file in files:
        if file != Path(file).name or file.startswith(".") or "\\" in file or "\0" in file:
            raise CorruptArtefact(f"{index} names a file outside its folder", got=repr(file))
        if not (folder / file).is_file():
            raise CorruptArtefact(f"{folder / file} is missing", got=f"named by {index.name}")
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        for name, shape in shapes(folder / file).items():
            if name in found:
                raise CorruptArtefact(f"{folder / file}: {name!r} is in another file, too")
            found[name] = shape
            if places.get(name, file) != file:
                raise CorruptArtefact(f"{index} sends {name!r} elsewhere", got=places[name], expected=file)
    missing = next((name for name in places if name not in found), None)
    if missing is not None:
        raise CorruptArtefact(f"{index} names {missing!r}, which is in no file")
    return found


# ------------------------------------------------------------------ sizes


def _check_sizes(config: Mapping[str, Any], tensors: int, where: Path) -> None:
    """Numbers of things in settings, against the weights that there are.

    Raises:
        ModelError: More layers, classes or parts than any model has; negative or no numbers.
    """
    for path, key, value in _entries(config):
        if isinstance(value, float) and not math.isfinite(value) and "limit" not in key:
            raise ModelError(f"{where}: {path} is no number", got=value, expected="a finite number")
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        bound = None
        if _LAYERS.search(key) and not _POSITIONS.search(key):
            bound = max(16 * tensors, LAYERS)
        elif key == "num_labels":
            bound = LABELS
        elif _COUNT.search(key) and not _POSITIONS.search(key):
            bound = COUNT
        if bound is not None and value > min(bound, COUNT):
            raise ModelError(
                f"{where}: {path} asks for more than the weights hold",
                got=show(value, 80),
                expected=f"at most {min(bound, COUNT):,} with {tensors} tensors",
            )


@contextmanager
def bounded_building(tensors: int, numbers: int, where: Path, packed: bool = False) -> Iterator[None]:
    """While entered, modules built in this thread may hold what the weights explain, and no more.

    Each parameter and buffer is counted as it is registered, so that settings which ask for a
    million layers stop after the first hundred instead of filling the memory.

    Args:
        tensors: Tensors in the weight files.
        numbers: Numbers in them.
        where: The file of settings, for the error.
        packed: Whether the weights are quantised, eight or more numbers to one.

    Raises:
        ModelError: Inside, from whatever builds the module.
    """
    most_parts = 4 * tensors + 10_000
    most_numbers = (64 if packed else 4) * numbers + SLACK
    thread, parts, total = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, value: Any) -> None:
        nonlocal parts, total
        if value is None or threading.get_ident() != thread:
            return
        parts += 1
        total += value.numel()
        if parts > most_parts or total > most_numbers:
            raise ModelError(
                f"{where} describes a larger model than its weights hold",
                got=f"more than {parts:,} tensors of {total:,} numbers",
                expected=f"{tensors:,} tensors of {numbers:,} numbers, as in the weight files",
            )

    handles = [
        nn.modules.module.register_module_parameter_registration_hook(count),
        nn.modules.module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def refused(source: object, error: BaseException) -> ModelError:
    """Whatever a library raised about a folder, as one error that names it and its cause."""
    if isinstance(error, InterpError):
        return ModelError(error.what, got=error.got, expected=error.expected, fix=error.fix)
    fix, why = "check config.json and the weight files", reason(error)
    if "weights_only" in why or "weights only" in why.lower():  # its advice is to run the code
        why = f"{type(error).__name__}: a pickle that holds more than tensors"
        fix = "ask its author for safetensors; never load it in full"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        fix = "it does not fit into memory: dtype='bfloat16', or a smaller model"
    return ModelError(
        f"cannot open the model in {source}", got=why, expected="a folder that transformers can load", fix=fix
    )
