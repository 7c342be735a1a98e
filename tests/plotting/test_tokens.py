"""Token strips: colours, legend, escaping."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import html5lib
import pytest

from interp.core.errors import ShapeError
from interp.core.frames.quantity import Quantity
from interp.plotting.tokens import MAX_ALPHA, TokenStrip
from tests.plotting.samples import NASTY

QUANTITY = Quantity("attribution", "logits", "promotes the answer")


def spans(strip: TokenStrip) -> list[ET.Element]:
    tree = html5lib.parseFragment(str(strip.html()), namespaceHTMLElements=False)
    return [node for node in tree.iter("span") if "title" in node.attrib]


def test_colour_is_blue_for_plus_red_for_minus_and_proportional() -> None:
    cells = spans(TokenStrip((" a", " b", " c", " d"), [2.0, -1.0, 0.0, float("nan")], "t", QUANTITY))
    alphas = [re.search(r"rgba\((\d+),\d+,(\d+),([\d.]+)\)", c.attrib["style"]) for c in cells]
    red, blue, alpha = alphas[0].groups()
    assert int(blue) > int(red) and float(alpha) == pytest.approx(MAX_ALPHA, abs=1e-3)
    red, blue, alpha = alphas[1].groups()
    assert int(red) > int(blue) and float(alpha) == pytest.approx(MAX_ALPHA / 2, abs=1e-3)
    assert float(alphas[2][3]) == 0
    assert alphas[3] is None and "transparent" in cells[3].attrib["style"]


def test_tooltip_has_position_token_and_value() -> None:
    cells = spans(TokenStrip((" a", "\n"), [0.25, -1.0], "t", QUANTITY))
    assert cells[0].attrib["title"] == "0 · ·a · attribution +0.25"
    assert cells[1].attrib["title"] == "1 · ⏎ · attribution -1"


def test_legend_has_the_ends_of_the_scale() -> None:
    signed = str(TokenStrip(("a", "b"), [0.5, -2.0], "t", QUANTITY).html())
    assert ">-2<" in signed and ">+2<" in signed
    unsigned = str(TokenStrip(("a", "b"), [0.5, 2.0], "t", QUANTITY).html())
    assert ">0<" in unsigned and ">2<" in unsigned and "-2" not in unsigned


def test_every_nasty_token_is_inert_and_visible() -> None:
    strip = TokenStrip(NASTY, [0.1] * len(NASTY), "</figure><script>", QUANTITY)
    cells = spans(strip)
    from interp.core.escape import visible

    assert [cell.text for cell in cells] == [visible(token)[:40] or "∅" for token in NASTY]
    tree = html5lib.parseFragment(str(strip.html()), namespaceHTMLElements=False)
    assert {node.tag for node in tree.iter()} <= {
        "DOCUMENT_FRAGMENT",
        "figure",
        "figcaption",
        "strong",
        "span",
        "p",
        "br",
        "wbr",
    }


@pytest.mark.parametrize(("tokens", "values"), [(("a",), [1.0, 2.0]), ((), [])])
def test_one_value_per_token(tokens: tuple[str, ...], values: list[float]) -> None:
    with pytest.raises(ShapeError):
        TokenStrip(tokens, values, "t", QUANTITY)
