"""Settings in blocks stand once and are read nested and flat; two values for one are refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from interp.core.blocks import Blocks, Place, in_blocks, names_of, owners_of, settings_in
from interp.core.errors import ConfigError
from interp.core.settings import Count, Settings
from tests.activations.toys import unchecked


@dataclass(frozen=True, kw_only=True)
class Loop(Settings):
    """One block."""

    steps: Count = 10
    seed: int = 0
    most: int = 1


@dataclass(frozen=True, kw_only=True)
class Rows(Settings):
    """Another one."""

    width: int = 3
    betas: tuple[float, float] = (0.5, 0.9)
    seed: int = 0
    most: int = 2


@in_blocks
@dataclass(frozen=True, kw_only=True)
class Whole(Blocks):
    """What holds them."""

    ALSO: ClassVar[Mapping[str, tuple[Place, ...]]] = {"data_seed": (("loop", "seed"), ("rows", "seed"))}
    name: str = ""
    seed: int = 7
    loop: Loop = field(default_factory=Loop)
    rows: Rows = field(default_factory=Rows)


whole: Any = unchecked(Whole)


def test_flat_nested_and_mapped_are_the_same() -> None:
    flat = whole(name="a", steps=5, betas=(0.1, 0.2), data_seed=4)
    nested = Whole(name="a", loop=Loop(steps=5, seed=4), rows=Rows(betas=(0.1, 0.2), seed=4))
    mapped = {"name": "a", "loop": {"steps": 5, "seed": 4}, "rows": {"betas": [0.1, 0.2], "seed": 4}}
    mixed = {"name": "a", "steps": 5, "loop": {"seed": 4}, "rows": {"seed": 4}, "betas": [0.1, 0.2]}
    assert flat == nested == Whole.of(mapped) == Whole.of(mixed) == Whole.of(dataclasses.asdict(flat))
    assert flat.seed == 7 and flat.steps == flat.loop.steps == 5 and flat.data_seed == 4
    assert hash(flat) == hash(nested) and repr(flat) == repr(nested)
    for again in (copy.deepcopy(flat), pickle.loads(pickle.dumps(flat))):
        assert again == flat and again.width == 3


def test_a_default_is_the_blocks_own() -> None:
    assert Whole().loop == Loop() and Whole(loop=Loop(seed=2)).loop == Loop(seed=2)
    assert Whole.of({"loop": {"seed": 2}}) == Whole(loop=Loop(seed=2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loop": Loop(steps=5), "steps": 6}, ["steps is given twice", "steps=6, loop.steps=5"]),
        ({"loop": Loop(seed=1), "steps": 6}, ["steps=6, loop.steps=10"]),
        ({"loop": {"steps": 5}, "steps": 6}, ["steps is given twice"]),
        ({"rows": Rows(seed=1), "data_seed": 2}, ["data_seed=2, rows.seed=1"]),
        ({"stesp": 5}, ["no option 'stesp'", "did you mean 'steps'"]),
        ({"loop": {"stesp": 5}}, ["loop has no option 'stesp'", "did you mean 'steps'"]),
        ({"lop": {"steps": 5}}, ["no option 'lop'", "did you mean 'loop'"]),
        ({"most": 5}, ["several blocks", "loop.most or rows.most"]),
        ({"loop": 5}, ["loop holds settings", "Loop"]),
        ({"loop": None}, ["loop holds settings"]),
        ({"loop": Rows()}, ["loop holds settings"]),
        ({"loop": {"steps": 0}}, ["steps is out of range"]),
        ({"steps": True}, ["steps has a wrong value"]),
        ({"steps": np.zeros(3), "loop": {"steps": np.zeros(3)}}, ["steps is given twice"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(given: dict[str, Any], words: list[str]) -> None:
    for make in (lambda: whole(**given), lambda: Whole.of(given), lambda: Whole().changed(given)):
        with pytest.raises(ConfigError) as caught:
            unchecked(make)()
        assert all(word in str(caught.value) for word in words), caught.value


def test_the_same_value_twice_is_one() -> None:
    assert whole(loop=Loop(steps=5), steps=5) == Whole.of({"loop": {"steps": 5}, "steps": 5})


def test_replacing_and_changing_keep_the_rest() -> None:
    start = whole(steps=5, width=8, name="a")
    for again in (
        dataclasses.replace(start, steps=6),
        start.changed({"steps": 6}),
        start.changed({"loop": {"steps": 6}}),
        dataclasses.replace(start, loop=dataclasses.replace(start.loop, steps=6)),
    ):
        assert again == whole(steps=6, width=8, name="a") and start.steps == 5
    assert dataclasses.replace(start, name="b") == whole(steps=5, width=8, name="b")
    assert start.changed({"loop": Loop(seed=3)}).loop == Loop(seed=3), "a whole block"
    assert whole(loop=start.loop, width=2).loop == start.loop
    with pytest.raises(ConfigError, match="twice"):
        dataclasses.replace(start, loop=Loop(steps=6), steps=7)
    with pytest.raises(ConfigError, match="twice"):
        start.changed({"loop": {"steps": 6}, "steps": 7})


def test_names() -> None:
    assert names_of(Whole) == ("name", "seed", "loop", "rows", "steps", "most", "width", "betas", "data_seed")
    assert owners_of(Whole)["steps"] == (("loop", "steps"),)
    assert dict(settings_in(Whole, {"name": 1, "loop": {"steps": 2}, "width": 3})) == {
        "name": 1,
        "steps": 2,
        "width": 3,
    }
    with pytest.raises(AttributeError, match="stesp"):
        _ = unchecked(Whole()).stesp
