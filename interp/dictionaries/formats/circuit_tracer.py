"""circuit-tracer's layout (0.5) of per-layer transcoders: `config.yaml`, `layer_{i}.safetensors`.

Encoders lie there as [d_sae, d] (transposed to SAELens's); a JumpReLU has
`activation_function.threshold`, a skip transcoder `W_skip`. There is no TopK: calibrate first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from interp.core import store
from interp.core.errors import ConfigError, CorruptArtefact, StorageError
from interp.core.foreign import YAML_BYTES, one_line, parse_yaml, read_bytes
from interp.core.provenance import UNKNOWN
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.formats.building import build, origin, take

CONFIG = "config.yaml"
SCHEMA = "circuit-tracer/1"
_NAMES = {name: name for name in ("W_dec", "b_enc", "b_dec")} | {"encoder": "W_enc"}
_OPTIONAL = {"threshold": "activation_function.threshold", "W_skip": "W_skip"}
_LAYER = re.compile(r"layer_(0|[1-9]\d*)\.safetensors")


def layer_of(path: Path) -> int | None:
    """The layer of a file `layer_{i}.safetensors`."""
    found = _LAYER.fullmatch(path.name)
    return None if found is None else int(found[1])


def save_transcoders(
    transcoders: Sequence[Dictionary],
    directory: str | Path,
    *,
    model_name: str | None = None,
    scan: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one transcoder per layer, from layer 0 on without a gap, as circuit-tracer reads them.

    Args:
        transcoders: In any order; each tells its layer by its `site_in`.
        directory: The folder to write.
        model_name: The model's name on the hub; by default that of their provenance.
        scan: circuit-tracer's name of the set; by default the folder's.
        overwrite: Replace what an earlier call wrote.

    Raises:
        ConfigError: A TopK, gated, ... one, an SAE; layers missing or twice; different sites or
            widths.
        StorageError: The folder exists and `overwrite` is False, or the disk refuses.
    """
    if not transcoders:
        raise ConfigError("a set of transcoders needs at least one", got=0)
    placed = {_place(one): one for one in transcoders}
    layers = [layer for layer, _, _ in placed]
    if sorted(layers) != list(range(len(transcoders))):
        raise ConfigError(
            "circuit-tracer wants one transcoder per layer, from layer 0 on without a gap",
            got=f"layers {sorted(layers)} of {len(transcoders)} transcoders",
            expected=f"layers 0 to {len(transcoders) - 1}",
        )
    hooks = {(into, out) for _, into, out in placed}
    widths = {(one.config.d_in, one.config.d_sae) for one in transcoders}
    if len(hooks) > 1 or len(widths) > 1:
        raise ConfigError(
            "the transcoders of a set read and write at one kind of site, at one width",
            got=f"sites {sorted(hooks)}, widths (d_in, d_sae) {sorted(widths)}",
        )
    (into, out), names = (hooks.pop(), {one.provenance.model for one in transcoders if one.provenance})
    config = {
        "model_name": model_name or (names.pop() if len(names) == 1 else UNKNOWN),
        "model_kind": "transcoder_set",
        "feature_input_hook": into,
        "feature_output_hook": out,
        "scan": scan or Path(directory).resolve().name,
    }
    files: dict[str, Any] = {CONFIG: yaml.safe_dump(config, sort_keys=False)}
    for (layer, _, _), one in sorted(placed.items(), key=lambda item: item[0][0]):
        files[f"layer_{layer}.safetensors"] = _tensors(one)
    return store.commit(directory, files, overwrite=overwrite, schema=SCHEMA)


def _place(one: Dictionary) -> tuple[int, str, str]:
    """Layer, and the names of its two sites inside the block."""
    into, out = (re.fullmatch(r"blocks\.(\d+)\.(.+)", site) for site in (one.site_in, one.site_out))
    if not one.config.is_transcoder or into is None or out is None or into[1] != out[1]:
        raise ConfigError(
            "circuit-tracer's sets hold transcoders from one site of a block to another",
            got=f"{one.site_in or 'no site'} -> {one.site_out or 'no site'}",
            expected="e.g. blocks.3.ln2.hook_normalized -> blocks.3.hook_mlp_out",
        )
    return int(into[1]), into[2], out[2]


