"""docs/papers.md: five columns in every row, calls that exist, test files that exist, figures held.

A figure is held where its own number stands in the tests that the row names: in a bound, or in a
comment beside one. What a benchmark measured names the benchmark, which must exist.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import interp
from interp import activations, attribution, dictionaries, lenses, models, plotting, probing, studies, tasks

ROOT = Path(__file__).parents[2]
COLUMNS = ("method", "source", "call", "tests", "differs from the paper in")
ROOMS = {
    "interp": interp,
    "activations": activations,
    "attribution": attribution,
    "dictionaries": dictionaries,
    "lenses": lenses,
    "models": models,
    "plotting": plotting,
    "probing": probing,
    "studies": studies,
    "tasks": tasks,
}


def rows() -> list[dict[str, str]]:
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    assert tuple(cells[0]) == COLUMNS and set("".join(cells[1])) == {"-"}
    assert all(len(row) == len(COLUMNS) for row in cells), [row[0] for row in cells if len(row) != 5]
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells[2:]]


EACH = pytest.mark.parametrize("row", rows(), ids=lambda row: row["method"][:40])


@EACH
def test_every_cell_says_something(row: dict[str, str]) -> None:
    assert all(row.values())
    assert len(row["differs from the paper in"]) >= len("nothing known"), row


def test_no_method_stands_twice() -> None:
    methods = [row["method"] for row in rows()]
    assert len(set(methods)) == len(methods) > 50


@EACH
def test_the_call_resolves_to_a_public_name(row: dict[str, str]) -> None:
    quoted = re.findall(r"`([^`]+)`", row["call"])
    assert quoted
    for call in quoted:
        methods = re.findall(r'method="(\w+)"|^"(\w+)"$', call)
        for method in ("".join(found) for found in methods):
            assert method in attribution.METHODS or method in ("inlp",), method
        if call.startswith(("benchmarks/", "interp ")):
            place = call if call.startswith("benchmarks/") else ""
            assert (ROOT / place).exists() if place else call.split()[1] in COMMANDS, call
            continue
        head = re.match(r"([A-Za-z_][\w.]*)(?=[(`]|$|\()", call)
        if head and not call.startswith(("method=", '"')):
            assert resolved(head[1]), call


COMMANDS = ("lens", "train", "evaluate", "attribute", "probe", "tasks", "demo")


def resolved(name: str) -> bool:
    """Whether a dotted name is public: from `interp`, from a room, or an attribute of one of its objects."""
    parts = name.split(".")
    if parts[0] == "interp":
        parts = parts[1:]
    if parts[0] in ROOMS and len(parts) > 1:
        rooms, parts = [ROOMS[parts[0]]], parts[1:]
    elif parts[0] in ("eraser", "low", "high"):  # an object made by the call before it
        return True
    else:
        rooms = list(ROOMS.values())
    for room in rooms:
        here: object = room
        for part in parts:
            here = getattr(here, part, None)
        if here is not None:
            return True
    return False


@cache
def source_of(place: str) -> str:
    return (ROOT / place).read_text(encoding="utf-8")


def files_of(row: dict[str, str], before: list[dict[str, str]]) -> list[str]:
    """The files that a row names; "the same file" is that of the row above."""
    named = re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py|test_\w+\.py)`", row["tests"] + row["call"])
    folder = next((str(Path(name).parent) for name in named if "/" in name), "")
    places = [name if "/" in name else f"{folder}/{name}" for name in named]
    if "the same file" in row["tests"] and before:
        places += files_of(before[-1], before[:-1])
    return places


def test_every_file_that_is_named_exists() -> None:
    table = rows()
    for i, row in enumerate(table):
        places = files_of(row, table[:i])
        assert [p for p in places if p.startswith("tests/")], row["method"]
        assert [p for p in places if not (ROOT / p).is_file()] == [], row["method"]
        if "on the page" in row["tests"] or "by the benchmark" in row["tests"]:
            assert any(p.startswith("benchmarks/") for p in places), row["method"]
