"""Rows, text, sites and inputs in every form in which people hold them: used, or one clear error."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn

from interp.activations import ActivationStream, ShardConfig, ShardReader, StreamConfig, write_shards
from interp.activations.rows import dense_numbers, holds_floats
from interp.core.errors import ConfigError, InterpError, NonFiniteError, ShapeError, StorageError, TokenError
from interp.dictionaries import evaluate, finetune, train
from interp.dictionaries.train_config import TrainConfig
from interp.lenses import train_tuned_lens
from interp.models import wrap
from interp.probing import fit_eraser, train_probe
from interp.probing.rows import check_rows
from tests.activations.models import small_model, stories
from tests.dictionaries.small import planted, same_module, small

ROWS = planted(211)
SPARSE = ROWS * (ROWS > 3)

FORMS: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {
    "array": (lambda x: x.numpy(), ROWS),
    "float64 array": (lambda x: x.double().numpy(), ROWS.double()),
    "half array": (lambda x: x.half().numpy(), ROWS.half()),
    "array from behind": (lambda x: x.numpy()[::-1], ROWS.flip(0)),
    "array of the other byte order": (lambda x: x.numpy().astype(">f4"), ROWS),
    "long doubles": (lambda x: x.double().numpy().astype(np.longdouble), ROWS.double()),
    "data frame": (lambda x: pd.DataFrame(x.numpy()), ROWS),
    "frame of two dtypes": (lambda x: pd.DataFrame(x.double().numpy()).astype({0: "f4"}), ROWS.double()),
    "lists": (lambda x: x.tolist(), ROWS),
    "tuples": (lambda x: tuple(map(tuple, x.tolist())), ROWS),
    "list of tensors": (lambda x: list(x), ROWS),
    "half": (lambda x: x.half(), ROWS.half()),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), ROWS.to(torch.float8_e4m3fn).float()),
    "float8 with more range": (lambda x: x.to(torch.float8_e5m2), ROWS.to(torch.float8_e5m2).float()),
    "coordinates": (lambda x: (x * (x > 3)).to_sparse(), SPARSE),
    "compressed rows": (lambda x: (x * (x > 3)).to_sparse_csr(), SPARSE),
    "compressed columns": (lambda x: (x * (x > 3)).to_sparse_csc(), SPARSE),
    "scipy's": (lambda x: sparse.csr_matrix((x * (x > 3)).numpy()), SPARSE),
    "not contiguous": (lambda x: x.T.contiguous().T, ROWS),
}
"""A form of the rows -> how it is made, and the plain tensor that it means."""

NO_ROWS: dict[str, Any] = {
    "complex": ROWS.to(torch.complex64),
    "rows of two lengths": [[1.0, 2.0], [1.0]],
    "names": np.array([["a", "b"]] * 40),
    "objects": np.array([[1.0, "a"]] * 40, dtype=object),
    "text": "some words",
    "nothing": None,
    "a dict": {"x": 5},
    "dates": np.array(["2020-01-01"] * 40, dtype="datetime64[D]")[:, None],
    "no values": torch.zeros(40, 3, device="meta"),
    "one axis": ROWS[0],
    "three axes": ROWS[None],
}
LABELS = [0, 1] * 105 + [1]


@pytest.mark.filterwarnings("ignore:Sparse CS")
@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_rows_means_its_numbers(form: str) -> None:
    make, meant = FORMS[form]
    given = make(ROWS)
    assert holds_floats(given)
    read = dense_numbers(given, "rows")
    assert read.layout == torch.strided and read.dtype == meant.dtype and torch.equal(read, meant)
    assert torch.equal(check_rows(given, "rows"), meant if meant.dtype == torch.float64 else meant.float())


def test_a_frame_is_rows_of_numbers_where_every_column_is() -> None:
    """Ids, counts and names beside one column of floats are no activations."""
    one = pd.DataFrame({"a": [1.5, 2.5]})
    assert holds_floats(one) and holds_floats(one["a"])
    for column in ([1, 2], ["x", "y"], [True, False]):
        mixed = one.assign(b=column)
        assert not holds_floats(mixed) and not holds_floats(mixed[["b"]]) and not holds_floats(mixed["b"])


def bare(function: Any) -> Any:
    """A function as users have it, without the types that tests check."""
    return inspect.unwrap(function)


@pytest.mark.parametrize("form", FORMS)
def test_every_door_of_rows_takes_every_form(form: str) -> None:
    make, meant = FORMS[form]
    config = small(steps=3)
    made = train(config, meant)
    assert same_module(train(config, make(ROWS)), made)
    wanted, found = evaluate(made, None, meant), evaluate(made, None, make(ROWS))
    assert found.summary() == wanted.summary()
    if isinstance(make(ROWS), Tensor):
        assert torch.equal(made.encode(make(ROWS)), made.encode(meant))
    for fitted in (train_probe, fit_eraser):
        found, plain = bare(fitted)(make(ROWS), LABELS).state_dict(), fitted(meant, LABELS).state_dict()
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)  # products of another layout


def test_pairs_and_mappings_take_them_as_well() -> None:
    config, y = small(steps=3, apply_b_dec_to_input=False), (ROWS * 2)[:, :7]
    made = train(config, (ROWS, y))
    assert same_module(made, train(config, (ROWS.numpy(), y.tolist())))
    assert same_module(made, train(config, [pd.DataFrame(ROWS.numpy()), y.to_sparse()]))
    named = small(steps=3, site="a", site_out="b", apply_b_dec_to_input=False)
    assert same_module(train(named, {"a": ROWS.numpy(), "b": y.numpy()}), train(named, {"a": ROWS, "b": y}))
    two = train(small(steps=3, batch_size=2), ROWS[:2].tolist())  # two rows are no pair of sides
    assert not two.config.is_transcoder


@pytest.mark.parametrize("kind", NO_ROWS)
def test_what_is_no_rows_is_one_error_at_every_door(kind: str) -> None:
    given = NO_ROWS[kind]
    made = train(small(steps=3), ROWS)
    for call in (
        lambda: train(small(steps=3), given),
        lambda: evaluate(made, None, given),
        lambda: bare(train_probe)(given, LABELS),
        lambda: bare(fit_eraser)(given, LABELS),
    ):
        with pytest.raises(InterpError) as error:
            call()
        assert error.type in (ShapeError, ConfigError, StorageError)


def test_integers_are_no_activations_and_are_told_from_ids() -> None:
    for given in (torch.ones(40, 3, dtype=torch.int64), np.ones((40, 3), dtype=int), [[1, 2, 3]] * 40):
        with pytest.raises(ConfigError, match=r"x\.float\(\); token ids need model="):
            train(small(steps=3), given)


def test_a_value_that_is_not_finite_is_found_in_every_form() -> None:
    spoiled = ROWS.clone()
    spoiled[5, 2] = torch.nan
    for given in (spoiled.numpy(), spoiled.tolist(), spoiled.to(torch.float8_e4m3fn), spoiled.to_sparse()):
        with pytest.raises(NonFiniteError, match="training rows"):
            train(small(steps=3), given)
        with pytest.raises(NonFiniteError):
            bare(train_probe)(given, LABELS)


# --- text, sites, sizes ----------------------------------------------------------------------------

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


@pytest.mark.parametrize("length", [40, 256, 5000, 100_000])
def test_text_in_the_place_of_a_path_is_one_error_whatever_its_length(length: int, model: Any) -> None:
    """A name has at most 255 bytes, and asking the disk for a longer one is an error of its own."""
    text, made = ("Ⓐ word and " * length)[:length], train(small(site=SITE), stories(37), model=model)
    for call in (
        lambda: train(small(site=SITE), text, model=model),
        lambda: train(small(site=SITE), text),
        lambda: evaluate(made, model, text),
        lambda: finetune(made, model, text),
        lambda: train_tuned_lens(model, text),
        lambda: train(small(site=SITE), Path(text), model=model),
    ):
        with pytest.raises(InterpError) as error:
            call()
        assert error.type in (StorageError, ConfigError) and len(str(error.value)) < 600
    with pytest.raises(StorageError, match="text itself goes in as a list of strings"):
        train(small(site=SITE), text, model=model)


@pytest.mark.parametrize("name", ["blocks.*.hook_resid_post", "*", "blocks.?.hook_resid_post", "a[01]"])
@pytest.mark.parametrize("setting", ["site", "site_out"])
def test_a_pattern_is_no_site(setting: str, name: str, model: Any) -> None:
    config = small(**{"site": SITE, setting: name, "apply_b_dec_to_input": False})
    for data, how in ((stories(37), {"model": model}), (ROWS, {}), ((ROWS, ROWS), {})):
        with pytest.raises(ConfigError, match=f"{setting} is one site, and this is a pattern"):
            train(config, data, **how)


def test_a_batch_has_at_least_one_active_latent() -> None:
    for k, size in ((0.01, 53), (1 / 60, 53)):
        with pytest.raises(ConfigError, match="no latent of a whole batch"):
            train(small(activation="batchtopk", k=k, batch_size=size), ROWS)
    fewest = train(small(activation="batchtopk", k=1 / 50, batch_size=50, steps=5), ROWS)
    assert fewest.metadata["training"]["last"]["l0"] == pytest.approx(1 / 50)
    assert isinstance(TrainConfig(activation="batchtopk", k=0.5), TrainConfig)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("seen", [True, False])
def test_a_shard_that_went_during_a_run_is_named(
    seen: bool, shuffle: bool, model: Any, tmp_path: Path
) -> None:
    tokens = model.tokenize(stories(37), truncate=True)
    stream = ActivationStream(model, SITE, tokens, StreamConfig(batch_size=23))
    write_shards(stream, tmp_path / "rows", ShardConfig(rows_per_shard=50))
    reader = ShardReader(tmp_path / "rows", batch_size=23, shuffle=shuffle)
    kept = [reader.batch(t)[SITE] for t in range(len(reader))] if seen else []
    for number in (1, 3):
        shutil.rmtree(tmp_path / "rows" / f"shard_{number:05d}")
    with pytest.raises(StorageError, match=r"a shard .* is gone: .*shard_0000[13]"):
        [reader.batch(t) for t in range(len(reader))]
    with pytest.raises(StorageError, match=r"a shard .* is gone"):
        train(small(site=SITE, batch_size=23), tmp_path / "rows")
    # The fix that is offered works.
    write_shards(stream, tmp_path / "rows", ShardConfig(rows_per_shard=50))
    again = [reader.batch(t)[SITE] for t in range(len(reader))]
    assert all(map(torch.equal, again, kept)) and len(again) == len(reader)


# --- inputs of another type than the model's -------------------------------------------------------


class OneHot(nn.Module):
    """A module that reads integers without any table: which types it takes, only it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.one_hot(x, 5).float()).mean(1)


