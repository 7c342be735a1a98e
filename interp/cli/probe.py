"""`interp probe MODEL LABELS`: what a model's sites say about labels, beside every control."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from interp.cli.config import Written
from interp.cli.opening import open_model
from interp.cli.places import announce, claim, default_place, plain
from interp.core.config import Placement
from interp.probing.config import ProbeConfig

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel
    from interp.probing.syntax.alignment import LabelledTokens


@dataclass(frozen=True, kw_only=True)
class Probe(Written):
    """Probe every layer for labels of words (CoNLL-U, tagged text) or texts (CSV, TSV, JSON).

    Controls are always drawn: shuffled labels, random weights, the majority class, and for words
    the control task. Writes report.html, report.json and the result itself (folder `sweep`).
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A bundled model's name, or a folder with a model."""
    labels: Annotated[Positional[str], arg(metavar="LABELS")]
    """A file with labels, or one that an archive holds: FILE.zip::MEMBER."""
    layer: str | None = None
    """Which labels: upos, xpos, deprel, ... for words, a column for texts; default: the usual."""
    sites: str = "blocks.*.hook_resid_post"
    """Where to read: a site's name or a glob."""
    pool: Literal["first", "last", "mean"] = "last"
    """Which tokens of a word, or of a text, are read."""
    missing: Literal["refuse", "drop"] = "refuse"
    """What a text without a usable label is: an error, or left out."""
    as_text: bool = False
    """Labels of texts are words, whatever they look like."""
    limit: int = 500
    """Sentences or texts to use, from the front of the file for words, spread over it for texts."""
    probing: ProbeConfig = field(default_factory=ProbeConfig)
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Load, align, probe, write; returns the exit code."""
        name = Path(self.model).resolve().name
        place = claim(self.out or default_place(self, name), overwrite=self.overwrite)

        from interp.core.store import write_text
        from interp.probing import sweep_model
        from interp.reports import Item, PageConfig, report

        model = open_model(self.model, self.placement)
        labelled = self._align(model)
        sweep = sweep_model(model, labelled, self.sites, self.probing)
        what = ", ".join(labelled.targets)
        subtitle = f"{name} · {Path(self.labels).name} · {sweep.n_train:,} rows to train, "
        page = PageConfig(overwrite=self.overwrite, subtitle=f"{subtitle}{sweep.n_test:,} to test")
        item = Item(sweep, prose=PROSE)
        report([item], place / "report.html", title=f"Probe · {what}", config=page)
        sweep.save(place / "sweep", overwrite=self.overwrite)
        config = json.dumps(plain(self), indent=2)
        write_text(place / "config.json", config + "\n", overwrite=self.overwrite)
        print(repr(sweep))
        announce(place / "report.html")
        return 0

    def _align(self, model: HookedModel) -> LabelledTokens:
        """The file's labels on the model's tokens."""
        from interp.core.errors import ConfigError
        from interp.core.randomness import permutation
        from interp.probing import align_texts, align_words
        from interp.tasks.files import load_labels
        from interp.tasks.labels import LabelledCorpus

        if self.limit < 2:
            raise ConfigError("too few sentences", got=f"--limit {self.limit}", expected="2 or more")
        file, _, member = self.labels.partition("::")
        how = {"missing": self.missing, "as_text": self.as_text}
        found = load_labels(file, member=member or None, **how)
        if isinstance(found, LabelledCorpus):
            usual = [name for name in ("upos", "pos", "tag") if name in found.layers]
            layer = self.layer or next(iter([*usual, *found.layers]), "labels")
            return align_words(model, found[: self.limit], layer, pool=self.pool, missing="drop")
        found = found.with_labels(self.layer, **how) if self.layer else found
        rows = permutation(len(found), self.probing.seed, "texts to probe")[: self.limit]
        return align_texts(model, found.take(rows.tolist()), pool=self.pool)


PROSE = (
    "Test accuracy (R2 for numbers) of one linear probe per site, with its confidence interval. "
    "Where the control task is as easy as the real one, the probe has learned words by heart; "
    "where random weights do as well, the architecture alone tells; shuffled labels show chance."
)
