"""From content of any kind to a block of the page: picture, numbers, checks, source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from interp.core.errors import ConfigError, MissingDependency, ShapeError
from interp.core.escape import json_island
from interp.core.result import Result
from interp.plotting import labels, theme
from interp.plotting.rooms.lenses.attention_view import HEIGHT, AttentionView
from interp.plotting.tokens import TokenStrip
from interp.reports.config import Gallery, Item, Table
from interp.reports.tables import Numbers, of_figure, of_frame, of_result, of_rows


@dataclass(frozen=True)
class Picture:
    """A plotly figure as the page holds it."""

    spec: Markup
    """Data and layout, JSON safe inside a script element."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    about: str
    """Text alternative: title and subtitle."""


@dataclass(frozen=True)
class Frame:
    """A page of its own, framed without any right but to run its script."""

    html: str
    """The whole page."""
    height: int
    """Pixels; it scrolls inside."""
    script_hash: str
    """CSP source expression of its script."""
    about: str
    """Title of the figure."""


@dataclass(frozen=True)
class CheckRow:
    """One line of a result's `check()`."""

    name: str
    """What was checked."""
    value: float
    """The number found."""
    bound: float
    """The number allowed."""
    ok: bool
    """Whether it holds."""
    sense: str = "≤"
    """How the number found must stand to the number allowed."""


@dataclass(frozen=True)
class Block:
    """One thing on the page."""

    kind: str
    """result, figure, strip, view, table, gallery or text; written to the JSON file."""
    title: str = ""
    """Heading."""
    paragraphs: tuple[str, ...] = ()
    """Prose above the content."""
    picture: Picture | None = None
    """Figure, if it has one."""
    strip: Markup | None = None
    """Token strip, if it is one."""
    frame: Frame | None = None
    """Views of attention, if it is them."""
    tables: tuple[Numbers, ...] = ()
    """The numbers."""
    checks: tuple[CheckRow, ...] = ()
    """Named numbers with bounds."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    """Where a result comes from."""
    note: str = ""
    """Why there is no picture, when there is none."""
    entries: tuple[Card, ...] = ()
    """What a gallery holds."""

    @property
    def about(self) -> str:
        """What a block without a title calls itself: its picture's or its frame's title."""
        shown = self.picture or self.frame
        return shown.about if shown else ""

    def all(self) -> Iterator[Block]:
        """Itself and the blocks of its entries."""
        yield self
        for entry in self.entries:
            for block in entry.blocks:
                yield from block.all()


@dataclass(frozen=True)
class Card:
    """An entry of a gallery with its blocks built."""

    title: str
    """Heading."""
    numbers: Mapping[str, float | None]
    """What it can be ordered by."""
    blocks: tuple[Block, ...]
    """Content, in order."""


def paragraphs(text: str) -> tuple[str, ...]:
    """Blank lines part paragraphs."""
    return tuple(part.strip() for part in text.split("\n\n") if part.strip())


def block_of(content: object, limit: int) -> Block:
    """Turn an item, or bare content, into a block.

    Args:
        content: What to show.
        limit: Largest number of rows taken from a Result.

    Raises:
        ConfigError: content of a kind that no page shows.
        ShapeError: a table row that does not fit its columns.
    """
    item = content if isinstance(content, Item) else Item(content)
    shown, prose = item.content, paragraphs(item.prose)
    if isinstance(shown, str):
        return Block("text", item.title, prose + paragraphs(shown))
    if isinstance(shown, Result):
        return _of_result(shown, item, limit)
    if isinstance(shown, go.Figure):
        return Block("figure", item.title, prose, picture_of(shown), tables=tuple(of_figure(shown)))
    if isinstance(shown, TokenStrip):
        numbers = of_rows(
            ["position", "token", shown.quantity.axis],
            zip(range(len(shown.tokens)), shown.tokens, shown.values, strict=True),
            shown.title,
        )
        return Block("strip", item.title, prose, strip=shown.html(), tables=(numbers,))
    if isinstance(shown, AttentionView):
        frame = Frame(shown.html(), HEIGHT, shown.script_hash, shown.title)
        numbers, source = tuple(of_result(shown.record, limit)), _source(shown.record)
        return Block("view", item.title, prose, frame=frame, tables=numbers, provenance=source)
    if isinstance(shown, Table):
        return Block("table", item.title or shown.title, prose, tables=(_of_table(shown),))
    if isinstance(shown, Gallery):
        return _of_gallery(shown, item, limit)
    if hasattr(shown, "itertuples") and hasattr(shown, "columns"):
        return Block("table", item.title, prose, tables=(of_frame(shown, item.title),))
    raise ConfigError(
        "a report cannot show this",
        got=type(shown).__name__,
        expected="Result, plotly Figure, TokenStrip, AttentionView, Table, Gallery, data frame, text, "
        "or Item around one",
    )


def picture_of(fig: go.Figure) -> Picture:
    """A figure for the page. Plotly's default template (7 KB, light only) gives way to ours."""
    spec = json.loads(fig.to_json() or "")
    layout = spec["layout"]
    if _is_default(layout.get("template")):
        layout["template"] = theme.TEMPLATE.to_plotly_json()
    layout.setdefault("width", 720)
    layout.setdefault("height", 420)
    title = layout.get("title") or {}
    texts = (title.get("text"), (title.get("subtitle") or {}).get("text"))
    about = ". ".join(labels.unescape(text.replace(labels.BR, " ")) for text in texts if text)
    island = Markup(json_island({"data": spec["data"], "layout": layout}))
    return Picture(island, round(layout["width"]), round(layout["height"]), about or "figure")


