"""Reading Gemma Scope's `params.npz` (arXiv 2408.05147): JumpReLU SAEs and transcoders.

The file is a zip of numpy arrays. Pickled objects are refused (`allow_pickle=False`), and sizes are
checked against the headers before anything is allocated.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import CorruptArtefact, StorageError, out_of_memory
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.formats.building import build, origin, take

WEIGHTS = "params.npz"
_NAMES = {name: name for name in ("W_dec", "b_enc", "b_dec", "threshold")} | {"encoder": "W_enc"}
_DAMAGE = (ValueError, KeyError, EOFError, NotImplementedError, MemoryError, zlib.error, zipfile.BadZipFile)
_PACKED = 20  # a zip that unpacks to more than this times its size is a bomb: weights are noise


def read_folder(folder: Path) -> Dictionary:
    """The dictionary in a folder with `params.npz`.

    The file does not say where it belongs. Layer and kind are read off the path where it has
    Gemma Scope's own names (`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`); otherwise
    pass `site_in` and `site_out` to `load`.

    Raises:
        CorruptArtefact: Damaged, a bomb, pickled objects, or other arrays.
    """
    where = folder / WEIGHTS
    arrays = read_npz(where)
    renamed = {f"W_{n[2:]}" if n.startswith("w_") else n: array for n, array in arrays.items()}
    found = take(renamed, _NAMES, where)
    if found["encoder"].ndim != 2 or found["W_dec"].ndim != 2:
        raise CorruptArtefact(f"{where}: encoder and decoder are no matrices")
    d_in, d_sae = found["encoder"].shape
    d_out = found["W_dec"].shape[1]
    kind, site_in, site_out = _place(str(folder.resolve()))
    if "embedding" in folder.resolve().parts:  # trained on embeddings times sqrt(d): folded here
        found["encoder"] = found["encoder"] / d_in**0.5
        found["W_dec"] = found["W_dec"] * d_in**0.5
    is_transcoder = kind == "transcoders" or d_out != d_in
    found["encoder"] = found["encoder"].T
    values: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_out if is_transcoder else None,
        "activation": "jumprelu",
        "apply_b_dec_to_input": False,
        "reshape": "hook_z" if kind == "att" else "none",
        "site_in": site_in,
        "site_out": site_out,
    }
    l0 = re.search(r"average_l0_(\d+)", folder.name)
    return build(
        where,
        values,
        found,
        metadata={"l0": int(l0[1])} if l0 else {},
        provenance=origin(
            "Gemma Scope", sites=(site_in, site_out), d_in=d_in, prepend_bos=True, normalisation="none"
        ),
    )


def _place(path: str) -> tuple[str | None, str, str]:
    """Kind and sites, from the names that Google gave the folders."""
    kind = re.search(r"gemma-scope-\w+-\w+-(res|mlp|att|transcoders)", path)
    layer = re.search(r"layer_(\d+)", path)
    if kind is not None and kind[1] == "res" and "embedding" in Path(path).parts:
        return "res", "hook_embed", ""
    if kind is None or layer is None:
        return None if kind is None else kind[1], "", ""
    block = f"blocks.{layer[1]}."
    site_in, site_out = {
        "res": ("hook_resid_post", ""),
        "mlp": ("hook_mlp_out", ""),
        "att": ("attn.hook_z", ""),
        "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
    }[kind[1]]
    return kind[1], block + site_in, block + site_out if site_out else ""


def read_npz(path: Path) -> dict[str, Tensor]:
    """Arrays of numbers by name, float32.

    Raises:
        CorruptArtefact: No zip, damaged, a bomb, an array of objects, or a header that lies.
        StorageError: The file cannot be read.
    """
    try:
        _refuse_lies(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name].astype(np.float32, copy=False)) for name in arrays}
    except StorageError:
        raise
    except _DAMAGE as error:
        raise out_of_memory(error, path) or CorruptArtefact(
            f"{path}: no arrays of numbers, or damaged",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            fix="re-download it",
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}", got=error.strerror or error) from error


def _refuse_lies(path: Path) -> None:
    """Sizes in the zip and in the arrays' headers must agree before numpy allocates them."""
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
        if total > _PACKED * path.stat().st_size + (1 << 20):
            raise CorruptArtefact(
                f"{path}: refused as a zip bomb", got=f"{total:,} bytes packed into {path.stat().st_size:,}"
            )
        for member in archive.infolist():
            with archive.open(name=member) as stream:
                version = np.lib.format.read_magic(stream)
                read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                    version, np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(stream)
                size = stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
            if dtype.hasobject or dtype.kind not in "fiub" or size != member.file_size:
                raise CorruptArtefact(
                    f"{path}: the array {member.filename!r} is refused",
                    got=f"{dtype}, shape {shape}, {member.file_size:,} bytes",
                    expected="numbers, as many as its header says",
                )
