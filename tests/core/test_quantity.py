"""What a field says of its own picture: refused where it names what is not there."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import interp
from interp.core.errors import ConfigError
from interp.core.frames.quantity import Quantity, called, computed, drawn_fields, measured, places
from interp.core.result import RENDERERS, Result
from interp.plotting.registry import load_renderers


@dataclass(frozen=True, kw_only=True, eq=False)
class DeclaredScores(Result):
    """Scores of a test, with an interval and two nulls."""

    score: Float[Tensor, "site target"] = measured(
        "accuracy", "share", "it is read", along="site", band=("low", "high"), null=("draws", "level")
    )
    low: Float[Tensor, "site target"]
    high: Float[Tensor, "site target"]
    draws: Float[Tensor, "draw site target"] = called("shuffled")
    level: float = called("chance")
    depth: Float[Tensor, " site"] = places("site", "depth", "blocks")

    @property
    @computed(measured("gain", "share", "it is read"))
    def gain(self) -> Float[Tensor, " target"]:
        """Score above the level."""
        return self.score.mean(0) - self.level


def scores() -> DeclaredScores:
    one = torch.rand(3, 2)
    return DeclaredScores(
        score=one,
        low=one - 0.1,
        high=one + 0.1,
        draws=torch.rand(5, 3, 2),
        level=0.5,
        depth=torch.arange(3.0),
    )


def test_a_field_says_what_it_measures() -> None:
    result = scores()
    assert result.quantity("score") == Quantity("accuracy", "share", "it is read")
    assert result.quantity("gain").axis == "gain (share)"
    assert result.quantity("low") == Quantity("low")
    assert list(drawn_fields(DeclaredScores)) == ["score", "draws", "level", "depth", "gain"]


def declare(**declared: Any) -> type[Result]:
    """A type whose field `a` [x y] is declared so, beside `b` [x y], `c` [x], `d` [u v] and a word."""
    hints = {"b": "x y", "c": "x", "d": "u v"}
    annotations: dict[str, Any] = {"a": Float[Tensor, "x y"], "word": str}
    annotations |= {name: Float[Tensor, axes] for name, axes in hints.items()}
    body = {"__annotations__": annotations, "__module__": __name__, **declared}
    kind = type("Misdeclared", (Result,), body)
    return dataclass(frozen=True, kw_only=True, eq=False)(kind)


def one(**options: Any) -> Any:
    return measured("a", "", "", **options)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"a": one(along="z")}, "runs along an axis that it does not have"),
        ({"a": one(band=("b", "e"))}, "names a field that is none of numbers"),
        ({"a": one(band=("b", "c"))}, "drawn with c, which has other axes"),
        ({"a": one(beside="c")}, "drawn with c, which has other axes"),
        ({"a": one(null="d")}, "has the null d, with other axes"),
        ({"a": one(null="word")}, "names a field that is none of numbers"),
        ({"word": one()}, "holds no numbers"),
        ({"c": places("y")}, "gives the places of an axis that it does not have"),
    ],
)
def test_a_misdeclared_field_is_refused(declared: dict[str, Any], message: str) -> None:
    kind = declare(**declared)
    with pytest.raises(ConfigError, match=message):
        drawn_fields(kind)
    assert drawn_fields(declare(a=one(band=("b", "b"), null="c", along="x")))


def result_types() -> list[type[Result]]:
    for module in pkgutil.walk_packages(interp.__path__, "interp."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[Result]] = []
    for kind in Result.__subclasses__():
        if kind.__module__.startswith("interp."):
            found.append(kind)
    return found


def test_every_type_says_what_its_numbers_are_or_brings_a_picture_that_does() -> None:
    for kind in result_types():
        load_renderers(kind)
        quantities = [drawn.quantity for drawn in drawn_fields(kind).values() if drawn.quantity]
        assert quantities or kind in RENDERERS, f"{kind.__name__} declares nothing and has no renderer"
        for quantity in quantities:
            assert quantity.name, kind.__name__
