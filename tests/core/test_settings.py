"""Settings: what their types say holds from the moment they exist."""

from __future__ import annotations

import importlib
import inspect
import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from interp.core.errors import ConfigError
from interp.core.settings import (
    Count,
    Decay,
    Natural,
    NonNegative,
    Positive,
    Settings,
    Share,
    at_least,
    check_call,
    check_choice,
    check_fields,
    check_options,
)
from tests.activations.toys import unchecked
from tests.architecture.source import modules


@dataclass(frozen=True, kw_only=True)
class Bread(Settings):
    """Has a field of every kind."""

    kind: Literal["rye", "wheat"] = "rye"
    loaves: Count = 1
    seeds: Natural = 0
    hours: Positive = 1.5
    salt: NonNegative = 0
    water: Share = 0.7
    rest: tuple[Decay, Decay] = (0.0, 0.5)
    weights: tuple[Count, ...] = (500,)
    heat: Annotated[float, at_least(-273)] | None = None
    sliced: bool = False


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("kind", "rie", "did you mean 'rye'"),
        ("kind", 3, "'rye', 'wheat'"),
        ("loaves", 0, ">= 1"),
        ("loaves", True, "int"),
        ("loaves", 2.0, "int"),
        ("seeds", -1, ">= 0"),
        ("hours", 0, "> 0"),
        ("hours", math.nan, "> 0"),
        ("hours", math.inf, "> 0"),
        ("hours", "long", "float"),
        ("salt", -1e-9, ">= 0"),
        ("water", 1, "between 0 and 1"),
        ("water", 0.0, "between 0 and 1"),
        ("rest", (0.5, 1.0), "below 1"),
        ("rest", (0.5,), "float, float"),
        ("weights", (1, 0), ">= 1"),
        ("weights", [1], "a tuple of int"),
        ("heat", -300.0, ">= -273"),
        ("heat", "hot", "float or None"),
        ("sliced", 1, "bool"),
    ],
)
def test_what_a_type_excludes_is_named(field: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        unchecked(Bread)(**{field: value})
    assert field in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "wheat"),
        ("loaves", 10**9),
        ("seeds", 0),
        ("hours", 1),
        ("salt", 0),
        ("water", 1e-9),
        ("rest", (0, 0.999)),
        ("weights", ()),
        ("weights", (3, 4)),
        ("heat", None),
        ("heat", -273),
    ],
)
def test_what_a_type_allows_is_kept(field: str, value: Any) -> None:
    assert getattr(unchecked(Bread)(**{field: value}), field) == value


def test_single_fields_change_by_name() -> None:
    assert Bread().changed({"loaves": 3}, "a baker") == Bread(loaves=3)
    with pytest.raises(ConfigError, match="a baker has no option 'loafs'") as caught:
        Bread().changed({"loafs": 3}, "a baker")
    assert "did you mean 'loaves'" in str(caught.value)
    with pytest.raises(ConfigError, match="loaves is out of range"):
        Bread().changed({"loaves": -3}, "a baker")


def test_a_least_value_can_be_given_beside_the_types() -> None:
    check_fields(Bread(loaves=2), {"loaves": 2, "heat": 100})
    with pytest.raises(ConfigError, match="loaves is out of range"):
        check_fields(Bread(), {"loaves": 2})


def baked(bread: str, crust: Literal["thin", "thick"] = "thin", *, minutes: int = 30) -> str:
    return f"{bread} {crust} {minutes}"


def test_calls_name_options_and_choices_that_are_not_there() -> None:
    check_call(baked, ("rye", "thick"), {"minutes": 3})
    with pytest.raises(ConfigError, match="baked has no option 'crus'") as caught:
        check_call(baked, ("rye",), {"crus": "thin"})
    assert "did you mean 'crust'" in str(caught.value)
    for args, options in ((("rye", "thik"), {}), (("rye",), {"crust": "thik"})):
        with pytest.raises(ConfigError, match="crust has a wrong value") as caught:
            check_call(baked, args, options)
        assert "did you mean 'thick'" in str(caught.value)


def test_a_choice_is_one_of_a_literal_or_of_texts() -> None:
    check_choice("crust", "thin", Literal["thin", "thick"])
    check_choice("crust", "thin", {"thin": 1})
    with pytest.raises(ConfigError, match="crust has a wrong value") as caught:
        check_choice("crust", ["thin"], ("thin", "thick"))
    assert "'thin', 'thick'" in str(caught.value)
    with pytest.raises(ConfigError, match="one of 1009 names") as caught:
        check_choice("row", "L3N71.inn", [f"L3N{i}.in" for i in range(1009)])
    assert "did you mean 'L3N71.in'" in str(caught.value)


def test_keys_of_a_file_are_options() -> None:
    check_options("the file", {"d_sae": 1}, ["d_in", "d_sae"])
    with pytest.raises(ConfigError, match="the file has no option 'd_sea'") as caught:
        check_options("the file", {"d_sae": 1, "d_sea": 2}, ["d_in", "d_sae"])
    assert "did you mean 'd_sae'" in str(caught.value) and "d_in, d_sae" in str(caught.value)
    with pytest.raises(ConfigError, match="the file has no option '7'"):
        check_options("the file", {7: 1}, ["d_in"])


def _settings() -> list[type]:
    found = set()
    for name in modules():
        if name.endswith("config"):
            members = inspect.getmembers(importlib.import_module(name), inspect.isclass)
            found |= {kind for _, kind in members if issubclass(kind, Settings) and is_dataclass(kind)}
    return sorted(found, key=lambda kind: kind.__qualname__)


@pytest.mark.parametrize("kind", _settings(), ids=lambda kind: kind.__qualname__)
def test_the_settings_of_every_room_refuse_nonsense_in_every_field(kind: type) -> None:
    unchecked(kind)()
    for field in fields(kind):
        with pytest.raises(ConfigError, match=field.name):
            unchecked(kind)(**{field.name: object()})


def test_numbers_of_numpy_are_taken_as_pythons() -> None:
    numpys = {"loaves": np.int64(7), "water": np.float32(0.25), "sliced": np.bool_(True)}
    given = unchecked(Bread)(**numpys, weights=(np.int32(5), 6))
    assert (given.loaves, given.water, given.sliced, given.weights) == (7, 0.25, True, (5, 6))
    assert [type(v) for v in (given.loaves, given.water, given.sliced)] == [int, float, bool]
    wrong = {"loaves": [np.float64(7), np.bool_(True), np.int64(0), np.ones(1, int)], "sliced": [np.int64(1)]}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ConfigError, match=name):
                unchecked(Bread)(**{name: value})
