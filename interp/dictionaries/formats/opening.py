"""`load` and `save`: which layout a folder has is read off its files, never off its name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.core import store
from interp.core.errors import CorruptArtefact, InterpError, StorageError, out_of_memory
from interp.core.foreign import DIGITS, reason
from interp.core.names import did_you_mean
from interp.core.settings import check_flags
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    registry,
    saelens,
    saelens_layout,
    sparsify,
)
from interp.dictionaries.formats.building import at_sites

Reader = Callable[[Path], Dictionary]

SIGNS = {
    saelens_layout.WEIGHTS: "saelens",
    sparsify.WEIGHTS: "sparsify",
    dictionary_learning.WEIGHTS: "dictionary_learning",
    gemma_scope.WEIGHTS: "gemma_scope",
    circuit_tracer.CONFIG: "circuit_tracer",
}
"""File that only this layout has -> the layout."""


def recognise(folder: str | Path) -> str | None:
    """The layout of a folder, one of `SIGNS`' values (ours is "saelens"), or None.

    Raises:
        StorageError: Files of two layouts.
    """
    folder = Path(folder)
    found = [layout for sign, layout in SIGNS.items() if (folder / sign).is_file()]
    if not found and (folder / "layer_0.safetensors").is_file():
        found = ["circuit_tracer"]
    if len(found) > 1:
        raise StorageError(
            f"{folder} holds files of two layouts",
            got=" and ".join(found),
            fix="leave one of them in the folder",
        )
    return found[0] if found else None


def save(dictionary: Dictionary, directory: str | Path, *, overwrite: bool = False) -> Path:
    """Write a dictionary as a folder that sae-lens reads, too, with a manifest and provenance.

    Raises:
        StorageError: The folder exists and `overwrite` is False, or the disk refuses.
    """
    return dictionary.save(directory, overwrite=overwrite)


def load(
    source: str | Path,
    *,
    strict: bool = True,
    site_in: str | None = None,
    site_out: str | None = None,
    allow_download: bool = False,
    cache_dir: str | Path | None = None,
) -> Dictionary:
    """A dictionary from a folder or file of any known layout, or from sae-lens's registry.

    Args:
        source: A folder that `save`, sae-lens, sparsify or dictionary_learning wrote; the folder
            of a Gemma Scope `params.npz`; a `layer_3.safetensors` of circuit-tracer; or
            "release/id" of a pretrained dictionary.
        strict: Refuse what cannot be converted exactly; otherwise note it in the provenance.
        site_in: Where it reads, for layouts that do not say, or to correct what they say.
        site_out: Where it writes.
        allow_download: Fetch a registered dictionary that is not in the cache; off by default.
        cache_dir: The Hugging Face cache; by default the user's.

    Raises:
        StorageError: No such folder, no known layout; or not in the cache and not allowed to
            download: what is missing, and where it was looked for.
        CorruptArtefact: Damaged, hostile, or contradicting itself.
        ConfigError: Settings that are unknown, missing or impossible.
    """
    if not isinstance(source, str | os.PathLike):
        raise StorageError("a dictionary is loaded by its path or name", got=repr(source)[:80])
    check_flags(strict=strict, allow_download=allow_download)
    path = _existing(source)
    if path is not None:
        with refusing(path):
            made = _read(path, strict)
    elif registry.is_registered(str(source)):
        made = registry.load_registered(
            str(source), _read, allow_download=allow_download, cache_dir=cache_dir, strict=strict
        )
    else:
        raise StorageError(
            f"no dictionary {str(source)[:200]!r}",
            got="neither a folder, nor a release of sae-lens's registry",
            expected="a path, or RELEASE/ID",
            fix=_neighbours(Path(source)) or registry.nearest(str(source)),
        )
    return at_sites(made, site_in=site_in, site_out=site_out)


def load_all(source: str | Path, *, strict: bool = True) -> list[Dictionary] | None:
    """The dictionaries of a folder that holds several, in order of the numbers in their names.

    Args:
        source: A circuit-tracer set, or a folder of folders of any known layout.
        strict: As for `load`.

    Returns:
        None if it is no such folder: a single dictionary, or none.
    """
    check_flags(strict=strict)
    path = _existing(source)
    if path is None or not path.is_dir():
        return None
    layout = recognise(path)
    if layout == "circuit_tracer":
        return circuit_tracer.load_transcoders(path)
    if layout is not None:
        return None
    below = [item for item in path.iterdir() if item.is_dir() and recognise(item)]
    below.sort(key=lambda item: [int(n[:DIGITS]) for n in re.findall(r"\d+", item.name)])
    with refusing(path):
        return [_read(item, strict) for item in below] or None


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Whatever a layout's reader meets in a stranger's folder, as one error of ours."""
    try:
        yield
    except InterpError:
        raise
    except Exception as error:  # a value of another type than its name says, somewhere in the file
        raise out_of_memory(error, path) or CorruptArtefact(
            f"{path} cannot be read as a dictionary", got=reason(error), fix="download it again"
        ) from error


def _existing(source: str | Path) -> Path | None:
    """The path of that name, if there is one; not every text can be a path."""
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, NUL, an unknown ~user
        return None


def _read(path: Path, strict: bool = True) -> Dictionary:
    """The dictionary in a folder or file that exists."""
    if path.is_file():
        return _read_file(path, strict)
    layout = recognise(path)
    if layout == "saelens":
        return saelens.read_folder(store.open_artefact(path, foreign_ok=True), strict=strict)
    readers: dict[str | None, Reader] = {
        "sparsify": sparsify.read_folder,
        "dictionary_learning": dictionary_learning.read_folder,
        "gemma_scope": gemma_scope.read_folder,
    }
    if layout in readers:
        return readers[layout](path)
    if layout == "circuit_tracer":
        raise StorageError(
            f"{path} holds one transcoder per layer",
            expected="one dictionary",
            fix=f"load_transcoders({str(path)!r}) reads them all, "
            f"load({str(path / 'layer_0.safetensors')!r}) one",
        )
    raise StorageError(
        f"{path} holds no dictionary of a known layout",
        got=", ".join(sorted(map(_kind, path.iterdir()))[:12]) or "an empty folder",
        expected=" or ".join(SIGNS),
        fix=_inside(path),
    )


def _kind(item: Path) -> str:
    """A name, and what it is where it is no file."""
    if item.is_file():
        return item.name
    return f"{item.name}/" if item.is_dir() else f"{item.name} (a pipe, a device or a broken link)"


def _read_file(path: Path, strict: bool) -> Dictionary:
    """A file inside a folder of a known layout stands for the folder, or for one layer of it."""
    if path.name in SIGNS and path.name != circuit_tracer.CONFIG:
        return _read(path.parent, strict)
    if circuit_tracer.layer_of(path) is not None:
        return circuit_tracer.read_layer(path)
    raise StorageError(
        f"{path} is no dictionary", expected=f"a folder, {', '.join(SIGNS)}, layer_N.safetensors"
    )


def _inside(path: Path) -> str | None:
    """Dictionaries one or two levels below, for the error."""
    below = sorted(
        str(sign.parent) for name in SIGNS for sign in (*path.glob(f"*/{name}"), *path.glob(f"*/*/{name}"))
    )
    return f"did you mean {', '.join(below[:3])}?" if below else None


def _neighbours(path: Path) -> str | None:
    """The nearest names beside a path that does not exist."""
    parent = _existing(path.parent)
    names = [item.name for item in parent.iterdir()] if parent and parent.is_dir() else []
    return did_you_mean(path.name, names) or None
