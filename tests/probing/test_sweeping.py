"""Sweeps: what is planted is found where it is, controls stay at chance, bad input is one error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import ConfigError, InterpError, NonFiniteError, ShapeError
from interp.core.provenance import Provenance
from interp.core.result import Result
from interp.probing import (
    EraseConfig,
    ProbeConfig,
    ProbeSweep,
    SparseConfig,
    fit_eraser,
    probe_sweep,
    sparse_sweep,
    split_rows,
    train_probe,
)
from interp.probing.probe import Probe
from interp.probing.rows import encode
from interp.probing.scores import LEAST_R2, r2
from interp.probing.solvers.logistic import UnconvergedWarning
from interp.probing.splits import shuffled
from tests.probing.rows import F16, planted


def sites(n: int = 1999, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Three sites: no signal, weak, strong."""
    none, _ = planted(n, shift=0.0, seed=seed)
    weak, _ = planted(n, shift=1.0, seed=seed + 1)
    strong, y = planted(n, shift=3.0, seed=seed + 2)
    return {"a": none, "b": weak, "c": strong}, y


@pytest.mark.parametrize("kind", ["linear", "logistic", "ridge", "mass_mean", "mlp"])
def test_what_is_planted_is_found_where_it_is(kind: Any) -> None:
    rows, y = sites()
    place = rows["c"][:, 0] * 2 + 1
    numbers = kind in ("linear", "ridge", "mlp")
    targets = {"y": y, "position": place if numbers else place > place.mean()}
    config = ProbeConfig(kind=kind, n_shuffles=1, hidden=16, batch_size=256)
    sweep = probe_sweep(rows, targets, config)
    score = sweep.score[:, 0]
    assert score[0] < 0.56 and 0.6 < score[1] < 0.9 and score[2] > 0.9, score
    assert bool((sweep.low <= sweep.score).all() and (sweep.score <= sweep.high).all())
    assert sweep.kinds == ("binary", "real" if numbers else "binary")
    assert sweep.probe == ("logistic, ridge" if kind == "linear" else kind)
    assert sweep.score[2, 1] > 0.9  # a coordinate is linear
    assert float(sweep.majority[0]) == pytest.approx(0.5, abs=0.05)


def test_shuffled_labels_are_at_chance_at_every_site() -> None:
    rows, y = sites()
    sweep = probe_sweep(rows, y, ProbeConfig(n_shuffles=20))
    assert sweep.shuffled is not None and sweep.shuffled_high is not None
    assert float((sweep.shuffled - 0.5).abs().max()) < 0.02  # mean of 20 draws
    assert float(sweep.shuffled_high.max()) < 0.56  # 600 rows: 4.9 standard errors above chance
    assert sweep.check().ok
    assert float(sweep.score[2, 0]) > float(sweep.shuffled_high[2, 0]) + 0.3


def test_shuffled_labels_stay_on_their_side_and_keep_its_counts() -> None:
    target = encode("y", [0] * 40 + [1] * 50 + [2] * 10)
    split = split_rows(100, 0.3, 5)
    drawn = [shuffled(target, split, 3, i) for i in range(3)]
    for one in drawn:
        for side in (split.train, split.test):
            assert torch.equal(
                one.values[side].bincount(minlength=3), target.values[side].bincount(minlength=3)
            )
        assert one.classes == target.classes and not torch.equal(one.values, target.values)
    assert not torch.equal(drawn[0].values, drawn[1].values)


def test_the_check_sees_leaking_labels() -> None:
    # One row repeated in training and test: shuffled labels become readable by memory.
    x = torch.randn(150, 101).double().repeat(10, 1)
    y = (torch.arange(1500) % 2).roll(3)
    sweep = probe_sweep({"copies": x}, (torch.rand(150) > 0.5).long().repeat(10), ProbeConfig())
    assert float(sweep.score[0, 0]) > 0.9  # memory looks like knowledge ...
    groups = torch.arange(150).repeat(10)
    honest = probe_sweep({"copies": x}, (torch.rand(150) > 0.5).long().repeat(10), groups=groups)
    assert float(honest.score[0, 0]) < 0.7  # ... and groups unmask it
    assert len(y) == 1500


