"""`interp lens MODEL TEXT`: what each layer would predict, as a page and as numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from interp.cli.config import Written
from interp.cli.opening import open_model
from interp.cli.places import announce, claim, default_place, plain
from interp.core.config import Placement
from interp.core.errors import ConfigError
from interp.lenses.config import LensConfig, TunedLensConfig
from interp.plotting.config import LensColour

if TYPE_CHECKING:
    from interp.lenses.result import LensResult
    from interp.models.hooked import HookedModel


@dataclass(frozen=True, kw_only=True)
class Lens(Written):
    """Read every layer with the model's own head: the logit, tuned or decoder lens.

    Writes report.html, report.json and the result itself (folder `lens`); a tuned lens that was
    trained for it too (folder `tuned_lens`).
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A bundled model's name, or a folder with a model."""
    text: Annotated[Positional[str], arg(metavar="TEXT")]
    """The text to read."""
    truncate: bool = False
    """Cut a text that is longer than the model's context."""
    kind: Literal["logit", "tuned", "decoder"] = "logit"
    """logit: as it is; tuned: through an affine map per layer, given or trained here; decoder:
    an encoder-decoder whose decoder is given each encoder layer in turn."""
    tuned: Path | None = None
    """A saved tuned lens for this model."""
    train_on: Path | None = None
    """Text to train a tuned lens on: .txt, .jsonl, .json, .parquet or a datasets folder."""
    colour: LensColour | None = None
    """What the colours show: the answer's probability or rank, the top token's, entropy, KL."""
    reading: LensConfig = field(default_factory=LensConfig)
    training: TunedLensConfig = field(default_factory=TunedLensConfig)
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Load, read, write; returns the exit code."""
        self._check()
        name = Path(self.model).resolve().name
        place = claim(self.out or default_place(self, name), overwrite=self.overwrite)

        from interp.core.store import write_text
        from interp.reports import Item, PageConfig, report

        model = open_model(self.model, self.placement)
        lens = self._read(model, place)
        plot = {"colour": self.colour} if self.colour else {}
        page = PageConfig(overwrite=self.overwrite, subtitle=f"{name} · {self.text[:200]}")
        item = Item(lens, prose=PROSE[self.kind], plot=plot)
        title = f"{self.kind.capitalize()} lens · {name}"
        report([item], place / "report.html", title=title, config=page)
        lens.save(place / "lens", overwrite=self.overwrite)
        config = json.dumps(plain(self), indent=2)
        write_text(place / "config.json", config + "\n", overwrite=self.overwrite)
        print(repr(lens))
        announce(place / "report.html")
        return 0

    def _check(self) -> None:
        """Refuse options that contradict each other, before anything is read.

        Raises:
            ConfigError: A tuned lens without a folder or text, both, or for the logit lens.
        """
        given = [o for o, v in (("--tuned", self.tuned), ("--train-on", self.train_on)) if v]
        if self.kind != "tuned" and given:
            raise ConfigError(f"the {self.kind} lens is not trained", got=" ".join(given), fix="--kind tuned")
        if self.kind == "tuned" and len(given) != 1:
            raise ConfigError(
                "a tuned lens is either given or trained here",
                got=" and ".join(given) or "neither",
                expected="--tuned FOLDER, or --train-on TEXT",
            )
        if self.kind != "logit" and self.reading.components != "resid":
            raise ConfigError(
                f"a {self.kind} lens reads the residual stream",
                got=f"--components {self.reading.components}",
                fix="--components resid",
            )

    def _read(self, model: HookedModel, place: Path) -> LensResult:
        """The lens asked for; one that was trained here is saved beside it."""
        from interp.lenses import decoder_lens, logit_lens, train_tuned_lens, tuned_lens

        text = model.read(self.text, truncate=True) if self.truncate else self.text
        if self.kind == "logit":
            return logit_lens(model, text, **asdict(self.reading))
        told = {"k": self.reading.k, "target": self.reading.target}
        if self.kind == "decoder":
            return decoder_lens(model, text, **told)
        if self.tuned is not None:
            return tuned_lens(model, text, self.tuned, **told)
        lens, history = train_tuned_lens(model, self.train_on, self.training)
        result = tuned_lens(model, text, lens, **told)
        lens.save(place / "tuned_lens", overwrite=self.overwrite)
        print(f"trained in {history.seconds:.0f} s: {place / 'tuned_lens'}")
        return result


PROSE = {
    "logit": (
        "Each row reads the residual stream after one layer with the model's final norm and "
        "unembedding, as if the model stopped there; the top row is the model's own output. "
        "A cell's text is the most likely token to come next."
    ),
    "tuned": (
        "Each row reads the residual stream after one layer through an affine map that was trained "
        "to make the model's own head say what the model finally says (Belrose et al. 2023); the "
        "top row is the model's own output. A cell's text is the most likely token to come next."
    ),
    "decoder": (
        "Each row gives the whole decoder one encoder layer, through the encoder's final norm, in "
        "place of the encoder's output (Langedijk et al. 2024); the top row is the model's own. "
        "Columns are the decoder's tokens, cells what it says next."
    ),
}
