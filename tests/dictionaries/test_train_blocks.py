"""The settings of a training stand once, in blocks; flat keys, old runs and old files still read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from interp.activations.config import FitConfig, StreamConfig, TextConfig
from interp.core.errors import ConfigError
from interp.dictionaries import PenaltyConfig, train
from interp.dictionaries.train_checks import check_config, check_configs
from interp.dictionaries.train_config import TrainConfig
from interp.dictionaries.training import run_training
from tests.conftest import ROOT
from tests.dictionaries.small import planted, same_module, small

GOLDEN = Path(__file__).parents[1] / "faults" / "golden" / "before-the-blocks"
SAVED = sorted((ROOT / "saved_dictionaries" / "tiny-grammar").glob("*/cfg.json"))
ROWS = planted(211)


def test_no_setting_stands_twice() -> None:
    """What a block has is no field of the config, but for what is the dictionary's and the pass's."""
    own = {f.name for f in dataclasses.fields(TrainConfig)}
    for kind in (FitConfig, StreamConfig, TextConfig, PenaltyConfig):
        shared = own & {f.name for f in dataclasses.fields(kind)}
        assert shared <= {"seed", "grad_clip"}, shared


def test_nested_and_flat_train_the_same() -> None:
    nested = TrainConfig(
        d_sae=37,
        activation="jumprelu",
        init_rows=211,
        penalty=PenaltyConfig(l0=3.0, sparsity_warmup=10),
        fit=FitConfig(steps=20, lr=3e-3, lr_warmup=5, seed=4),
        stream=StreamConfig(batch_size=53, seed=4),
    )
    flat = TrainConfig(
        d_sae=37,
        activation="jumprelu",
        init_rows=211,
        l0=3.0,
        sparsity_warmup=10,
        steps=20,
        lr=3e-3,
        lr_warmup=5,
        batch_size=53,
        data_seed=4,
    )
    assert nested == flat and nested.loop() == flat.loop()
    assert same_module(train(nested, ROWS), train(flat, ROWS))


def test_what_none_says_is_usual_for_dictionaries() -> None:
    plan = TrainConfig(d_sae=2**12, steps=1000).loop()
    assert (plan.lr, plan.lr_schedule, plan.lr_warmup, plan.lr_decay) == (4e-4, "linear", 100, 200)
    short = TrainConfig(fit=FitConfig(steps=50, lr_schedule="constant")).loop()
    assert (short.lr_schedule, short.lr_warmup, short.lr_decay) == ("constant", 10, None)
    alone = FitConfig().filled()
    assert (alone.lr, alone.lr_schedule, alone.lr_warmup, alone.lr_decay) == (1e-3, "constant", 0, None)


@pytest.mark.parametrize(
    "fit", [{"optimizer": "sgd"}, {"weight_decay": 0.3}, {"lr_final": 0.5}, {"grad_clip": 1e-3}], ids=str
)
def test_what_the_loop_offers_is_used(fit: dict[str, Any]) -> None:
    plain = small(steps=12)
    assert not same_module(train(plain, ROWS), train(plain.changed({"fit": fit}), ROWS))


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ConfigError, match="on_nonfinite='skip'"):
        check_config(TrainConfig(on_nonfinite="skip"))
    for changes in ({"pack": False}, {"text": TextConfig(field="story")}, {"stream": {"dtype": "float16"}}):
        with pytest.raises(ConfigError, match="rows already"):
            train(small().changed(changes), ROWS)
    with pytest.raises(ConfigError, match=r"must agree on text\.max_bytes"):
        check_configs([small(), small().changed({"text": {"max_bytes": 9}})])
    check_configs([small(name="a"), small(name="b", lr=1e-2)])  # each has its own rate


def test_a_run_of_the_version_without_blocks_goes_on(tmp_path: Path) -> None:
    """Written by the code of 7d22379, stopped after step 20; `expected` is what it came to there."""
    shutil.copytree(GOLDEN / "run", tmp_path / "run")
    shared: dict[str, Any] = {"data_seed": 3, "lr_schedule": "cosine"}
    configs = [
        small(name="topk", k_start=9, k_anneal=20, **shared),
        small(name="jump", activation="jumprelu", l0=3.0, seed=2, **shared),
    ]
    made = run_training(configs, ROWS, out=tmp_path / "run", resume="must")
    assert made.report.resumed_at == 20
    found = {f"{n}.{k}": v for n, d in made.dictionaries.items() for k, v in d.state_dict().items()}
    expected = load_file(GOLDEN / "expected.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("change", [{"k": 4}, {"data_seed": 5}, {"batch_size": 51}], ids=str)
def test_another_run_than_the_old_one_is_refused_by_name(change: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "run", tmp_path / "run")
    shared: dict[str, Any] = {"data_seed": 3, "lr_schedule": "cosine"}
    configs = [
        small(name="topk", k_start=9, k_anneal=20, **{**shared, **change}),
        small(name="jump", activation="jumprelu", l0=3.0, seed=2, **shared | {**change, "k": 32}),
    ]
    with pytest.raises(ConfigError, match="other settings") as caught:
        run_training(configs, ROWS, out=tmp_path / "run")
    assert "seed" in str(caught.value) if "data_seed" in change else next(iter(change)) in str(caught.value)


@pytest.mark.parametrize("file", SAVED, ids=lambda p: p.parent.name)
def test_configs_of_saved_dictionaries_read(file: Path) -> None:
    told = json.loads(file.read_text())["interp"]["metadata"]["training"]["config"]
    assert "steps" in told, "flat, as earlier versions wrote"
    config = TrainConfig.of(told)
    assert config.fit.steps == told["steps"] and config.d_sae == told["d_sae"]
    assert config == TrainConfig.of(json.loads(json.dumps(dataclasses.asdict(config))))
