"""F27: hostile text in tokens, labels, model names, titles and notes is inert and visible.

5,000 strings (500 in the push suite) go through every renderer and into pages that hold them in
every place; tests/browser/test_page_in_chromium.py opens a batch of them with traps set.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import html5lib
import pytest

from interp.plotting import labels
from interp.reports import PageConfig, report
from tests.plotting.samples import hostile, lens_result
from tests.reports.samples import every_kind, raw_figure

OURS = re.compile(r"<br>|<extra></extra>")
BATCH = 100
# Their number follows from the text itself: paragraphs, code spans and line breaks.
ELASTIC = {"p", "code", "br", "wbr"}


@pytest.fixture(scope="module")
def batches(full_count: bool) -> list[list[str]]:
    strings = hostile(5_000 if full_count else 500)
    return [strings[i : i + BATCH] for i in range(0, len(strings), BATCH)]


def strings_in(value: object) -> Iterator[str]:
    """Every string of nested JSON, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield key
            yield from strings_in(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from strings_in(entry)


def skeleton(html: str) -> tuple[Counter[tuple[str, ...]], list[str]]:
    """Elements with their attribute names, counted, and the figures' JSON."""
    html = re.sub(r'(id="plotly">)[^<]*', r"\1", html)  # 2 MB of base64 tell a parser nothing
    tree = html5lib.parse(html, namespaceHTMLElements=False)
    kinds = Counter((str(node.tag), *sorted(node.attrib)) for node in tree.iter() if node.tag not in ELASTIC)
    islands = [n.text for n in tree.iter("script") if n.attrib.get("type") == "application/json"]
    return kinds, islands


def written(strings: list[str], path: Path) -> str:
    config = PageConfig(subtitle=strings[3], summary=strings[4], overwrite=True)
    return report([*every_kind(strings), raw_figure(strings)], path, strings[5], config).read_text()


def test_pages_have_the_elements_of_a_harmless_page(batches: list[list[str]], tmp_path: Path) -> None:
    benign = [f"word{i}" for i in range(BATCH)]
    expected, _ = skeleton(written(benign, tmp_path / "benign.html"))
    for strings in batches:
        html = written(strings, tmp_path / "page.html")
        found, islands = skeleton(html)
        # a blank heading or note is left out, so a page may hold less, never more
        assert not found - expected, found - expected
        assert found["script",] == expected["script",] == 1
        assert "\x00" not in html and "\u202e" not in html
        *drawn, raw = islands
        # through JSON once, which reads two lone surrogates side by side as one character
        assert json.loads(raw)["data"][0]["text"] == json.loads(json.dumps(strings))
        for island in drawn:
            for text in strings_in(json.loads(island)):
                assert "<" not in OURS.sub("", text), text


def test_every_label_reads_back_as_the_token(batches: list[list[str]]) -> None:
    for strings in batches:
        for token in strings:
            for label in (labels.label(token), labels.escape_label(labels.full(token))):
                assert not re.search("[<>]|%\\{", label)
            assert labels.unescape(labels.label(token)) == labels.shown(token)


def test_the_lens_is_inert(batches: list[list[str]]) -> None:
    for strings in batches:
        spec = json.loads(lens_result(tuple(strings), 2).plot().to_json())
        for text in strings_in(spec):
            assert "<" not in OURS.sub("", text), text
