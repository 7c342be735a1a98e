"""`interp lens MODEL TEXT`: what each layer would predict, as a page and as numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from interp.cli.config import Written
from interp.cli.opening import open_model
from interp.cli.places import announce, claim, default_place, plain
from interp.core.config import Placement
from interp.lenses.config import LensConfig
from interp.plotting.config import LensColour


@dataclass(frozen=True, kw_only=True)
class Lens(Written):
    """Read every layer with the model's own unembedding (the logit lens).

    Writes report.html, report.json and the result itself (folder `lens`).
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A bundled model's name, or a folder with a model."""
    text: Annotated[Positional[str], arg(metavar="TEXT")]
    """The text to read."""
    colour: LensColour | None = None
    """What the colours show: the answer's probability or rank, the top token's, entropy, KL."""
    reading: LensConfig = field(default_factory=LensConfig)
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Load, read, write; returns the exit code."""
        name = Path(self.model).resolve().name
        place = claim(self.out or default_place(self, name), overwrite=self.overwrite)

        from interp.core.store import write_text
        from interp.lenses import logit_lens
        from interp.reports import Item, PageConfig, report

        model = open_model(self.model, self.placement)
        lens = logit_lens(model, self.text, **asdict(self.reading))
        plot = {"colour": self.colour} if self.colour else {}
        page = PageConfig(overwrite=self.overwrite, subtitle=f"{name} · {self.text[:200]}")
        item = Item(lens, prose=PROSE, plot=plot)
        report([item], place / "report.html", title=f"Logit lens · {name}", config=page)
        lens.save(place / "lens", overwrite=self.overwrite)
        config = json.dumps(plain(self), indent=2)
        write_text(place / "config.json", config + "\n", overwrite=self.overwrite)
        print(repr(lens))
        announce(place / "report.html")
        return 0


PROSE = (
    "Each row reads the residual stream after one layer with the model's final norm and "
    "unembedding, as if the model stopped there; the top row is the model's own output. "
    "A cell's text is the most likely token to come next."
)
