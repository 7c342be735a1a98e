"""Any result has a picture, from the axes it declares."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
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
