"""Writing SAELens's folder layout, which is ours too: `cfg.json` and `sae_weights.safetensors`.

What SAELens has no field for (Matryoshka groups, provenance, scores, ...) lies in a block "interp"
of `cfg.json`, which SAELens leaves unread; a manifest vouches for every byte. Semantics were read
from sae-lens 6.54 and are tested against it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.formats.building import config_to_json

SCHEMA = Dictionary.schema
CFG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
LAYOUT = "6.50.0"  # the sae-lens whose layout is written; below 6.0 it would be read as an old one
_ACTIVATIONS = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abstopk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batchtopk",
}
_SHARED = (  # keys of SAELens's own metadata that are handed on to it
    "hook_head_index",
    "context_size",
    "seqpos_slice",
    "dataset_path",
    "neuronpedia_id",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "exclude_special_tokens",
    "training_architecture",
    "training_architecture_details",
    "l0",
    "num_dead_features",
)


def _architectures() -> dict[str, tuple[str, bool, bool]]:
    """SAELens's name (or ours, where it has none) -> activation, transcoder, skip."""
    found = {name: (act, False, False) for name, act in _ACTIVATIONS.items()}
    found["matching_pursuit"] = ("matching_pursuit", False, False)
    found["matryoshka_batchtopk"] = ("batchtopk", False, False)
    for name, act in _ACTIVATIONS.items():
        stem = "" if name == "standard" else f"{name}_"
        found[f"{stem}transcoder"] = (act, True, False)
        found[f"{stem}skip_transcoder"] = (act, True, True)
    return found


ARCHITECTURES = _architectures()


def files_of(dictionary: Dictionary) -> dict[str, Any]:
    """The content of a dictionary's folder, as `store.commit` takes it.

    A batchtopk dictionary with a measured threshold is written as the JumpReLU that it is at
    inference, decoder norms folded, as SAELens does. `metadata["sparsity"]`, a tensor [d_sae] of
    log10 frequencies, becomes `sparsity.safetensors`.
    """
    config = dictionary.config
    if config.activation == "batchtopk" and config.rescale_acts_by_decoder_norm and is_measured(dictionary):
        dictionary = dictionary.folded()
        config = dictionary.config
    metadata = dict(dictionary.metadata)
    sparsity = metadata.pop("sparsity", None)
    origin_ = dictionary.provenance
    block = {
        "schema": SCHEMA,
        "config": config_to_json(config),
        "provenance": None if origin_ is None else origin_.to_json(),
        "metadata": metadata,
    }
    cfg = plain_cfg(dictionary)
    cfg["metadata"] = {key: metadata[key] for key in _SHARED if key in metadata} | {
        "sae_lens_version": LAYOUT,
        "model_name": None if origin_ is None else origin_.model,
        "hook_name": dictionary.site_in or None,
        "prepend_bos": None if origin_ is None else origin_.prepend_bos,
    }
    if config.is_transcoder:
        cfg["metadata"]["hook_name_out"] = dictionary.site_out or None
    files: dict[str, Any] = {CFG: {**cfg, "interp": block}, WEIGHTS: _weights(dictionary)}
    if isinstance(sparsity, Tensor):
        files[SPARSITY] = {"sparsity": sparsity}
    return files


def is_measured(dictionary: Dictionary) -> bool:
    """Whether a batchtopk dictionary has measured its threshold."""
    return bool(dictionary.threshold.any())


def plain_cfg(dictionary: Dictionary) -> dict[str, Any]:
    """The keys of `cfg.json` that SAELens reads, metadata apart."""
    config = dictionary.config
    cfg: dict[str, Any] = {
        "architecture": _architecture(dictionary),
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": config.dtype,
        "device": "cpu",
        "apply_b_dec_to_input": config.apply_b_dec_to_input,
        "normalize_activations": config.normalize_activations,
        "reshape_activations": config.reshape,
    }
    if config.is_transcoder:
        cfg["d_out"] = config.width_out
    if config.activation in ("topk", "abstopk") or cfg["architecture"].startswith("batchtopk"):
        cfg["k"] = config.k
        cfg["rescale_acts_by_decoder_norm"] = config.rescale_acts_by_decoder_norm
    if config.activation == "matching_pursuit":
        for key in ("residual_threshold", "max_iterations", "stop_on_duplicate_support"):
            cfg[key] = getattr(config, key)
    return cfg


def _architecture(dictionary: Dictionary) -> str:
    """SAELens's name; where it has none, one of the same make that it refuses to load."""
    config = dictionary.config
    name = "standard" if config.activation == "relu" else config.activation
    if name == "batchtopk" and is_measured(dictionary):
        name = "jumprelu"
    if not config.is_transcoder:
        return name
    stem = "" if name == "standard" else f"{name}_"
    return f"{stem}skip_transcoder" if config.skip else f"{stem}transcoder"


def _weights(dictionary: Dictionary) -> dict[str, Tensor]:
    tensors = {name: t.detach() for name, t in dictionary.state_dict().items()}
    if "encoder" in tensors:
        tensors["W_enc"] = tensors.pop("encoder").T.contiguous()
    if dictionary.config.activation == "batchtopk" and not is_measured(dictionary):
        tensors["topk_threshold"] = tensors.pop("threshold")[0].double()
    return tensors
