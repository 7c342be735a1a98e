"""A run's record says what its batches are made of: it goes on with the same data or not at all."""

from __future__ import annotations

import json
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.activations import (
    ActivationStream,
    Callback,
    ShardConfig,
    ShardReader,
    StreamConfig,
    TextConfig,
    tokenize_texts,
    write_shards,
)
from interp.core.errors import ConfigError, DataWarning, Interrupted
from interp.dictionaries import evaluate
from interp.dictionaries.train_config import TrainConfig
from interp.dictionaries.training import run_training, train
from tests.activations.models import small_model, stories
from tests.activations.toys import no_power_cuts
from tests.dictionaries.small import planted, same_module, small

pytestmark = pytest.mark.usefixtures(no_power_cuts.__name__)

SITE = "blocks.1.hook_resid_post"
CONFIG = small(site=SITE, steps=8, batch_size=23)


class Stop(Callback):
    """Somebody presses Ctrl-C in the fourth step."""

    def after_step(self, module: Any, t: int) -> None:
        if t == 3:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.fixture(scope="module")
def tokens(model: Any) -> Any:
    return tokenize_texts(model, stories(37), TextConfig(pack=False))


def stream(model: Any, tokens: Any, **changes: Any) -> ActivationStream:
    return ActivationStream(model, SITE, tokens, StreamConfig(**{"batch_size": 23, "seed": 1, **changes}))


def begun(data: Any, run: Path, config: TrainConfig = CONFIG, **more: Any) -> None:
    with pytest.raises(Interrupted):
        run_training(config, data, out=run, callbacks=[Stop()], **more)


def without_bos(model: Any) -> Any:
    return tokenize_texts(model, stories(37), TextConfig(pack=False, prepend_bos=False))


SHARDS: dict[str, Callable[[Any, Any], tuple[ActivationStream, ShardConfig]]] = {
    "dtype": lambda m, t: (stream(m, t), ShardConfig(dtype="float16")),
    "the stream's dtype": lambda m, t: (stream(m, t, dtype="float64"), ShardConfig()),
    "no BOS": lambda m, t: (stream(m, without_bos(m)), ShardConfig()),
    "BOS kept": lambda m, t: (stream(m, t, exclude_bos=False), ShardConfig()),
    "seed": lambda m, t: (stream(m, t, seed=2), ShardConfig()),
    "half the rows": lambda m, t: (stream(m, t), ShardConfig(rows=115)),
    "rows per shard": lambda m, t: (stream(m, t), ShardConfig(rows_per_shard=50)),
    "other text": lambda m, t: (
        stream(m, tokenize_texts(m, stories(38)[1:], TextConfig(pack=False))),
        ShardConfig(),
    ),
    "context": lambda m, t: (stream(m, tokenize_texts(m, stories(37), TextConfig(n_ctx=7))), ShardConfig()),
}
"""Other ways to fill the folder that a run was begun on."""


def test_a_run_goes_on_with_a_folder_written_alike_only(model: Any, tokens: Any, tmp_path: Path) -> None:
    folder, run = tmp_path / "rows", tmp_path / "run"
    write_shards(stream(model, tokens), folder)
    whole = train(CONFIG, folder)
    begun(folder, run)
    kept = tmp_path / "kept"
    for name, other in SHARDS.items():
        shutil.copytree(run, kept)
        shutil.rmtree(folder)
        written, how = other(model, tokens)
        write_shards(written, folder, how)
        with pytest.raises(ConfigError, match="other settings") as error:
            run_training(CONFIG, folder, out=kept)
        assert "data.plan." in str(error.value), name
        shutil.rmtree(kept)
    shutil.rmtree(folder)
    write_shards(stream(model, tokens), folder)  # the same again, byte for byte
    again = run_training(CONFIG, folder, out=run)
    assert again.report.resumed_at == 4
    assert same_module(again.dictionaries["0"], whole)


STREAMS: dict[str, dict[str, Any]] = {
    "dtype": {"dtype": "float64"},
    "exclude_bos": {"exclude_bos": False},
    "seed": {"seed": 2},
    "buffer_sequences": {"buffer_sequences": 3},
    "forward_sequences": {"forward_sequences": 2},
}


