"""What a picture can be told. Imports the standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from interp.core.settings import Count, Natural, NonNegative, Positive, Settings

LensColour = Literal["target_prob", "top_prob", "entropy", "kl", "target_rank"]


@dataclass(frozen=True)
class LensConfig(Settings):
    """How a lens picture is drawn."""

    colour: LensColour | None = None
    """Colour on opening; None: the answer's probability if there is an answer, else top-1's."""
    cell_text: bool = True
    """Write the top-1 token into every cell."""
    mark_first: bool = True
    """Outline, per position, the row from which up the top-1 is the final one."""
    title: str = ""
    """Title; empty for "<kind> lens"."""


@dataclass(frozen=True)
class HeadMapConfig(Settings):
    """How a layer-by-head map is drawn."""

    cell_text: bool | None = None
    """Write the value into every cell; None does so for at most 256 cells."""
    top: Positive | None = None
    """Upper end of the colours, 1 for probabilities; the largest value when absent or exceeded."""
    layer_labels: tuple[str, ...] | None = None
    """Row labels; None gives L0, L1, ..."""
    sign_colors: Literal["blue-positive", "red-positive"] = "blue-positive"
    """Which colour stands for positive values of a signed quantity."""


@dataclass(frozen=True)
class AttentionConfig(Settings):
    """How attention patterns are drawn."""

    columns: Count = 4
    """Thumbnails per row."""
    selected: Natural = 0
    """Index of the head shown large on opening."""
    causal: bool = True
    """Leave the cells above the diagonal blank instead of colouring them as zeros."""
    large: Count = 400
    """Side of the large map in pixels."""


@dataclass(frozen=True)
class DecompositionConfig(Settings):
    """How a sum of parts is drawn."""

    kind: Literal["auto", "waterfall", "heatmap", "heads"] = "auto"
    """auto: a waterfall for one position, a component-by-position map for several."""
    position: int = -1
    """Which of the positions shown the waterfall and the head map are of."""
    keep: Count = 24
    """Components shown, largest first chosen; the others are one bar or row."""
    title: str = ""
    """Title; empty for one that names what is read."""


@dataclass(frozen=True)
class CurvesConfig(Settings):
    """How training curves are drawn."""

    x: str = "step"
    """Key of the shared horizontal axis; "tokens" to compare runs of different batch sizes."""
    log_x: bool = False
    """Logarithmic horizontal axis; points at 0 are left out."""
    smoothing: NonNegative = 0.01
    """Half-life of the smoothed line as a fraction of the axis; 0 draws the raw line only."""
    columns: Count = 2
    """Panels per row."""
    log_y: tuple[str, ...] = ()
    """Metrics drawn on a logarithmic vertical axis."""
