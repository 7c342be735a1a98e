"""`interp convert IN OUT`: dictionaries of other libraries as our own, and ours as theirs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from interp.cli.config import Common
from interp.cli.opening import open_model
from interp.cli.places import announce, claim
from interp.core.config import Placement
from interp.core.errors import ConfigError

if TYPE_CHECKING:
    from interp.dictionaries.dictionary import Dictionary


@dataclass(frozen=True, kw_only=True)
class Convert(Common):
    """Read a dictionary of any known layout and write it as another.

    Reads folders of interp, sae-lens, sparsify, dictionary_learning, circuit-tracer and Gemma
    Scope, RELEASE/ID of sae-lens's registry, and a folder with one dictionary per layer.
    """

    source: Annotated[Positional[str], arg(metavar="IN")]
    """A folder or file with a dictionary, or RELEASE/ID."""
    destination: Annotated[Positional[Path], arg(metavar="OUT")]
    """The folder to write."""
    to: Literal["native", "jumprelu", "circuit-tracer"] = "native"
    """native: interp's layout, which sae-lens reads; jumprelu: the same, TopK replaced by
    thresholds measured on text; circuit-tracer: a set of transcoders, one per layer."""
    site_in: str | None = None
    """Where it reads, if the file does not say."""
    site_out: str | None = None
    """Where it writes, if the file does not say."""
    lenient: bool = False
    """Note what cannot be converted exactly, instead of refusing it."""
    allow_download: bool = False
    """Fetch a registered dictionary that is not in the cache."""
    model: str | None = None
    """With --to jumprelu: the model it was made for."""
    data: Path | None = None
    """With --to jumprelu: text to measure thresholds on."""
    rows: int = 16384
    """With --to jumprelu: tokens of the text, about; fewer where it has fewer."""
    model_name: str | None = None
    """With --to circuit-tracer: the model's name on the hub."""
    overwrite: bool = False
    """Replace what an earlier run wrote there."""
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Read, change, write; returns the exit code."""
        wants_text = self.to == "jumprelu"
        given = [self.model is not None, self.data is not None]
        if not all(given) if wants_text else any(given):
            raise ConfigError(
                "thresholds are measured on a model's activations"
                if wants_text
                else "--model and --data belong to --to jumprelu",
                got=f"--to {self.to}, --model {self.model}, --data {self.data}",
                expected="--to jumprelu --model MODEL --data TEXT",
            )
        claim(self.destination, overwrite=self.overwrite)
        found = self._read()
        if wants_text:
            found = self._calibrated(found)
        self._write(found)
        for one in found:
            print(describe(one))
        announce(self.destination)
        return 0

    def _read(self) -> list[Dictionary]:
        """One dictionary, or one per layer."""
        from interp.dictionaries.formats import load, load_all

        settings = {"strict": not self.lenient, "site_in": self.site_in, "site_out": self.site_out}
        many = load_all(self.source, strict=not self.lenient)
        if many is None:
            return [load(self.source, allow_download=self.allow_download, **settings)]
        if self.site_in or self.site_out:
            raise ConfigError(
                "one site cannot be that of several dictionaries",
                got=f"{len(many)} dictionaries in {self.source}",
                fix="convert them one by one",
            )
        return many

    def _calibrated(self, found: list[Dictionary]) -> list[Dictionary]:
        """With thresholds in place of TopK, all measured on the same tokens."""
        from interp.activations import StreamConfig, TextConfig, tokenize_texts
        from interp.activations.stream import ActivationStream
        from interp.dictionaries.formats import to_jumprelu

        model = open_model(self.model or "", self.placement)
        for one in found:
            one.for_model(model, strict=not self.lenient)
        n_ctx = min(model.cfg.n_ctx or 128, 128)
        text = TextConfig(n_ctx=n_ctx, max_sequences=-(-self.rows // n_ctx))
        tokens = tokenize_texts(model, self.data, text)
        sites = sorted({one.site_in for one in found})
        n = len(ActivationStream(model, sites, tokens, StreamConfig(batch_size=1)))
        whole = StreamConfig(batch_size=min(self.rows, n), buffer_sequences=len(tokens))
        batch = ActivationStream(model, sites, tokens, whole).batch(0)
        return [to_jumprelu(one, batch[one.site_in]) for one in found]

    def _write(self, found: list[Dictionary]) -> None:
        from interp.dictionaries.formats import save, save_transcoders

        if self.to == "circuit-tracer":
            save_transcoders(found, self.destination, model_name=self.model_name, overwrite=self.overwrite)
        elif len(found) == 1:
            save(found[0], self.destination, overwrite=self.overwrite)
        else:
            self._write_all(found)

    def _write_all(self, found: list[Dictionary]) -> None:
        """One folder for each, all or none where the destination is new."""
        from interp.core.store import withdraw
        from interp.dictionaries.formats import save

        new, done = not self.destination.exists(), []
        try:
            for i, one in enumerate(found):
                place = self.destination / f"layer_{i}"
                save(one, place, overwrite=self.overwrite)
                done.append(place)
        except BaseException:
            if new:
                withdraw(self.destination, done)
            raise


def describe(one: Dictionary) -> str:
    """A dictionary in one line: what it is, where it belongs, and what could not be known."""
    config = one.config
    kind = "transcoder" if config.is_transcoder else "SAE"
    place = " -> ".join(dict.fromkeys(filter(None, (one.site_in, one.site_out)))) or "no site"
    k = f", k {config.k:g}" if config.k is not None else ""
    notes = () if one.provenance is None else one.provenance.notes
    line = f"{config.activation} {kind} at {place}: {config.d_in} -> {config.d_sae}{k}"
    return "\n".join([line, *(f"  note: {note}" for note in notes)])
