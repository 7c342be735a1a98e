"""The page as a reader meets it: drawn, silent, alone, legible in light and dark."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from interp.core.escape import visible
from interp.core.frames.quantity import Quantity
from interp.plotting import labels
from interp.plotting.basics import bars
from interp.plotting.tokens import TokenStrip
from interp.reports import Entry, Gallery, Section, report
from tests.browser.conftest import Open, Visit
from tests.plotting.samples import NASTY, hostile, lens_result
from tests.reports.samples import every_kind, raw_figure

pytestmark = pytest.mark.browser

WORDS = [" When", " Mary", " and", " John", " went", " to", " the", " store", ",", " John", "\n"]
BUDGET = 2_500_000


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of content, in two titled sections."""
    first, *rest = every_kind(WORDS)
    lens = Section("The lens", [lens_result(tuple(WORDS), 5)])
    return report([lens, first, *rest], tmp_path_factory.mktemp("page") / "report.html", "Sample")


@pytest.fixture(scope="module")
def seen(sample: Path, visits: Open) -> Visit:
    """That page, open and drawn; the tests below share it."""
    seen = visits(sample)
    assert seen.draw_all() == 7
    return seen


def test_every_figure_is_drawn_in_silence_and_alone(sample: Path, seen: Visit) -> None:
    assert seen.page.locator(".figure .main-svg").count() >= 7
    assert seen.requests == [sample.as_uri()]
    assert seen.complaints == []
    assert seen.hits() == []
    assert seen.page.locator("meta[http-equiv=Content-Security-Policy]").count() == 1
    assert sample.stat().st_size < BUDGET


def test_nothing_is_shared_with_a_cloud(seen: Visit) -> None:
    titles = seen.page.locator(".modebar-btn").evaluate_all("all => all.map(b => b.dataset.title)")
    assert titles and not any("loud" in (t or "") or "hare" in (t or "") for t in titles)
    assert seen.page.locator(".modebar .plotlyjsicon").count() == 0


def test_texts_stay_inside_their_figures(seen: Visit) -> None:
    outside = seen.page.locator(".figure").evaluate_all("""figures => figures.flatMap(figure => {
      const edge = figure.getBoundingClientRect();
      return [...figure.querySelectorAll("svg text")].filter(text => {
        const box = text.getBoundingClientRect();
        return box.width && (box.left < edge.left - 1 || box.right > edge.right + 1
          || box.top < edge.top - 1 || box.bottom > edge.bottom + 1);
      }).map(text => figure.id + " " + text.textContent);
    })""")
    assert outside == []


def test_hover_says_position_token_and_value(seen: Visit) -> None:
    seen.page.locator("#f1").scroll_into_view_if_needed()
    seen.page.evaluate("scrollTo(0, 0)")
    box = seen.page.locator("#f1 .nsewdrag").bounding_box()
    # third of eleven positions, second of five rows from below
    x, y = box["x"] + box["width"] * 2.5 / len(WORDS), box["y"] + box["height"] * (1 - 1.5 / 5)
    seen.page.mouse.move(x - 3, y)
    seen.page.mouse.move(x, y)
    hover = seen.page.locator("#f1 .hovertext")
    hover.wait_for()
    text = hover.text_content()
    assert text.startswith("2 · ·and · L0 post")
    assert "entropy 1.3 nats" in text and "answer ·and" in text


def test_the_menu_recolours_the_lens(seen: Visit) -> None:
    below = seen.page.locator("#f1 .gtitle-subtitle")
    assert below.text_content().startswith("probability of the answer")
    seen.page.locator("#f1 .updatemenu-button", has_text="KL").click()
    assert below.text_content().startswith("KL(")


def test_a_click_on_a_thumbnail_shows_its_head_large(seen: Visit) -> None:
    figure = seen.page.locator(".figure").filter(has_text="key (attended to)")
    large = "gd => gd.data.slice(2).map(trace => trace.visible)"
    assert figure.evaluate(large) == [True, False]
    figure.locator(".nsewdrag[data-subplot=x2y2]").click()
    assert figure.evaluate(large) == [False, True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 800])
