"""`interp circuit MODEL TASK`: the edges that carry an answer, measured, as a page and as files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from interp.circuits.config import Ablation, EdgeMethod, PathNodes, Select
from interp.cli.config import Written
from interp.cli.opening import open_model
from interp.cli.places import announce, claim, default_place, plain
from interp.core.config import Placement
from interp.core.errors import ConfigError

PROSE = (
    "Every edge is what one part of the model adds to what another part reads. Edges are ranked on "
    "some prompts; the curve measures circuits of the largest on others, beside random circuits of "
    "as many edges, and what is left of the model without them."
)


@dataclass(frozen=True, kw_only=True)
class CircuitOf(Written):
    """Find the edges of a model that carry a task's answer, and measure circuits made of them.

    Writes report.html, report.json, and the scores, the circuit and the curve (folders `scores`,
    `circuit`, `curve`).
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A bundled model's name, or a folder with a model."""
    task: Annotated[Positional[str], arg(metavar="TASK")]
    """A bundled task's name, or a file of prompts with corrupted twins."""
    method: EdgeMethod = "eap_ig"
    """How edges are scored; `exact` measures every one."""
    ablation: Ablation = "resample"
    """What an edge outside the circuit carries."""
    metric: str | None = None
    """What is read of the answers; the task's own."""
    n: int = 20
    """Prompts to score on; as many others to measure on."""
    seed: int = 0
    """Seed of the prompts and of random circuits."""
    steps: int | None = None
    """Nodes on the path, of eap_ig and mask_gradient."""
    nodes: PathNodes | None = None
    """Where they lie."""
    how: Select = "top"
    """How circuits are chosen."""
    edges: int | None = None
    """Edges of the circuit that is drawn; the smallest measured one of faithfulness .85."""
    n_random: int = 50
    """Random circuits per size."""
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Load, score, measure, write; returns the exit code."""
        if self.n < 1:
            raise ConfigError("a circuit needs prompts", got=f"--n {self.n}")
        name = Path(self.model).resolve().name
        place = claim(self.out or default_place(self, name), overwrite=self.overwrite)

        from interp.circuits import faithfulness_curve, score_edges, select_edges
        from interp.cli.asking import asked
        from interp.core.store import write_text
        from interp.reports import Item, PageConfig, report

        model = open_model(self.model, self.placement)
        task, (found_on, measured_on) = asked(self.task, self.n, self.seed, sets=2)
        metric = self.metric or task.metric
        scores = score_edges(
            model,
            found_on,
            metric,
            method=self.method,
            ablation=self.ablation,
            steps=self.steps,
            nodes=self.nodes,
        )
        curve = faithfulness_curve(
            model,
            measured_on,
            scores,
            target=metric,
            how=self.how,
            ablation=self.ablation,
            n_random=self.n_random,
            seed=self.seed,
        )
        total = int(scores.possible.sum())
        size = self.edges or curve.smallest() or max(1, total // 5)
        circuit = select_edges(scores, size, how=self.how)
        page = PageConfig(overwrite=self.overwrite, subtitle=f"{name} · {task.name} · {metric}")
        items = [Item(circuit, prose=PROSE), Item(curve), Item(scores)]
        report(items, place / "report.html", title=f"Circuit · {task.name}", config=page)
        for folder, result in (("scores", scores), ("circuit", circuit), ("curve", curve)):
            result.save(place / folder, overwrite=self.overwrite)
        config = json.dumps(plain(self), indent=2)
        write_text(place / "config.json", config + "\n", overwrite=self.overwrite)
        print(repr(curve))
        announce(place / "report.html")
        return 0
