"""`interp attribute MODEL --text/--file`: which tokens did it, by many methods, on one page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from interp.attribution.config import Method
from interp.cli.config import Written
from interp.cli.opening import open_model
from interp.cli.places import announce, claim, default_place, plain
from interp.core.config import Placement
from interp.core.errors import ConfigError
from interp.core.foreign import TEXT_BYTES, one_line, read_bytes

if TYPE_CHECKING:
    from interp.attribution import Attribution, Faithfulness, GeneratedAttribution
    from interp.cli.attribute_page import Page
    from interp.models.hooked import HookedModel

RESULTS, CONFIG, PAGE = "results", "config.json", "report.html"
Texts = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Attribute(Written):
    """Which tokens made the answer, by several methods, with tests of faithfulness.

    Writes report.html, report.json (its numbers) and every result as a folder for `Result.load`:
    results/0001/METHOD (or pair), results/0001/faithfulness and generated for the first text, and
    over all texts results/agreement and results/faithfulness. An interrupted run goes on.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A bundled model's name, or a folder with a model."""
    text: tuple[str, ...] = ()
    """Texts to read; two with --pairs."""
    file: Path | None = None
    """One text per line (.txt), or the first columns of a .tsv or .csv."""
    truncate: bool = False
    """Cut texts that are longer than the model's context."""
    methods: tuple[Method, ...] = ("integrated_gradients", "deeplift", "gradient_x_input", "shapley")
    """Methods to compare."""
    target: str | None = None
    """Token whose logit is attributed, or "loss"; the model's own likeliest answer when absent."""
    head: Path | None = None
    """For encoders: a .tsv of texts and labels on which a linear head is fitted first."""
    pairs: bool = False
    """Attribute the similarity of two texts per row to pairs of tokens (encoders)."""
    baseline: str = "auto"
    """zero, mean, pad, mask, unk; auto takes the tokenizer's unknown, mask or pad token."""
    at: str | None = None
    """Site; the token embeddings when absent (pairs: the input of the last block but one)."""
    generate: int = 0
    """Language models: also attribute so many tokens that the model writes, source x generated."""
    limit: int = 1_000
    """Read at most so many examples, spread evenly over the file."""
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Load, attribute, write; returns the exit code."""
        self._check()
        name = Path(self.model).resolve().name
        place = self.out or default_place(self, name)
        rows = self._rows()
        asked = {k: v for k, v in plain(self).items() if k not in ("overwrite", "out", "debug")}
        asked["texts"] = blake2b(repr(rows).encode(), digest_size=8).hexdigest()
        wanted = json.dumps(asked, indent=2) + "\n"
        goes_on = _was_interrupted(place, wanted)
        if not goes_on:
            claim(place, overwrite=self.overwrite)

        from interp.core.store import withdraw, write_text
        from interp.reports import PageConfig, report

        model = open_model(self.model, self.placement)
        if self.generate and (self.at or not model.cfg.causal):
            raise ConfigError(
                "--generate needs a language model, attributed at its embeddings",
                got=f"{name}, --generate {self.generate}",
            )
        if not goes_on:
            for manifest in sorted(place.glob(f"{RESULTS}/**/manifest.json")):
                withdraw(manifest.parents[1], [manifest.parent])
        write_text(place / CONFIG, wanted, overwrite=True)
        page = (self._pairs if self.pairs else self._texts)(model, rows, place / RESULTS)
        config = PageConfig(f"{name} · {page.subtitle}", page.prose, overwrite=True)
        report(page.sections, place / PAGE, page.title, config)
        announce(place / PAGE)
        return 0

    def _check(self) -> None:
        """Refuse options that contradict each other, before anything is read.

        Raises:
            ConfigError: No method, two targets, or a target of pairs.
        """
        if not self.methods:
            raise ConfigError("at least one method is needed", got="--methods", fix="--methods deeplift")
        given = {"--target": self.target, "--head": self.head, "--generate": self.generate}
        aims = " ".join(option for option, value in given.items() if value)
        if self.pairs and aims:
            raise ConfigError("what is attributed of pairs is their similarity", got=f"--pairs {aims}")
        if self.target and self.head:
            raise ConfigError("one target is attributed", got="--target and --head")

    def _texts(self, model: HookedModel, rows: Sequence[Texts], place: Path) -> Page:
        """Every text by every method, judged, and what the model writes after it where asked."""
        from interp.activations.bar import Bar
        from interp.attribution import (
            TrustConfig,
            attribute,
            attribute_generated,
            compare_methods,
            measure_faithfulness,
            pool_faithfulness,
        )
        from interp.cli.attribute_page import text_page

        baseline, aim = self._absence(model), self._aim(model)
        options = {"baseline": baseline, "site": self.at}
        found: dict[str, list[Attribution]] = {method: [] for method in self.methods}
        judged: list[Faithfulness] = []
        written: list[GeneratedAttribution] = []
        for index, (text, *_) in enumerate(Bar(rows, unit="text")):
            folder, read = place / f"{index + 1:04d}", self._cut(model, text)
            target = aim(read)
            for method, ones in found.items():
                ones.append(_kept(folder / method, attribute, model, read, target, method=method, **options))
            whole = {m: ones[-1:] for m, ones in found.items() if ones[-1].unit_scores is None}
            if whole and len(found[self.methods[0]][-1].tokens) > 1:
                told = {**options, "config": TrustConfig(seed=index)}  # each text its own random order
                judged.append(
                    _kept(folder / "faithfulness", measure_faithfulness, model, [read], target, whole, **told)
                )
            if self.generate:
                told = {"method": self.methods[0], "baseline": baseline}
                written.append(
                    _kept(folder / "generated", attribute_generated, model, read, self.generate, **told)
                )
        alike = _kept(place / "agreement", compare_methods, found) if len(found) > 1 else None
        trust = _kept(place / "faithfulness", pool_faithfulness, judged) if judged else None
        return text_page([text for text, *_ in rows], found, written, alike, trust)

    def _pairs(self, model: HookedModel, rows: Sequence[Texts], place: Path) -> Page:
        """The similarity of every pair."""
        from interp.activations.bar import Bar
        from interp.attribution import attribute_pair
        from interp.cli.attribute_page import pair_page

        options = {"reference": self._absence(model), "site": self.at}
        found = []
        for index, (a, b, *_) in enumerate(Bar(rows, unit="pair")):
            read = self._cut(model, a), self._cut(model, b)
            found.append(_kept(place / f"{index + 1:04d}" / "pair", attribute_pair, model, *read, **options))
        return pair_page([f"{a} | {b}" for a, b, *_ in rows], found)

    def _cut(self, model: HookedModel, text: str) -> Any:
        """What is read: the text, or as many of its tokens as fit."""
        return model.read(text, truncate=True) if self.truncate else text

    def _absence(self, model: HookedModel) -> str:
        """The baseline asked for, or a token that stands for absence where the tokenizer has one."""
        if self.baseline != "auto":
            return self.baseline
        for name in ("pad", "mask", "unk") if self.pairs else ("mask", "unk", "pad"):
            if getattr(model.tokenizer, f"{name}_token_id", None) is not None:
                return name
        return "mean"

    def _rows(self) -> list[Texts]:
        """The examples, [columns] each, chosen evenly from the file."""
        need = 2 if self.pairs else 1
        if self.limit < 1:
            raise ConfigError("at least one example is read", got=f"--limit {self.limit}")
        if (self.file is None) == (not self.text):
            raise ConfigError("one of --text and --file is needed", fix="--text 'Once upon a time'")
        if self.file is not None:
            found = read_rows(self.file)
        else:
            found = [self.text] if self.pairs else [(text,) for text in self.text]
        if self.pairs and len(self.text) > need:
            raise ConfigError("a pair has two texts", got=f"--text with {len(self.text)}", fix="--file")
        short = next((row for row in found if len(row) < need), None)
        if not found or short is not None:
            raise ConfigError(
                "an example lacks its texts" if found else "nothing to read",
                got=short or str(self.file),
                expected=f"{need} column(s) of text per row",
            )
        kept = min(self.limit, len(found))
        return [found[i * len(found) // kept] for i in range(kept)]

    def _aim(self, model: HookedModel) -> Callable[[Any], Any]:
        """What is read -> target."""
        if self.head is not None:
            from interp.attribution.heads import linear_head

            rows = read_rows(self.head)
            rows = rows[:: max(1, len(rows) // 600)]
            head, accuracy = linear_head(model, [r[0] for r in rows], [int(r[1]) for r in rows])
            print(f"linear head fitted on {len(rows)} texts, accuracy there {accuracy:.2f}")
            return lambda text: head
        if self.target == "loss":
            from interp.models.stream.target import text_loss

            return lambda text: text_loss(model.read(text).ids[0].to(model.device))
        return lambda text: self.target


def _was_interrupted(place: Path, wanted: str) -> bool:
    """Whether `place` holds results of the same question, and no page yet."""
    config = place / CONFIG
    return config.exists() and config.read_text() == wanted and not (place / PAGE).exists()


def _kept(folder: Path, make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The result that an interrupted run left there, or the one made now, saved there."""
    from interp.core.result import Result

    if folder.exists():
        return Result.load(folder)
    found = make(*args, **options)
    found.save(folder)
    return found


def read_rows(path: Path) -> list[Texts]:
    """Rows of a .txt (one column), .tsv or .csv file; empty lines are left out.

    Raises:
        ConfigError: The file cannot be read as text.
    """
    try:
        data = read_bytes(path, TEXT_BYTES).decode("utf-8")
        with io.StringIO(data, newline="") as file:
            if path.suffix == ".txt":
                return [(line.strip(),) for line in file if line.strip()]
            quoting = csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL
            mark = "\t" if path.suffix == ".tsv" else ","
            return [tuple(row) for row in csv.reader(file, delimiter=mark, quoting=quoting) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError("cannot read the texts", got=path, fix=one_line(error)) from error