def _of_result(result: Result, item: Item, limit: int) -> Block:
    picture, strip, note = None, None, ""
    try:
        drawn = result.plot(**item.plot)
        if isinstance(drawn, TokenStrip):
            strip = drawn.html()
        else:
            picture = picture_of(drawn)
    except (ConfigError, MissingDependency) as problem:
        note = f"No picture: {problem.what}."
    rows = tuple(
        CheckRow(check.name, float(check.value), float(check.bound), bool(check.ok), check.sense)
        for check in result.check()
    )
    return Block(
        "result",
        item.title or ("" if picture or strip else type(result).__name__),
        paragraphs(item.prose),
        picture,
        strip,
        tables=tuple(of_result(result, limit)),
        checks=rows,
        provenance=_source(result),
        note=note,
    )


def _of_gallery(shown: Gallery, item: Item, limit: int) -> Block:
    """A block per entry, and one table of what the entries are ordered by."""
    if not shown.entries:
        raise ConfigError("a gallery needs something to show", got="no entries")
    cards = tuple(
        Card(entry.title, entry.numbers, tuple(block_of(content, limit) for content in entry.content))
        for entry in shown.entries
    )
    names = list(dict.fromkeys(name for card in cards for name in card.numbers))
    rows = ([card.title, *map(card.numbers.get, names)] for card in cards)
    table = of_rows(["entry", *names], rows, "Numbers of all entries")
    title, prose = item.title or shown.title, paragraphs(item.prose)
    return Block("gallery", title, prose, tables=(table,), entries=cards)


def _source(result: Result) -> dict[str, object]:
    source = result.provenance
    return json.loads(json_island(source.to_json())) if source is not None else {}


def _of_table(table: Table) -> Numbers:
    for index, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise ShapeError(
                f"row {index} of table {labels.prose(table.title, 60)!r} does not fit",
                got=f"{len(row)} values",
                expected=f"{len(table.columns)} columns",
            )
    return of_rows(table.columns, table.rows, table.title)


def _is_default(template: Any) -> bool:
    layout = (template or {}).get("layout") or {}
    return not layout or "autotypenumbers" in layout
