"""Shards hold the stream's rows; readers depend on (seed, t) alone; writing resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.activations import (
    ActivationStream,
    ShardConfig,
    ShardReader,
    StreamConfig,
    TextConfig,
    tokenize_texts,
    write_shards,
)
from interp.core.errors import ConfigError, CorruptArtefact, SiteError, StorageError
from tests.activations.models import D_MODEL, small_model, stories
from tests.activations.toys import forked

SITES = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z"]
BATCH = 17


@pytest.fixture(scope="module")
def stream() -> ActivationStream:
    model = small_model()
    tokens = tokenize_texts(model, stories(41), TextConfig(pack=False))
    settings = StreamConfig(batch_size=BATCH, buffer_sequences=13, forward_sequences=5)
    return ActivationStream(model, SITES, tokens, settings)


@pytest.fixture
def folder(stream: ActivationStream, tmp_path: Path) -> Path:
    write_shards(stream, tmp_path / "acts", ShardConfig(rows_per_shard=50))
    return tmp_path / "acts"


def test_in_order_the_reader_is_the_stream(stream: ActivationStream, folder: Path) -> None:
    reader = ShardReader(folder, batch_size=BATCH, shuffle=False)
    assert len(reader) == len(stream) and reader.rows == len(stream) * BATCH
    assert reader.rows % 50 != 0, "the last shard is shorter"
    for read, made in zip(reader, stream, strict=True):
        assert all(torch.equal(read[site], made[site]) for site in SITES)
    assert reader.provenance() == stream.provenance()


def rows_of(reader: ShardReader, epoch: int) -> torch.Tensor:
    """One epoch of a reader whose batch size divides its rows."""
    n = len(reader)
    return torch.cat([reader.batch(t)[SITES[0]] for t in range(epoch * n, (epoch + 1) * n)])


def test_shuffled_epochs_hold_every_row_once_in_another_order(folder: Path) -> None:
    plain = rows_of(ShardReader(folder, batch_size=BATCH, shuffle=False), 0)
    reader = ShardReader(folder, batch_size=BATCH, seed=3)
    first, second = rows_of(reader, 0), rows_of(reader, 1)
    for one in (first, second):
        assert sorted(one.tolist()) == sorted(plain.tolist())
    assert not torch.equal(first, plain) and not torch.equal(first, second)
    assert not torch.equal(first, rows_of(ShardReader(folder, batch_size=BATCH, seed=4), 0))


@pytest.mark.parametrize("shuffle", [True, False])
def test_any_batch_can_be_sought(folder: Path, shuffle: bool) -> None:
    walked = ShardReader(folder, batch_size=BATCH, shuffle=shuffle)
    batches = [walked.batch(t)[SITES[1]] for t in range(2 * len(walked) + 2)]
    seeker = ShardReader(folder, batch_size=BATCH, shuffle=shuffle, sites="*hook_z")
    for t in (len(batches) - 1, 0, len(walked), 5, 3):
        assert torch.equal(seeker.batch(t)[SITES[1]], batches[t])
        assert seeker.batch(t).keys() == {SITES[1]}


def test_workers_read_side_by_side(folder: Path, tmp_path: Path) -> None:
    reader = ShardReader(folder, batch_size=BATCH)
    expected = [reader.batch(t)[SITES[0]].sum().item() for t in range(8)]

    def work(worker: int) -> None:
        mine = ShardReader(folder, batch_size=BATCH)
        sums = {t: mine.batch(t)[SITES[0]].sum().item() for t in range(worker, 8, 3)}
        (tmp_path / f"{worker}.json").write_text(json.dumps(sums))

    for pid in [forked(lambda w=w: work(w)) for w in range(3)]:
        assert os.waitpid(pid, 0)[1] == 0
    found = {}
    for worker in range(3):
        found |= json.loads((tmp_path / f"{worker}.json").read_text())
    assert [found[str(t)] for t in range(8)] == expected


class Failing:
    """A stream that breaks off after some batches, and counts what it was asked for."""

    def __init__(self, stream: ActivationStream, last: int | None = None) -> None:
        self.stream, self.last = stream, last
        self.sites, self.config, self.provenance = stream.sites, stream.config, stream.provenance
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.stream)

    def batch(self, t: int) -> Any:
        if self.last is not None and t > self.last:
            raise KeyboardInterrupt
        self.asked.append(t)
        return self.stream.batch(t)


def test_writing_goes_on_where_it_stopped(stream: ActivationStream, folder: Path, tmp_path: Path) -> None:
    settings, root = ShardConfig(rows_per_shard=50), tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        write_shards(Failing(stream, last=8), root, settings)
    with pytest.raises(StorageError, match="unfinished"):
        ShardReader(root, batch_size=BATCH)
    rest = Failing(stream)
    write_shards(rest, root, settings)
    assert min(t for t in rest.asked if t) == 150 // BATCH == 8, "three shards were kept"
    again = Failing(stream)
    write_shards(again, root, settings)
    assert again.asked == [], "a finished folder is left as it is"
    whole = ShardReader(folder, batch_size=BATCH)
    for read, expected in zip(ShardReader(root, batch_size=BATCH), whole, strict=True):
        assert all(torch.equal(read[site], expected[site]) for site in SITES)


def test_a_damaged_shard_is_refused_and_written_again(stream: ActivationStream, folder: Path) -> None:
    expected = ShardReader(folder, batch_size=BATCH, shuffle=False).batch(4)
    file = folder / "shard_00001" / "rows.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 4
    file.write_bytes(data)
    reader = ShardReader(folder, batch_size=BATCH, shuffle=False)
    reader.batch(0)
    with pytest.raises(CorruptArtefact, match="shard_00001"):
        reader.batch(4)
    repaired = write_shards(stream, folder, ShardConfig(rows_per_shard=50))
    repaired.shuffle = False
    assert all(torch.equal(repaired.batch(4)[site], expected[site]) for site in SITES)


def test_other_settings_and_other_folders_are_refused(
    stream: ActivationStream, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="rows_per_shard=51"):
        write_shards(stream, folder, ShardConfig(rows_per_shard=51))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        write_shards(stream, tmp_path / "notes")
    with pytest.raises(StorageError, match="no folder of activations"):
        ShardReader(tmp_path / "notes", batch_size=2)
    with pytest.raises(SiteError, match="hook_resid_post"):
        ShardReader(folder, batch_size=2, sites="blocks.0.hook_resid_pst")
    with pytest.raises(ConfigError, match="batch_size"):
        ShardReader(folder, batch_size=10_000)


def test_rows_and_dtype_can_be_chosen(stream: ActivationStream, tmp_path: Path) -> None:
    reader = write_shards(stream, tmp_path / "a", ShardConfig(rows=40, dtype="bfloat16"))
    assert reader.rows == 40 and reader.batch(0)[SITES[0]].dtype == torch.bfloat16
    assert reader.batch(0)[SITES[0]].shape == (BATCH, D_MODEL)
    plain = ShardReader(tmp_path / "a", batch_size=BATCH, shuffle=False)
    assert torch.equal(plain.batch(1)[SITES[0]], stream.batch(1)[SITES[0]].bfloat16())
