"""The attention page in Chromium: small, smooth, offline, true to its numbers, safe from text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from interp.lenses.heads.record import AttentionRecord
from interp.plotting import attention_page, labels
from tests.browser.conftest import Open, Visit
from tests.plotting.samples import NASTY, hostile

pytestmark = pytest.mark.browser
LAYERS, HEADS, N, D = 12, 12, 64, 64


def record(
    layers: int = 2, heads: int = 3, n: int = 7, d: int = 5, tokens: tuple[str, ...] | None = None
) -> AttentionRecord:
    """Random attention of a causal model; key heads are shared where `heads` is even."""
    scores = torch.randn(layers, heads, n, n).masked_fill(torch.ones(n, n).triu(1).bool(), -1e9)
    return AttentionRecord(
        patterns=scores.softmax(-1),
        queries=torch.randn(layers, n, heads, d),
        keys=torch.randn(layers, n, heads // 2 if heads % 2 == 0 else heads, d),
        tokens=tokens or tuple(f" word{i}" for i in range(n)),
        causal=True,
    )


def drawn(seen: Visit, view: str) -> None:
    seen.page.locator(f"#view[data-state={view}]").wait_for(timeout=30_000)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, visits: Open) -> Visit:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("view") / "large.html"
    return visits(attention_page(record(LAYERS, HEADS, N, D), "Large").save(path))


def test_twelve_by_twelve_heads_on_64_tokens_take_three_megabytes_at_most() -> None:
    size = len(attention_page(record(LAYERS, HEADS, N, D)).html().encode())
    assert 1_500_000 < size <= 3_000_000
    no_vectors = AttentionRecord(
        patterns=torch.full((6, 12, N, N), 1 / N),
        queries=None,
        keys=None,
        tokens=tuple("x" * N),
        causal=False,
    )
    assert len(attention_page(no_vectors).html()) < 500_000


@pytest.mark.full
def test_a_thousand_tokens_of_32_heads_take_ten_megabytes_at_most(tmp_path: Path, visits: Open) -> None:
    """46 MB as two halves of plain bytes. As in models, what is near takes most of the attention."""
    n = 1024
    far = (torch.arange(n)[:, None] - torch.arange(n)) / 50
    scores = (torch.randn(1, 32, n, n) - far).masked_fill(torch.ones(n, n).triu(1).bool(), -1e9)
    found = AttentionRecord(
        patterns=scores.softmax(-1),
        queries=None,
        keys=None,
        tokens=tuple(f" word{i}" for i in range(n)),
        causal=True,
    )
    page = attention_page(found).save(tmp_path / "long.html")
    assert page.stat().st_size < 10_000_000
    seen = visits(page)
    drawn(seen, "heads")
    assert not seen.complaints


MOVES = """async () => {
  const items = [...document.querySelectorAll("#from li")], calls = [], draws = [];
  const frame = () => new Promise(requestAnimationFrame);
  let called = 0, drawn = 0;
  const all = Object.getOwnPropertyDescriptors(CanvasRenderingContext2D.prototype);
  for (const [name, { value }] of Object.entries(all)) {
    if (typeof value != "function") continue;
    CanvasRenderingContext2D.prototype[name] = function (...args) {
      called += 1;
      return value.apply(this, args);
    };
  }
  const seen = new MutationObserver((records) => { drawn += records.length; });
  seen.observe(document.getElementById("view"), { attributeFilter: ["data-draw"] });
  await frame(); await frame();
  for (let turn = 0; turn < 60; turn++) {
    called = drawn = 0;
    items[turn % items.length].dispatchEvent(new PointerEvent("pointerenter"));
    await frame(); await frame();
    calls.push(called);
    draws.push(drawn);
  }
  return [calls, draws];
}"""


def test_a_move_over_the_tokens_is_one_small_drawing_with_every_head_drawn(large: Visit) -> None:
    """What a smooth page needs of itself; how long a frame takes is the machine's business."""
    drawn(large, "heads")
    large.page.locator("#chips button").last.click()
    calls, draws = large.page.evaluate(MOVES)
    assert set(draws) == {1}, "one drawing a move"
    # Measured: 49 to 1,493, as many as the token has keys to draw.
    assert 0 < max(calls) < 3_000, "calls of the canvas in one drawing"
    assert large.complaints == []


def test_the_model_view_draws_what_is_seen_and_a_click_opens_the_head(large: Visit) -> None:
    large.page.set_viewport_size({"width": 1000, "height": 400})
    large.page.click("#tab-model")
    drawn(large, "model")
    large.page.locator("#grid canvas[data-drawn]").first.wait_for()
    assert 0 < large.page.locator("#grid canvas[data-drawn]").count() < LAYERS
    large.page.locator("#grid canvas").last.scroll_into_view_if_needed()
    large.page.locator(f"#grid canvas[data-layer='{LAYERS - 1}'][data-drawn]").wait_for()
    box = large.page.locator("#grid canvas").last.bounding_box()
    large.page.locator("#grid canvas").last.click(position={"x": box["width"] - 12, "y": 9})
    drawn(large, "heads")
    assert large.page.locator("#large-name").text_content() == f"L{LAYERS - 1}H{HEADS - 1}"