def test_selectivity_tells_memory_from_structure() -> None:
    # 40 word types with one-hot rows (a probe can memorise) and a direction that generalises.
    types = torch.arange(4000) % 40
    y = (types >= 20).long()
    rows = torch.eye(40)[types] * 3 + 0.1 * torch.randn(4000, 40)
    plain = torch.cat([(y * 2.0 - 1)[:, None] * 3, torch.randn(4000, 3)], 1)
    sweep = probe_sweep({"identity": rows, "concept": plain}, y, types=types.tolist())
    assert sweep.selectivity is not None
    identity, concept = sweep.selectivity[:, 0].tolist()
    assert float(sweep.score.min()) > 0.95
    assert identity < 0.05 and concept > 0.25, (identity, concept)


def test_many_classes_and_their_majority() -> None:
    draw = torch.randint(5, (2000,))
    x = torch.eye(5)[draw] * 2 + torch.randn(2000, 5)
    words = [f"class {i}" for i in draw.tolist()]
    sweep = probe_sweep({"s": x}, {"c": words}, random_init={"s": torch.randn(2000, 5)})
    assert sweep.kinds == ("classes",)
    assert float(sweep.score) > 0.7 and float(sweep.majority) < 0.3
    assert sweep.random_init is not None and float(sweep.random_init) < 0.3


def test_groups_stay_together_and_the_split_is_fixed_by_the_seed() -> None:
    groups = [f"sentence {i // 7}" for i in range(700)]
    split = split_rows(700, 0.3, seed=3, groups=groups)
    train = {groups[i] for i in split.train.tolist()}
    test = {groups[i] for i in split.test.tolist()}
    assert not train & test and len(test) == 30 and len(train) == 70
    assert torch.equal(split.test, split_rows(700, 0.3, seed=3, groups=groups).test)
    assert not torch.equal(split.test, split_rows(700, 0.3, seed=4, groups=groups).test)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_penalties_are_chosen_without_the_test_rows(kind: Any) -> None:
    # One large feature tells, 796 small ones only fit noise: a strong penalty keeps the first.
    x = torch.randn(1200, 797).double()
    y = (x[:, 0] + 0.3 * torch.randn(1200) > 0).long()
    x[:, 0] *= 30
    alone, (weak, strong) = [], (1e-3, 1e5)
    for penalties in ((weak,), (strong,), (weak, strong)):
        config = ProbeConfig(kind=kind, penalties=penalties, n_shuffles=0, standardise=False)
        alone.append(float(probe_sweep({"s": x}, y, config).score))
    assert alone[1] > alone[0] + 0.1 and alone[2] == alone[1], alone


# --- fits that stop early are loud ---------------------------------------------------------------


def test_a_fit_that_stops_before_its_optimum_is_loud() -> None:
    rows, y = sites(499)
    early = ProbeConfig(max_iter=1, tolerance=1e-6, n_shuffles=2)
    with pytest.warns(UnconvergedWarning, match="raise max_iter"):
        sweep = probe_sweep(rows, y, early, random_init=rows)
    # Three sites with the target and two shuffles each, and three with random weights.
    assert sweep.unconverged == 12 and not sweep.check().ok
    assert "raise max_iter" in repr(sweep)
    with pytest.warns(UnconvergedWarning, match="1 of 1 logistic fits stopped after 1 steps"):
        train_probe(rows["c"], y, early)
    with pytest.warns(UnconvergedWarning):
        fit_eraser(rows["c"], y, EraseConfig(method="inlp", max_iter=1))
    with pytest.warns(UnconvergedWarning):
        few = sparse_sweep(rows, y, SparseConfig(ks=(1, 5), n_shuffles=1, max_iter=1))
    assert few.unconverged > 0 and not few.check().ok


