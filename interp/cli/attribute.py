"""`interp attribute MODEL --text/--file`: which tokens did it, by many methods, on one page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
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
    from interp.models.hooked import HookedModel

RECORDS, CONFIG, PAGE = "examples.jsonl", "config.json", "report.html"
Texts = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Attribute(Written):
    """Which tokens made the answer, by several methods, with tests of faithfulness.

    Writes report.html and report.json; an interrupted run goes on where it stopped.
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
        name = Path(self.model).resolve().name
        place = self.out or default_place(self, name)
        asked = {k: v for k, v in plain(self).items() if k not in ("overwrite", "out", "debug")}
        wanted = json.dumps(asked, indent=2) + "\n"
        rows = self._rows()
        done = self._resumed(place, wanted)

        from interp.activations.bar import Bar
        from interp.cli.attribute_page import generated_record, pair_record, text_record, write_page
        from interp.core.store import append, write_text

        model = open_model(self.model, self.placement)
        if self.generate and (self.pairs or self.at or not model.cfg.causal):
            raise ConfigError(
                "--generate needs a language model, attributed at its embeddings",
                got=f"{name}, --generate {self.generate}",
            )
        write_text(place / CONFIG, wanted, overwrite=True)
        baseline = self.baseline if self.baseline != "auto" else _baseline(model, self.pairs)
        aim = None if self.pairs else self._aim(model)
        for index in Bar(range(done, len(rows)), initial=done, total=len(rows), unit="text"):
            row = rows[index][: 2 if self.pairs else 1]
            # What is read: the text, or as many of its tokens as fit.
            read = [model.read(text, truncate=True) if self.truncate else text for text in row]
            if self.pairs:
                record = pair_record(model, read[:2], baseline, self.at)
            else:
                record = text_record(model, read[0], aim, self.methods, baseline, self.at)
                if self.generate:
                    record["generated"] = generated_record(
                        model, read[0], self.generate, self.methods[0], baseline
                    )
            record["text"] = " | ".join(row)
            append(place / RECORDS, record)
        write_page(place, f"{name} · {len(rows)} {'pairs' if self.pairs else 'texts'}", self.pairs)
        announce(place / PAGE)
        return 0

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
        short = next((row for row in found if len(row) < need), None)
        if not found or short is not None:
            raise ConfigError(
                "an example lacks its texts" if found else "nothing to read",
                got=short or str(self.file),
                expected=f"{need} column(s) of text per row",
            )
        kept = min(self.limit, len(found))
        return [found[i * len(found) // kept] for i in range(kept)]

    def _resumed(self, place: Path, wanted: str) -> int:
        """How many examples an interrupted run of the same question has left in `place`."""
        from interp.core.store import read_jsonl

        same = (place / CONFIG).exists() and (place / CONFIG).read_text() == wanted
        if same and (place / RECORDS).exists() and not (place / PAGE).exists():
            return len(read_jsonl(place / RECORDS))
        claim(place, overwrite=self.overwrite)
        if (place / RECORDS).exists():
            from interp.core.store import write_text

            write_text(place / RECORDS, "", overwrite=True)
        return 0

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


def _baseline(model: HookedModel, pairs: bool) -> str:
    """A token that stands for absence, where the tokenizer has one."""
    order = ("pad", "mask", "unk") if pairs else ("mask", "unk", "pad")
    for name in order:
        if getattr(model.tokenizer, f"{name}_token_id", None) is not None:
            return name
    return "mean"
