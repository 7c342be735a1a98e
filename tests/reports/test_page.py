"""The page as a file: whole, closed, deterministic, and with its numbers beside it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import html5lib
import plotly.graph_objects as go
import pytest
import torch
from plotly.offline import get_plotlyjs

from interp.core.errors import ConfigError, ShapeError, StorageError
from interp.core.frames.quantity import Quantity
from interp.plotting.basics import bars
from interp.plotting.tokens import TokenStrip
from interp.reports import Entry, Gallery, Item, PageConfig, Section, Table, report
from interp.reports.page import rows_shown
from interp.reports.tables import Numbers
from tests.plotting.samples import provenance
from tests.reports.samples import PageScores, every_kind

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return report(every_kind(WORDS), folder / "report.html", "A title", PageConfig("Sub", "Sum"))


@pytest.fixture(scope="module")
def html(page: Path) -> str:
    return page.read_text()


def test_the_policy_forbids_everything_but_its_own_two_scripts(html: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    policy = policy.replace("&#x27;", "'")
    assert policy.startswith("default-src 'none'; img-src data: blob:; style-src 'unsafe-inline';")
    allowed = policy.split("script-src ")[1].split()
    loader = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert len(loader) == 1
    assert allowed == [_csp(loader[0]), _csp(get_plotlyjs())]
    assert "unsafe-eval" not in policy and "script-src 'unsafe-inline'" not in policy


def _csp(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def test_the_packed_script_is_plotlys_own(html: str) -> None:
    packed = re.search(r'id="plotly">([^<]*)</script>', html)[1]
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    assert html.count('id="plotly"') == 1


def test_nothing_is_fetched(html: str) -> None:
    tree = html5lib.parse(html, namespaceHTMLElements=False)
    for node in tree.iter():
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = node.attrib.get(name, "#")
            assert value.startswith(("#", "data:")), (node.tag, name, value)
    assert "@import" not in html and "url(" not in re.search(r"<style>.*?</style>", html, re.S)[0]


def test_every_figure_has_its_island_and_its_table(html: str) -> None:
    tree = html5lib.parse(html, namespaceHTMLElements=False)
    figures = [n for n in tree.iter("div") if n.attrib.get("class") == "figure"]
    islands = {
        n.attrib["id"]: n.text for n in tree.iter("script") if n.attrib.get("type") == "application/json"
    }
    assert len(figures) == 6
    for figure in figures:
        spec = json.loads(islands[figure.attrib["data-spec"]])
        assert spec["data"] and spec["layout"]["width"] > 0
    for article in tree.iter("article"):
        if any(n.attrib.get("class") == "figure" for n in article.iter("div")):
            assert any(True for _ in article.iter("table"))


def test_checks_and_provenance_are_printed(html: str) -> None:
    assert "✓ holds" in html and "✗ fails" in html
    assert "0.25 (≤ 0.5)" in html
    assert html.count("<dl>") == 1 and "blocks.0.hook_resid_post" in html


def test_prose_has_paragraphs_and_code(tmp_path: Path) -> None:
    page = report([Section("S", ["One `x < 1` two.\n\nThree ` four."])], tmp_path / "r.html", "T")
    html = page.read_text()
    assert "<p>One <code>x &lt; 1</code> two.</p>" in html
    assert "<p>Three ` four.</p>" in html
    assert 'id="plotly"' not in html, "a page without pictures does not carry plotly"
    assert page.stat().st_size < 30_000


def test_numbers_beside_the_page(page: Path, html: str) -> None:
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers["schema"] == "interp.report/1"
    assert numbers["page_sha256"] == hashlib.sha256(page.read_bytes()).hexdigest()
    result = numbers["sections"][0]["blocks"][0]
    assert result["checks"][0] == {"name": "alpha", "value": 0.25, "bound": 0.5, "ok": True, "sense": "≤"}
    (table,) = result["tables"]
    assert table["columns"] == ["layer", "name", "scores"] and table["n_rows"] == 10
    assert table["rows"][7] == [1, "gamma", 2.0]
    assert result["provenance"]["model"] == "alpha"


def test_same_input_same_bytes(tmp_path: Path) -> None:
    first = report(every_kind(WORDS), tmp_path / "a.html", "T")
    second = report(every_kind(WORDS), tmp_path / "b.html", "T")
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_long_tables_are_cut_and_say_so(tmp_path: Path) -> None:
    table = Table(["i"], [[i] for i in range(211)], "Long")
    page = report([table], tmp_path / "r.html", "T", PageConfig(table_rows=13, json_rows=101))
    html = page.read_text()
    assert html.count('<td class="n">') == 13
    assert "The first 13 of 211 rows" in html
    (stored,) = json.loads((tmp_path / "r.json").read_text())["sections"][0]["blocks"][0]["tables"]
    assert (len(stored["rows"]), stored["n_rows"]) == (101, 211)


def test_a_gallery_is_content_of_the_same_page(tmp_path: Path) -> None:
    """Entries hold what sections hold; pictures, provenance and numbers inside count like others."""
    strip = TokenStrip(("a", " b"), [0.5, -1.0], "by hand", Quantity("score"))
    entries = [
        Entry(
            "first <b>",
            [PageScores(scores=torch.ones(2, 3), provenance=provenance("alpha")), strip],
            {"n": 3.0},
        ),
        Entry("second", ["text"], {"n": None, "m": math.inf}),
    ]
    page = report([Section("S", [Gallery(entries, "Two")])], tmp_path / "r.html", "T")
    html = page.read_text()
    assert "<h4>1. first &lt;b&gt;</h4>" in html and "<h3>Two</h3>" in html
    assert html.count('class="figure"') == 1 and html.count('id="plotly"') == 1
    assert "<dd>alpha</dd>" in html
    assert [json.loads(row) for row in re.findall(r'data-numbers="(.*?)"', html)] == [[3, None], [None, None]]
    assert re.findall(r'<option value="(.*?)">(.*?)<', html) == [("", "as given"), ("0", "n"), ("1", "m")]
    (block,) = json.loads((tmp_path / "r.json").read_text())["sections"][0]["blocks"]
    assert block["tables"][0]["columns"] == ["entry", "n", "m"]
    assert [entry["numbers"] for entry in block["entries"]] == [{"n": 3}, {"n": None, "m": None}]
    scores, words = block["entries"][0]["blocks"]
    assert scores["kind"] == "result" and len(scores["checks"]) == 2
    assert scores["provenance"]["model"] == "alpha"
    assert words["tables"][0]["rows"] == [[0, "a", 0.5], [1, " b", -1]]


def test_a_users_figure_loses_plotlys_heavy_default_template(tmp_path: Path) -> None:
    plain = go.Figure(go.Bar(x=[1], y=[2]))
    styled = go.Figure(go.Bar(x=[1], y=[2]), layout={"template": {"layout": {"font": {"size": 31}}}})
    html = report([plain, styled], tmp_path / "r.html", "T").read_text()
    islands = re.findall(r'application/json" id="d\d">(.*?)</script>', html)
    assert len(islands[0]) < 2_500
    assert json.loads(islands[1])["layout"]["template"]["layout"]["font"]["size"] == 31


def test_a_result_without_a_picture_says_so_and_keeps_its_numbers(tmp_path: Path) -> None:
    result = PageScores(scores=torch.ones(2, 3), provenance=provenance())
    html = report([Item(result, plot={"field": "absent"})], tmp_path / "r.html", "T").read_text()
    assert "No picture: PageScores has no field to draw." in html
    assert "<h3>PageScores</h3>" in html and "<td" in html


def test_one_model_has_one_table_of_provenance(tmp_path: Path) -> None:
    """What its results share is said once, what differs side by side."""
    first = provenance("alpha")
    origins = [
        first,
        replace(first, sites=("other_site", *first.sites), data_fingerprint="d1"),
        provenance("beta"),
    ]
    results = [PageScores(scores=torch.ones(2, 3), provenance=origin) for origin in origins]
    html = report(results, tmp_path / "r.html", "T").read_text()
    footer = html[html.index("<h2>Provenance</h2>") :]
    assert footer.count("<dl>") == 2 and footer.count("<dd>alpha</dd>") == 1
    assert f"{first.sites[0]}, other_site" in footer and "d1" in footer
    own = json.loads((tmp_path / "r.json").read_text())["sections"][0]["blocks"]
    assert [block["provenance"]["sites"] for block in own] == [list(o.sites) for o in origins]


def test_navigation_lists_titled_sections(html: str, tmp_path: Path) -> None:
    assert "<nav" not in html.replace("nav a", "")[html.index("</head>") :]
    page = report([Section("One", ["a"]), "loose", Section("Two", ["b"])], tmp_path / "r.html", "T")
    tree = html5lib.parse(page.read_text(), namespaceHTMLElements=False)
    links = [(n.text, n.attrib["href"][1:]) for n in tree.iter("a") if n.attrib["href"] != "#content"]
    heads = {n.attrib["id"]: n.find("h2").text for n in tree.iter("section") if "id" in n.attrib}
    assert links == [("One", "s1"), ("Two", "s2")] and heads == {"s1": "One", "s2": "Two"}


def test_an_existing_report_is_refused_unless_overwriting(tmp_path: Path) -> None:
    path = report(["one"], tmp_path / "r.html", "T")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="overwrite"):
        report(["two"], path, "T")
    assert path.read_bytes() == before
    report(["two"], path, "T", PageConfig(overwrite=True))
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("sections", "name", "error", "said"),
    [
        ([], "r.html", ConfigError, "something to show"),
        ([Gallery([])], "r.html", ConfigError, "something to show"),
        ([Gallery([Entry("e", [{"a": 1}])])], "r.html", ConfigError, "dict"),
        (["x"], "r.htm", ConfigError, "r.html"),
        ([{"a": 1}], "r.html", ConfigError, "dict"),
        ([Table(["a", "b"], [[1]], "T")], "r.html", ShapeError, "1 values"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    sections: list[object], name: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        report(sections, tmp_path / name, "T")
    assert list(tmp_path.iterdir()) == []


def test_no_clock_and_no_path_in_the_page(html: str, page: Path) -> None:
    assert str(page.parent) not in html
    assert not re.search(r"\b20[2-9]\d-\d\d-\d\d\b", html)


def test_figures_carry_no_float64(html: str) -> None:
    islands = re.findall(r'application/json" id="d\d">(.*?)</script>', html)
    assert all('"dtype":"f8"' not in island for island in islands[:1])
    assert bars([1.0], ["a"], "t", Quantity("q")).data[0].x.dtype == "float32"


@pytest.mark.parametrize(("columns", "tables"), [(3, 1), (129, 1), (129, 8), (40_000, 1)])
def test_the_cells_on_a_page_are_bounded(columns: int, tables: int) -> None:
    """Eight attention maps of 128 tokens were 135,144 elements, which a browser draws in ten seconds."""
    config = PageConfig()
    row = tuple(range(columns))
    table = Numbers(tuple(map(str, row)), (row,) * 300, 300)
    shown = rows_shown(table, tables, config)
    assert 1 <= shown <= config.table_rows
    assert shown == 1 or shown * columns * tables <= config.table_cells
    assert shown == config.table_rows or (shown + 1) * columns * tables > config.table_cells
