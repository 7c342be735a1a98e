"""`interp evaluate MODEL TEXT DICTIONARY...`: how good dictionaries are, on held-out text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from interp.cli.config import Written
from interp.cli.opening import open_model
from interp.cli.places import announce, claim, default_place, plain
from interp.core.config import Placement
from interp.dictionaries.scores.config import EvaluationConfig

if TYPE_CHECKING:
    from interp.dictionaries.dictionary import Dictionary
    from interp.dictionaries.result import DictionaryReport
    from interp.reports import Item

SHOWN = {
    "l0": "L0",
    "explained_variance": "explained variance",
    "ce_recovered": "CE recovered",
    "kl_recovered": "KL recovered",
    "dead": "dead",
    "dense": "dense",
    "cosine": "cosine",
    "norm_ratio": "norm ratio",
}
"""Score -> heading of its column."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Written):
    """Evaluate dictionaries of one model on text they were not trained on.

    Measures sparsity, reconstruction, dead and dense latents, and the model's loss with the
    reconstruction in place, against zero and mean ablation. Prints a table; writes report.html,
    report.json, scores.json and every result (folders `evaluation-N`).
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A bundled model's name, or a folder with a model."""
    text: Annotated[Positional[Path], arg(metavar="TEXT")]
    """Text: .txt, .jsonl, .json, .parquet or a datasets folder."""
    dictionaries: Annotated[Positional[tuple[str, ...]], arg(metavar="DICTIONARY")]
    """Folders with dictionaries, of any layout that `interp convert` reads."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Load, evaluate, write; returns the exit code."""
        name = Path(self.model).resolve().name
        place = claim(self.out or default_place(self, name), overwrite=self.overwrite)

        from interp.core.store import write_text
        from interp.dictionaries import evaluate
        from interp.reports import PageConfig, report

        loaded = self._load()
        model = open_model(self.model, self.placement)
        reports = {
            key: evaluate(dictionary, model, self.text, self.evaluation) for key, dictionary in loaded.items()
        }
        n = next(iter(reports.values())).n_tokens
        subtitle = f"{name} · {self.text.name} · {n:,} tokens"
        page = PageConfig(overwrite=self.overwrite, subtitle=subtitle)
        report(self._page(reports), place / "report.html", title="Dictionaries", config=page)
        for i, result in enumerate(reports.values()):
            result.save(place / f"evaluation-{i}", overwrite=self.overwrite)
        scores = {key: result.summary() for key, result in reports.items()}
        for file, content in (("scores.json", scores), ("config.json", plain(self))):
            text = json.dumps(content, indent=2) + "\n"
            write_text(place / file, text, overwrite=self.overwrite)
        print(_aligned([["dictionary", *SHOWN.values()], *_rows(reports)]))
        announce(place / "report.html")
        return 0

    def _load(self) -> dict[str, Dictionary]:
        """The dictionaries by the shortest names that tell them apart."""
        from interp.core.errors import ConfigError
        from interp.dictionaries.formats import load

        if not self.dictionaries:
            raise ConfigError("no dictionary to evaluate", expected="one or more folders after the text")
        if len(set(self.dictionaries)) < len(self.dictionaries):
            raise ConfigError("a dictionary is named twice", got=" ".join(self.dictionaries))
        last = [Path(source).name for source in self.dictionaries]
        names = last if len(set(last)) == len(last) else list(self.dictionaries)
        strict = self.evaluation.strict
        return {
            name: load(source, strict=strict) for name, source in zip(names, self.dictionaries, strict=True)
        }

    def _page(self, reports: dict[str, DictionaryReport]) -> list[Item]:
        """Table, frontier of several, one histogram each."""
        from interp.plotting.rooms.dictionaries import dictionary_frontier
        from interp.reports import Item, Table

        table = Table(["dictionary", *SHOWN.values()], _rows(reports))
        items = [Item(table, title="Scores", prose=PROSE)]
        if len(reports) > 1:
            families: dict[str, list[DictionaryReport]] = {}
            for result in reports.values():
                families.setdefault(_family(result), []).append(result)
            with_losses = all(result.ce is not None for result in reports.values())
            measure = "ce_recovered" if with_losses else "explained_variance"
            items.append(Item(dictionary_frontier(families, measure)))
        return [*items, *(Item(result, title=key) for key, result in reports.items())]


def _family(result: DictionaryReport) -> str:
    """What belongs on one line of the frontier."""
    return f"{result.architecture}, {len(result.density):,} latents, {result.site_out}"


def _rows(reports: dict[str, DictionaryReport]) -> list[list[object]]:
    """One row per dictionary; four digits."""
    found = []
    for key, result in reports.items():
        scores = result.summary()
        values = [scores[name] for name in SHOWN]
        found.append([key, *(round(v, 4) if isinstance(v, float) else v for v in values)])
    return found


def _aligned(rows: list[list[object]]) -> str:
    """Columns of text, numbers to the right."""
    cells = [["-" if value is None else str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


PROSE = (
    "L0: latents active per token. Explained variance: 1 - sum of squared errors over the sum of "
    "squares around the mean. CE recovered: how much of what mean ablation of the site costs is "
    "won back with the reconstruction in place, 1 = all. Dead latents never fired on this text. "
    "BOS tokens count in nothing and keep their own activation."
)
