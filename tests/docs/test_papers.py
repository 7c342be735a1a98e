"""docs/papers.md: five columns in every row, calls that exist, test files that exist, figures held.

A figure may stand on the page only where the same number stands in the code of a test that the row
names: in a bound, or in what was measured and is asserted again. Comments and docstrings hold nothing.
"""

from __future__ import annotations

import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

import interp
from interp import (
    activations,
    attribution,
    circuits,
    dictionaries,
    lenses,
    models,
    plotting,
    probing,
    rasp,
    studies,
    tasks,
)

ROOT = Path(__file__).parents[2]
COLUMNS = ("method", "source", "call", "tests", "differs from the paper in")
ROOMS = {
    "interp": interp,
    "activations": activations,
    "attribution": attribution,
    "circuits": circuits,
    "dictionaries": dictionaries,
    "lenses": lenses,
    "models": models,
    "plotting": plotting,
    "probing": probing,
    "rasp": rasp,
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
EACH_WITH_ROWS_ABOVE = pytest.mark.parametrize(
    "table", [rows()[: i + 1] for i in range(len(rows()))], ids=lambda table: table[-1]["method"][:40]
)


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


COMMANDS = ("circuit", "patch", "lens", "train", "evaluate", "attribute", "probe", "tasks", "demo")


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
    if "tests/dictionaries/test_real.py" in places:  # holds this card to what was trained
        places.append("docs/real_dictionaries.md")
    if "the same file" in row["tests"] and before:
        places += files_of(before[-1], before[:-1])
    return places


def test_every_file_that_is_named_exists() -> None:
    table = rows()
    for i, row in enumerate(table):
        places = files_of(row, table[:i])
        assert [p for p in places if p.startswith("tests/")], row["method"]
        assert [p for p in places if not (ROOT / p).is_file()] == [], row["method"]


def figures(cell: str) -> list[str]:
    """Numbers with a point or an exponent, and per cents; names and links are none."""
    bare = re.sub(r"`[^`]*`|\]\([^)]*\)", "", cell)
    return re.findall(r"(?<![\w.])-?(?:\d[\d,]*\.\d+|\.\d+|\d+e-\d+|\d+(?= ?%))(?!\w)", bare)


def size_of(figure: str) -> float:
    """71 is 71 %, or .71: what has neither point nor exponent is a per cent."""
    size = abs(float(figure.replace(",", "").replace("_", "")))
    return size / 100 if figure.isdigit() else size


def literals(source: str) -> set[float]:
    """Sizes of the numbers with a point or an exponent that Python code computes with.

    What stands in a comment, a docstring or another string is no number of the code.
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    numbers = [token.string for token in tokens if token.type == tokenize.NUMBER]
    return {
        size_of(n)
        for n in numbers
        if re.fullmatch(r"[\d_]*(\.[\d_]*)?([eE][-+]?\d+)?", n) and set(n) & set(".eE")
    }


@cache
def held_by(place: str) -> set[float]:
    """Figures that a file stands for: a test's literals, or every number of a card that a test holds."""
    text = source_of(place)
    return literals(text) if place.endswith(".py") else {size_of(figure) for figure in figures(text)}


def test_a_figure_is_found_in_code_however_it_is_written() -> None:
    assert literals("a >= 0.93, -3e-15, 0.40, 1_000.5") == {
        size_of(f) for f in (".93", "3e-15", ".4", "1,000.5")
    }
    assert size_of(".93") not in literals("0.934, 1.93, 93") and literals("1, 0x1e, 2j, 1_0") == set()
    assert figures("F1 .92 or 1e-5 (`x.py` 0.5), [a.9](b.8), 71 % of 80") == [".92", "1e-5", "0.5", "71"]
    assert size_of("71") == 0.71 and size_of("1,000.5") == 1000.5


def test_comments_docstrings_and_messages_hold_no_figure() -> None:
    source = '''
"""Measured .11."""
SHOWN = {"uuas": 0.22}  # .33 before

def test() -> None:
    """Once .44."""
    assert found == pytest.approx(SHOWN["uuas"], abs=0.05), f"it was {found:.66f}, not 0.77"
    """.88, as a comment."""
'''
    assert literals(source) == {0.22, 0.05}


@EACH_WITH_ROWS_ABOVE
def test_every_figure_stands_in_a_test_of_its_row(table: list[dict[str, str]]) -> None:
    row = table[-1]
    held = set[float]().union(*(held_by(place) for place in files_of(row, table[:-1])))
    assert [figure for figure in figures(row["tests"]) if size_of(figure) not in held] == []


def test_counts_on_the_page_are_those_of_the_tests() -> None:
    from tests.attribution import composites, test_rules, test_settings
    from tests.lenses import test_direct, test_second_order

    direct = [*test_direct.SUMS, *test_direct.SEQ2SEQ, *test_direct.zoo.UNREACHED]
    swept = [method for method in test_settings.METHODS if not method.startswith("attention")]
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    for words, counted in (
        ("in fp32 for {} families", direct),
        ("in fp32 for {} decoder families and ViT", test_second_order.FAMILIES),
        ("in {} families and on stories260k", test_rules.FAMILIES),
        ("through {} composites", composites.COMPOSITES),
        ("sensitivity = captum's for {} methods with their own settings", swept),
    ):
        assert words.format(len(counted)) in page, words.format(len(counted))
