"""Every setting of a training is read, or refused before it; schedules end within the run."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
import torch

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.blocks import blocks_of, owners_of
from interp.core.errors import ConfigError
from interp.dictionaries import train
from interp.dictionaries.config import PENALISED, Activation
from interp.dictionaries.train_checks import at_defaults, check_config, unread
from interp.dictionaries.train_config import TrainConfig
from interp.dictionaries.training import run_training
from tests.conftest import FULL
from tests.dictionaries.small import planted, small

ROWS = planted(700)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
VALUES: dict[str, dict[str, Any]] = {
    "d_sae": {"d_sae": 41},
    "k": {"k": 7},
    "groups": {"groups": (11, 151)},
    "apply_b_dec_to_input": {"apply_b_dec_to_input": False},
    "decoder_norm": {"decoder_norm": "free"},
    "max_iterations": {"max_iterations": 3},
    "residual_threshold": {"k": 3, "residual_threshold": 4.0},
    "bandwidth": {"bandwidth": 0.5},
    "l0": {"l0": 2.0},
    "sparsity": {"sparsity": 3.0},
    "sparsity_warmup": {"sparsity_warmup": 3},
    "lp": {"lp": 0.7},
    "lp_final": {"lp_final": 0.5},
    "k_start": {"k_start": 9},
    "k_anneal": {"k_start": 9, "k_anneal": 2},
    "auxk_alpha": {"auxk_alpha": 5.0},
    "dead_after": {"resample_every": 4, "dead_after": 10_000},
    "resample_every": {"resample_every": 4},
    "resample_similar": {"resample_every": 4, "resample_similar": 0.3},
    "b_dec_init": {"b_dec_init": "zeros"},
    "tied": {"tied": False},
    "encoder_scale": {"encoder_scale": 0.7},
    "init_rows": {"init_rows": 53},
    "scale": {"scale": False},
    "steps": {"steps": 14},
    "batch_size": {"batch_size": 29},
    "lr": {"lr": 1e-2},
    "lr_schedule": {"lr_schedule": "cosine"},
    "lr_warmup": {"lr_warmup": 1},
    "lr_decay": {"lr_decay": 5},
    "lr_final": {"lr_final": 0.5},
    "optimizer": {"optimizer": "sgd"},
    "weight_decay": {"weight_decay": 0.1},
    "betas": {"betas": (0.5, 0.9)},
    "grad_clip": {"grad_clip": 0.01},
    "autocast": {"autocast": "bfloat16"},
    "precision": {"precision": "float64"},
    "seed": {"seed": 1},
    "data_seed": {"data_seed": 1},
}
"""Each setting with a value that makes another dictionary, and what it needs beside it."""
BASE: dict[str, Any] = {"steps": 15, "dead_after": 60, "d_sae": 151, "k": 1}
ELSEWHERE = {
    "site": "where rows are taken from",
    "site_out": "where rows are taken from",
    "name": "the dictionary's",
    "activation": "the axis of this test",
    "skip": "refused for an SAE, see test_training",
    "n_ctx": "of text",
    "exclude_bos": "of text",
    "buffer_sequences": "of text",
    "forward_sequences": "of text",
    "dtype": "of what a model gives",
    "device": "of what a model gives",
    **dict.fromkeys(("pack", "prepend_bos", "field", "split", "separator", "max_sequences"), "of text"),
    "log_every": "of the record",
    "checkpoint_seconds": "of the record",
    "checkpoint_fraction": "of the record",
    "keep_last": "of the record",
    "overwrite": "of the record",
    "on_nonfinite": "refused, see test_train_blocks",
}
DYING = {"sparsity": 1e4, "sparsity_warmup": 0, "lr": 0.1, "lr_warmup": 0}
"""No latent of a penalised dictionary dies so soon without it."""
READ_BY_SOME = tuple(
    """
    k k_start k_anneal auxk_alpha sparsity sparsity_warmup lp lp_final bandwidth l0 max_iterations
    residual_threshold tied encoder_scale
    """.split()
)


def test_every_setting_is_looked_at() -> None:
    own = {f.name for f in dataclasses.fields(TrainConfig)} - {*blocks_of(TrainConfig)}
    assert own | {*owners_of(TrainConfig)} == {*VALUES, *ELSEWHERE}


_plain: dict[str, dict[str, torch.Tensor]] = {}


def config_of(activation: str, changes: dict[str, Any]) -> TrainConfig:
    """A small training; of what all have, only what the activation reads."""
    config = small(**{**BASE, "activation": activation, **changes})
    return at_defaults(config, set(unread(config)) - set(changes))


def trained(activation: str, changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The numbers of a small dictionary."""
    return dict(train(config_of(activation, changes), ROWS).state_dict())


