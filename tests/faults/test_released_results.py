"""Every result type that was ever saved still loads: its numbers, its checks, its table, its picture.

The folders were written by commit de74c39, one per type of that day, with a few numbers each;
`golden/results.json` holds what those objects said of themselves (four that had no picture of their
own have today's title).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import Tensor

from interp.core.frames.fields import from_json
from interp.core.result import Result

GOLDEN = Path(__file__).parent / "golden"
SAID: dict[str, Any] = json.loads((GOLDEN / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=SAID)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def result(name: str) -> Result:
    return Result.load(GOLDEN / "results" / name)


def leaves(value: object) -> Iterator[object]:
    """The numbers and words in nested containers and arrays."""
    if isinstance(value, Tensor):
        yield from value.flatten().tolist()
    elif isinstance(value, dict):
        for part in value.items():
            yield from leaves(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def holder(result: Result, stored: Tensor) -> str:
    """The field that holds every number of a stored array."""
    wanted = set(stored.flatten().tolist())
    return next(field for field in result.axes if wanted <= set(getattr(result, field).flatten().tolist()))


def test_no_number_is_lost(name: str, result: Result) -> None:
    for stored in load_file(GOLDEN / "results" / name / "tensors.safetensors").values():
        column = holder(result, stored)
        shown = result.to_frame(column)[column].tolist()
        assert set(stored.flatten().tolist()) <= set(shown)
    values = json.loads((GOLDEN / "results" / name / "result.json").read_text(encoding="utf-8"))
    held = [v for f in fields(result) for v in leaves(getattr(result, f.name))]
    values["fields"]["labels"] = list(values["fields"]["labels"].values())
    for key, value in values["fields"].items():
        missing = [leaf for leaf in leaves(from_json(value)) if leaf is not None and leaf not in held]
        assert not missing, key


def test_the_checks_say_the_same(name: str, result: Result) -> None:
    found = [(check.value, check.ok) for check in result.check()]
    assert len(found) == len(SAID[name]["checks"])
    for (value, ok), (_, told, passed) in zip(found, SAID[name]["checks"], strict=True):
        assert value == pytest.approx(told, rel=1e-5, abs=1e-6) and ok == passed


def test_it_has_its_picture(name: str, result: Result) -> None:
    said = SAID[name]
    fig: Any = result.plot()
    assert fig.layout.title.text == said["title"]
    assert "higher:" in fig.layout.title.subtitle.text or not said["higher"]
    for axis, had in zip((fig.layout.xaxis, fig.layout.yaxis), said["axes"], strict=True):
        assert axis.title.text or not had
    assert any(math.isfinite(number) for trace in fig.data for number in numbers(trace))


def numbers(trace: Any) -> Iterator[float]:
    """What a trace draws."""
    for values in (trace.y, trace.x, getattr(trace, "z", None)):
        if values is not None:
            for value in np.ravel(np.asarray(values, dtype=object)):
                if isinstance(value, int | float | np.number):
                    yield float(value)


def test_each_saved_again_is_the_same(name: str, result: Result, tmp_path: Path) -> None:
    again = type(result).load(result.save(tmp_path / "again"))
    assert repr(again) == repr(result)
    for field in result.axes:
        one, other = getattr(result, field), getattr(again, field)
        assert one.dtype == other.dtype and one.equal(other)
