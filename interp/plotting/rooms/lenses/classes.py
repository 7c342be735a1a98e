"""The class-embedding lens: identifiability by layer, and where in an image the class is seen."""

from __future__ import annotations

from typing import Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.lenses.classes import ClassLensResult
from interp.plotting import basics, labels, theme

SIDE = 130
IDENTIFIABILITY = Quantity(
    "class identifiability", "1 − rank/classes", "the right class ranks nearer to the top", False
)


@renders(ClassLensResult)
def class_lens(
    result: ClassLensResult, kind: Literal["layers", "map"] = "layers", image: int = 0, title: str = ""
) -> go.Figure:
    """Draw means per layer (`kind="layers"`), or one image's patches per layer (`kind="map"`)."""
    if kind == "map":
        return _map(result, image, title)
    n = len(result.classes)
    return basics.lines(
        result.components,
        result.by_layer(),
        title or f"Where the class becomes readable ({len(result.answer):,} images)",
        IDENTIFIABILITY,
        x_axis="row of the lens",
        reference={"chance": 1 - (n - 1) / (2 * n)},
    )


def _map(result: ClassLensResult, image: int, title: str) -> go.Figure:
    maps = result.patch_map(image).float().cpu().numpy()
    named = labels.shown(result.classes[int(result.answer[image])], 24)
    title = title or f"Where image {image} shows its class: {named}"
    width = max(560, 120 + (SIDE + 20) * len(maps))
    fig = theme.figure(title, IDENTIFIABILITY, width, theme.HEADER + 90 + SIDE)
    grid = make_subplots(
        rows=1,
        cols=len(maps),
        figure=fig,
        horizontal_spacing=0.02,
        subplot_titles=labels.numbered(result.components),
    )
    for column, values in enumerate(maps, 1):
        last = column == len(maps)
        bar = theme.colorbar(Quantity("identifiability"), SIDE)
        trace = go.Heatmap(
            z=theme.packed(values),
            zmin=0,
            zmax=1,
            colorscale=theme.PROBABILITY,
            showscale=last,
            colorbar=bar,
            hovertemplate="down %{y}, across %{x} · %{z:.2f}" + labels.NO_NAME,
        )
        grid.add_trace(trace, row=1, col=column)
    grid.update_xaxes(showticklabels=False)
    grid.update_yaxes(showticklabels=False, autorange="reversed")
    for column in range(1, len(maps) + 1):
        anchor = "x" if column == 1 else f"x{column}"
        grid.update_yaxes(scaleanchor=anchor, row=1, col=column)
        grid.update_xaxes(constrain="domain", row=1, col=column)
        grid.update_yaxes(constrain="domain", row=1, col=column)
    grid.update_annotations(font_size=12)
    return grid
