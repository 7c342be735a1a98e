"""`interp neurons MODEL`: every MLP neuron as the tokens it reads and writes, by weights alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from interp.cli.config import Written
from interp.cli.opening import open_model
from interp.cli.places import announce, claim, default_place, plain
from interp.core.config import Placement
from interp.core.escape import visible
from interp.lenses.config import Side, TokenTableConfig


@dataclass(frozen=True, kw_only=True)
class Neurons(Written):
    """Read every MLP neuron as tokens; no text is run.

    Writes report.html, report.json and the whole table (folder `neurons`).
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A bundled model's name, or a folder with a model."""
    rows: str | None = None
    """Rows to show, as L3N12.out or "L3N*.in"; the most specialised when absent."""
    sides: tuple[Side, ...] = ()
    """Which sides of a neuron: in, gate, out, gate*in. All that the model has when absent."""
    shown: int = 40
    """Rows on the page."""
    reading: TokenTableConfig = field(default_factory=TokenTableConfig)
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Load, read, write; returns the exit code."""
        name = Path(self.model).resolve().name
        place = claim(self.out or default_place(self, name), overwrite=self.overwrite)

        from interp.core.store import write_text
        from interp.lenses import neuron_atlas
        from interp.reports import Item, PageConfig, report

        model = open_model(self.model, self.placement)
        table = neuron_atlas(model, self.reading, sides=self.sides or None)
        special = table.specialised()
        chosen = table.select(self.rows) if self.rows else table.specialised(-math.inf)
        page = PageConfig(overwrite=self.overwrite, subtitle=name)
        item = Item(chosen, prose=PROSE, plot={"n": self.shown})
        report([item], place / "report.html", title=f"Neurons as tokens · {name}", config=page)
        table.save(place / "neurons", overwrite=self.overwrite)
        config = json.dumps(plain(self), indent=2)
        write_text(place / "config.json", config + "\n", overwrite=self.overwrite)
        for row in chosen.names[: min(self.shown, 10)]:
            print(f"{row:<14}{' | '.join(visible(token) for token in chosen.tokens(row))}")
        print(f"{len(special.names)} of {len(table.names)} rows stand out from permuted weights")
        print(repr(table))
        announce(place / "report.html")
        return 0


PROSE = (
    "Each row is one side of a neuron: `in` and `gate` are what it reads from the stream, `out` is "
    "what it writes to it. A cell is a token near that direction; the menu shows the tokens near "
    "its negative. Rows stand out when their first token lies above what permuted weights reach."
)