@pytest.mark.thin(2)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("setting", VALUES if FULL else READ_BY_SOME)
def test_a_setting_changes_what_is_trained_or_is_refused(activation: Activation, setting: str) -> None:
    changes = VALUES[setting]
    if activation in PENALISED and setting in ("dead_after", "resample_every"):
        changes = DYING | changes
    try:
        check_config(config_of(activation, changes))
    except ConfigError as error:
        assert any(name in str(error) for name in (*changes, setting))
        return
    beside: dict[str, Any] = {name: value for name, value in changes.items() if name != setting}
    key = f"{activation} {sorted(beside.items())}"
    if key not in _plain:
        _plain[key] = trained(activation, beside)
    plain, changed = _plain[key], trained(activation, changes)
    same = [torch.equal(plain[name], changed[name]) for name in plain if name in changed]
    assert not all(same), f"{setting} was read by nobody"


@pytest.mark.parametrize(
    ("activation", "setting", "value"),
    [
        ("topk", "sparsity", 2.0),
        ("topk", "bandwidth", 0.3),
        ("batchtopk", "lp", 0.5),
        ("relu", "k", 16),
        ("relu", "bandwidth", 0.3),
        ("jumprelu", "lp_final", 0.5),
        ("gated", "auxk_alpha", 0.5),
        ("matching_pursuit", "tied", False),
        ("matching_pursuit", "sparsity_warmup", 3),
        ("topk", "residual_threshold", 0.5),
    ],
)
def test_what_an_activation_does_not_read_is_refused(activation: Any, setting: str, value: Any) -> None:
    config = TrainConfig(activation=activation, d_sae=37, **{setting: value})
    with pytest.raises(ConfigError, match=f"{activation} dictionary does not read {setting}") as caught:
        train(config, ROWS)
    default = getattr(TrainConfig(), setting)
    assert f"{setting}={default!r}" in str(caught.value), "the fix works"
    train(small(activation=activation, steps=12), ROWS)


@pytest.mark.parametrize(
    "changes",
    [
        {"k_start": 9, "k_anneal": 41},
        {"lr_warmup": 41},
        {"lr_decay": 36, "lr_warmup": 5},
        {"activation": "relu", "sparsity_warmup": 41},
        {"resample_every": 31},
        {"k_anneal": 5},
        {"resample_similar": 0.5},
        {"lr_schedule": "constant", "lr_decay": 3},
    ],
    ids=str,
)
def test_schedules_fit_the_run_or_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"run|together|decay"):
        train(small(steps=40, **changes), ROWS)


@pytest.mark.parametrize("setting", [{"n_ctx": 8}, {"exclude_bos": False}, {"buffer_sequences": 3}], ids=str)
def test_settings_of_text_are_refused_beside_rows(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="rows already"):
        train(small(**setting), ROWS)


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_a_short_run_ends_at_the_k_it_was_asked_for(activation: Any) -> None:
    """k_start comes down within the run, however short; BatchTopK's cut is measured at the end."""
    config = TrainConfig(d_sae=64, activation=activation, k=4, k_start=40, steps=300, batch_size=128, lr=3e-3)
    rows = planted(6_000)
    made = train(config, rows[:4_000])
    with torch.no_grad():
        active = (made.encode(rows[4_000:]) != 0).sum(1).double().mean()
    assert float(active) == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("more", [{"lr_decay": 3}, {"lr_final": 0.1}], ids=str)
def test_a_constant_rate_takes_no_decay(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="constant"):
        FitConfig(steps=10, lr_schedule="constant", **more)
    with pytest.raises(ConfigError, match="constant"):  # which is what None means here
        fit(
            torch.nn.Linear(2, 1),
            lambda m, x, t: m(x).sum(),
            lambda t: ROWS[:, :2],
            FitConfig(steps=10, **more),
        )
    FitConfig(steps=10, lr_schedule="linear", **more)


def test_no_latent_is_resampled_in_the_last_quarter() -> None:
    """One that is put back then could not learn any more; dead ones are there all the time."""
    dead = {"d_sae": 151, "dead_after": 150, "resample_every": 8}
    run = run_training(small(**dead), ROWS)
    steps, counts = run.report.series("resampled")
    assert steps and {(t + 1) % 8 for t in steps} == {0} and min(counts) >= 1
    assert max(steps) + 1 <= 30  # of 40
    assert run.report.series("dead")[1][-1] > 0
