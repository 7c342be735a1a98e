"""Rows 40 and 41: labels, groups and splits that mean nothing are refused by name at every door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.cli.main import main
from interp.core.errors import ConfigError, InterpError
from interp.core.randomness import permutation
from interp.models.text.batch import TokenBatch
from interp.probing import (
    AttentionProbeConfig,
    EraseConfig,
    ProbeConfig,
    SparseConfig,
    StructuralConfig,
    ablate_concept,
    align_texts,
    audit_erasure,
    code_length,
    fit_eraser,
    probe_sweep,
    prune_neurons,
    sparse_sweep,
    split_rows,
    structural_probe,
    sweep_model,
    train_probe,
    v_information,
)
from interp.probing.config import ProbeKind
from interp.probing.syntax.attention import fit_attention_probe
from interp.probing.syntax.maps import WordMaps
from interp.studies.sentiment_unit import find_unit
from tests.models import tokenizers
from tests.probing.rows import small

N = 60
X = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
QUICK = ProbeConfig(n_shuffles=0, steps=2, hidden=3)
CUT = split_rows(N, 0.3, 0)
TEXTS = [" ".join("red green blue one two three".split()[i % 4 : i % 4 + 2 + i % 2]) for i in range(N)]


def _swept(labels: Any, groups: Any) -> Any:
    words = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(words)), words)
    return sweep_model(model, align_texts(model, TEXTS, labels, groups=groups), config=QUICK)


DOORS: dict[str, Callable[[Any, Any], Any]] = {
    "train_probe": lambda y, g: train_probe(X, y, QUICK, groups=g),
    "probe_sweep": lambda y, g: probe_sweep({"s": X}, y, QUICK, groups=g),
    "sweep_model": _swept,
    "sparse_sweep": lambda y, g: sparse_sweep({"s": X}, y, SparseConfig(ks=(1,), n_shuffles=0), groups=g),
    "prune_neurons": lambda y, g: prune_neurons(X, y, k=1, rounds=1, groups=g),
    "fit_eraser": lambda y, g: fit_eraser(X, y, EraseConfig(method="inlp", iterations=2), groups=g),
    "audit_erasure": lambda y, g: audit_erasure(X, {"label": y}, "label", probe=QUICK, groups=g),
    "code_length": lambda y, g: code_length({"s": X}, y, groups=g),
    "find_unit": lambda y, g: find_unit(X, y, strengths=(1.0,), groups=g),
}
SPLITTING = sorted(set(DOORS) - {"train_probe", "code_length"})
"""Doors that hold rows out: training and test rows of seed 0 are the same in all of them."""


def classes(**rare: Any) -> list[str]:
    """Two classes, alternating on either side of the split, but for the test or training rows given."""
    y = [""] * N
    for side in (CUT.train, CUT.test):
        for i, row in enumerate(side.tolist()):
            y[row] = "ab"[i % 2]
    for side, name in rare.items():
        for row in (CUT.train if side == "train" else CUT.test).tolist():
            y[row] = name
    return y


@pytest.mark.parametrize("door", DOORS)
def test_labels_that_can_be_read_pass(door: str) -> None:
    DOORS[door](classes(), list(range(N)))


FLOATS: dict[str, Any] = {
    "a tensor": torch.arange(N).remainder(2).double(),
    "an array": (torch.arange(N) % 2).numpy().astype("float32"),
    "a list": [-1.0, 1.0] * (N // 2),
}
MIXED: dict[str, tuple[list[Any], str]] = {
    "text and ints": ([1, "1"] * (N // 2), r"1 \(int\), '1' \(str\)"),
    "ints and bools": ([True, 2] * (N // 2), r"True \(bool\), 2 \(int\)"),
    "bools and floats": ([0.5, False] * (N // 2), r"0.5 \(float\), False \(bool\)"),
    "text and floats": (["a", 0.5] * (N // 2), r"'a' \(str\), 0.5 \(float\)"),
}


@pytest.mark.parametrize("labels", FLOATS)
@pytest.mark.parametrize("door", DOORS)
def test_classes_that_came_as_floats_are_never_a_ridge(door: str, labels: str) -> None:
    with pytest.raises(ConfigError, match="'label'") as error:
        DOORS[door](FLOATS[labels], None)
    assert "float labels" in str(error.value) and "1" in str(error.value), error.value
    DOORS[door]([int(value) for value in FLOATS[labels]], None)  # the fix works


@pytest.mark.parametrize("kind", ["logistic", "mass_mean"])
@pytest.mark.parametrize("door", [train_probe, lambda x, *rest: probe_sweep({"s": x}, *rest)])
def test_numbers_for_a_probe_of_classes_are_refused(door: Any, kind: ProbeKind) -> None:
    with pytest.raises(ConfigError, match=f"'label' holds numbers, and a {kind} probe tells classes"):
        door(X, X[:, 0], ProbeConfig(kind=kind))


def test_the_kind_that_is_recorded_is_the_kind_that_was_fitted() -> None:
    assert train_probe(X, X[:, 0]).shape.kind == "ridge"
    assert train_probe(X, classes()).shape.kind == "logistic"
    numbers = torch.arange(N).remainder(2).double()  # said to be a quantity
    assert train_probe(X, numbers, ProbeConfig(kind="ridge")).shape.classes == ()
    both = probe_sweep({"s": X}, {"a": classes(), "b": X[:, 0]}, QUICK)
    assert both.probe == "logistic, ridge"
    # Erasing two numbers is erasing two classes: the same eraser, whatever they are called.
    erasers = [fit_eraser(X, y).projection for y in (numbers, numbers.long())]
    torch.testing.assert_close(erasers[0], erasers[1])


@pytest.mark.parametrize("labels", MIXED)
@pytest.mark.parametrize("door", DOORS)
def test_labels_of_several_types_are_refused(door: str, labels: str) -> None:
    given, words = MIXED[labels]
    with pytest.raises(ConfigError, match=words):
        DOORS[door](given, None)


@pytest.mark.parametrize("missing", [float("nan"), None])
@pytest.mark.parametrize("door", DOORS)
def test_a_missing_group_is_named_by_its_row(door: str, missing: Any) -> None:
    with pytest.raises(InterpError, match=f"{missing} at row 7"):
        DOORS[door](classes(), [f"doc {i}" if i != 7 else missing for i in range(N)])


OTHERS: dict[str, Callable[[Any], Any]] = {
    "v_information": lambda g: v_information({"s": X}, X[:, :2], groups=g),
    "structural_probe": lambda g: structural_probe(
        [X[:6]] * N, [[1, -1, 1, 2, 3, 4]] * N, StructuralConfig(steps=1), groups=g
    ),
    "types": lambda g: probe_sweep({"s": X}, classes(), QUICK, types=g),
    "split_rows": lambda g: split_rows(N, 0.3, 0, groups=g),
}


@pytest.mark.parametrize("door", [*OTHERS, *DOORS])
def test_groups_that_are_no_names_are_refused(door: str) -> None:
    call = OTHERS[door] if door in OTHERS else lambda g: DOORS[door](classes(), g)
    for bad in (
        [*range(N - 1), float("nan")],
        [*range(N - 1), "9"],
        [[0]] * N,
        "a" * N,
        [("doc", None)] * N,
        torch.arange(N - 1),
    ):
        with pytest.raises(InterpError, match=r"groups|types|one per text"):
            call(bad)


@pytest.mark.parametrize("door", SPLITTING)
def test_a_class_that_only_test_rows_have_is_named(door: str) -> None:
    """A probe that never saw it scores nothing there: a score of 0 looked like a finding."""
    groups = [f"doc {i}" for i in range(N)]
    two = door in ("sparse_sweep", "prune_neurons", "find_unit")  # there a class would be a side
    labels = classes(test="dog") if not two else classes(train="a", test="dog")
    with pytest.raises(ConfigError) as error:
        DOORS[door](labels, groups)
    told = str(error.value)
    assert "'label'" in told or "label" in told
    assert ("'dog'" in told or "'a'" in told) and "doc " in told, told


@pytest.mark.parametrize("door", ["probe_sweep", "sweep_model", "fit_eraser", "audit_erasure"])
def test_one_row_of_a_new_class_among_others_is_named_with_its_group(door: str) -> None:
    labels, lone = classes(), int(CUT.test[3])
    labels[lone] = "dog"
    with pytest.raises(ConfigError, match="a class that no training row has") as error:
        DOORS[door](labels, [f"doc {i}" for i in range(N)])
    assert f"'dog' in 1 test rows of group doc {lone}" in str(error.value)
    seen = classes()
    seen[lone] = seen[int(CUT.train[0])] = "dog"
    DOORS[door](seen, None)


@pytest.mark.parametrize("door", SPLITTING)
@pytest.mark.parametrize("side", ["train", "test"])
def test_a_side_of_one_class_is_named(door: str, side: str) -> None:
    with pytest.raises(ConfigError, match=f"'label' has one class only in the {side}") as error:
        DOORS[door](classes(**{side: "a"}), None)
    assert "all 'a'" in str(error.value)


def test_a_number_that_does_not_vary_on_a_side_is_named() -> None:
    y = X[:, 0].double()
    y[CUT.test] = 2.5
    with pytest.raises(ConfigError, match="the same at every row of the test rows"):
        probe_sweep({"s": X}, {"depth": y}, QUICK)
    with pytest.raises(ConfigError, match=r"do not vary among the test rows(.|\n)*depth"):
        v_information({"s": X}, torch.stack([X[:, 0].double(), y], 1), names=["x", "depth"])


def test_penalties_are_not_chosen_by_probes_of_one_class() -> None:
    config = ProbeConfig(penalties=(0.1, 1.0), n_shuffles=0)
    inner = split_rows(N, 0.25, 0)
    y = ["ab"[i % 2] for i in range(N)]
    for row in inner.train.tolist():
        y[row] = "a"
    with pytest.raises(ConfigError, match="the training rows that penalties are tried on"):
        train_probe(X, y, config)
    train_probe(X, y, ProbeConfig(n_shuffles=0))  # one penalty: nothing to choose


def test_relations_of_test_sentences_alone_have_no_baseline_of_their_own() -> None:
    """Their best offset would be one that no training sentence ever spoke for."""
    cut = split_rows(20, 0.3, 0)
    heads = torch.tensor([1, -1, 1, 2])
    sentences = [WordMaps(torch.rand(2, 4, 4), heads, ("det", "root", "obj", "obj")) for _ in range(20)]
    for i in cut.test.tolist():
        sentences[i] = WordMaps(torch.rand(2, 4, 4), heads, ("det", "root", "obj", "vocative"))
    found = fit_attention_probe(sentences, AttentionProbeConfig(steps=2))
    assert set(found.labels["relation"]) == {"det", "obj"}
    assert found.n_test == 3 * len(cut.test)  # they count in the UAS of all


def test_nothing_erased_is_no_amnesia() -> None:
    """An eraser of rank 0 takes nothing: "the model does not use it" would be for free."""
    model = interp.wrap(small(d_vocab=31))
    blank = fit_eraser(torch.randn(N, 24), classes(), EraseConfig(tolerance=2.0))
    assert blank.rank == 0
    with pytest.raises(ConfigError, match="erases nothing"):
        ablate_concept(model, TokenBatch.of(torch.randint(31, (2, 5))), "blocks.0.hook_resid_post", blank)


def test_the_command_line_names_the_class(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds, order = classes(), permutation(N, 0, "texts to probe")
    kinds[int(order[CUT.test[3]])] = "dog"
    table = tmp_path / "labels.csv"
    lines = [f"the {'cat' if i % 2 else 'bird'} sat {i},{kind}" for i, kind in enumerate(kinds)]
    table.write_text("\n".join(["text,label", *lines]) + "\n")
    asked = ["probe", str(shared_data / "models" / "stories260k"), str(table), "--sites", "hook_embed"]
    assert main([*asked, "--out", str(tmp_path / "a")]) == 2
    assert "'dog' in 1 test rows" in capsys.readouterr().err
    assert main([*asked, "--out", str(tmp_path / "b"), "--seed", "1"]) == 0  # as the error says
