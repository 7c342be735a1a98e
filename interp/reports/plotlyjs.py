"""Plotly's own JavaScript from the installed package, packed for a page without network."""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Packed:
    """A script as a page carries it."""

    base64: str
    """The gzipped source in base64; the page's loader inflates it."""
    csp_hash: str
    """CSP source expression that allows exactly this script."""


@cache
def packed_plotly() -> Packed:
    """The installed plotly.js: 4.8 MB of source, about 2.0 MB here.

    The gzip header carries no time, so that equal inputs make equal pages.
    """
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    squeezed = gzip.compress(source.encode(), compresslevel=9, mtime=0)
    return Packed(base64.b64encode(squeezed).decode("ascii"), csp_hash(source))


def csp_hash(script: str) -> str:
    """`'sha256-...'` of an inline script's text (CSP level 3, section 2.3.1)."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
