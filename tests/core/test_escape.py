"""Hostile text is inert in HTML and JSON, and what it hides is shown (reliability F27)."""

import html
import json
import math

import html5lib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.escape import esc, json_island, visible

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "-->",
    "]]>",
    "<![CDATA[x",
    "\"'><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "&lt;b&gt;",
    "&amp;#x3c;",
    "&#60;script&#62;",
    "</textarea></title></style>",
    "<svg/onload=alert(1)>",
    "{{7*7}}${7*7}`${alert(1)}`",
    "abc\u202egnp.exe\u202c",
    "\u2066\u2067\u2068\u2069",
    "nul\x00byte",
    "\x01\x0b\x1b[31mred\x7f\x9b",
    "\ud800 lone \udfff",
    "\ufffe\uffff",
    "line\u2028separator\u2029",
    "a" * 100_000,
    "<" * 100_000,
    "\r\n\t ",
    "日本語 العربية 👩‍👩‍👧",
]
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
SHOWN = {letter: f"\\u{ord(letter):04x}" for letter in BIDI} | {"\x00": "␀", "\x1b": "␛", "\x7f": "␡"}

hostile = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(codec=None, exclude_categories=())),
    st.lists(st.sampled_from(["<", ">", "&", '"', "'", "/", "!", "-", "script", "\x00", "\ud800", " "])).map(
        "".join
    ),
)


def page(text, attribute):
    """The parsed `p` of a page with text in an element and in an attribute."""
    source = f'<!doctype html><body><p title="{attribute}">{text}</p></body>'
    source.encode()  # a page must be valid UTF-8
    root = html5lib.parse(source, namespaceHTMLElements=False)
    body = root.find("body")
    return body, body.find("p")


def check_inert(text):
    body, p = page(esc(text), esc(text))
    assert [child.tag for child in body] == ["p"]
    assert len(p) == 0
    assert list(p.attrib) == ["title"]
    return p


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_adds_no_node_and_reads_the_same(text):
    p = check_inert(text)
    expected = text.replace("\r\n", "\n")  # HTML reads line ends so
    if esc(text) == html.escape(text):
        assert (p.text or "") == expected
        assert p.get("title") == expected


@given(hostile)
def test_any_text_is_inert_and_nothing_vanishes(text):
    p = check_inert(text)
    assert len(p.text or "") >= len(text.replace("\r\n", "\n"))


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_ascii_round_trips(text):
    p = check_inert(text)
    assert (p.text or "") == text
    assert p.get("title") == text


@pytest.mark.parametrize(("hidden", "shown"), SHOWN.items())
def test_hidden_characters_become_visible(hidden, shown):
    assert esc(f"a{hidden}b") == visible(f"a{hidden}b") == f"a{shown}b"


def test_lone_surrogates_become_visible():
    assert esc("a\ud800b") == visible("a\ud800b") == "a\\ud800b"


def test_other_things_are_escaped_through_str():
    assert esc(3) == "3"
    assert esc(ValueError("<b>")) == "&lt;b&gt;"


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" cat", "·cat"),
        ("a\n\tb", "a⏎⇥b"),
        ("\r", "␍"),
        ("\u00a0", "\\u00a0"),
        ("\u200b", "\\u200b"),
        ("\U000e0041", "\\U000e0041"),
        ("plain", "plain"),
        ("naïve", "naïve"),
        ("", ""),
    ],
)
def test_visible(token, shown):
    assert visible(token) == shown


@given(hostile)
def test_visible_tokens_have_no_invisible_characters(token):
    assert visible(token).isprintable()
    assert " " not in visible(token)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_json_island_cannot_be_left(text):
    island = json_island({"text": text, text: [text]})
    assert island.isascii()
    assert not set(island) & set("<>&")
    source = f'<!doctype html><body><script type="application/json">{island}</script><p></p></body>'
    body = html5lib.parse(source, namespaceHTMLElements=False).find("body")
    assert [child.tag for child in body] == ["script", "p"]
    assert json.loads(body[0].text) == {"text": text, text: [text]}


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | hostile,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hostile, inner, max_size=4),
        max_leaves=8,
    )
)
def test_json_island_round_trips(value):
    assert json.loads(json_island(value)) == value


def test_what_json_lacks_becomes_null_wherever_it_hides():
    value = {
        "a": [math.nan, 1.5, (math.inf,)],
        "t": torch.tensor([[1.0, -math.inf]]),
        "n": np.float32("nan"),
        "i": np.arange(3),
    }
    expected = {"a": [None, 1.5, [None]], "t": [[1.0, None]], "n": None, "i": [0, 1, 2]}
    assert json.loads(json_island(value)) == expected


def test_unknown_objects_are_refused_not_stringified():
    with pytest.raises(TypeError):
        json_island({"a": object()})
