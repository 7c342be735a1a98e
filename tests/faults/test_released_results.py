"""Every result type that was ever saved still loads: its numbers, its checks, its table, its picture.

The folders were written by commit de74c39, one per type of that day, with a few numbers each;
`golden/results.json` holds what those objects said of themselves (four that had no picture of their
own have today's title).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

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


MOVED = {("AmnesicResult", "erased"): "ablated"}
"""Fields that have another name today."""


def test_every_field_holds_what_was_saved(name: str, result: Result) -> None:
    folder = GOLDEN / "results" / name
    for key, stored in load_file(folder / "tensors.safetensors").items():
        today = MOVED.get((name, key), key)
        assert getattr(result, today).equal(stored), key
        assert set(stored.flatten().tolist()) <= set(result.to_frame(today)[today].tolist()), key
    values = json.loads((folder / "result.json").read_text(encoding="utf-8"))["fields"]
    assert list(values.pop("labels").values()) == list(result.labels.values())
    for key, value in values.items():
        assert getattr(result, key) == from_json(value), key


def test_the_checks_say_the_same(name: str, result: Result) -> None:
    """Checks that a type has got since then come after its own."""
    found = [(check.value, check.ok) for check in result.check()]
    assert len(found) >= len(SAID[name]["checks"])
    for (value, ok), (_, told, passed) in zip(found, SAID[name]["checks"], strict=False):
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
