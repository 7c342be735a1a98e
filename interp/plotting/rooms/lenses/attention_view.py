"""Three linked views of attention as one offline page: heads, the whole model, one query's keys.

After BertViz (Vig 2019, "A Multiscale Visualization of Attention in the Transformer Model"), in
plain JavaScript of our own: nothing is fetched, every string is escaped data, drawing is lazy.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from torch import Tensor

from interp.core import store
from interp.core.escape import esc, json_island
from interp.core.result import renders
from interp.lenses.heads.record import AttentionRecord
from interp.plotting import labels
from interp.plotting.attention import attention_patterns
from interp.plotting.config import AttentionConfig
from interp.plotting.html import render

HERE = Path(__file__).parents[2]
HEIGHT = 820
"""Pixels that the page takes where it is framed."""
MOST = 32
"""Heads in the plotly figure of a record; the page has them all."""


@dataclass(frozen=True, eq=False)
class AttentionView:
    """A page with the head view, the model view and the neuron view of one record.

    Attention is stored in one byte per cell (the square root, to the nearest 1/255: off by at most
    0.004), queries and keys in one byte per entry, relative to their head's largest.
    """

    record: AttentionRecord
    """What is shown."""
    title: str = "Attention"
    """Heading."""

    def html(self) -> str:
        """The whole page; equal records give equal bytes."""
        script, style = _asset("attention_view.js"), _asset("attention_view.css")
        page = render(
            HERE / "templates",
            "attention_view.html",
            policy="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
            f"form-action 'none'; script-src {self.script_hash}",
            title=labels.prose(self.title, 200),
            tokens=[labels.full(token) for token in self.record.tokens],
            data=Markup(json_island(packed(self.record))),
            script=Markup(script),
            style=Markup(style),
        )
        return str(page)  # a text, not markup: whoever frames it must escape it

    @property
    def script_hash(self) -> str:
        """CSP source expression of the page's one script; a page that frames it must allow it."""
        digest = hashlib.sha256(_asset("attention_view.js").encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the page.

        Raises:
            StorageError: It exists and `overwrite` is False, or it cannot be written.
        """
        return store.write_text(path, self.html(), overwrite)

    def _repr_html_(self) -> str:
        frame = f'style="width:100%;height:{HEIGHT}px;border:0" sandbox="allow-scripts"'
        return f'<iframe {frame} srcdoc="{esc(self.html())}"></iframe>'


def attention_page(record: AttentionRecord, title: str = "Attention") -> AttentionView:
    """The three views of a record, to show in a notebook or to `save` as one HTML file."""
    return AttentionView(record, title)


def packed(record: AttentionRecord) -> dict[str, Any]:
    """The record as the page carries it: base64 bytes per layer, tokens as readers see them."""
    n_layers, n_heads = record.patterns.shape[:2]
    return {
        "tokens": [labels.shown(token, 14) for token in record.tokens],
        "layers": record.labels.get("layer") or [f"L{i}" for i in range(n_layers)],
        "heads": n_heads,
        "kv": record.keys.shape[2] if record.keys is not None else 0,
        "width": record.queries.shape[3] if record.queries is not None else 0,
        "causal": record.causal,
        "patterns": [_cells(layer, record.causal) for layer in record.patterns],
        "queries": _vectors(record.queries),
        "keys": _vectors(record.keys),
    }


def _cells(patterns: Tensor, causal: bool) -> str:
    """One layer's attention, gzipped and in base64; of causal attention the lower triangle.

    The gzip header carries no time, so that equal records make equal pages.
    """
    found = np.rint(np.sqrt(_array(patterns).clip(0, 1)) * 255).astype(np.uint8)
    if causal:
        found = found[:, np.tril(np.ones(found.shape[1:], bool))]
    return base64.b64encode(gzip.compress(found.tobytes(), compresslevel=6, mtime=0)).decode("ascii")


def _vectors(values: Tensor | None) -> list[dict[str, Any]]:
    """Per layer: int8 [head pos d_head] in base64, and each head's value of 127."""
    found = []
    for layer in _array(values).swapaxes(1, 2) if values is not None else ():
        reach = np.maximum(np.abs(layer).max((1, 2)), 1e-12)
        scaled = layer / reach[:, None, None] * 127
        found.append({"data": _bytes(scaled, np.int8), "reach": [float(f"{r:.6g}") for r in reach]})
    return found


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _bytes(values: np.ndarray, kind: type[np.generic]) -> str:
    return base64.b64encode(np.rint(values).astype(kind).tobytes()).decode("ascii")


@renders(AttentionRecord)
def attention_record_figure(record: AttentionRecord, layer: int | None = None) -> Any:
    """The record as a plotly figure: heads of one layer, or of all, the first 32 of them.

    Args:
        layer: Which of the record's layers; default all.
    """
    n_layers, n_heads = record.patterns.shape[:2]
    chosen = range(n_layers) if layer is None else [range(n_layers)[layer]]
    layers = record.labels.get("layer") or [f"L{i}" for i in range(n_layers)]
    names = [f"{layers[i]}H{head}" for i in chosen for head in range(n_heads)][:MOST]
    patterns = record.patterns[list(chosen)].flatten(0, 1)[:MOST]
    config = AttentionConfig(causal=record.causal)
    return attention_patterns(patterns, record.tokens, names=names, config=config)


@cache
def _asset(name: str) -> str:
    return (HERE / "assets" / name).read_text(encoding="utf-8")
