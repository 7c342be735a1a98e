"""Curves of a dictionary's training: one line per dictionary and panel, targets dashed."""

from __future__ import annotations

import pytest

from interp.core.errors import ConfigError
from interp.plotting.rooms.dictionaries_training import dictionary_curves


def records(*names: str) -> list[dict[str, float]]:
    found = []
    for step in range(0, 50, 5):
        row: dict[str, float] = {"step": step, "lr": 1e-3}
        for i, name in enumerate(names):
            at = f"{name}/" if name else ""
            row |= {f"{at}fvu": 1 / (step + 1), f"{at}l0": 9 + i, f"{at}dead": 0.0}
        found.append(row)
    return found


def test_each_dictionary_has_its_line_in_each_panel_and_its_target() -> None:
    fig = dictionary_curves(records("a", "b"), {"a": 9, "b": 10.5})
    thick = [trace for trace in fig.data if trace.line.width > 2]
    assert sorted({trace.name for trace in thick}) == ["a", "b"] and len(thick) == 6
    assert len({trace.line.color for trace in thick}) == 2
    assert [shape.y0 for shape in fig.layout.shapes] == [9, 10.5]
    titles = [note.text for note in fig.layout.annotations]
    assert len(titles) == 3 and titles[0].startswith("FVU") and fig.layout.showlegend


def test_one_dictionary_needs_no_name() -> None:
    fig = dictionary_curves(records(""), {"0": 12})
    assert not fig.layout.showlegend and fig.layout.shapes[0].y0 == 12
    assert fig.layout.yaxis.type == "log" and fig.layout.yaxis2.type == "linear"


def test_records_of_something_else_are_refused() -> None:
    with pytest.raises(ConfigError, match="no records"):
        dictionary_curves([{"step": 1, "loss": 2.0}])
