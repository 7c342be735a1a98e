"""Labels: escaped once, whitespace visible, bounded, and readable back."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.core.escape import visible
from interp.plotting import labels
from tests.plotting.samples import NASTY

ANY_TEXT = st.text(st.characters(), max_size=40)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" the", "·the"),
        ("\n", "⏎"),
        ("", "∅"),
        ("<s>", "&lt;s&gt;"),
        ("&lt;", "&amp;lt;"),
        ('it\'s "x"', 'it\'s·"x"'),
        ("%{x}", "&#37;{x}"),
        ("$x$", "&#36;x&#36;"),
        ("a" * 20, "a" * 15 + "…"),
        ("a" * 16, "a" * 16),
    ],
)
def test_label(token: str, expected: str) -> None:
    assert labels.label(token) == expected


@given(ANY_TEXT)
def test_a_label_holds_no_markup_and_reads_back(token: str) -> None:
    label = labels.label(token)
    assert "<" not in label and ">" not in label and "%{" not in label
    label.encode()  # no lone surrogates
    assert labels.unescape(label) == labels.shown(token)
    assert len(labels.shown(token)) <= labels.MAX_CHARS


@given(ANY_TEXT, ANY_TEXT)
def test_short_labels_differ_where_tokens_do(first: str, second: str) -> None:
    if visible(first) != visible(second) and {"", "∅"}.isdisjoint({first, second}):
        assert labels.full(first) != labels.full(second)


@pytest.mark.parametrize("token", NASTY)
def test_cells_break_into_two_short_lines(token: str) -> None:
    lines = labels.cell(token, line=5).split(labels.BR)
    assert len(lines) <= 2
    shown = [labels.unescape(line) for line in lines]
    assert "".join(shown) == labels.shown(token, 10)
    assert max(map(len, shown)) == labels.cell_chars(token, line=5) <= 5


def test_a_huge_token_costs_no_more_than_a_small_one() -> None:
    token = "x" * 100_000
    assert labels.label(token) == "x" * 15 + "…"
    assert labels.full(token).endswith("(100,000 characters)")
    assert len(labels.full(token)) < 300


def test_prose_keeps_spaces() -> None:
    assert labels.plain("a <b> c\n") == "a &lt;b&gt; c⏎"
    assert html.unescape(labels.plain("a & b")) == "a & b"


def test_ticks_keep_repeated_tokens_apart() -> None:
    ticks = labels.ticks(["the", " the", "the"])
    assert ticks["tickvals"] == [0, 1, 2]
    assert ticks["ticktext"] == ["the", "·the", "the"]


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0.12345, False, "0.123"),
        (0.5, True, "+0.5"),
        (0.0, True, "0"),
        (-2.0, True, "-2"),
        (float("nan"), True, "–"),
    ],
)
def test_number(value: float, signed: bool, text: str) -> None:
    assert labels.number(value, signed) == text
