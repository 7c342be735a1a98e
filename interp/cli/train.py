"""`interp train`: dictionaries from flags, from a YAML file, or from both."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interp.cli.config import Written, unnested
from interp.cli.opening import open_model
from interp.cli.places import announce, default_place, plain
from interp.core.blocks import names_of, settings_in
from interp.core.config import Placement
from interp.core.errors import ConfigError
from interp.core.foreign import YAML_BYTES, one_line, parse_yaml, read_bytes
from interp.core.settings import check_options
from interp.dictionaries.scores.config import FinetuneConfig
from interp.dictionaries.train_config import TrainConfig

if TYPE_CHECKING:
    from interp.dictionaries.training import DictionaryRun
    from interp.reports import Item

VARIANTS = "dictionaries"
OWN = ("model", "data", "held_out", "out")
"""Texts that a file of options holds beside those of the training."""
FINETUNE = "finetune"


@dataclass(frozen=True, kw_only=True)
class Train(Written):
    """Train dictionaries (SAEs, transcoders) on a model's activations, or on stored ones.

    Writes a run's folder: checkpoints, metrics.jsonl, the dictionaries, report.html, report.json.
    The same command again goes on where an interrupted run stood.
    """

    config: Path | None = None
    """YAML file of the options below, with `model`, `data` and, under `dictionaries`, a list of
    what differs between several that train in one pass; flags win over it."""
    model: str | None = None
    """A bundled model's name, or a folder with a model; not needed for stored activations."""
    data: str | None = None
    """Text (.txt, .jsonl, .json, .parquet, a datasets folder), or a folder of activations."""
    held_out: str | None = None
    """Text to evaluate on afterwards: reconstruction, and what the model loses under splice."""
    finetune: int = 0
    """Afterwards as many steps through the model, on the KL it loses with the dictionary in place;
    the result is written beside the other one, as `<name>-finetuned`."""
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go beside metrics.jsonl."""
    training: TrainConfig = field(default_factory=TrainConfig)
    placement: Placement = field(default_factory=Placement)

    @classmethod
    def arguments(cls, argv: Sequence[str]) -> tuple[list[str], Collection[str]]:
        """Settings in blocks have flags of their own names."""
        taken = {f.name for kind in (cls, Placement) for f in dataclasses.fields(kind)}
        return unnested(argv, TrainConfig, taken), taken

    @classmethod
    def preset(cls, argv: Sequence[str]) -> Train | None:
        """The file named by `--config FILE` as defaults of the flags; None: no file.

        Raises:
            ConfigError: The file cannot be read, or holds an unknown key or a wrong value.
        """
        after = [*argv[1:], ""]
        path = next(
            (
                after[i] if word == "--config" else word.partition("=")[2]
                for i, word in enumerate(argv)
                if word == "--config" or word.startswith("--config=")
            ),
            "",
        )
        if not path:
            return None
        values = read_file(Path(path))
        own = {key: values.pop(key) for key in OWN if key in values}
        _refuse_flags_of_variants(path, values.pop(VARIANTS, None), argv)
        finetune = values.pop(FINETUNE, 0)
        check_options(path, values, [*names_of(TrainConfig), *OWN, VARIANTS, FINETUNE])
        for key, value in own.items():
            if not isinstance(value, str) or "\0" in value:
                raise ConfigError(f"{path}: {key} must be text without NUL", got=repr(value)[:80])
        if type(finetune) is not int:
            raise ConfigError(f"{path}: {FINETUNE} must be a number of steps", got=repr(finetune)[:80])
        given: dict[str, Any] = own | {FINETUNE: finetune}
        if "out" in given:
            given["out"] = Path(given["out"])
        training = TrainConfig.of(values, path)
        return cls(config=Path(path), training=training, **given)

    def run(self) -> int:
        """Load, train or resume, write; returns the exit code."""
        if self.held_out is not None and self.model is None:
            raise ConfigError("held-out text needs a model", got="--held-out without --model")
        if self.data is None:
            raise ConfigError(
                "nothing to train on",
                got="no --data",
                expected="text and --model, or a folder of stored activations",
            )
        configs = self._configs()

        from interp.dictionaries.train_checks import check_configs
        from interp.dictionaries.training import run_training

        check_configs(configs)
        self._check_finetune(configs)
        name = Path(self.model or self.data).resolve().name
        place = self.out or default_place(self, name)
        model = None if self.model is None else open_model(self.model, self.placement)

        from interp.dictionaries.sinks import open_sinks

        sinks = open_sinks(self.log_to, place)
        try:
            made = run_training(
                configs, self.data, model=model, out=place, callbacks=sinks, overwrite=self.overwrite
            )
        finally:
            for sink in sinks:
                sink.finish()
        tuned = self._finetune(made, place, model) if self.finetune else {}
        self._report(made, tuned, configs, place, model)
        return 0

    def _check_finetune(self, configs: list[TrainConfig]) -> None:
        """Refuse what could not be finetuned, before anything is trained."""
        from interp.dictionaries.finetuning import check_finetune
        from interp.dictionaries.sources import is_stored

        if not self.finetune:
            return
        check_finetune(FinetuneConfig(steps=self.finetune), [c.activation for c in configs])
        if self.model is None or is_stored(self.data):
            raise ConfigError(
                "finetuning runs text through the model",
                got="stored activations" if self.model else "no --model",
                expected="--model and --data TEXT",
            )

    def _finetune(self, made: DictionaryRun, place: Path, model: Any) -> dict[str, Any]:
        """Finetune and save every dictionary; it and its report by name."""
        from interp.dictionaries.finetuning import finetune

        config, tuned = FinetuneConfig(steps=self.finetune), {}
        for name, dictionary in made.dictionaries.items():
            label, run = f"{name}-finetuned", place / "finetuning" / name
            found = finetune(dictionary, model, self.data, config, out=run, overwrite=self.overwrite)
            found[0].save(place / "dictionaries" / label, overwrite=True)
            tuned[label] = found
        return tuned

    def _configs(self) -> list[TrainConfig]:
        """One per dictionary: the file's variants over what they share.

        What is shared and not read by a variant's activation is for the others.
        """
        variants = [] if self.config is None else read_file(self.config).get(VARIANTS, [])
        if not isinstance(variants, list):
            raise ConfigError(f"{VARIANTS} must be a list", got=type(variants).__name__)
        where = f"{self.config}: {VARIANTS}"
        for variant in variants:
            TrainConfig.of(variant, where)
        if not variants:
            return [self.training]
        from interp.dictionaries.train_checks import at_defaults, unread

        made = [self.training.changed(variant, where) for variant in variants]
        own = [{name for name, _ in settings_in(TrainConfig, variant)} for variant in variants]
        idle = [set(unread(config)) - said for config, said in zip(made, own, strict=True)]
        by_none = set.intersection(*idle)
        return [at_defaults(config, names - by_none) for config, names in zip(made, idle, strict=True)]

    def _report(
        self, made: DictionaryRun, tuned: dict[str, Any], configs: list[TrainConfig], place: Path, model: Any
    ) -> None:
        from interp.core.store import write_text
        from interp.plotting.rooms.dictionaries_training import dictionary_curves
        from interp.reports import Item, PageConfig, report

        page = PageConfig(overwrite=True, subtitle=f"{self.model or ''} · {self.data}")
        pairs = zip(made.dictionaries.items(), configs, strict=True)
        targets = {n: c.penalty.l0 or (c.k if d.config.k else None) for (n, d), c in pairs}
        items: list[Item] = [Item(dictionary_curves(made.report.records, targets), prose=PROSE)]
        for label, (_, curve) in tuned.items():
            items.append(Item(curve, prose=f"{label}: KL (nats per token) and FVU by step."))
        if self.held_out is not None:
            from interp.dictionaries import evaluate

            all_made = made.dictionaries | {label: found for label, (found, _) in tuned.items()}
            for label, dictionary in all_made.items():
                scores = evaluate(dictionary, model, self.held_out)
                print(f"{label}: {scores!r}")
                items.append(Item(scores, prose=f"Dictionary {label}, on held-out text."))
        report(items, place / "report.html", title="Dictionary training", config=page)
        text = json.dumps(plain(self), indent=2, default=str)
        write_text(place / "command.json", text + "\n", overwrite=True)
        for label, dictionary in made.dictionaries.items():
            last = dictionary.metadata["training"]["last"]
            print(f"{label}: FVU {last['fvu']:.4f}, L0 {last['l0']:.1f}, dead {last['dead']:.0f}")
        for label, (dictionary, _) in tuned.items():
            last = dictionary.metadata["finetuning"]["last"]
            print(f"{label}: FVU {last['fvu']:.4f}, L0 {last['l0']:.1f}, KL {last['kl']:.4f}")
        announce(place / "report.html")


def read_file(path: Path) -> dict[str, Any]:
    """A YAML (or JSON) file of keys and values.

    Raises:
        ConfigError: No such file, not YAML, or no keys and values.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.1 reads 1e-3 as text; people who write it mean the number."""

    number = re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        found = parse_yaml(read_bytes(path, YAML_BYTES), Loader)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(path)[:100]} cannot be read as YAML", got=one_line(error, 200)) from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path} must hold keys and values",
            got=type(found).__name__,
            expected="lines such as `d_sae: 4096`",
        )
    return {str(key): value for key, value in found.items()}


PROSE = (
    "FVU: the share of the activations' variance that the reconstruction leaves. L0: active "
    "latents per token, with the number asked for. Dead: latents that have not fired for the "
    "configured number of rows."
)


def _refuse_flags_of_variants(path: str, variants: Any, argv: Sequence[str]) -> None:
    """Flags win over what the file shares; over what each variant says for itself neither would.

    Raises:
        ConfigError: A flag for a setting that a variant has of its own.
    """
    said = {word.partition("=")[0].replace("_", "-") for word in argv if word.startswith("--")}
    for variant in variants if isinstance(variants, list) else []:
        for key, value in settings_in(TrainConfig, variant) if isinstance(variant, dict) else ():
            flag = f"--{str(key).replace('_', '-')}"
            if said & {flag, f"--no{flag[1:]}"}:
                raise ConfigError(
                    f"{flag} is given, and dictionaries in {path} have {key} of their own",
                    got=f"{key}: {value!r}"[:80],
                    fix="leave the flag out, or take it out of the file's dictionaries",
                )
