"""A page of many examples: sorted, filtered and drawn in the browser as they come into view.

Plain script and styles, no plotly: hundreds of coloured texts and matrices in one small file that
needs no network. The same data lie beside it as JSON, and the numbers are a table without script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from interp.core.errors import ConfigError
from interp.core.escape import json_island
from interp.core.store import write_texts
from interp.plotting import labels
from interp.plotting.html import render
from interp.reports.plotlyjs import csp_hash
from interp.reports.tables import format_value

HERE = Path(__file__).parent
SCHEMA = "interp.gallery/1"
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; script-src "
)


@dataclass(frozen=True)
class Strip:
    """A text with one number per token."""

    name: str
    """What coloured it, e.g. a method."""
    tokens: Sequence[str]
    """The pieces."""
    scores: Sequence[float]
    """One per piece; blue positive, red negative, full colour at the largest."""
    note: str = ""
    """One line beside it."""


@dataclass(frozen=True)
class Grid:
    """A small matrix with labels."""

    name: str
    """Heading."""
    rows: Sequence[str]
    """Row labels."""
    columns: Sequence[str]
    """Column labels."""
    values: Sequence[Sequence[float | None]]
    """Numbers; None stays blank."""
    note: str = ""
    """One line below the heading."""
    tokens: bool = False
    """Labels are tokens: their whitespace is made visible."""
    coloured: bool = True
    """Colour cells by value; not for columns of different units."""


@dataclass(frozen=True)
class Example:
    """One entry of the gallery."""

    text: str
    """What the filter searches, and the heading."""
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    """What the list is sorted by; the same keys in every example."""
    strips: Sequence[Strip] = ()
    """Coloured texts."""
    grids: Sequence[Grid] = ()
    """Matrices."""


@dataclass(frozen=True)
class Gallery:
    """A whole page."""

    title: str
    """Heading."""
    subtitle: str
    """One line."""
    prose: Sequence[str]
    """Paragraphs."""
    summary: Sequence[Grid]
    """Matrices over all examples, at the top."""
    examples: Sequence[Example]
    """In the order of the file."""


def gallery(page: Gallery, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write `path` (.html) and the same data as JSON beside it.

    Raises:
        ConfigError: No examples, or a path that is no .html file.
        StorageError: A file exists and `overwrite` is False.
    """
    path = Path(path)
    if path.suffix != ".html" or not page.examples:
        raise ConfigError("a gallery is an .html file with examples", got=path.name)
    data = {
        "schema": SCHEMA,
        "title": page.title,
        "subtitle": page.subtitle,
        "summary": [_grid(g) for g in page.summary],
        "examples": [_example(i, e) for i, e in enumerate(page.examples)],
    }
    island = json_island(data)
    script = (HERE / "assets" / "gallery.js").read_text(encoding="utf-8")
    keys = list(page.examples[0].numbers)
    html = render(
        HERE / "templates",
        "gallery.html",
        policy=POLICY + csp_hash(script),
        title=labels.prose(page.title, 200),
        subtitle=labels.prose(page.subtitle, 300),
        prose=[labels.prose(p, 2000) for p in page.prose],
        keys=keys,
        rows=[(labels.prose(e.text, 120), [e.numbers.get(k) for k in keys]) for e in page.examples],
        value=format_value,
        island=Markup(island),
        script=Markup(script),
        style=Markup((HERE / "assets" / "report.css").read_text(encoding="utf-8")),
        more=Markup((HERE / "assets" / "gallery.css").read_text(encoding="utf-8")),
    )
    write_texts({path.with_suffix(".json"): island + "\n", path: html}, overwrite=overwrite)
    return path


def _example(index: int, example: Example) -> dict[str, Any]:
    return {
        "id": index,
        "text": labels.prose(example.text, 400),
        "numbers": {k: _number(v) for k, v in example.numbers.items()},
        "strips": [
            {
                "name": s.name,
                "tokens": [labels.shown(t, 40) for t in s.tokens],
                "scores": [_number(v) for v in s.scores],
                "note": s.note,
            }
            for s in example.strips
        ],
        "grids": [_grid(g) for g in example.grids],
    }


def _grid(grid: Grid) -> dict[str, Any]:
    label = labels.shown if grid.tokens else labels.prose
    return {
        "name": grid.name,
        "coloured": grid.coloured,
        "rows": [label(r, 60) for r in grid.rows],
        "columns": [label(c, 60) for c in grid.columns],
        "values": [[_number(v) for v in row] for row in grid.values],
        "note": grid.note,
    }


def _number(value: float | None) -> float | None:
    """Five significant digits; what is not a number is null."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.5g}")