@pytest.mark.filterwarnings("error")
def test_a_fit_at_its_optimum_is_quiet() -> None:
    rows, y = sites(499)
    sweep = probe_sweep(rows, y, ProbeConfig(penalties=(0.1, 1.0), n_shuffles=2))
    assert sweep.unconverged == 0 and sweep.check().ok
    few = sparse_sweep(rows, y, SparseConfig(ks=(1, 5), n_shuffles=1))
    assert few.unconverged == 0 and few.check().ok


# --- the artefact ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["logistic", "ridge", "mass_mean", "mlp"])
def test_a_probe_is_an_artefact(kind: Any, tmp_path: Path) -> None:
    x, y = planted(501, 7)
    origin = Provenance("model", "f" * 64, ("blocks.0.hook_resid_post",), 7)
    probe = train_probe(x, y, ProbeConfig(kind=kind), name="y", provenance=origin)
    assert float((probe.predict(x) == y).double().mean()) > 0.85
    probe.save(tmp_path / "probe")
    again = Probe.load(tmp_path / "probe")
    assert torch.equal(again(x), probe(x)) and again.shape == probe.shape
    assert again.provenance == origin
    with pytest.raises(InterpError, match="made for something else"):
        again.for_model(Provenance("other", "0" * 64, ("blocks.0.hook_resid_post",), 7))
    with pytest.raises(ShapeError, match="another width"):
        again(torch.randn(3, 8))
    if kind == "mlp":
        with pytest.raises(ConfigError, match="no direction"):
            probe.directions  # noqa: B018
    else:
        assert probe.directions.shape == (1, 7)


def test_an_mlp_reads_what_no_line_can() -> None:
    x = torch.randn(3000, 5)
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()
    line = probe_sweep({"s": x}, y, ProbeConfig(n_shuffles=0))
    bend = probe_sweep({"s": x}, y, ProbeConfig(kind="mlp", n_shuffles=2, steps=800))
    assert float(line.score) < 0.58 and float(bend.score) > 0.9
    assert bend.shuffled_high is not None and float(bend.shuffled_high) < 0.58


def test_a_sweep_is_a_frame_and_a_folder(tmp_path: Path) -> None:
    rows, y = sites(499)
    sweep = probe_sweep(rows, {"y": y}, types=list(range(499)))
    frame = sweep.to_frame("score")
    assert len(frame) == 3 and {"site", "target", "score", "shuffled", "control"} <= set(frame)
    sweep.save(tmp_path / "sweep")
    again = Result.load(tmp_path / "sweep")
    assert isinstance(again, ProbeSweep) and torch.equal(again.score, sweep.score)
    assert "shuffled labels above majority" in repr(again)


# --- F16: bad labels, one class, n < d, constants, NaN -------------------------------------------

GOOD = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
HALVES = [0, 1] * 20