def _tensors(one: Dictionary) -> dict[str, Tensor]:
    """One layer's file; ReLU and JumpReLU are all that the format can say."""
    config = one.config
    ready = config.activation == "batchtopk" and bool(one.threshold.any())
    if config.activation not in ("relu", "jumprelu") and not ready:
        raise ConfigError(
            f"circuit-tracer has no {config.activation} transcoders",
            got=one.site_in,
            expected="relu, jumprelu, or batchtopk with a measured threshold",
            fix="to_jumprelu(transcoder, activations) calibrates thresholds",
        )
    if config.d_in != config.width_out or config.normalize_activations != "none":
        raise ConfigError(
            "circuit-tracer's transcoders read and write raw activations of one width",
            got=f"{config.d_in} -> {config.width_out}, {config.normalize_activations}",
        )
    if config.rescale_acts_by_decoder_norm:
        one = one.folded()
    state = {name: tensor.detach() for name, tensor in one.state_dict().items()}
    return {theirs: state[ours] for ours, theirs in (_NAMES | _OPTIONAL).items() if ours in state}


def load_transcoders(folder: str | Path) -> list[Dictionary]:
    """All transcoders of a set, by layer.

    Raises:
        CorruptArtefact: A damaged file, or tensors that contradict each other.
        StorageError: No such set, or layers missing between the first and the last.
        ConfigError: A cross-layer set, or a `config.yaml` without the sites.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StorageError(f"no folder {folder}", expected="a set of transcoders")
    store.open_artefact(folder, foreign_ok=True)  # verified, where we wrote it
    found = {layer: path for path in folder.iterdir() if (layer := layer_of(path)) is not None}
    if sorted(found) != list(range(len(found))) or not found:
        raise StorageError(
            f"{folder} holds no whole set of transcoders",
            got=f"layers {sorted(found)}" if found else "no layer_N.safetensors",
            expected="layer_0.safetensors, layer_1.safetensors, ...",
        )
    return [read_layer(found[layer]) for layer in range(len(found))]


def read_layer(path: Path) -> Dictionary:
    """The transcoder in one file; its sites are in the `config.yaml` beside it.

    Raises:
        CorruptArtefact, ConfigError: As for `load_transcoders`.
    """
    config = _config(path.parent)
    block = f"blocks.{layer_of(path)}."
    tensors = store.load_tensors(path)
    names = _NAMES | {ours: name for ours, name in _OPTIONAL.items() if name in tensors}
    found = take(tensors, names, path)
    if found["encoder"].ndim != 2 or found["encoder"].shape != found["W_dec"].shape:
        raise CorruptArtefact(
            f"{path}: encoder and decoder do not fit together",
            got=f"W_enc {list(found['encoder'].shape)}, W_dec {list(found['W_dec'].shape)}",
            expected="both [d_sae, d_model]; SAELens's encoder is the transpose",
        )
    d_sae, d = found["W_dec"].shape
    sites = block + config["feature_input_hook"], block + config["feature_output_hook"]
    values = {
        "d_in": d,
        "d_sae": d_sae,
        "d_out": d,
        "activation": "jumprelu" if "threshold" in found else "relu",
        "skip": "W_skip" in found,
        "apply_b_dec_to_input": False,
        "dtype": str(found["W_dec"].dtype).removeprefix("torch."),
        "site_in": sites[0],
        "site_out": sites[1],
    }
    return build(
        path,
        values,
        found,
        metadata={"circuit_tracer": {key: str(config.get(key)) for key in ("model_name", "scan")}},
        provenance=origin(
            "circuit-tracer", model=config.get("model_name"), sites=sites, d_in=d, normalisation="none"
        ),
    )


def _config(folder: Path) -> dict[str, Any]:
    """`config.yaml`, with the two hooks; YAML tags that make objects are refused."""
    where = folder / CONFIG
    if not where.is_file():
        raise StorageError(
            f"{folder} has no {CONFIG}, which says where its transcoders read and write",
            expected="feature_input_hook and feature_output_hook",
        )
    try:
        config = parse_yaml(read_bytes(where, YAML_BYTES), yaml.SafeLoader)
    except (OSError, ValueError) as error:
        raise CorruptArtefact(f"{where}: no YAML of plain values", got=one_line(error, 200)) from error
    kind = config.get("model_kind") if isinstance(config, dict) else None
    if kind != "transcoder_set":
        raise ConfigError(
            f"{where}: not a set of per-layer transcoders",
            got=f"model_kind {repr(kind)[:80]}",
            expected="transcoder_set",
        )
    for key in ("feature_input_hook", "feature_output_hook"):
        if not isinstance(config.get(key), str):
            raise ConfigError(
                f"{where}: {key!r} is missing", got=repr(config.get(key))[:80], expected="a hook"
            )
    return config
