"""Activations on disk: captured once, read by many workers.

`<folder>/shard_00000/{rows.safetensors, manifest.json}` and so on, each committed by itself, and
`<folder>/index/` last: a folder without it is unfinished, and writing it again goes on where it
stopped. Rows are stored in the stream's shuffled order, so reading in order is already mixed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.activations.bar import Bar
from interp.activations.config import ShardConfig
from interp.activations.dtypes import dtype_of
from interp.core import store
from interp.core.errors import ConfigError, CorruptArtefact, StorageError
from interp.core.foreign import one_line, read_json, reason, show
from interp.core.names import match
from interp.core.provenance import Provenance, fingerprint_text
from interp.core.randomness import permutation
from interp.core.settings import check_flags

SHARD, INDEX = "activation-shard/1", "activation-shards/1"


class Batches(Protocol):
    """What can be written: `ActivationStream` and whatever looks like it."""

    sites: list[str]
    config: Any

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def batch(self, t: int) -> Mapping[str, Tensor]:
        """Rows of batch t at every site."""
        ...

    def provenance(self) -> Provenance:
        """Model, sites and data."""
        ...


def write_shards(stream: Batches, directory: str | Path, config: ShardConfig | None = None) -> ShardReader:
    """Capture rows of a stream, in its order, to a folder; resumes what was interrupted.

    Args:
        stream: Where the rows come from; its first rows are written.
        directory: The folder. A finished one with the same content is left as it is.
        config: How many rows, rows per file, dtype.

    Returns:
        A reader of the folder, with the stream's batch size.

    Raises:
        ConfigError: The folder holds other activations, or nothing is to be written.
        StorageError: The disk refuses, or another process is writing there.
    """
    config = config or ShardConfig()
    root, size = Path(directory), stream.config.batch_size
    n_rows = len(stream) * size if config.rows is None else config.rows
    plan = {
        "sites": list(stream.sites),
        "rows": n_rows,
        "rows_per_shard": config.rows_per_shard,
        "dtype": config.dtype,
        "stream": dataclasses.asdict(stream.config),
        "provenance": stream.provenance().to_json(),
    }
    with store.lock(root):
        _settle(root, plan)
        starts = range(0, n_rows, config.rows_per_shard)
        for number, start in enumerate(Bar(starts, unit="shard")):
            folder = root / _shard(number)
            if not _is_whole(folder):
                rows = _rows(stream, start, min(start + config.rows_per_shard, n_rows), config)
                store.commit(folder, {"rows.safetensors": rows}, overwrite=True, schema=SHARD)
        if not (root / "index").is_dir():
            widths = {site: t.shape[1] for site, t in stream.batch(0).items()}
            index = {**plan, "shards": len(starts), "widths": widths}
            store.commit(root / "index", {"index.json": index}, schema=INDEX)
    return ShardReader(root, batch_size=size)


def _check_index(index: Any, root: Path) -> None:
    """Sites, rows and shards that can be, and that are there.

    Raises:
        CorruptArtefact: They are not.
    """
    said = index if isinstance(index, dict) else {}
    rows, shards, size = (said.get(k) for k in ("rows", "shards", "rows_per_shard"))
    sites = said.get("sites")
    numbers = all(type(n) is int and n > 0 for n in (rows, shards, size))
    named = isinstance(sites, list | dict) and sites and all(isinstance(s, str) for s in sites)
    # All shards but one are full.
    fits = numbers and named and (shards - 1) * size < rows <= shards * size  # type: ignore[operator]
    if not fits or not isinstance(said.get("provenance"), dict):
        raise CorruptArtefact(
            f"{root} holds no index of stored activations",
            got=show(json.dumps(said), 200),
            fix="write it again with write_shards",
        )


class ShardReader:
    """Stored activations with a stream's interface: batch t depends on (seed, t) alone.

    With `shuffle`, each epoch takes the shards in a seeded order and the rows of each in another;
    without, rows come as they were written. Readers hold one shard open and share nothing, so any
    number of workers may read (worker k of n takes t = k, k + n, ...; contiguous ranges of t are
    cheaper when shuffled).

    Args:
        directory: A finished folder of `write_shards`.
        batch_size: Rows per batch.
        sites: Those to read; None reads all.
        seed: Of the shuffles.
        shuffle: See above.

    Raises:
        StorageError: Unfinished, or something else.
        SiteError: A site that was not stored.
        ConfigError: Fewer rows than one batch.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        batch_size: int,
        sites: Any = None,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        check_flags(shuffle=shuffle)
        self.root: Path = Path(directory)
        if not (self.root / "index").is_dir():
            unfinished = (self.root / "plan.json").exists()
            raise StorageError(
                f"{self.root} is {'unfinished' if unfinished else 'no folder of activations'}",
                fix="write_shards(...) writes it, or goes on where it stopped",
            )
        self.index: dict[str, Any] = store.open_artefact(self.root / "index", schema=INDEX).json("index.json")
        _check_index(self.index, self.root)
        stored = self.index["sites"]
        self.sites: list[str] = list(stored) if sites is None else match(sites, stored, where=str(self.root))
        self.rows: int = self.index["rows"]
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        if not 1 <= batch_size <= self.rows:
            raise ConfigError(
                "batch_size does not fit the stored rows", got=batch_size, expected=f"1 to {self.rows}"
            )
        self._verified: set[int] = set()
        self._held: tuple[int, dict[str, Tensor]] | None = None

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.rows // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The batches of the first epoch."""
        for t in range(len(self)):
            yield self.batch(t)

    def __repr__(self) -> str:
        sites = one_line(", ".join(self.sites[:3]))
        return f"ShardReader({self.root}: {self.rows:,} rows in {self.index['shards']} shards, sites {sites})"

    def provenance(self) -> Provenance:
        """Model, sites, dtype and data of these activations."""
        return Provenance.from_json(self.index["provenance"])

    def plan(self) -> dict[str, Any]:
        """What decides the rows of every batch, as JSON values: a run that goes on compares it.

        Raises:
            StorageError, CorruptArtefact: A shard is not there any more, or not what was written.
        """
        written = {key: value for key, value in self.index.items() if key != "provenance"}
        known = {key: value for key, value in self.index["provenance"].items() if key != "versions"}
        return written | {
            "source": "stored activations",
            "provenance": known,
            "sites": list(self.sites),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "content": self._content(),
        }

    def _content(self) -> str:
        """One hash over those of all shards, as their manifests have them; the rows stay unread."""
        found = []
        for number in range(self.index["shards"]):
            with _there(self.root / _shard(number)) as folder:
                found.append(str(read_json(folder / "manifest.json")["files"]["rows.safetensors"]["sha256"]))
        return fingerprint_text("\n".join(found))

    def batch(self, t: int) -> dict[str, Float[Tensor, "row d"]]:
        """Batch t at every site, on the CPU, in the stored dtype.

        Raises:
            CorruptArtefact: A shard is not what was written.
            StorageError: A shard is not there any more.
        """
        if t < 0:
            raise ConfigError("a batch has a number from 0 on", got=t)
        parts: list[dict[str, Tensor]] = []
        first, n = t * self.batch_size, self.batch_size
        while n > 0:
            epoch, offset = divmod(first, self.rows)
            shard, start, stop = self._locate(epoch, offset, n)
            parts.append(self._read(epoch, shard, start, stop))
            first, n = first + stop - start, n - (stop - start)
        return {site: torch.cat([part[site] for part in parts]) for site in self.sites}

    def _locate(self, epoch: int, offset: int, n: int) -> tuple[int, int, int]:
        """Shard and range of rows at `offset` of an epoch; all shards but one are full."""
        order = torch.arange(self.index["shards"])
        if self.shuffle:
            order = permutation(len(order), self.seed, "shards/order", epoch)
        ends = self._sizes()[order].cumsum(0)
        place = int(torch.searchsorted(ends, offset, right=True))
        begins = int(ends[place - 1]) if place else 0
        taken = min(n, int(ends[place]) - offset)
        return int(order[place]), offset - begins, offset - begins + taken

    def _sizes(self) -> Tensor:
        per_shard, shards = self.index["rows_per_shard"], self.index["shards"]
        sizes = torch.full((shards,), per_shard)
        sizes[-1] = self.rows - per_shard * (shards - 1)
        return sizes

    def _read(self, epoch: int, shard: int, start: int, stop: int) -> dict[str, Tensor]:
        path = self._verify(shard)
        if not self.shuffle:  # only these bytes are read
            with _there(path), safe_open(path, framework="pt") as file:
                return {site: file.get_slice(site)[start:stop] for site in self.sites}
        n = int(self._sizes()[shard])
        chosen = permutation(n, self.seed, f"shards/rows/{epoch}", shard)[start:stop]
        if self._held is None or self._held[0] != shard:
            self._held = None
            with _there(path), safe_open(path, framework="pt") as file:
                self._held = (shard, {site: file.get_tensor(site) for site in self.sites})
        return {site: rows[chosen] for site, rows in self._held[1].items()}

    def _verify(self, shard: int) -> Path:
        """The shard's file; its sha256 is checked at the first use by this reader."""
        folder = self.root / _shard(shard)
        if shard not in self._verified:
            with _there(folder):
                folder.lstat()
            store.open_artefact(folder, schema=SHARD)
            self._verified.add(shard)
        return folder / "rows.safetensors"


