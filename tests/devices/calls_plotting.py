"""Calls of the rooms that draw: a result may have been computed anywhere."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import interp
from interp import lenses, plotting
from interp.core import Quantity
from interp.reports import report
from tests.devices.calls_attribution import PATTERNS
from tests.devices.place import Call, Place

LOGIT = Quantity("logit", "nats", "more likely")


def _results(place: Place) -> list[Any]:
    ids = place.ids()[0]
    return [
        lenses.logit_lens(place.model, ids),
        lenses.direct_logit_attribution(place.model, ids, 7),
        lenses.head_atlas(place.model, place.ids(1)),
        interp.attribute(place.model, ids, 7, method="saliency"),
    ]


def _drawn(place: Place) -> None:
    for result in _results(place):
        assert result.plot() is not None and len(result.to_frame()) and result.check() is not None
        type(result).load(result.save(Path(mkdtemp()) / "result"))


def _page(place: Place) -> None:
    assert Path(report(_results(place)[:2], Path(mkdtemp()) / "page.html", "there")).exists()


def _strip(place: Place) -> Any:
    return list(plotting.TokenStrip(("a", "b"), place.rows(1, 2)[0], "strip", LOGIT).values)


PLOTTING: dict[str, Call] = {
    "plot_result": _drawn,
    "bars heatmap lines": lambda p: [
        plotting.bars(p.rows(1, 3)[0], ["a", "b", "c"], "bars", LOGIT) and None,
        plotting.heatmap(p.rows(3, 4), "map", LOGIT) and None,
        plotting.lines([0, 1, 2], {"a": p.rows(1, 3)[0]}, "lines", LOGIT) and None,
    ],
    "attention_patterns": lambda p: plotting.attention_patterns(p.put(PATTERNS[0]), list("abcdefg")) and None,
    "head_heatmap": lambda p: plotting.head_heatmap(p.rows(2, 3), "heads") and None,
    "lens_heatmap": lambda p: plotting.lens_heatmap(_results(p)[0]) and None,
    "attention_page AttentionView": lambda p: (
        plotting.attention_page(lenses.record_attention(p.model, p.ids()[0])) and None
    ),
    "TokenStrip": _strip,
}
PLOTTING_LEFT = {
    **dict.fromkeys(
        "Quantity AttentionConfig CurvesConfig DecompositionConfig HeadMapConfig LensConfig".split(),
        "settings",
    ),
    "load_renderers": "modules",
    "training_curves": "numbers of Python",
}
REPORTS: dict[str, Call] = {"report": _page}
REPORTS_LEFT = dict.fromkeys("Entry Gallery Item PageConfig Section Table".split(), "what a page is made of")
