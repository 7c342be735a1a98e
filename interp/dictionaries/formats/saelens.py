"""Reading SAELens's folder layout: our own folders, those of any sae-lens, and SAEs in memory.

A folder with a manifest is verified and exact; one without comes in as an import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.core.artefact import provenance_from, require_schema, require_version
from interp.core.errors import ConfigError, CorruptArtefact
from interp.core.provenance import Provenance
from interp.core.settings import check_choice, check_flags
from interp.core.store import Artefact
from interp.dictionaries.config import TOPK_FAMILY, DictionaryConfig
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.formats.building import build, config_from_json, named, number, origin, take
from interp.dictionaries.formats.saelens_layout import (
    ARCHITECTURES,
    CFG,
    SCHEMA,
    SPARSITY,
    WEIGHTS,
    plain_cfg,
)
from interp.dictionaries.formats.saelens_old import is_old, upgraded


def read_folder(
    stored: Artefact, *, strict: bool = True, overrides: Mapping[str, Any] | None = None
) -> Dictionary:
    """The dictionary in an opened folder of this layout.

    Args:
        stored: From `store.open_artefact(folder, foreign_ok=True)`.
        strict: Refuse what cannot be converted exactly; otherwise convert it as sae-lens would
            and say so in `provenance.notes`.
        overrides: Settings that the registry corrects in folders of other people.

    Raises:
        CorruptArtefact: Files that contradict each other.
        ConfigError: Settings that are unknown, missing or impossible.
        StorageError: Written by a newer interp.
    """
    where = stored.directory
    if not stored.foreign:
        require_schema(stored, SCHEMA)
    cfg = stored.json(CFG)
    if not isinstance(cfg, dict):
        raise CorruptArtefact(f"{where / CFG}: no settings", got=repr(cfg)[:80], expected="{...}")
    tensors = stored.tensors(WEIGHTS)
    block = cfg.get("interp")
    if isinstance(block, dict):
        made = _own(cfg, block, tensors, where)
        if stored.foreign:
            made.provenance = _hearsay(made)
    else:
        made = from_cfg({**cfg, **(overrides or {})}, tensors, where, strict=strict)
    if SPARSITY in stored.names():
        made.metadata["sparsity"] = _sparsity(stored, made.config.d_sae)
    return made


def _own(cfg: dict[str, Any], block: dict[str, Any], tensors: dict[str, Tensor], where: Path) -> Dictionary:
    """A folder that `files_of` wrote: the block is exact, the rest must agree with it."""
    require_version(str(block.get("schema")), SCHEMA, where)
    with named(where / CFG):
        config = config_from_json(block.get("config"))
    known = provenance_from(block.get("provenance"), where / CFG)
    metadata = block.get("metadata") or {}
    if config.activation == "batchtopk" and "topk_threshold" in tensors:
        first = tensors.pop("topk_threshold")
        tensors["threshold"] = first.to(tensors["W_dec"].dtype).expand(config.d_sae)
    made = build(where, config, _ours(config, tensors, where), metadata=metadata, provenance=known)
    for key, value in plain_cfg(made).items():
        if key != "device" and cfg.get(key) != value:
            raise CorruptArtefact(
                f"{where / CFG}: {key!r} contradicts the block 'interp' of the same file",
                got=cfg.get(key),
                expected=value,
                fix="one of the two was edited by hand",
            )
    return made


def _hearsay(made: Dictionary) -> Provenance:
    """Our own settings without the manifest: the names are kept, the fingerprints are not."""
    told = made.provenance
    return origin(
        "a folder of interp that lost its manifest",
        model=None if told is None else told.model,
        sites=(made.site_in, made.site_out),
        d_in=made.config.d_in,
        prepend_bos=None if told is None else told.prepend_bos,
        normalisation=None if told is None else told.normalisation,
    )


def _sparsity(stored: Artefact, d_sae: int) -> Tensor:
    """log10 of how often each latent fires, [d_sae]."""
    found = stored.tensors(SPARSITY).get("sparsity")
    if found is None or found.shape != (d_sae,):
        raise CorruptArtefact(
            f"{stored.path(SPARSITY)}: no frequencies of these latents",
            got=None if found is None else list(found.shape),
            expected=[d_sae],
        )
    return found


def from_saelens(sae: Any, *, strict: bool = True) -> Dictionary:
    """A dictionary with the weights of an `sae_lens.SAE` in memory, copied.

    Args:
        sae: Any SAE or transcoder of sae-lens, training classes included.
        strict: As for `read_folder`.

    Raises:
        ConfigError: An architecture or setting that this room does not have; no SAE.
    """
    if not hasattr(getattr(sae, "cfg", None), "to_dict") or not hasattr(sae, "state_dict"):
        raise ConfigError(
            "this is no SAE of sae-lens",
            got=repr(sae)[:80],
            expected="an sae_lens.SAE in memory",
            fix="interp.dictionaries.load(folder) opens a folder",
        )
    check_flags(strict=strict)
    cfg = sae.cfg.to_dict()
    tensors = {name: t.detach().clone().cpu() for name, t in sae.state_dict().items()}
    return from_cfg(cfg, tensors, Path(f"<{type(sae).__name__} of sae_lens>"), strict=strict)


def from_cfg(
    cfg: Mapping[str, Any], tensors: dict[str, Tensor], where: Path, *, strict: bool = True
) -> Dictionary:
    """A dictionary from SAELens's settings and tensors, of any version.

    Raises:
        ConfigError: Settings that are unknown, missing or impossible.
        CorruptArtefact: Tensors that contradict the settings.
    """
    notes: list[str] = []
    if is_old(cfg):
        cfg, tensors, notes = upgraded(cfg, tensors, where)
    metadata = cfg.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, Mapping) else {}
    activation, is_transcoder, skip = _known_architecture(cfg, where)
    values: dict[str, Any] = {
        "d_in": number(cfg, "d_in", where),
        "d_sae": number(cfg, "d_sae", where),
        "activation": activation,
        "skip": skip,
        "dtype": str(cfg.get("dtype", "float32")).removeprefix("torch."),
        "apply_b_dec_to_input": cfg.get("apply_b_dec_to_input", not is_transcoder),
        "reshape": cfg.get("reshape_activations", "none"),
        "normalize_activations": _normalisation(cfg, where, strict, notes),
        "site_in": _site(metadata, "hook_name", where, strict, notes),
    }
    if is_transcoder:
        values["d_out"] = number(cfg, "d_out", where)
        values["site_out"] = metadata.get("hook_name_out") or ""
    values |= _extras(activation, cfg, where)
    if processing := metadata.get("model_from_pretrained_kwargs"):
        notes.append(f"made for a model that was loaded with {processing}")
    if "topk_threshold" in tensors:  # a training checkpoint: one number for all latents
        first = tensors.pop("topk_threshold")
        tensors["threshold"] = first.to(tensors["W_dec"].dtype).expand(values["d_sae"])
    with named(where):
        config = config_from_json(values)
    return build(
        where,
        config,
        _ours(config, tensors, where),
        metadata=metadata,
        provenance=origin(
            "sae-lens",
            model=metadata.get("model_name"),
            sites=(config.site_in, config.site_out),
            d_in=config.d_in,
            prepend_bos=metadata.get("prepend_bos"),
            normalisation=config.normalize_activations,
            notes=notes,
        ),
    )


def _known_architecture(cfg: Mapping[str, Any], where: Path) -> tuple[str, bool, bool]:
    name = str(cfg.get("architecture"))
    check_choice(f"{where}: architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def _extras(activation: str, cfg: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Settings of one architecture; k is never guessed (SAELens would take 100)."""
    if activation in TOPK_FAMILY:
        k = cfg.get("k")
        if isinstance(k, bool) or not isinstance(k, int | float):
            raise ConfigError(
                f"{where}: a {activation} dictionary without k, its number of active latents",
                got=k,
                expected='"k": a number',
            )
        rescaled = cfg.get("rescale_acts_by_decoder_norm", False)
        groups = cfg.get("matryoshka_widths") or []
        if groups and groups[-1] != cfg.get("d_sae"):
            groups = [*groups, cfg.get("d_sae")]
        return {"k": k, "rescale_acts_by_decoder_norm": rescaled, "groups": groups}
    if activation == "matching_pursuit":
        keys = ("residual_threshold", "max_iterations", "stop_on_duplicate_support")
        return {key: cfg[key] for key in keys if key in cfg}
    return {}


