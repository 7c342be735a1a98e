"""Training rows from tensors, models and shard folders."""

from __future__ import annotations

import dataclasses
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
    TokenSequences,
    write_shards,
)
from interp.core.errors import ConfigError, NonFiniteError, ShapeError, SiteError, StorageError
from interp.dictionaries.sources import TensorRows, sequences, sides, source_of
from interp.dictionaries.train_checks import at_defaults
from interp.dictionaries.training import run_training, train
from interp.models import wrap
from tests.dictionaries.small import planted, same_module, small
from tests.models.zoo import make

STREAM = StreamConfig(batch_size=53, buffer_sequences=8, seed=3)
SITES = ("blocks.0.hook_resid_post", "blocks.0.hook_mlp_out", "blocks.1.attn.hook_z")


@pytest.fixture(scope="module")
def model() -> Any:
    return wrap(make("llama"))


@pytest.fixture(scope="module")
def ids(model: Any) -> torch.Tensor:
    return torch.randint(3, model.cfg.d_vocab, (40, 11), generator=torch.Generator().manual_seed(0))


def test_every_row_comes_once_per_epoch() -> None:
    x = torch.arange(97.0)[:, None]
    rows = TensorRows({"input": x}, 13, seed=5)
    seen = torch.cat([rows.batch(t)["input"] for t in range(15)])[: 2 * 97].flatten().long()
    assert torch.equal(seen[:97].sort().values, torch.arange(97))
    assert torch.equal(seen[97:].sort().values, torch.arange(97))
    assert not torch.equal(seen[:97], seen[97:])
    assert torch.equal(rows.batch(7)["input"], TensorRows({"input": x}, 13, 5).batch(7)["input"])


def test_pairs_stay_pairs() -> None:
    x = planted(101)
    batch = source_of((x, 2 * x), None, sides("", "", (x, x)), STREAM, TextConfig()).batch(3)
    torch.testing.assert_close(batch["output"], 2 * batch["input"])


def test_a_model_a_stream_and_its_shards_give_the_same_dictionary(
    model: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    config = small(site=SITES[0], batch_size=53, buffer_sequences=8, exclude_bos=True)
    by_model = train(config, ids, model=model)
    stream = ActivationStream(model, [SITES[0]], ids, config.stream)
    by_stream = train(config, stream)
    assert same_module(by_model, by_stream)
    assert by_model.provenance is not None and by_model.provenance.sites == (SITES[0],)
    by_model.for_model(model)
    write_shards(stream, tmp_path / "shards", ShardConfig(rows_per_shard=100))
    with pytest.raises(ConfigError, match="rows already"):
        train(dataclasses.replace(config, buffer_sequences=9), stream)
    with pytest.raises(ConfigError, match="rows already"):
        train(dataclasses.replace(config, buffer_sequences=9), tmp_path / "shards")
    by_shards = train(at_defaults(config, ["buffer_sequences"]), tmp_path / "shards")
    assert same_module(by_shards, train(config, tmp_path / "shards"))  # what was done may be said
    assert by_shards.provenance is not None
    assert by_shards.provenance.data_fingerprint == by_model.provenance.data_fingerprint
    x = next(iter(stream))[SITES[0]]
    assert by_shards.error(x).pow(2).mean() < 2 * by_model.error(x).pow(2).mean()


def test_one_pass_trains_what_single_runs_train(model: Any, ids: torch.Tensor) -> None:
    """Several dictionaries at several sites: each as if it had been alone, the model read once."""
    configs = [
        small(site=SITES[0], name="resid", buffer_sequences=8),
        small(site=SITES[2], name="z", buffer_sequences=8, activation="batchtopk"),
        small(
            site="blocks.1.ln2.hook_normalized",
            site_out="blocks.1.hook_mlp_out",
            name="mlp",
            buffer_sequences=8,
            lr=1e-3,
            grad_clip=0.1,
        ),
    ]
    together = run_training(configs, ids, model=model)
    for config, made in zip(configs, together.dictionaries.values(), strict=True):
        alone = train(config, ids, model=model)
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(made.state_dict()[name], tensor, atol=1e-5, rtol=1e-5)
    z = together.dictionaries["z"]
    assert z.config.reshape == "hook_z" and z.config.d_in == model.cfg.n_heads * model.cfg.d_head
    assert together.dictionaries["mlp"].config.is_transcoder
    assert {"resid/fvu", "z/l0", "mlp/dead"} <= together.report.records[-1].keys()


@pytest.mark.parametrize("asked", [23, 101])
def test_a_source_with_batches_of_another_size_is_refused(
    model: Any, ids: torch.Tensor, asked: int, tmp_path: Path
) -> None:
    """Smaller or larger: as many rows as the config says would not be what is trained on."""
    stream = ActivationStream(model, [SITES[0]], ids, STREAM)
    write_shards(stream, tmp_path / "shards", ShardConfig(rows_per_shard=100))
    for source in (stream, ShardReader(tmp_path / "shards", batch_size=53)):
        with pytest.raises(ConfigError, match="another size") as error:
            source_of(source, None, [SITES[0]], dataclasses.replace(STREAM, batch_size=asked), TextConfig())
        assert "53" in str(error.value) and f"batch_size={asked}" in str(error.value)
        assert source_of(source, None, [SITES[0]], STREAM, TextConfig()) is source


@pytest.mark.parametrize(("n_ctx", "most"), [(None, None), (5, None), (None, 7), (6, 3), (99, 99)])
def test_ids_are_cut_where_they_are_asked_to_be(
    model: Any, ids: torch.Tensor, n_ctx: int | None, most: int | None
) -> None:
    lengths = torch.arange(40) % 11 + 1
    for given in (ids, TokenSequences(ids, lengths)):
        found = sequences(model, given, n_ctx, most)
        assert torch.equal(found.ids, ids[:most, :n_ctx])
        whole = lengths if isinstance(given, TokenSequences) else torch.full((40,), 11)
        assert found.lengths.tolist() == [min(int(n), n_ctx or 11) for n in whole[:most]]


@pytest.mark.parametrize(
    ("data", "config", "error"),
    [
        (None, {}, ConfigError),
        ("stories.txt", {}, ConfigError),
        (torch.zeros(9, 2, 3), {}, ShapeError),
        (torch.zeros(9, 3), {}, ConfigError),
        ((torch.zeros(99, 3), torch.zeros(98, 3)), {}, ShapeError),
        (torch.randn(99, 3), {"site_out": "elsewhere"}, ConfigError),
        ({"a": torch.randn(99, 3)}, {"site": "b"}, SiteError),
        (torch.full((99, 3), float("inf")), {}, NonFiniteError),
        (object(), {}, ConfigError),
    ],
    ids=["nothing", "text", "3d", "few", "unequal", "one side", "site", "inf", "object"],
)
def test_what_cannot_be_trained_on_is_refused(data: Any, config: Any, error: type) -> None:
    with pytest.raises(error):
        run_training(small(**config), data)


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(StorageError, match="unfinished"):
        run_training(small(), tmp_path)
