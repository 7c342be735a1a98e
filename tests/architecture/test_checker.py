"""The suite's own type checker catches what it is there for, in every form a function has."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from jaxtyping import config

from tests.support import checker

SOURCE = """
from __future__ import annotations
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
import torch
from jaxtyping import Float, Int
from torch import Tensor
if TYPE_CHECKING:
    from nowhere import Absent

def plain(n: int) -> str:
    return str(n)

def wrong(n: int) -> str:
    return n

def rows(a: Float[Tensor, "n d"], b: Float[Tensor, "n k"]) -> Float[Tensor, "d k"]:
    return a.T @ b

def transposed(a: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return a.T

def unknown(x: Absent, n: int) -> int:
    return n

def each(n: int) -> Iterator[int]:
    yield from range(n)

def outer() -> object:
    def inner(n: int) -> int:
        return n
    return inner

@dataclass(frozen=True)
class Pair:
    a: Float[Tensor, " n"]
    b: Int[Tensor, " n"]
    name: str = ""

    @property
    def size(self) -> str:
        return len(self.a)

    @classmethod
    def of(cls, n: int) -> Self:
        return cls(torch.zeros(n), torch.zeros(n, dtype=torch.int64))

    @staticmethod
    def twice(n: int) -> int:
        return 2 * n
"""


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[ModuleType]:
    (tmp_path / "toy_of_the_checker.py").write_text(SOURCE)
    finders = list(sys.meta_path)
    sys.path.insert(0, str(tmp_path))
    checker.install("toy_of_the_checker")
    try:
        yield importlib.import_module("toy_of_the_checker")
    finally:
        sys.meta_path[:] = finders
        sys.path.remove(str(tmp_path))
        sys.modules.pop("toy_of_the_checker", None)


def test_a_function_inside_is_checked_once(toy: ModuleType) -> None:
    assert toy.outer()(4) == 4
    assert toy.outer()("3") == "3", "the second of one process is called as it is"


def test_what_fits_passes(toy: ModuleType) -> None:
    assert toy.plain(3) == "3" and toy.unknown("anything", 2) == 2
    assert toy.rows(torch.zeros(5, 2), torch.zeros(5, 3)).shape == (2, 3)
    assert list(toy.each(3)) == [0, 1, 2]
    assert toy.Pair.of(3).name == "" and toy.Pair.twice(2) == 4


@pytest.mark.parametrize(
    "call",
    [
        "plain('3')",
        "wrong(3)",
        "rows(torch.zeros(5, 2), torch.zeros(4, 3))",
        "rows(torch.zeros(5), torch.zeros(5, 3))",
        "rows(torch.zeros(5, 2).long(), torch.zeros(5, 3))",
        "transposed(torch.zeros(2, 3))",
        "unknown('anything', '2')",
        "list(each('3'))",
        "outer()('3')",
        "Pair(torch.zeros(3), torch.zeros(4).long())",
        "Pair(torch.zeros(3), torch.zeros(3).long(), 5)",
        "Pair.of(3).size",
        "Pair.of('3')",
        "Pair.twice('3')",
    ],
)
def test_what_does_not_fit_is_caught(toy: ModuleType, call: str) -> None:
    with pytest.raises(checker.Violation):
        eval(call, {**vars(toy), "torch": torch})  # noqa: S307 - calls written above


def test_scopes_do_not_leak_from_one_call_to_the_next(toy: ModuleType) -> None:
    for n in (2, 7):
        toy.rows(torch.zeros(n, 2), torch.zeros(n, 3))


def test_it_can_be_switched_off_and_leaves_annotations_as_written(
    toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)
    assert toy.wrong(3) == 3
    assert toy.plain.__annotations__ == {"n": "int", "return": "str"}


def test_the_package_itself_is_checked() -> None:
    from interp.attribution.methods.raw import Raw
    from interp.probing import elude

    with pytest.raises(checker.Violation):
        Raw(nodes="3")  # pyright: ignore[reportArgumentType]
    with pytest.raises(checker.Violation):
        elude(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(3).long())
    with pytest.raises(RuntimeError, match="imported before"):
        checker.install("interp")
    assert not hasattr(np.mean, "_annotations_are_checked")