def _normalisation(cfg: Mapping[str, Any], where: Path, strict: bool, notes: list[str]) -> Any:
    told = cfg.get("normalize_activations", "none")
    if told == "covariance_whitening":  # sae-lens folds it at the end of training
        if strict:
            raise ConfigError(
                f"{where}: trained on whitened activations, and the whitening was not folded in",
                got=told,
                fix="export it with sae-lens once more, or pass strict=False to read it "
                "as sae-lens does, which is without the whitening",
            )
        notes.append("the whitening it was trained with is not applied, as in sae-lens")
        return "none"
    if told == "expected_average_only_in":
        notes.append("scale the activations as in training: the factor was not folded in")
    return told


def _site(metadata: Mapping[str, Any], key: str, where: Path, strict: bool, notes: list[str]) -> str:
    head = metadata.get("hook_head_index")
    if head is not None:
        if strict:
            raise ConfigError(
                f"{where}: made for one attention head, which a site does not name",
                got=f"hook_head_index={head}",
                fix="strict=False reads it without a site; give it that head's activations",
            )
        notes.append(f"reads head {head} of {metadata.get(key)}")
        return ""
    return metadata.get(key) or ""


def _ours(config: DictionaryConfig, tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """A file's tensors under our names; exactly those that the settings ask for."""
    with torch.device("meta"):
        wanted = list(Dictionary(_small(config)).state_dict())
    names = {name: "W_enc" if name == "encoder" else name for name in wanted}
    found = take(tensors, names, where)
    if "encoder" in found:
        if tuple(found["encoder"].shape) != (config.d_in, config.d_sae):
            raise CorruptArtefact(
                f"{where}: the encoder is not what the settings say",
                got=f"W_enc {list(found['encoder'].shape)}",
                expected=f"[d_in, d_sae] = [{config.d_in}, {config.d_sae}]",
                fix="transposed, or settings of another file",
            )
        found["encoder"] = found["encoder"].T
    return found


def _small(config: DictionaryConfig) -> DictionaryConfig:
    """The same make, one latent wide: its tensors have the same names."""
    k = None if config.k is None else 1
    d_out = None if config.d_out is None else 1
    return replace(config, d_in=1, d_sae=1, d_out=d_out, k=k, groups=())
