"""`interp atlas MODEL`: what every head looks at, as a page of maps and a page of three views."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from interp.cli.config import Written
from interp.cli.opening import open_model
from interp.cli.places import announce, claim, default_place, plain
from interp.core.config import Placement
from interp.lenses.config import HeadAtlasConfig

TEXT = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. The ball was stuck in a tree, and Lily was sad."
)


@dataclass(frozen=True, kw_only=True)
class Atlas(Written):
    """Map every attention head: what it looks at, which are alike, what weights alone say.

    Writes report.html, report.json, attention.html (three views of one text) and the results.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A bundled model's name, or a folder with a model."""
    text: str = TEXT
    """What the model reads. Models without a tokenizer read random tokens."""
    measure: HeadAtlasConfig = field(default_factory=HeadAtlasConfig)
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Load, measure, write; returns the exit code."""
        name = Path(self.model).resolve().name
        place = claim(self.out or default_place(self, name), overwrite=self.overwrite)

        from interp.core.store import write_text
        from interp.lenses import compare_heads, find_heads, head_atlas, record_attention
        from interp.lenses.heads.atlas import random_repeats
        from interp.plotting import attention_page
        from interp.reports import Item, PageConfig, report

        model = open_model(self.model, self.placement)
        if model.tokenizer is None:
            inputs = random_repeats(model, self.measure)[0]
        else:
            inputs = self.text
        atlas = head_atlas(model, inputs, self.measure)
        distances = compare_heads(model, inputs, self.measure)
        results = {"heads": atlas, "distances": distances, "weights": find_heads(model)}
        items = [Item(result, prose=PROSE[key]) for key, result in results.items()]
        page = PageConfig(overwrite=self.overwrite, subtitle=f"{name} · {self.text[:200]}")
        record = record_attention(model, inputs, max_tokens=self.measure.max_tokens)
        view = attention_page(record, f"Attention · {name}")
        items.append(Item(view, prose=PROSE["views"]))
        report(items, place / "report.html", title=f"Attention atlas · {name}", config=page)
        view.save(place / "attention.html", overwrite=self.overwrite)
        for key, result in results.items():
            result.save(place / key, overwrite=self.overwrite)
        config = json.dumps(plain(self), indent=2)
        write_text(place / "config.json", config + "\n", overwrite=self.overwrite)
        for head, kinds in sorted(atlas.kinds().items()):
            if kinds != ["broad"]:
                print(f"{head:<8}{', '.join(kinds)}")
        print(repr(atlas))
        announce(place / "report.html")
        announce(place / "attention.html")
        return 0


PROSE = {
    "heads": "Mean attention of every head over the text; the menu changes the statistic. "
    "Induction and duplicate-token scores are measured on random tokens that are repeated once.",
    "distances": "Heads that look at the same tokens lie near each other. The test asks whether "
    "heads of one layer are more alike than heads of different layers.",
    "weights": "What the weights alone say, without any text: the share of tokens or positions "
    "that a head's matrices bring back.",
    "views": "Who attends to whom: heads as lines, all heads at once, and one query's vectors "
    "entry by entry. The same page stands alone as `attention.html`.",
}
