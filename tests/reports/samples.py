"""One page with every kind of content, written around given strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.frames.quantity import Quantity
from interp.core.result import Check, Checks, Result
from interp.plotting import basics
from interp.plotting.attention import attention_patterns
from interp.plotting.rooms.lenses.heads import head_heatmap
from interp.plotting.tokens import TokenStrip
from interp.plotting.training import training_curves
from interp.reports.config import Entry, Gallery, Item, Section, Table
from tests.plotting.samples import provenance


@dataclass(frozen=True, kw_only=True, eq=False)
class PageScores(Result):
    """Scores with one check that holds and one that fails."""

    scores: Float[Tensor, "layer name"]
    check_name: str = "gap"

    def check(self) -> Checks:
        return Checks(
            (Check.at_most(self.check_name, 0.25, 0.5), Check.at_most("second " + self.check_name, 0.75, 0.5))
        )


def every_kind(strings: Sequence[str]) -> list[object]:
    """Sections that show `strings` as tokens, labels, names, titles, notes, cells and models."""
    words = list(strings)
    n, first = len(words), words[0]
    rng = np.random.default_rng(0)
    quantity = Quantity(first, words[1 % n], words[2 % n])
    scores = torch.arange(2.0 * n).reshape(2, n) - n
    result = PageScores(scores=scores, check_name=first, labels={"name": words}, provenance=provenance(first))
    few = words[:13]
    weights = np.tril(np.full((2, len(few), len(few)), 0.25))
    records = [{"step": step, **{word or "x": 1.0 / (step + 1) for word in few[:3]}} for step in range(5)]
    column = pd.Index([first, "value"], dtype=object)  # pandas' own strings refuse surrogates
    frame = pd.DataFrame(zip(words, range(n), strict=True), columns=column, dtype=object)
    return [
        Section(
            first,
            [
                Item(result, first, words[1 % n], {"quantity": quantity, "title": first}),
                Item(head_heatmap(scores[:, :7], first, quantity), prose=first),
                basics.bars(scores[0], words, first, quantity),
                basics.lines(
                    [0, 1],
                    {w: [0.0, 1.0] for w in few[:3]},
                    first,
                    quantity,
                    x_axis=first,
                    reference={first: 0.5},
                ),
                attention_patterns(weights, few, first, [first, words[1 % n]]),
                training_curves(records, title=first),
            ],
            prose=words[1 % n],
        ),
        TokenStrip(tuple(words), rng.normal(size=n).tolist(), first, quantity),
        Item(Table([first, "b"], [[word, 1.5] for word in words], first)),
        Item(frame, first),
        Gallery([Entry(word, [Item(word, first)], {first: float(i)}) for i, word in enumerate(words)]),
        *words[:7],
    ]


def raw_figure(strings: Sequence[str]) -> go.Figure:
    """A user's own figure: nothing in it went through our labels."""
    words = list(strings)
    bars = go.Bar(y=list(range(len(words))), text=words, customdata=words, name=words[0])
    return go.Figure(bars, layout={"title": words[1], "meta": "raw"})
