"""The one door from text to HTML: nothing that came from a model, a file or a user runs or hides.

`esc` for text and quoted attributes, `json_island` for data in a page, `visible` for tokens.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from functools import lru_cache

# Invisible or reordering in a browser, or not encodable: controls except tab, newline and carriage
# return; bidirectional embeddings, overrides and isolates; lone surrogates; the two
# noncharacters that end every plane's first.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_MARKS = {" ": "·", "\n": "⏎", "\t": "⇥"}
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zs", "Zl", "Zp"})


def esc(s: object) -> str:
    """Text for an HTML element or a quoted attribute: inert, and what is hidden becomes visible.

    `& < > " '` become entities. NUL and other controls, bidirectional overrides and lone
    surrogates become visible stand-ins (`␀`, `\\u202e`, `\\ud800`), so that the page is valid UTF-8
    and shows what is there. Anything that is not a string goes through `str` first.
    """
    return html.escape(_UNSAFE.sub(_stand_in, str(s)), quote=True)


def visible(token: str) -> str:
    """A token with its whitespace and control characters shown: `' cat\\n'` is `'·cat⏎'`.

    For people, not for machines: the result still has to pass `esc`.
    """
    if token.isascii() and token.isprintable() and " " not in token:
        return token
    return "".join(map(_show, token))


def json_island(obj: object) -> str:
    """JSON to put inside `<script type="application/json">`.

    Pure ASCII, with `< > &` as `\\u00XX` (and U+2028/9, surrogates, all else escaped by JSON), so
    no content can close the element or open a comment. NaN and infinity, which JSON lacks, become
    null. Tensors and arrays become nested lists.
    """
    try:
        text = json.dumps(obj, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError):  # NaN, or an array: the careful way
        text = json.dumps(_plain(obj), allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _stand_in(found: re.Match[str]) -> str:
    return _show(found[0])


@lru_cache(maxsize=4096)
def _show(letter: str) -> str:
    """One character, or its visible stand-in."""
    code = ord(letter)
    if letter in _MARKS:
        return _MARKS[letter]
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(letter) in _INVISIBLE:
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return letter


def _plain(obj: object) -> object:
    """Nested dicts, lists, strings and finite numbers only."""
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, dict):
        return {key: _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    tolist = getattr(obj, "tolist", None)
    return _plain(tolist()) if callable(tolist) else obj