def test_a_run_goes_on_with_the_same_stream_only(model: Any, tokens: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(stream(model, tokens), run)
    for name, changes in STREAMS.items():
        with pytest.raises(ConfigError, match=rf"data\.plan\.{name}="):
            run_training(CONFIG, stream(model, tokens, **changes), out=run)
    for name, other in (("prepend_bos", without_bos(model)), ("n_ctx", tokens.ids[:, :7])):
        with pytest.raises(ConfigError, match=rf"data\.plan\.{name}="):
            run_training(CONFIG, stream(model, other), out=run)
    more_memory = stream(model, tokens, max_bytes=2**31)  # decides nothing about a row
    again = run_training(CONFIG, more_memory, out=run)
    assert again.report.resumed_at == 4
    assert same_module(again.dictionaries["0"], train(CONFIG, stream(model, tokens)))


def test_a_run_goes_on_with_the_same_tensors_only(tmp_path: Path) -> None:
    x, config = planted(211), small(steps=8)
    begun(x, tmp_path / "run", config)
    one_moved = x.clone()
    one_moved[100, 3] += 1e-3
    for other in (x[:-1], one_moved, x.double()):
        with pytest.raises(ConfigError, match=r"data\.plan\.rows="):
            run_training(config, other, out=tmp_path / "run")
    # The rows are what counts, not the form in which they come.
    assert run_training(config, x.numpy(), out=tmp_path / "run").report.resumed_at == 4


class Own:
    """A source of somebody's own, which says nothing of where its rows come from."""

    def __init__(self, seed: int = 0) -> None:
        self.sites = [SITE]
        self.from_seed = seed

    def batch(self, t: int) -> dict[str, Tensor]:
        rows = torch.Generator().manual_seed(1000 * self.from_seed + t)
        return {SITE: torch.randn(23, 13, generator=rows)}

    def provenance(self) -> None:
        return None


class Planned(Own):
    """One that says what decides its rows."""

    def plan(self) -> Any:
        return {"from seed": self.from_seed, "widths": [13]}


@pytest.mark.parametrize("kind", [Own, Planned])
def test_a_source_of_ones_own_goes_on_in_another_process(kind: type[Own], tmp_path: Path) -> None:
    first = kind()  # stays alive, so that another one has another address
    begun(first, tmp_path / "run")
    assert hex(id(first))[2:] not in (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(ConfigError, match=r"data\.plan"):
        run_training(CONFIG, kind(1), out=tmp_path / "run")
    again = run_training(CONFIG, kind(), out=tmp_path / "run")
    assert again.report.resumed_at == 4
    assert same_module(again.dictionaries["0"], train(CONFIG, first))


@pytest.mark.parametrize("plan", [5, {"rows": torch.zeros(3)}, {"rate": float("nan")}], ids=str)
def test_a_plan_that_cannot_be_recorded_is_refused_before_the_run(plan: Any, tmp_path: Path) -> None:
    source = Planned()
    source.plan = lambda: plan  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"plan\(\) of this Planned cannot be recorded"):
        run_training(CONFIG, source, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_earlier_version_goes_on_and_says_what_is_not_known(tmp_path: Path) -> None:
    x, config, run = planted(211), small(steps=8), tmp_path / "run"
    begun(x, run, config)
    file = run / "config.json"
    stored = json.loads(file.read_text())
    del stored["record"]["data"]["plan"]  # all that was recorded then is left
    file.write_text(json.dumps(stored))
    with pytest.warns(DataWarning, match="begun by an earlier version"):
        again = run_training(config, x, out=run)
    assert again.report.resumed_at == 4
    with pytest.raises(ConfigError, match=r"data\.rows="), warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        run_training(config, x + 1, out=run)


# --- the record says what was done -----------------------------------------------------------------


def told(dictionary: Any) -> Any:
    return dictionary.metadata["training"]


def test_bos_is_recorded_as_the_sequences_have_it(model: Any, tokens: Any) -> None:
    with_bos, without = train(CONFIG, tokens, model=model), train(CONFIG, without_bos(model), model=model)
    assert with_bos.provenance is not None and with_bos.provenance.prepend_bos is True
    assert without.provenance is not None and without.provenance.prepend_bos is False
    mixed = torch.cat([tokens.ids[:9, :5], tokens.ids[:9, 1:6]])
    assert stream(model, mixed).provenance().prepend_bos is None
    assert [told(d)["data"]["prepend_bos"] for d in (with_bos, without)] == [True, False]


def test_an_evaluation_applies_the_policy_of_its_data(model: Any, tokens: Any) -> None:
    without = train(CONFIG, without_bos(model), model=model)
    report = evaluate(without, model, without_bos(model))  # made without BOS, and so are these
    assert report.provenance is not None and report.provenance.prepend_bos is False
    with_bos = train(CONFIG, tokens, model=model)
    other = evaluate(with_bos, model, without_bos(model)).provenance
    assert other is not None and "prepend_bos: made for True, applied to False" in other.notes


def test_settings_are_recorded_as_the_source_has_them(model: Any, tokens: Any, tmp_path: Path) -> None:
    plain = small(site=SITE, steps=3, batch_size=23)
    source = stream(model, tokens, exclude_bos=False, buffer_sequences=5)
    own = {"seed": 1, "exclude_bos": False, "buffer_sequences": 5, "forward_sequences": 32}
    read = told(train(plain, source))["config"]
    assert {name: read["stream"][name] for name in own} == own and read["text"]["n_ctx"] == tokens.n_ctx
    reader = ShardReader(write_shards(source, tmp_path / "rows").root, batch_size=23, seed=7)
    read = told(train(plain, reader))["config"]
    assert {name: read["stream"][name] for name in own} == own | {"seed": 7} and "text" not in read
    text = told(train(small(site=SITE, steps=3, batch_size=23, n_ctx=7), stories(37), model=model))
    assert text["config"]["text"]["n_ctx"] == text["data"]["n_ctx"] == 7
    bare = told(train(small(steps=3, data_seed=5), planted(211)))["config"]
    assert bare["stream"] == {"batch_size": 53, "seed": 5} and "text" not in bare


def test_what_was_done_can_be_done_again_from_the_record(model: Any, tokens: Any) -> None:
    made = train(CONFIG, stream(model, tokens, exclude_bos=False))
    again = train(TrainConfig.of(told(made)["config"]), tokens, model=model)
    assert same_module(made, again)


@pytest.mark.parametrize("change", [{"data_seed": 3}, {"exclude_bos": False}, {"n_ctx": 7}], ids=str)
def test_what_the_source_would_override_is_refused(change: Any, model: Any, tokens: Any) -> None:
    config = small(site=SITE, steps=3, batch_size=23, **change)
    with pytest.raises(ConfigError, match=f"{next(iter(change))} says"):
        train(config, stream(model, tokens))
    if "n_ctx" in change:
        with pytest.raises(ConfigError, match="n_ctx says"):
            train(config, tokens, model=model)
