"""Heat maps, head maps, lines and bars: scales, axes, sentences, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.core.errors import ShapeError
from interp.core.frames.quantity import Quantity
from interp.plotting import theme
from interp.plotting.basics import bars, heatmap, lines
from interp.plotting.config import HeadMapConfig
from interp.plotting.rooms.lenses.heads import head_heatmap

DIFF = Quantity("logit difference", "logits", "promotes the answer")


def test_signed_values_take_a_symmetric_blue_positive_scale() -> None:
    trace = heatmap(torch.tensor([[-1.0, 2.0, 0.0]]), "t", DIFF).data[0]
    assert (trace.zmin, trace.zmax, trace.zmid) == (-2.0, 2.0, 0.0)
    red, blue = trace.colorscale[0][1], trace.colorscale[-1][1]
    assert int(red[1:3], 16) > int(red[5:7], 16)
    assert int(blue[5:7], 16) > int(blue[1:3], 16)


def test_unsigned_values_start_at_zero() -> None:
    trace = heatmap(torch.tensor([[1.0, 3.0]]), "t", DIFF).data[0]
    assert (trace.zmin, trace.zmax, trace.zmid) == (0.0, 3.0, None)
    assert [tuple(stop) for stop in trace.colorscale] == theme.SEQUENTIAL


@pytest.mark.parametrize("values", [[[0.0, 0.0]], [[float("nan"), float("nan")]]])
def test_constant_and_absent_values_have_a_scale_of_some_width(values: list[list[float]]) -> None:
    trace = heatmap(values, "t", DIFF).data[0]
    assert trace.zmin < trace.zmax


def test_the_subtitle_says_metric_unit_and_what_higher_means() -> None:
    fig = heatmap(torch.tensor([[-1.0, 2.0]]), "t", DIFF)
    said = fig.layout.title.subtitle.text.replace("<br>", " ")
    assert said == "logit difference (logits) · higher: promotes the answer (blue +, red −)"


def test_repeated_column_labels_stay_apart_and_coordinates_are_integers() -> None:
    fig = heatmap(np.ones((2, 3)), "t", DIFF, columns=["the", "<s>", "the"])
    assert fig.data[0].x is None  # plotly then counts 0, 1, 2
    assert fig.layout.xaxis.ticktext == ("the", "&lt;s&gt;", "the")
    assert fig.layout.xaxis.tickvals == (0, 1, 2)


def test_head_map_puts_layer_zero_on_top_and_names_heads() -> None:
    fig = head_heatmap(torch.arange(35.0).reshape(5, 7), "Heads")
    assert fig.layout.yaxis.autorange == "reversed"
    assert fig.layout.yaxis.ticktext[0] == "L0"
    assert fig.layout.xaxis.ticktext[-1] == "H6"
    assert fig.data[0].customdata[3][2].startswith("L3 · H2")
    assert "23" in fig.data[0].customdata[3][2]


def test_head_map_can_turn_its_signs_around() -> None:
    scores = torch.tensor([[1.0, -1.0]])
    fig = head_heatmap(scores, "t", DIFF, HeadMapConfig(sign_colors="red-positive"))
    usual = head_heatmap(scores, "t", DIFF)
    assert fig.data[0].colorscale[-1][1] == usual.data[0].colorscale[0][1]
    assert "red +, blue −" in fig.layout.title.subtitle.text
    assert "blue +" not in fig.layout.title.subtitle.text


def test_values_outside_zero_to_one_are_not_clipped() -> None:
    fig = head_heatmap(torch.tensor([[1.7, -0.4]]), "t", DIFF)
    np.testing.assert_allclose(fig.data[0].z, [[1.7, -0.4]], rtol=1e-6)
    assert fig.data[0].zmax >= 1.7


def test_big_maps_stay_of_page_size_and_thin_their_labels() -> None:
    fig = heatmap(np.ones((211, 307)), "t", DIFF)
    assert fig.layout.width < 1_500 and fig.layout.height < 1_100
    assert len(fig.layout.yaxis.tickvals) < 80
    assert fig.data[0].text is None


def test_lines_draw_bands_and_reference_levels() -> None:
    fig = lines(
        [0, 1, 2],
        {"probe": [0.5, 0.7, 0.9], "control": [0.5, 0.5, 0.5]},
        "t",
        Quantity("accuracy"),
        bands={"probe": ([0.4, 0.6, 0.8], [0.6, 0.8, 1.0])},
        reference={"chance": 0.5},
    )
    band = next(trace for trace in fig.data if trace.fill == "toself")
    assert list(band.x) == [0, 1, 2, 2, 1, 0]
    np.testing.assert_allclose(band.y, [0.6, 0.8, 1.0, 0.8, 0.6, 0.4])
    assert fig.layout.shapes[0].y0 == 0.5
    assert fig.layout.annotations[0].text == "chance"


def test_names_below_lines_are_all_there_while_they_fit() -> None:
    for n, most in ((24, 24), (40, 40), (41, 21), (400, 40)):
        layers = [f"blocks.{i}" for i in range(n)]
        axis = lines(layers, {"probe": np.ones(n)}, "t", Quantity("accuracy")).layout.xaxis
        assert axis.tickmode == "array" and len(axis.tickvals) == most
        assert axis.ticktext[1] == f"blocks.{axis.tickvals[1]}"


def test_bars_colour_by_sign() -> None:
    fig = bars([1.0, -2.0], [" a", "</script>"], "t", DIFF)
    assert fig.data[0].marker.color == (theme.SIGNED[-1][1], theme.SIGNED[0][1])
    assert fig.layout.yaxis.ticktext == ("·a", "&lt;/script&gt;")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: heatmap(np.ones(3), "t", DIFF),
        lambda: heatmap(np.ones((0, 3)), "t", DIFF),
        lambda: heatmap(np.ones((2, 3)), "t", DIFF, rows=["a"]),
        lambda: head_heatmap(np.ones((2, 3, 5)), "t"),
        lambda: lines([0, 1], {"a": [1.0]}, "t", DIFF),
        lambda: bars([1.0], ["a", "b"], "t", DIFF),
    ],
)
def test_what_does_not_fit_is_refused(draw: object) -> None:
    with pytest.raises(ShapeError, match=r"got:"):
        draw()  # type: ignore[operator]


def test_the_template_is_small() -> None:
    assert len(heatmap(np.ones((2, 2)), "t", DIFF).layout.template.to_plotly_json()) > 0
    assert len(theme.TEMPLATE.to_json()) < 1_500
