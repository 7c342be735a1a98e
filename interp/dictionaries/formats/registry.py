"""sae-lens's registry of pretrained dictionaries, from the Hugging Face cache.

`load("gpt2-small-res-jb/blocks.8.hook_resid_pre")` looks the release up in the table that the
installed sae-lens brings, and reads the files from the cache with this room's own readers. Layouts
that only sae-lens knows are read by sae-lens itself. Nothing is downloaded unless it is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from interp.core.errors import ConfigError, InterpError, MissingDependency, StorageError, out_of_memory
from interp.core.names import did_you_mean, suggest
from interp.core.store import open_artefact
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.formats import saelens
from interp.dictionaries.formats.building import at_sites
from interp.dictionaries.formats.saelens_layout import CFG, SPARSITY, WEIGHTS

Reader = Callable[[Path, bool], Dictionary]
_TABLE = "pretrained_saes.yaml"
_SITE = re.compile(r"(?:blocks\.\d+\.(?:\w+\.)?)?hook_[a-z_]+?(?=__|$)")
_FILES: dict[str | None, tuple[str, ...]] = {
    None: (CFG, WEIGHTS),
    "sae_lens": (CFG, WEIGHTS),
    "gemma_2": ("params.npz",),
    "gemma_2_transcoder": ("params.npz",),
    "dictionary_learning_1": ("config.json", "ae.pt"),
    "sparsify": ("cfg.json", "sae.safetensors"),
}
"""Conversion of the table -> the files of a folder that our own readers need."""


@dataclass(frozen=True)
class Entry:
    """One pretrained dictionary of the table."""

    release: str
    """Name of the release."""
    id: str
    """Name inside the release."""
    repo: str
    """Repository on the hub."""
    folder: str
    """Folder (or file) in the repository."""
    model: str
    """The model it was trained on."""
    conversion: str | None
    """sae-lens's name of the layout; None is its own."""
    scale: float | None = None
    """Factor to be folded in, where activations were normalised on average."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the table corrects."""


def is_registered(name: str) -> bool:
    """Whether `RELEASE/ID` begins with a release of the table."""
    release, _, rest = name.partition("/")
    return bool(rest) and _index() is not None and release in (_index() or {})


def nearest(name: str) -> str | None:
    """The nearest releases, for an error; None if nothing is near or there is no table."""
    release = name.partition("/")[0]
    found = suggest(release, _index() or {}) if release else []
    return f"releases of the registry: {', '.join(found)}" if found else None


def find(name: str) -> Entry:
    """The entry `RELEASE/ID`.

    Raises:
        ConfigError: The release has no such id; the nearest are named.
        MissingDependency: sae-lens is not installed.
    """
    release, _, wanted = name.partition("/")
    table = _release(release)
    ids = {str(item["id"]): item for item in table["saes"]}
    if wanted not in ids:
        raise ConfigError(
            f"the release {release!r} has no dictionary {wanted!r}",
            got=wanted,
            expected=f"one of {len(ids)}: {', '.join(list(ids)[:5])}, ...",
            fix=did_you_mean(wanted, ids) or None,
        )
    item = ids[wanted]
    return Entry(
        release,
        wanted,
        table["repo_id"],
        str(item["path"]),
        str(table["model"]),
        table.get("conversion_func"),
        item.get("norm_scaling_factor"),
        table.get("config_overrides") or {},
    )


def load_registered(
    name: str,
    read: Reader,
    *,
    allow_download: bool = False,
    cache_dir: str | Path | None = None,
    strict: bool = True,
) -> Dictionary:
    """A pretrained dictionary, from the cache or (if allowed) from the hub.

    Args:
        name: `RELEASE/ID`.
        read: Reads a folder of any known layout.
        allow_download: Ask the hub for what the cache lacks.
        cache_dir: The Hugging Face cache; by default the user's.
        strict: As for `load`.

    Raises:
        StorageError: Not in the cache, or the hub cannot be asked: files, repository and the
            folder that was searched are named.
        ConfigError: No such id.
        CorruptArtefact: Damaged files.
    """
    entry = find(name)
    wanted = _FILES.get(entry.conversion)
    if wanted is None:
        made = _through_saelens(entry, allow_download, strict)
    else:
        folder = _fetch(entry, wanted, allow_download, cache_dir)
        is_own = entry.conversion in (None, "sae_lens")
        if is_own:
            stored = open_artefact(folder, foreign_ok=True)
            made = saelens.read_folder(stored, strict=strict, overrides=entry.overrides)
        else:
            made = read(folder, strict)
    if not made.site_in and (site := _SITE.match(entry.id)):
        made = at_sites(made, site_in=site[0])
    if entry.scale is not None and made.config.normalize_activations == "expected_average_only_in":
        made = made.unscaled(float(entry.scale))
    return _labelled(made, entry)