@pytest.mark.parametrize(
    ("features", "labels", "kind", "words"),
    [
        ({}, HALVES, ShapeError, "nothing to probe"),
        ({"s": torch.zeros(0, 3)}, [], ShapeError, "s: a probe reads rows"),
        ({"s": torch.zeros(3)}, [0, 1, 0], ShapeError, "a probe reads rows"),
        ({"s": GOOD, "t": GOOD[:39]}, HALVES, ShapeError, "different rows"),
        ({"s": GOOD}, HALVES[:39], ShapeError, "does not fit the rows"),
        ({"s": GOOD}, [1] * 40, ConfigError, "one class only"),
        ({"s": GOOD}, [0.5] * 40, ConfigError, "the same at every row"),
        ({"s": GOOD}, [0] * 39 + [None], ConfigError, "without label"),
        ({"s": GOOD}, [0.5] * 39 + [float("nan")], NonFiniteError, "not finite"),
        ({"s": GOOD}, {}, ConfigError, "nothing to probe for"),
        ({"s": GOOD}, "ab" * 20, ConfigError, "no sequence of labels"),
        ({"s": torch.zeros(40, 2, 3)}, HALVES, ShapeError, "a probe reads rows"),
        ({"s": GOOD.index_fill(0, torch.tensor(7), torch.nan)}, HALVES, NonFiniteError, "index"),
        ({"s": GOOD[:1]}, [1], ConfigError, "one class only"),
    ],
)
def test_what_cannot_be_probed_is_one_clear_error(
    features: Any, labels: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        probe_sweep(features, labels)


def test_one_class_on_a_side_is_named() -> None:
    x, y = torch.randn(42, 3), [0] * 38 + [0, 1, 0, 1]
    groups = [0] * 20 + [1] * 18 + [2, 2, 3, 3]
    seen = set()
    for seed in range(12):
        try:
            probe_sweep({"s": x}, {"rare": y}, ProbeConfig(seed=seed), groups=groups)
        except ConfigError as error:
            assert "'rare' has one class only in the test rows" in str(error)
            seen.add("refused")
        else:
            seen.add("fitted")
    assert seen == {"refused", "fitted"}


@st.composite
def hard_rows(draw: st.DrawFn) -> tuple[torch.Tensor, list[Any], Any]:
    """Few rows, many features, constants, copies, extreme scales; labels of any kind."""
    n, d = draw(st.integers(1, 23)), draw(st.integers(1, 31))
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    x = x * 10.0 ** draw(st.integers(-12, 12)) + draw(st.sampled_from([0.0, 1.0, -1e6]))
    if draw(st.booleans()):
        x[:, draw(st.integers(0, d - 1))] = draw(st.sampled_from([0.0, 5.0, -1e9]))
    if draw(st.booleans()):
        x[:] = x[0].clone()
    if draw(st.booleans()):
        x = x.double()
    labels: list[Any] = draw(
        st.lists(st.integers(0, 1), min_size=n, max_size=n)
        | st.lists(st.sampled_from("abc"), min_size=n, max_size=n)
        | st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n)
    )
    return x, labels, draw(st.sampled_from(["logistic", "ridge", "mass_mean"]))


@F16
@given(case=hard_rows(), balanced=st.booleans())
def test_f16_degenerate_rows_give_numbers_or_one_error(case: Any, balanced: bool) -> None:
    x, labels, kind = case
    config = ProbeConfig(kind=kind, balanced=balanced, n_shuffles=1, penalties=(0.0, 1.0))
    try:
        sweep = probe_sweep({"s": x}, {"y": labels}, config, types=labels)
    except InterpError:
        return
    assert bool(torch.isfinite(sweep.score).all())  # Result checks every other field
    probe = train_probe(x, labels, config)
    assert bool(torch.isfinite(probe(x)).all())


def test_classes_that_part_without_a_penalty_end_in_numbers() -> None:
    """There is no optimum: the weights of a separable problem would grow for ever."""
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    labels = ["a"] * 7 + ["b", "c"]
    config = ProbeConfig(n_shuffles=0, penalties=(0.0, 1.0))
    probe = train_probe(x, labels, config)
    assert bool(torch.isfinite(probe(x)).all())
    alone = train_probe(x, labels, replace(config, penalties=(0.0,)))
    assert alone(x).argmax(1).tolist() == [0] * 7 + [1, 2]


def test_a_target_too_narrow_for_float32_is_its_mean() -> None:
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    probe = train_probe(x, [0.0] * 7 + [3.7e-253], ProbeConfig(kind="mlp", steps=2, hidden=3))
    assert bool(torch.isfinite(probe(x)).all())


def test_r2_of_rows_that_hardly_differ_ends_somewhere() -> None:
    nearly = torch.tensor([0.0, 1e-100, 0.0, 0.0], dtype=torch.float64)
    found = r2(torch.ones(4), nearly, torch.arange(4))
    assert found.value == LEAST_R2 and found.low >= LEAST_R2


def test_random_init_rows_are_the_same_rows() -> None:
    """More of them would be cut off without a word, and their labels would be of other rows."""
    y = torch.arange(40) % 2
    for n in (39, 41):
        with pytest.raises(ShapeError, match="other rows"):
            probe_sweep({"s": torch.randn(40, 3)}, y, random_init={"s": torch.randn(n, 3)})
    with pytest.raises(ShapeError, match="other sites"):
        probe_sweep({"s": torch.randn(40, 3)}, y, random_init={"t": torch.randn(40, 3)})
