"""What a page is made of. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Table:
    """Plain rows and columns."""

    columns: Sequence[str]
    """Column names."""
    rows: Sequence[Sequence[object]]
    """One sequence per row, as long as `columns`; strings, numbers, booleans or None."""
    title: str = ""
    """Heading."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One of the many things in a gallery."""

    title: str
    """Heading; what the reader's search looks in."""
    content: Sequence[object]
    """Items, or bare Results, Figures, TokenStrips, Tables, data frames and text."""
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    """Name -> number, shown under the heading; the reader orders the entries by one of them."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Many entries of one kind: searched by title, ordered by number, drawn as they come into view."""

    entries: Sequence[Entry]
    """What there is, in the order that the page starts with."""
    title: str = ""
    """Heading."""


@dataclass(frozen=True, eq=False)
class Item:
    """Something to show, with a heading and prose of its own."""

    content: object
    """A Result, plotly Figure, TokenStrip, AttentionView, Table, Gallery, data frame, or text."""
    title: str = ""
    """Heading; empty takes the content's own title."""
    prose: str = ""
    """What the reader should see in it; blank lines part paragraphs, `backticks` mark code."""
    plot: Mapping[str, object] = field(default_factory=dict)
    """Options for a Result's `.plot()`."""


@dataclass(frozen=True, eq=False)
class Section:
    """A titled part of the page; it gets an entry in the navigation."""

    title: str
    """Heading and navigation entry."""
    content: Sequence[object] = ()
    """Items, or bare Results, Figures, TokenStrips, Tables, Galleries, data frames and text."""
    prose: str = ""
    """Introduction; blank lines part paragraphs, `backticks` mark code."""


@dataclass(frozen=True)
class PageConfig:
    """How a page is written."""

    subtitle: str = ""
    """One line under the title."""
    summary: str = ""
    """Paragraphs before the first section."""
    table_rows: int = 200
    """Rows of each table on the page; the rest is in the JSON file."""
    table_cells: int = 20_000
    """Cells of all tables of one block on the page; of wide or many tables fewer rows are shown."""
    json_rows: int = 50_000
    """Rows of each table in the JSON file."""
    overwrite: bool = False
    """Replace an existing page; the old one stays until the new one is complete."""
