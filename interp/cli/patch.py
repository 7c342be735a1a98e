"""`interp patch MODEL TASK`: activations exchanged one place at a time, the grids people draw."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from interp.circuits.config import Direction, Patched
from interp.cli.config import Written
from interp.cli.opening import open_model
from interp.cli.places import announce, claim, default_place, plain
from interp.core.config import Placement
from interp.core.errors import ConfigError

PROSE = {
    "denoise": "Clean activations in the corrupted prompt: 1 restores the clean answer, 0 does nothing.",
    "noise": "Corrupted activations in the clean prompt: 1 makes the corrupted answer, 0 does nothing.",
}


@dataclass(frozen=True, kw_only=True)
class Patch(Written):
    """Exchange activations between clean and corrupted prompts, one place at a time.

    Writes report.html, report.json and each grid (a folder of its name). Positions are those of the
    first prompt: tasks of one template line up.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A bundled model's name, or a folder with a model."""
    task: Annotated[Positional[str], arg(metavar="TASK")]
    """A bundled task's name, or a file of prompts with corrupted twins."""
    what: tuple[Patched, ...] = ("resid_pre", "heads", "mlp_out")
    """Which activations; a grid for each."""
    direction: Direction = "denoise"
    """denoise: clean into corrupted; noise: the reverse."""
    metric: str | None = None
    """What is read of the answers; the task's own."""
    n: int = 8
    """Prompts."""
    seed: int = 0
    """Seed of the prompts."""
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Load, patch, write; returns the exit code."""
        if self.n < 1 or not self.what:
            raise ConfigError("nothing to patch", got=f"--n {self.n} --what {' '.join(self.what)}")
        name = Path(self.model).resolve().name
        place = claim(self.out or default_place(self, name), overwrite=self.overwrite)

        from interp.circuits import patch_activations
        from interp.cli.asking import asked
        from interp.core.store import write_text
        from interp.reports import Item, PageConfig, report

        model = open_model(self.model, self.placement)
        task, (prompts,) = asked(self.task, self.n, self.seed)
        metric = self.metric or task.metric
        grids = [
            patch_activations(model, prompts, metric, what=what, direction=self.direction)
            for what in self.what
        ]
        page = PageConfig(overwrite=self.overwrite, subtitle=f"{name} · {task.name} · {metric}")
        items = [Item(grid, prose=PROSE[self.direction] if i == 0 else "") for i, grid in enumerate(grids)]
        report(items, place / "report.html", title=f"Patching · {task.name}", config=page)
        for what, grid in zip(self.what, grids, strict=True):
            grid.save(place / what, overwrite=self.overwrite)
        config = json.dumps(plain(self), indent=2)
        write_text(place / "config.json", config + "\n", overwrite=self.overwrite)
        print(repr(grids[0]))
        announce(place / "report.html")
        return 0
