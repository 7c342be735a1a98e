"""Any result has a picture, from the axes it declares."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from interp import plotting
from interp.core.errors import ConfigError
from interp.core.frames.quantity import called, measured, places
from interp.core.result import RENDERERS, Result
from interp.plotting.generic import plot_result
from interp.plotting.registry import load_renderers


@dataclass(frozen=True, kw_only=True, eq=False)
class PlottedScores(Result):
    """Scores of a test."""

    total: Float[Tensor, ""]
    scores: Float[Tensor, "layer head"]
    bias: Float[Tensor, " head"]
    pattern: Float[Tensor, "layer head pos"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnScores(Result, headline="What is drawn", caption="{said}"):
    """One field of every declared kind."""

    curve: Float[Tensor, "layer way"] = measured(
        "error",
        "nats",
        "it is worse",
        along="layer",
        axis_title="depth",
        log="y",
        null=("by_chance", "floor"),
    )
    by_chance: Float[Tensor, "draw layer"] = called("shuffled")
    floor: float = called("no error")
    line: Float[Tensor, " step"] = measured(
        "score",
        "",
        "it is read",
        legend="probe",
        along="step",
        band=("line_low", "line_high"),
        beside="control",
        null=("shuffled", "floor"),
    )
    line_low: Float[Tensor, " step"]
    line_high: Float[Tensor, " step"]
    control: Float[Tensor, " step"] = called("control task")
    shuffled: Float[Tensor, " step"] = called("shuffled labels")
    at: Float[Tensor, " step"] = places("step", "tokens seen", "thousands")
    share: Float[Tensor, " way"] = measured("share", "", "more of it", signed=False, null=("draws", "floor"))
    draws: Float[Tensor, "draw way"] = called("others")
    both: Float[Tensor, "way probe"] = measured("score", "R2", "it is read", several="bars", null="most")
    most: Float[Tensor, " way"] = called("majority")
    grid: Float[Tensor, "layer way"] = measured(
        "agreement", "", "they agree", signed=False, along="layer", several="map", null="grid_null"
    )
    grid_null: Float[Tensor, "layer way"] = called("shuffled")
    ways: tuple[str, ...] = places("way")
    said: str = ""


@pytest.fixture
def drawn() -> DrawnScores:
    g = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g) + 0.1

    line = some(5)
    return DrawnScores(
        curve=some(3, 2),
        by_chance=some(7, 3),
        floor=0.25,
        line=line,
        line_low=line - 0.1,
        line_high=line + 0.1,
        control=some(5),
        shuffled=some(5),
        at=torch.tensor([1.0, 2, 5, 9, 11]),
        share=some(2),
        draws=some(7, 2),
        both=some(2, 4),
        most=some(2),
        grid=some(3, 2),
        grid_null=some(3, 2),
        ways=("one", "two"),
        labels={"layer": [f"blocks.{i}.hook_resid_post" for i in range(3)]},
    )


def names(fig: Any) -> list[str]:
    return [trace.name for trace in fig.data if trace.name]


def test_an_ordered_axis_carries_lines_with_band_controls_and_null(drawn: DrawnScores) -> None:
    fig = plot_result(drawn, "line")
    assert names(fig) == ["probe", "control task", "shuffled labels"]
    probe = next(trace for trace in fig.data if trace.name == "probe")
    assert list(probe.x) == [1, 2, 5, 9, 11]
    np.testing.assert_allclose(probe.y, drawn.line)
    band = next(trace for trace in fig.data if trace.fill == "toself")
    np.testing.assert_allclose(band.y[:5], drawn.line_high)
    assert [trace.line.dash for trace in fig.data if trace.name] == ["solid", "solid", "dot"]
    assert fig.layout.shapes[0].y0 == 0.25 and fig.layout.annotations[0].text == "no error"
    assert (fig.layout.xaxis.title.text, fig.layout.yaxis.title.text) == ("tokens seen (thousands)", "score")
    assert fig.layout.title.text == "What is drawn"
    assert fig.layout.title.subtitle.text == "score · higher: it is read"


def test_a_second_axis_is_a_line_each_and_the_null_their_mean(drawn: DrawnScores) -> None:
    fig = plot_result(drawn)
    assert names(fig) == ["one", "two", "shuffled"]
    lines = {trace.name: trace for trace in fig.data if trace.name}
    np.testing.assert_allclose(lines["two"].y, drawn.curve[:, 1])
    np.testing.assert_allclose(lines["shuffled"].y, drawn.by_chance.mean(0))
    band = next(trace for trace in fig.data if trace.fill == "toself")
    np.testing.assert_allclose(band.y[:3], drawn.by_chance.amax(0))
    assert list(fig.layout.xaxis.ticktext) == ["L0", "L1", "L2"]
    assert (fig.layout.xaxis.title.text, fig.layout.yaxis.type) == ("depth", "log")
    cut = plot_result(drawn, way="two")
    np.testing.assert_allclose(cut.data[0].y, drawn.curve[:, 1])
    assert cut.layout.title.text == "What is drawn · two"


def test_many_lines_are_the_highest_and_the_picture_says_so(drawn: DrawnScores) -> None:
    many = replace(
        drawn, curve=torch.arange(30.0).reshape(3, 10), ways=tuple("abcdefghij"), **_wide(drawn, 10)
    )
    fig = plot_result(many)
    assert names(fig) == [*"efghij", "shuffled"]
    assert "the 6 of 10 (way) with the highest values" in fig.layout.title.subtitle.text


def _wide(drawn: DrawnScores, n: int) -> dict[str, Any]:
    found = {}
    for name, axes in drawn.axes.items():
        if "way" in axes and name != "curve":
            values = getattr(drawn, name)
            found[name] = values.index_select(axes.index("way"), torch.zeros(n, dtype=torch.long))
    return found


def test_places_are_bars_beside_what_chance_gives(drawn: DrawnScores) -> None:
    fig = plot_result(drawn, "share")
    assert names(fig) == ["share", "others"]
    np.testing.assert_allclose(fig.data[0].x, drawn.share)
    others = fig.data[1]
    np.testing.assert_allclose(others.x, drawn.draws.mean(0), rtol=1e-6)
    np.testing.assert_allclose(others.x + others.error_x.array, drawn.draws.amax(0), rtol=1e-6)
    np.testing.assert_allclose(others.x - others.error_x.arrayminus, drawn.draws.amin(0), rtol=1e-6)
    assert [(line.x0, line.y0) for line in fig.layout.shapes] == [(0.25, -0.45), (0.25, 0.55)]
    assert list(fig.layout.yaxis.ticktext) == ["one", "two"]
    assert "dotted: no error" in fig.layout.title.subtitle.text


def test_two_axes_can_be_groups_of_bars(drawn: DrawnScores) -> None:
    fig = plot_result(drawn, "both")
    assert fig.layout.yaxis.ticktext[1] == "one · probe 1" and len(fig.data[0].x) == 8
    assert [line.x0 for line in fig.layout.shapes] == pytest.approx(drawn.most.repeat_interleave(4).tolist())


def test_a_map_says_what_chance_gives_on_average(drawn: DrawnScores) -> None:
    fig = plot_result(replace(drawn, said="of a test"), "grid")
    np.testing.assert_allclose(fig.data[0].z, drawn.grid, rtol=1e-6)
    assert fig.layout.yaxis.autorange is True  # the first layer at the bottom
    said = fig.layout.title.subtitle.text.replace("<br>", " ")
    average = float(drawn.grid_null.mean())
    assert said == f"agreement · higher: they agree · of a test · shuffled: {average:.3g} on average"


def test_no_axis_that_is_not_there_is_swallowed(drawn: DrawnScores) -> None:
    with pytest.raises(ConfigError, match="did you mean 'title'"):
        plot_result(drawn, tittle="x")  # pyright: ignore
    with pytest.raises(ConfigError, match="no such way"):
        plot_result(drawn, way="three")


@pytest.fixture
def result() -> PlottedScores:
    return PlottedScores(
        total=torch.tensor(1.0),
        scores=torch.arange(15.0).reshape(3, 5),
        bias=torch.arange(5.0) - 2,
        pattern=torch.arange(105.0).reshape(3, 5, 7),
        labels={"head": ["</b>", "b", "c", "d", "e"]},
    )


def test_two_axes_make_a_heat_map_with_the_declared_names(result: PlottedScores) -> None:
    fig = plot_result(result)
    assert (fig.data[0].type, fig.layout.yaxis.title.text) == ("heatmap", "layer")
    assert fig.layout.xaxis.ticktext[0] == "&lt;/b&gt;"
    assert fig.layout.yaxis.ticktext[1] == "layer·1"


def test_one_axis_makes_bars_and_three_need_a_cut(result: PlottedScores) -> None:
    assert plot_result(result, field="bias").data[0].type == "bar"
    np.testing.assert_allclose(plot_result(result, field="pattern", layer=1).data[0].z, result.pattern[1])
    with pytest.raises(ConfigError, match="one or two axes"):
        plot_result(result, field="pattern")
    with pytest.raises(ConfigError, match="scores"):
        plot_result(result, field="score")


def test_the_registry_finds_the_generic_renderer(result: PlottedScores) -> None:
    load_renderers(type(result))
    assert result.plot(title="T").layout.title.text == "T"


def _pictures() -> dict[str, Any]:
    for file in Path(plotting.__file__).parent.glob("*.py"):
        import_module(f"interp.plotting.{file.stem}")
    return {kind.__name__: draw for kind, draw in RENDERERS.items() if draw.__module__ != __name__}


@pytest.mark.parametrize(("kind", "draw"), _pictures().items())
def test_no_picture_swallows_an_option_it_does_not_have(kind: str, draw: Any) -> None:
    parameters = inspect.signature(draw).parameters
    choices = {n: h for n, h in get_type_hints(draw).items() if get_origin(h) is Literal}
    for name in choices:
        with pytest.raises(ConfigError, match=f"{name} has a wrong value"):
            draw(object(), **{name: "no such choice"})
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        with pytest.raises(ConfigError, match="has no option 'tittle'"):
            draw(object(), tittle="")
