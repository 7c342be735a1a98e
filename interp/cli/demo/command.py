"""The demo command: find a model, ask every section for its part, write one page."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from interp.cli.config import Common
from interp.cli.places import announce, claim
from interp.core.config import Placement

if TYPE_CHECKING:
    from collections.abc import Callable

    from interp.cli.demo.scene import Scene
    from interp.reports import Section

DEFAULT_OUT = Path("interp-demo")


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """From nothing to one page: the bundled model, or one of yours.

    Writes report.html and report.json.
    """

    model: str | None = None
    """A folder with a model; nothing takes the bundled one."""
    text: str | None = None
    """What the model reads."""
    truncate: bool = False
    """Cut a text that is longer than the model's context."""
    out: Path = DEFAULT_OUT
    """Folder to write. The default is replaced by the next demo; any other must be new or empty."""
    overwrite: bool = False
    """Replace what an earlier run wrote there."""
    seed: int = 0
    """Seed of what is drawn and trained for the page."""
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Make the page; returns the exit code."""
        overwrite = self.overwrite or self.out == DEFAULT_OUT
        place = claim(self.out, overwrite=overwrite)

        from interp.cli.demo.scene import set_scene
        from interp.reports import PageConfig, report

        scene = set_scene(self.model, self.text, self.seed, self.placement, truncate=self.truncate)
        parts = []
        for make in sections():
            start = time.perf_counter()
            part = make(scene)
            if part is not None:
                parts.append(part)
                print(f"{part.title:<48} {time.perf_counter() - start:5.1f} s")
        page = PageConfig(overwrite=overwrite, subtitle=scene.subtitle, summary=scene.summary)
        report(parts, place / "report.html", title="interp · demo", config=page)
        announce(place / "report.html")
        return 0


def sections() -> list[Callable[[Scene], Section | None]]:
    """Every section in the order of the page; one that has nothing to say here returns None."""
    from interp.cli.demo.attention import attention
    from interp.cli.demo.attribution import attribution
    from interp.cli.demo.behaviours import behaviours
    from interp.cli.demo.circuit import circuit
    from interp.cli.demo.dictionary import dictionary
    from interp.cli.demo.head_map import head_map
    from interp.cli.demo.parts import parts
    from interp.cli.demo.probing import probing
    from interp.cli.demo.residual import residual
    from interp.cli.demo.training import training
    from interp.cli.demo.tuned import tuned
    from interp.cli.demo.weights import weights

    return [
        behaviours,
        residual,
        tuned,
        parts,
        head_map,
        attention,
        attribution,
        circuit,
        weights,
        probing,
        dictionary,
        training,
    ]