def _labelled(made: Dictionary, entry: Entry) -> Dictionary:
    """With the table's name of it, and the model's where the files are silent."""
    made.metadata = made.metadata | {"release": entry.release, "id": entry.id, "repository": entry.repo}
    if made.provenance is not None and made.provenance.model == "unknown":
        made.provenance = replace(made.provenance, model=entry.model)
    return made


# --- the hub -----------------------------------------------------------------------------------


def _fetch(entry: Entry, wanted: tuple[str, ...], allow_download: bool, cache_dir: str | Path | None) -> Path:
    """The folder with these files in the cache, filled from the hub if that is allowed."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    files = [*wanted, *((SPARSITY,) if WEIGHTS in wanted else ())]
    patterns = [f"{entry.folder}/{file}" for file in files]
    looked = cache / f"models--{entry.repo.replace('/', '--')}"

    def missing(why: object, fix: str) -> StorageError:
        return StorageError(
            f"{entry.release}/{entry.id} is not on this machine",
            got=why,
            expected=f"{', '.join(wanted)} in {entry.repo}/{entry.folder}; looked in {looked}",
            fix=fix,
        )

    ask = (
        f"allow_download=True, or on a machine with a network: hf download {entry.repo} "
        f'--include "{entry.folder}/*", and copy {looked} here'
    )
    try:
        root = snapshot_download(
            entry.repo,
            allow_patterns=patterns,
            cache_dir=cache,
            local_files_only=not allow_download or constants.HF_HUB_OFFLINE,
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        if not allow_download:
            raise missing("nothing of this repository in the cache", ask) from error
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else " ".join(str(error).split())
        raise missing(why[:300], "check the network, the name, and HF_TOKEN if it is gated") from error
    folder = Path(root) / entry.folder
    lacking = [file for file in wanted if not (folder / file).is_file()]
    if lacking:
        raise missing(f"without {', '.join(lacking)} in {folder}", ask)
    return folder


def _through_saelens(entry: Entry, allow_download: bool, strict: bool) -> Dictionary:
    """Layouts of other groups, read by sae-lens; it may not reach for the network unasked."""
    from huggingface_hub import constants

    if not allow_download and not constants.HF_HUB_OFFLINE:
        raise StorageError(
            f"{entry.release}/{entry.id} has a layout that only sae-lens reads, asking the hub",
            got=f"{entry.conversion}, allow_download=False",
            fix="allow_download=True, or set HF_HUB_OFFLINE=1 to read what is in the cache",
        )
    from sae_lens import SAE

    try:
        sae = SAE.from_pretrained(entry.release, entry.id)
    except InterpError:
        raise
    except Exception as error:  # a dozen loaders of a dozen groups: none may pass bare
        raise out_of_memory(error, f"{entry.release}/{entry.id}") or StorageError(
            f"sae-lens cannot load {entry.release}/{entry.id}",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            expected=f"{entry.repo}/{entry.folder} in {constants.HF_HUB_CACHE}",
            fix="allow_download=True on a machine with a network",
        ) from error
    return saelens.from_saelens(sae, strict=strict)


# --- the table ---------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _text() -> str | None:
    """The table's text. sae-lens itself is not imported: that takes seconds."""
    spec = find_spec("sae_lens")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / _TABLE
    return path.read_text(encoding="utf-8") if path.is_file() else None


@lru_cache(maxsize=1)
def _index() -> dict[str, tuple[int, int]] | None:
    """Release -> where its part of the text begins and ends: parsing all of it takes seconds."""
    text = _text()
    if text is None:
        return None
    starts = [(match[1], match.start()) for match in re.finditer(r"^([^\s#][^\n]*?):\s*$", text, re.M)]
    ends = [start for _, start in starts[1:]] + [len(text)]
    return {name: (start, end) for (name, start), end in zip(starts, ends, strict=True)}


def _release(name: str) -> dict[str, Any]:
    """One release's part of the table."""
    text, index = _text(), _index()
    if text is None or index is None:
        raise MissingDependency("the registry comes with sae-lens", fix="pip install sae-lens")
    start, end = index[name]
    return yaml.safe_load(text[start:end])[name]
