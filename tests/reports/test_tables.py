"""The numbers behind a figure are the figure's numbers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from interp.core.frames.quantity import Quantity
from interp.plotting import basics
from interp.plotting.attention import attention_patterns
from interp.reports.tables import format_value, of_figure, of_frame, of_result, of_rows
from tests.reports.samples import PageScores

Q = Quantity("score", "nats")


def test_heat_map_becomes_a_grid_with_its_labels_unescaped() -> None:
    fig = basics.heatmap([[1.0, 2.0], [3.0, 4.0]], "t", Q, rows=["r", "<s>"], columns=["a", " a"])
    (table,) = of_figure(fig)
    assert table.columns == ("", "a", "·a")
    assert table.rows == (("r", 1.0, 2.0), ("<s>", 3.0, 4.0))
    assert table.caption == "score (nats)"


def test_lines_over_the_same_x_share_a_table() -> None:
    fig = basics.lines([0, 1], {"a": [1.0, 2.0], "b": [3.0, 4.0]}, "t", Q, x_axis="layer")
    (table,) = of_figure(fig)
    assert table.columns == ("layer", "a", "b")
    assert table.rows == ((0, 1.0, 3.0), (1, 2.0, 4.0))


def test_bars_become_names_and_values() -> None:
    (table,) = of_figure(basics.bars([1.0, -2.0], ["a", "b"], "t", Q))
    assert table.rows == (("a", 1.0), ("b", -2.0))


def test_thumbnails_and_decoration_are_not_tables() -> None:
    fig = attention_patterns(np.full((3, 2, 2), 0.5), ["a", "b"])
    assert [table.caption for table in of_figure(fig)] == ["H0", "H1", "H2"]


def test_a_users_own_figure_has_a_table_too() -> None:
    (table,) = of_figure(go.Figure(go.Scatter(x=["u", "v"], y=[1, 2])))
    assert table.rows == (("u", 1), ("v", 2))
    fig = go.Figure([go.Bar(x=["u", "v"], y=[1, 2]), go.Scatter(y=[5]), go.Pie()])
    assert [table.rows for table in of_figure(fig)] == [(("u", 1), ("v", 2)), ((0, 5),)]


def test_json_has_all_rows_up_to_the_limit_and_no_nan() -> None:
    numbers = of_rows(["x"], [[float("nan")], [np.float32(1.5)], [np.int64(3)]], "c")
    assert numbers.as_json(2) == {"caption": "c", "columns": ["x"], "n_rows": 3, "rows": [[None], [1.5]]}


def test_frame_without_index() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[5, 6])
    assert of_frame(frame, "").rows[0] == (1, "x")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (0.123456, "0.1235"),
        (math.nan, "–"),
        (None, ""),
        (True, "yes"),
        (" a\n", "·a⏎"),
        ("a b", "a b"),
        ("3  a b", "3··a·b"),
    ],
)
def test_format_value(value: object, text: str) -> None:
    assert format_value(value) == text


def test_a_results_fields_share_tables_by_axes_and_rows_stop_at_the_limit() -> None:
    result = PageScores(scores=torch.arange(21.0).reshape(3, 7), labels={"name": list("abcdefg")})
    (table,) = of_result(result, 9)
    assert table.columns == ("layer", "name", "scores") and table.caption == "by layer, name"
    assert (len(table.rows), table.total) == (9, 21)
    assert table.rows[8] == (1, "b", 8.0)
    frame = result.to_frame()
    (whole,) = of_result(result, 100)
    assert [list(row) for row in whole.rows] == frame.to_numpy().tolist()
