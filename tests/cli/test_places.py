"""Where commands write: the same question, the same folder; nothing is replaced unasked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from interp.cli.config import OUT
from interp.cli.lens import Lens
from interp.cli.places import claim, default_place, plain
from interp.core.config import Placement
from interp.core.errors import StorageError
from interp.lenses.config import LensConfig

LENS = Lens(model="stories", text="Once upon a time")


def test_the_same_question_has_the_same_place() -> None:
    again = replace(LENS, overwrite=True, debug=True)
    assert default_place(LENS, "stories") == default_place(again, "stories")


@pytest.mark.parametrize(
    "change",
    [
        {"text": "Twice"},
        {"reading": LensConfig(k=3)},
        {"colour": "kl"},
        {"placement": Placement(dtype="float64")},
    ],
)
def test_another_question_has_another_place(change: dict[str, object]) -> None:
    assert default_place(LENS, "stories") != default_place(replace(LENS, **change), "stories")


@pytest.mark.parametrize("subject", ["../../etc", "", "/", "a b\nc", "." * 9, "é" * 300, "a" * 300])
def test_no_model_name_leaves_the_folder(subject: str) -> None:
    place = default_place(LENS, subject)
    assert place.parent == OUT
    assert len(place.name) < 64
    assert place.name.startswith("lens-")


def test_options_are_plain_values() -> None:
    values = plain(replace(LENS, out=Path("x")))
    assert values["command"] == "lens"
    assert values["out"] == "x"
    assert values["placement"] == {"device": "cpu", "dtype": None}


def test_new_and_empty_folders_are_free(tmp_path: Path) -> None:
    assert claim(tmp_path / "new", overwrite=False) == tmp_path / "new"
    assert claim(tmp_path, overwrite=False) == tmp_path
    assert not (tmp_path / "new").exists()  # claiming is looking, not writing


def test_a_used_folder_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(StorageError) as caught:
        claim(tmp_path, overwrite=False)
    assert str(tmp_path) in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert "--out" in str(caught.value)
    assert claim(tmp_path, overwrite=True) == tmp_path
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError):
        claim(tmp_path / "file", overwrite=overwrite)


def test_a_name_the_system_refuses_is_an_error_of_the_request(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        claim(tmp_path / ("a" * 5_000), overwrite=False)