@contextmanager
def _there(path: Path) -> Iterator[Path]:
    """What went while it was read, or cannot be read, is said in one way.

    Raises:
        StorageError: The shard is not there any more.
        CorruptArtefact: It is there and is not what was written.
    """
    try:
        yield path
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, StorageError | CorruptArtefact):
            raise
        if path.exists():
            raise CorruptArtefact(f"{path} cannot be read", got=reason(error)) from error
        raise StorageError(
            f"a shard of the stored activations is gone: {path}",
            fix="write_shards(...) into the same folder writes what is missing; then begin again",
        ) from error


def _shard(number: int) -> str:
    return f"shard_{number:05d}"


def _settle(root: Path, plan: dict[str, Any]) -> None:
    """Write plan.json, or compare the one that is there; versions of packages may differ."""
    path = root / "plan.json"
    text = json.dumps(plan, indent=2) + "\n"
    if not path.exists():
        if root.exists() and any(root.iterdir()):
            raise StorageError(f"{root} is not empty and holds no activations of ours")
        store.write_text(path, text)
        return
    here, there = json.loads(text), _read_plan(path)
    for side in (here, there):
        side["provenance"] = {k: v for k, v in side["provenance"].items() if k != "versions"}
    differing = [key for key in here if there.get(key) != here[key]]
    if differing:
        raise ConfigError(
            f"{root} holds other activations",
            got=", ".join(f"{key}={here[key]!r}" for key in differing)[:300],
            expected=", ".join(f"{key}={there.get(key)!r}" for key in differing)[:300],
            fix="another folder",
        )


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = read_json(path)
        return plan | {"provenance": dict(plan["provenance"])}
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtefact(
            f"{path} is no plan of activations", got=error, fix="write to another folder"
        ) from error


def _is_whole(folder: Path) -> bool:
    try:
        return folder.is_dir() and bool(store.open_artefact(folder, schema=SHARD))
    except CorruptArtefact:
        return False


def _rows(stream: Batches, start: int, stop: int, config: ShardConfig) -> dict[str, Tensor]:
    """Rows `start` to `stop` of the stream at every site."""
    size, dtype = stream.config.batch_size, dtype_of(config.dtype)
    parts: list[Mapping[str, Tensor]] = []
    for t in range(start // size, -(-stop // size)):
        wanted = slice(max(0, start - t * size), min(size, stop - t * size))
        parts.append({site: rows[wanted] for site, rows in stream.batch(t).items()})
    return {site: torch.cat([part[site] for part in parts]).to(dtype) for site in stream.sites}
