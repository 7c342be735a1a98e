"""Every text that enters a picture passes here: whitespace visible, markup escaped, length bounded.

Plotly reads labels as pseudo-HTML (`<s>` becomes strikethrough, `&lt;` an entity) and drops lines
and repeated spaces, so token strings are never coordinates and never go in raw.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from interp.core.escape import esc, visible

_BLOCK = re.compile(r"^blocks\.(\d+)\.")

MAX_CHARS = 16
HOVER_CHARS = 200
BR = "<br>"
EMPTY = "∅"
ELLIPSIS = "…"
NO_NAME = "<extra></extra>"  # closes a hover template without plotly's trace-name box


def shown(token: str, width: int = MAX_CHARS) -> str:
    """The token as a reader should see it: whitespace visible, at most `width` characters."""
    return _cut(visible(_head(token, width)), width) or EMPTY


def label(token: str, width: int = MAX_CHARS) -> str:
    """`shown`, escaped for plotly's pseudo-HTML."""
    return escape_label(shown(token, width))


def full(token: str) -> str:
    """The token for hover text and tables: up to 200 characters, and its length when cut."""
    if len(token) <= HOVER_CHARS:
        return shown(token, HOVER_CHARS * 8)
    return f"{shown(token, HOVER_CHARS)} ({len(token):,} characters)"


def cell(token: str, line: int = 8) -> str:
    """A heat-map cell's text: two lines of at most `line` characters, escaped."""
    text = shown(token, 2 * line)
    parts = [text[:line], text[line:]]
    return BR.join(escape_label(part) for part in parts if part)


def cell_chars(token: str, line: int = 8) -> int:
    """Characters on the longest line of `cell(token)`; it decides how wide a cell must be."""
    return min(len(shown(token, 2 * line)), line)


def plain(text: str, width: int = 160) -> str:
    """A title or axis name: spaces stay spaces, all else as in `label`."""
    return escape_label(prose(text, width))


def prose(text: str, width: int = 160) -> str:
    """`plain` without the escaping, for places that escape themselves (HTML templates)."""
    words = (visible(word) for word in _head(text, width).split(" "))
    return _cut(" ".join(words), width)


def escape_label(text: str) -> str:
    """Escape markup for plotly, `%{`, which it would fill in, and `$`, which could start TeX."""
    return (
        esc(text).replace("&quot;", '"').replace("&#x27;", "'").replace("%{", "&#37;{").replace("$", "&#36;")
    )


def unescape(text: str) -> str:
    """What a reader of an escaped label sees: the inverse of `escape_label`, on one line."""
    return html.unescape(text.replace(BR, ""))


def hover(*lines: str) -> str:
    """Join lines that are escaped already into one hover text."""
    return BR.join(line for line in lines if line)


def number(value: float, signed: bool = False) -> str:
    """A value with three significant digits; NaN is an en dash."""
    if math.isnan(value):
        return "–"
    return f"{value:+.3g}" if signed and value else f"{value:.3g}"


def ticks(tokens: Sequence[str], width: int = MAX_CHARS) -> dict[str, Any]:
    """Axis settings that put token labels on integer coordinates: repeated tokens stay apart."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(tokens))),
        "ticktext": [label(token, width) for token in tokens],
    }


def numbered(names: Iterable[str]) -> list[str]:
    """Escaped axis names, in order."""
    return [plain(name, 40) for name in names]


def sites(names: Sequence[str]) -> list[str]:
    """Site names as a picture says them: `blocks.3.hook_resid_post` -> `L3 resid post`.

    Where all blocks are read at the same kind of site, `L3`. Other names stay as they are.
    """
    if not any("hook_" in name for name in names):
        return list(names)
    short = [name.replace("hook_normalized_", "").replace("hook_", "") for name in names]
    short = [_BLOCK.sub(r"L\1 ", name).replace(".", " ").replace("_", " ") for name in short]
    blocks = [name.partition(" ") for name in short if name[:1] == "L" and name[1:2].isdigit()]
    if len({kind for _, _, kind in blocks}) > 1:
        return short
    alike = {" ".join((block, kind)): block for block, _, kind in blocks}
    return [alike.get(name, name) for name in short]


def _head(text: str, width: int) -> str:
    """Enough of the text to decide the label: a 100 KB token costs no more than a short one."""
    return text[: width + 1]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + ELLIPSIS