def test_screenshots_have_ink_and_nothing_sticks_out(seen: Visit, width: int, scheme: str) -> None:
    from PIL import Image, ImageStat

    seen.page.set_viewport_size({"width": width, "height": 900})
    seen.page.emulate_media(color_scheme=scheme)
    seen.page.wait_for_timeout(300)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    ground = Image.open(io.BytesIO(seen.page.screenshot(full_page=True))).convert("L")
    assert (ImageStat.Stat(ground).median[0] > 128) == (scheme == "light")
    for figure in seen.page.locator(".figure").all():
        image = Image.open(io.BytesIO(figure.screenshot())).convert("L")
        assert ImageStat.Stat(image).stddev[0] > 5


def test_the_ink_follows_when_the_reader_turns_dark(seen: Visit) -> None:
    fills = {}
    for scheme in ("light", "dark"):
        seen.page.emulate_media(color_scheme=scheme)
        seen.page.wait_for_timeout(300)
        tick = seen.page.locator("#f1 .xtick text").first
        fills[scheme] = tick.evaluate("text => getComputedStyle(text).fill")
    assert fills == {"light": "rgb(48, 54, 63)", "dark": "rgb(205, 211, 219)"}


def test_scales_of_light_pages_turn_with_the_ground_and_back(seen: Visit) -> None:
    first = """() => [...document.querySelectorAll(".figure")]
      .flatMap(gd => [gd.layout.coloraxis, ...gd.data])
      .filter(holder => holder && holder.colorscale).map(holder => holder.colorscale[0][1])"""
    found = {}
    for scheme in ("light", "dark", "light"):
        seen.page.emulate_media(color_scheme=scheme)
        seen.page.wait_for_timeout(300)
        found.setdefault(scheme, []).append(seen.page.evaluate(first))
    (before, after), (dark,) = found["light"], found["dark"]
    assert before == after and "#f4f7fb" in before and len(dark) == len(before)
    assert not {"#f4f7fb", "#b2332e"} & set(dark)


def test_lines_take_the_width_of_their_card_and_cells_keep_their_size(seen: Visit) -> None:
    told = """figures => figures.map(gd => [gd.layout.width, gd.data.some(t => t.type === "heatmap"),
      JSON.parse(document.getElementById(gd.dataset.spec).textContent).layout.width,
      gd.parentElement.clientWidth, gd.parentElement.scrollWidth])"""
    seen.page.set_viewport_size({"width": 1280, "height": 900})
    found = seen.page.locator(".figure").evaluate_all(told)
    assert any(cells for _, cells, *_ in found) and not all(cells for _, cells, *_ in found)
    for drawn, cells, asked, room, needed in found:
        assert drawn == asked if cells else asked <= drawn <= max(asked, room)
        assert cells or needed <= max(asked, room)
    assert any(drawn > asked for drawn, _, asked, *_ in found)


