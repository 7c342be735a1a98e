"""Write the page: one HTML file that needs nothing else, and its numbers as JSON beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup

from interp.core.errors import ConfigError, StorageError
from interp.core.escape import json_island
from interp.core.store import write_texts
from interp.plotting import labels
from interp.plotting.html import render
from interp.reports.blocks import Block, block_of, paragraphs
from interp.reports.config import PageConfig, Section
from interp.reports.plotlyjs import csp_hash, packed_plotly
from interp.reports.tables import Numbers, format_value

HERE = Path(__file__).parent
SCHEMA = "interp.report/1"
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; script-src "
)


@dataclass(frozen=True)
class Part:
    """A section with its blocks built."""

    title: str
    """Heading; empty for content given without a section."""
    paragraphs: tuple[str, ...]
    """Introduction."""
    blocks: tuple[Block, ...]
    """Content, in order."""


def report(
    sections: Sequence[object], path: str | Path, title: str, config: PageConfig | None = None
) -> Path:
    """Write `path` (one self-contained HTML page) and the same numbers as `<path>.json`'s sibling.

    The page carries plotly.js and all data, draws figures when they are scrolled to, works without
    JavaScript as text and tables, and forbids itself any network access. Equal input gives equal
    bytes. Each file is replaced atomically; the JSON file names the sha256 of its page.

    Args:
        sections: `Section`s, or bare content (Results, Figures, TokenStrips, Tables, data frames,
            text, `Item`s), which is gathered in order.
        path: The page, ending in `.html`.
        title: Title.
        config: Subtitle, summary, sizes, overwriting.

    Returns:
        The page's path.

    Raises:
        ConfigError: nothing to show, content of an unknown kind, or a path not ending in .html.
        StorageError: the page or its JSON exists and `overwrite` is false, or it cannot be written.
    """
    config = config or PageConfig()
    page, numbers = Path(path), Path(path).with_suffix(".json")
    if page.suffix != ".html":
        raise ConfigError("a report is an .html file", got=page.name, fix=f"{page.stem}.html")
    if isinstance(sections, str) or not isinstance(sections, Sequence):
        raise ConfigError(
            "a report shows a list of things",
            got=type(sections).__name__,
            fix="report([result], path, title)",
        )
    if not sections:
        raise ConfigError("a report needs something to show", got="no sections")
    if not isinstance(title, str):
        raise ConfigError("a report's title is text", got=repr(title)[:80], fix=f"title={str(title)[:40]!r}")
    for target in (page, numbers):
        if target.exists() and not config.overwrite:
            raise StorageError("the report exists already", got=target, fix="overwrite=True, or --overwrite")
    parts = _parts(sections, max(config.table_rows, config.json_rows))
    html = render_page(parts, title, config)
    digest = hashlib.sha256(html.encode()).hexdigest()
    both = {numbers: numbers_json(parts, title, config, digest), page: html}
    write_texts(both, overwrite=config.overwrite)
    return page


def render_page(parts: Sequence[Part], title: str, config: PageConfig) -> str:
    """The page's text. Depends on its arguments and the installed plotly only."""
    plotly = packed_plotly()
    script, style = _asset("report.js"), _asset("report.css")
    blocks = _all_blocks(parts)
    has_pictures = any(block.picture for block in blocks)
    hashes = [csp_hash(script), plotly.csp_hash] if has_pictures else [csp_hash(script)]
    # A frame inherits this policy on top of its own.
    hashes += dict.fromkeys(block.frame.script_hash for block in blocks if block.frame)
    return render(
        HERE / "templates",
        "page.html",
        policy=POLICY + " ".join(hashes),
        title=labels.prose(title, 200),
        config=config,
        rows_shown=lambda table, among: rows_shown(table, among, config),
        summary=paragraphs(config.summary),
        parts=parts,
        sources=_sources(parts),
        plotly=plotly.base64 if has_pictures else "",
        script=Markup(script),
        style=Markup(style),
        spans=_spans,
        prose=labels.prose,
        value=format_value,
        is_number=_is_number,
        json=json_island,
    )


def rows_shown(table: Numbers, among: int, config: PageConfig) -> int:
    """Rows of a table on the page: a browser draws every cell of it, seen or not.

    Args:
        among: Tables that share their block's cells.
    """
    share = config.table_cells // (among * max(1, len(table.columns)))
    return max(1, min(config.table_rows, share))


def numbers_json(parts: Sequence[Part], title: str, config: PageConfig, digest: str) -> str:
    """The numbers of every block, their checks and sources, as JSON text (ASCII)."""
    sections = [
        {"title": part.title, "blocks": [_block_json(block, config.json_rows) for block in part.blocks]}
        for part in parts
    ]
    page = {"schema": SCHEMA, "title": title, "page_sha256": digest, "sections": sections}
    return json_island(page) + "\n"


def _block_json(block: Block, limit: int) -> dict[str, object]:
    found: dict[str, object] = {
        "kind": block.kind,
        "title": block.title or block.about,
        "tables": [table.as_json(limit) for table in block.tables],
        "checks": [vars(check) for check in block.checks],
        "provenance": block.provenance,
    }
    if block.entries:
        found["entries"] = [
            {
                "title": card.title,
                "numbers": card.numbers,
                "blocks": [_block_json(one, limit) for one in card.blocks],
            }
            for card in block.entries
        ]
    return found


def _all_blocks(parts: Sequence[Part]) -> list[Block]:
    """Every block of the page, those inside galleries too."""
    return [each for part in parts for block in part.blocks for each in block.all()]


def _parts(sections: Sequence[object], limit: int) -> list[Part]:
    """Sections stay; bare content between them is gathered into untitled parts."""
    parts: list[Part] = []
    loose: list[Block] = []
    for entry in sections:
        if not isinstance(entry, Section):
            loose.append(block_of(entry, limit))
            continue
        if loose:
            parts.append(Part("", (), tuple(loose)))
            loose = []
        blocks = tuple(block_of(content, limit) for content in entry.content)
        parts.append(Part(entry.title, paragraphs(entry.prose), blocks))
    if loose:
        parts.append(Part("", (), tuple(loose)))
    return parts


def _sources(parts: Sequence[Part]) -> list[dict[str, object]]:
    """Where a page's results come from, once per model: what they share, and what differs side by
    side (report.json has every block's own)."""
    models: dict[str, dict[str, list[object]]] = {}
    for block in _all_blocks(parts):
        mark = json_island([block.provenance.get(key) for key in ("model", "model_fingerprint")])
        for key, value in block.provenance.items():
            seen = models.setdefault(mark, {}).setdefault(key, [])
            entries = value if isinstance(value, list) else [value]
            seen += [entry for entry in entries if entry not in (None, "", {}, *seen)]
    return [
        {key: seen[0] if len(seen) == 1 else seen for key, seen in source.items()}
        for source in models.values()
    ]


def _spans(paragraph: str) -> list[tuple[bool, str]]:
    """`(is_code, text)` pieces: text between backticks is code."""
    pieces = paragraph.split("`")
    if len(pieces) % 2 == 0:  # an unpaired backtick is just a character
        return [(False, paragraph)]
    return [(bool(index % 2), piece) for index, piece in enumerate(pieces) if piece]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@cache
def _asset(name: str) -> str:
    return (HERE / "assets" / name).read_text(encoding="utf-8")
