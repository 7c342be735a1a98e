"""Reading folders of EleutherAI's sparsify (1.3): `cfg.json` and `sae.safetensors`.

relu(encoder (x - b_dec) + bias), the k largest; a transcoder (`transcode`) does not subtract b_dec.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from interp.core.errors import ConfigError, CorruptArtefact
from interp.core.store import open_artefact
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.formats.building import build, number, origin, take

CFG, WEIGHTS = "cfg.json", "sae.safetensors"
_NAMES = {"encoder": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
_KNOWN = set(
    """
    activation expansion_factor normalize_decoder num_latents k multi_topk skip_connection transcode
    d_in signed
    """.split()
)


def read_folder(folder: Path) -> Dictionary:
    """The coder of one hook point.

    Its site is known where the folder has sparsify's name for it: `layers.3` is the output of
    block 3, `layers.3.mlp` its MLP. Others are left open.

    Raises:
        ConfigError: A GroupMax coder, or settings that are missing or unknown.
        CorruptArtefact: Tensors that contradict the settings.
    """
    stored = open_artefact(folder, foreign_ok=True)
    cfg = stored.json(CFG)
    where = stored.directory
    if not isinstance(cfg, dict):
        raise CorruptArtefact(f"{where / CFG}: no settings", got=repr(cfg)[:80], expected="{...}")
    _check(cfg, where)
    tensors = stored.tensors(WEIGHTS)
    skip, transcode = cfg.get("skip_connection", False), cfg.get("transcode", False)
    found = take(tensors, _NAMES | ({"W_skip": "W_skip"} if skip else {}), where / WEIGHTS)
    d_in = number(cfg, "d_in", where / CFG)
    site_in, site_out = _sites(folder.name, transcode)
    values: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": _width(cfg, d_in, where),
        "d_out": d_in if transcode else None,
        "activation": "topk",
        "k": number(cfg, "k", where / CFG),
        "skip": skip,
        "apply_b_dec_to_input": not transcode,
        "dtype": str(found["W_dec"].dtype).removeprefix("torch."),
        "site_in": site_in,
        "site_out": site_out,
    }
    return build(
        where,
        values,
        found,
        metadata={"sparsify": cfg},
        provenance=origin("sparsify", sites=(site_in, site_out), d_in=d_in, normalisation="none"),
    )


def _check(cfg: dict[str, Any], where: Path) -> None:
    """Refuse what a TopK dictionary cannot be."""
    kind = cfg.get("activation", "topk")
    if kind != "topk" or cfg.get("signed"):
        raise ConfigError(
            f"{where / CFG}: this room has no {kind} dictionaries"
            + (" of signed latents" if cfg.get("signed") else ""),
            got=f"activation {kind!r}",
            expected="topk",
        )
    if cfg.get("skip_connection") and not cfg.get("transcode"):
        raise ConfigError(
            f"{where / CFG}: a skip path around an autoencoder copies its input",
            got="skip_connection with transcode false",
        )
    unknown = sorted(set(cfg) - _KNOWN)
    if unknown:
        raise ConfigError(
            f"{where / CFG}: sparsify has no setting {unknown[0]!r} that is known here",
            expected=", ".join(sorted(_KNOWN)),
            fix="written by another version of sparsify?",
        )


def _width(cfg: dict[str, Any], d_in: int, where: Path) -> int:
    """Number of latents; 0 or nothing says d_in times the expansion."""
    told = cfg.get("num_latents") or 0
    return told if told else d_in * number(cfg, "expansion_factor", where / CFG)


def _sites(name: str, transcode: bool) -> tuple[str, str]:
    """Input and output sites of sparsify's names of hook points."""
    found = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)(\.mlp)?", name)
    if found is None:
        return "", ""
    block = f"blocks.{found[1]}."
    if not found[2]:
        return ("", "") if transcode else (f"{block}hook_resid_post", "")
    if transcode:  # the module's input is what the norm before it gives
        return f"{block}ln2.hook_normalized", f"{block}hook_mlp_out"
    return f"{block}hook_mlp_out", ""