@pytest.mark.parametrize(
    ("dtype", "fix"),
    [
        (torch.int64, r"x\.to\(torch\.float32\)"),
        (torch.uint8, r"x\.to\(torch\.float32\)"),
        (torch.bool, r"x\.to\(torch\.float32\)"),
        (torch.float64, r"x\.to\(torch\.float32\)"),
        (torch.float16, r"x\.to\(torch\.float32\)"),
        (torch.complex64, r"x\.to\(torch\.float32\)"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Casting complex")
def test_a_module_of_floats_says_which_numbers_it_reads(dtype: torch.dtype, fix: str) -> None:
    from interp.attribution import attribute

    line = wrap(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    picture = wrap(nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)))
    for model, x in ((line, torch.ones(1, 4)), (picture, torch.ones(1, 1, 3, 3))):
        given = x.to(dtype)
        for call in (
            lambda m=model, g=given: m(g),
            lambda m=model, g=given: m.capture(g, None),
            lambda m=model, g=given: m.run_with_cache(g),
            lambda m=model, g=given: attribute(m, g, target=0, method="saliency"),
            lambda m=model, g=given: attribute(m, g, target=0, method="occlusion"),
        ):
            with pytest.raises(TokenError, match=fix) as error:
                call()
            assert str(dtype) in str(error.value)
        assert model(given.to(torch.float32)).shape == (1, 2)  # the fix works


def test_modules_that_read_integers_are_left_alone() -> None:
    ids = torch.tensor([[1, 4, 2]])
    assert wrap(OneHot())(ids).shape == (1, 2)
    table = wrap(nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2)))
    assert table(ids).shape == (1, 2)
    with pytest.raises(TokenError, match=r"x\.long\(\)"):
        table(ids.float())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # an error of another kind
        wrap(nn.Sequential(nn.Linear(4, 3)))(torch.ones(1, 5))