def test_the_policy_stops_what_an_escape_would_have_missed(sample: Path, visit: Open) -> None:
    seen = visit(sample)
    seen.page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.__ran = true";
      document.body.append(script);
      const image = new Image(); image.src = "https://example.invalid/x.png";
      document.body.insertAdjacentHTML("beforeend", "<b onclick='window.__ran = true' id=b>b</b>");
      document.getElementById("b").click();
    }""")
    seen.page.wait_for_timeout(200)
    assert seen.page.evaluate("window.__ran === undefined")
    assert any("script-src" in hit for hit in seen.hits())
    assert any("img-src" in hit for hit in seen.hits())
    assert seen.refused == ["https://example.invalid/x.png"]


def test_drawn_labels_read_back_exactly(tmp_path: Path, visit: Open) -> None:
    fig = bars(list(range(len(NASTY))), NASTY, NASTY[3], Quantity(NASTY[5], NASTY[6], NASTY[0]))
    seen = visit(report([fig], tmp_path / "r.html", NASTY[3]))
    seen.draw_all()
    drawn = seen.page.locator(".ytick text").all_text_contents()
    assert drawn == [labels.shown(token, 32) for token in NASTY]
    assert seen.page.locator(".gtitle").text_content() == NASTY[3].replace("\n", "⏎")
    assert seen.page.title() == NASTY[3]
    assert seen.complaints == [] and seen.hits() == []


def test_a_batch_of_hostile_pages_runs_nothing(tmp_path: Path, visit: Open, full_count: bool) -> None:
    strings = hostile(1_000 if full_count else 50, seed=1)
    for start in range(0, len(strings), 50):
        batch = strings[start : start + 50]
        path = report([*every_kind(batch), raw_figure(batch)], tmp_path / f"{start}.html", "T")
        seen = visit(path)
        seen.draw_all()
        seen.page.locator("details").evaluate_all("all => all.forEach(d => { d.open = true; })")
        # plotly says so when a raw label holds two dollar signs; ours never do
        complaints = [said for said in seen.complaints if "MathJax is not loaded" not in said]
        assert seen.hits() == [] and complaints == []
        assert seen.requests == [path.as_uri()]
        assert seen.page.locator("iframe, base, object, embed").count() == 0
        links = seen.page.locator("svg a").evaluate_all("all => all.map(a => a.href.baseVal)")
        assert not any("javascript" in link for link in links)


def test_without_javascript_the_numbers_are_there(sample: Path, visit: Open) -> None:
    seen = visit(sample, scripts=False)
    assert seen.page.get_by_text("The pictures need JavaScript").is_visible()
    assert seen.page.locator(".figure:visible").count() == 0
    details = seen.page.locator("details").first
    details.locator("summary").first.click()
    assert details.locator("summary").nth(1).is_visible()


def test_a_gallery_is_searched_ordered_and_drawn(tmp_path: Path, visit: Open) -> None:
    figure = bars([1.0], ["a"], "t", Quantity("q"))
    strip = TokenStrip((" a", " b"), [0.5, -1.0], "by hand", Quantity("score"))
    sizes = {"apple pie": 3.0, "banana": None, "<i>Apple": 7.0, "cherry": 5.0}
    entries = [Entry(name, [figure, strip], {"n": 1.0, "size": size}) for name, size in sizes.items()]
    path = report([Gallery(entries)], tmp_path / "r.html", "T")
    seen = visit(path)
    heads: Callable[[], list[str]] = lambda: [  # noqa: E731
        text.split(". ")[1] for text in seen.page.locator(".entry:visible h4").all_text_contents()
    ]
    assert heads() == list(sizes)
    seen.page.locator(".order").select_option(label="size")
    assert heads() == ["<i>Apple", "cherry", "apple pie", "banana"]
    seen.page.locator(".down").uncheck()
    assert heads() == ["apple pie", "cherry", "<i>Apple", "banana"]
    seen.page.locator(".find").fill("APPLE")
    assert heads() == ["apple pie", "<i>Apple"]
    assert seen.page.locator(".gallery [role=status]").text_content() == "2 of 4"
    for place in (1, 3):  # figures keep the numbers they were given
        seen.page.locator(f"#f{place}").scroll_into_view_if_needed()
        seen.page.locator(f"#f{place}[data-state=drawn]").wait_for(timeout=30_000)
    assert seen.page.locator(".strip-tokens:visible").count() == 2
    assert seen.complaints == [] and seen.hits() == []
    still = visit(path, scripts=False)
    assert not still.page.locator(".tools").is_visible()
    assert still.page.locator(".entry .strip-tokens:visible").count() == 4


def test_printing_draws_figures_that_were_never_scrolled_to(sample: Path, visit: Open) -> None:
    seen = visit(sample)
    seen.page.locator("#f1[data-state=drawn]").wait_for()
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    seen.page.locator("#f7[data-state=drawn]").wait_for(timeout=30_000)


def test_the_keyboard_reaches_the_content_and_the_sections(sample: Path, visit: Open) -> None:
    seen = visit(sample)
    focused: Callable[[], str] = lambda: seen.page.evaluate("document.activeElement.textContent")  # noqa: E731
    seen.page.keyboard.press("Tab")
    assert focused() == "Skip to content"
    seen.page.keyboard.press("Tab")
    assert focused() == "The lens"
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_url("**#s2")  # the page follows a link in its own time


def test_token_strips_show_every_token(tmp_path: Path, visit: Open) -> None:
    strip = TokenStrip(NASTY, [1.0] * len(NASTY), "t", Quantity("q"))
    seen = visit(report([strip], tmp_path / "r.html", "T"))
    drawn = seen.page.locator(".strip-tokens span").all_text_contents()
    assert drawn == [visible(token)[:40] or "∅" for token in NASTY]
    assert seen.hits() == [] and seen.complaints == []