def test_numbers_on_the_page_are_those_of_the_record(tmp_path: Path, visit: Open) -> None:
    source = record(heads=4)
    seen = visit(attention_page(source).save(tmp_path / "v.html"))
    seen.page.select_option("#layer", "1")
    seen.page.select_option("#head", "2")
    box = seen.page.locator("#large").bounding_box()
    for query, key in ((6, 0), (4, 3), (2, 2)):
        side = box["width"] / 7
        seen.page.mouse.move(box["x"] + (key + 0.5) * side, box["y"] + (query + 0.5) * side)
        text = seen.page.locator("#status").text_content()
        head, where, what = text.split(" · ")[0], text.split(" → ")[0], text.split(" · ")[-1]
        assert head == "L1H2" and f"query {query} ·word{query}" in where
        assert float(what) == pytest.approx(float(source.patterns[1, 2, query, key]), abs=0.005)
    seen.page.click("#tab-neurons")
    drawn(seen, "neurons")
    assert seen.complaints == [] and len(seen.requests) == 1


def test_the_first_token_can_be_left_out(tmp_path: Path, visit: Open) -> None:
    source = record()
    seen = visit(attention_page(source).save(tmp_path / "v.html"))
    seen.page.check("#sink")
    box = seen.page.locator("#large").bounding_box()
    side = box["width"] / 7
    row = source.patterns[0, 0, 5]
    for key, expected in ((0, 0.0), (2, float(row[2] / (1 - row[0])))):
        seen.page.mouse.move(box["x"] + (key + 0.5) * side, box["y"] + 5.5 * side)
        text = seen.page.locator("#status").text_content()
        assert float(text.split(" · ")[-1]) == pytest.approx(expected, abs=0.01)


def test_hostile_tokens_are_shown_as_they_are_and_do_nothing(
    tmp_path: Path, visit: Open, full_count: bool
) -> None:
    strings = (*NASTY, *hostile(200 if full_count else 30))
    source = record(1, 2, len(strings), 3, tokens=strings)
    seen = visit(attention_page(source, NASTY[3]).save(tmp_path / "v.html"))
    drawn(seen, "heads")
    expected = [labels.shown(token, 14) for token in strings]
    assert seen.page.locator("#from li").all_text_contents() == expected
    assert seen.page.locator("#to li").all_text_contents() == expected
    for tab in ("model", "neurons"):
        seen.page.click(f"#tab-{tab}")
        drawn(seen, tab)
    assert seen.page.locator("#keys li").all_text_contents() == expected
    assert seen.page.locator("h1").text_content() == NASTY[3]
    assert seen.hits() == [] and seen.complaints == [] and len(seen.requests) == 1
    assert seen.page.locator("iframe, base, object, embed, img").count() == 0


def test_views_change_by_keyboard_and_without_vectors_there_are_two(tmp_path: Path, visit: Open) -> None:
    source = record()
    bare = AttentionRecord(
        patterns=source.patterns, queries=None, keys=None, tokens=source.tokens, causal=True
    )
    seen = visit(attention_page(bare).save(tmp_path / "v.html"))
    assert not seen.page.locator("#tab-neurons").is_visible()
    seen.page.focus("#tab-heads")
    seen.page.keyboard.press("ArrowRight")
    drawn(seen, "model")
    seen.page.keyboard.press("ArrowRight")
    drawn(seen, "heads")


def test_in_a_report_the_views_stand_between_its_figures_and_do_nothing_else(
    tmp_path: Path, visit: Open
) -> None:
    """Two views, a figure and hostile strings: drawn, silent, and each in a frame of its own."""
    from interp.reports import Item, Section, report

    source = record(1, 2, len(NASTY), 3, tokens=tuple(NASTY))
    views = [attention_page(source, NASTY[3]), Item(attention_page(record()), "Second", "Prose.")]
    path = report([Section("Heads", [views[0], source, views[1]])], tmp_path / "r.html", "Views")
    seen = visit(path)
    assert seen.draw_all() == 1
    frames = seen.page.locator("iframe.view")
    assert frames.count() == 2 and frames.first.get_attribute("sandbox") == "allow-scripts"
    assert frames.first.get_attribute("title") == seen.page.locator("h3").first.text_content()
    for i in range(2):
        # Drawn where it stands: a browser gives frames out of sight no animation frames.
        inside = seen.page.frame_locator(f"iframe.view >> nth={i}")
        inside.locator("#view[data-state=heads]").wait_for(timeout=30_000)
        frames.nth(i).scroll_into_view_if_needed()
        assert inside.locator("#from li").count() == (len(NASTY) if i == 0 else 7)
        inside.locator("#tab-model").click()
        inside.locator("#view[data-state=model]").wait_for()
    expected = [labels.shown(token, 14) for token in NASTY]
    first = seen.page.frame_locator("iframe.view >> nth=0")
    assert first.locator("#from li").all_text_contents() == expected
    assert seen.hits() == [] and seen.complaints == [] and len(seen.requests) == 1
    numbers = json.loads(path.with_suffix(".json").read_text())["sections"][0]["blocks"]
    assert [block["kind"] for block in numbers] == ["view", "result", "view"]
    assert numbers[2]["tables"][0]["columns"] == ["layer", "head", "query", "key", "patterns"]


def test_in_a_notebook_the_page_is_a_frame_of_its_own() -> None:
    html = attention_page(record(tokens=NASTY[:7]))._repr_html_()
    assert html.count("<") == 2 and "</script>" not in html  # the frame's tags, all else escaped


def test_equal_records_give_equal_pages() -> None:
    source = record()
    assert attention_page(source).html() == attention_page(source).html()
