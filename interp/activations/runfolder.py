"""A training on disk: `<run>/{config.json, env.json, metrics.jsonl, checkpoints/step_N/}`.

A checkpoint is complete or it is not there (`core.store` commits it by one rename), so whatever
kills the process, the newest `step_N` that verifies is the state to go on from.
"""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from interp.activations.config import FitConfig
from interp.activations.state import groups_of, load_moments, load_weights, moments_of, weights_of
from interp.core import store
from interp.core.errors import ConfigError, CorruptArtefact, DataWarning, StorageError
from interp.core.finite import check_finite
from interp.core.foreign import read_json, reason, show
from interp.core.provenance import versions
from interp.core.settings import check_choice

Resume = Literal["auto", "never", "must"]
SCHEMA = "fit-checkpoint/1"
NEUTRAL = {"checkpoint_seconds", "checkpoint_fraction", "keep_last", "overwrite"}
"""Settings that a run may change when it resumes: they do not touch the numbers."""

PLAN = "plan"
"""Group of a record, under `data`, that says all that decides what the batches hold."""


@dataclass
class Progress:
    """What a checkpoint knows beside tensors.

    Attributes:
        step: Completed steps; the next batch is batch `step`.
        seconds: Time spent training so far, over all processes.
        skipped: Steps left out because they were not finite.
        in_a_row: How many of these came last without a finite one between.
        records: The lines of metrics.jsonl before `step`.
    """

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    in_a_row: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)


def _progress(state: Any, folder: Path) -> Progress:
    """What a checkpoint says of itself, as far as it can be so.

    Raises:
        CorruptArtefact: Other entries, other types, or the number of another step.
    """
    said = {k: v for k, v in state.items() if k != "groups"} if isinstance(state, dict) else {}
    counts = ("step", "skipped", "in_a_row")
    whole = all(type(said.get(k)) is int and said[k] >= 0 for k in counts)
    seconds = said.get("seconds")
    fits = set(said) == {*counts, "seconds"} and isinstance(seconds, int | float) and seconds >= 0
    groups = state.get("groups") if isinstance(state, dict) else None
    if not (whole and fits and f"step_{said['step']}" == folder.name and isinstance(groups, list)):
        raise CorruptArtefact(
            f"{folder} holds no checkpoint of this step",
            got=show(json.dumps(state), 200),
            expected="the counts that a run writes",
        )
    return Progress(**said)


class RunFolder:
    """One run's folder, held under its lock. Made by `open_run`.

    Every fresh start draws an identity, kept in config.json and in each checkpoint, so what an
    overwritten run left behind is never taken for this one's; it goes with the first commit.
    """

    def __init__(self, path: Path, keep_last: int, identity: str) -> None:
        self.path = path
        self.keep_last = keep_last
        self.identity = identity
        self.checkpoints: Path = path / "checkpoints"

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load the newest checkpoint that verifies and cut metrics.jsonl back to its step.

        Raises:
            CorruptArtefact: There are checkpoints and none verifies.
            ConfigError: The stored tensors are not those of this module.
        """
        progress = Progress()
        damage: CorruptArtefact | None = None
        for folder in reversed(self._candidates(self.identity, None)):
            try:
                stored = store.open_artefact(folder, schema=SCHEMA)
            except CorruptArtefact as error:
                damage = error
                continue
            state = stored.json("state.json")
            progress = _progress(state, folder)
            weights = stored.tensors("weights.safetensors")
            moments = stored.tensors("moments.safetensors")
            for name, tensor in (weights | moments).items():
                check_finite(tensor, f"{folder}: {name}")
            load_weights(module, weights, folder)
            load_moments(module, optimizer, moments, state["groups"])
            break
        else:
            if damage is not None:
                raise damage
        progress.records = self._cut_metrics(progress.step)
        return progress

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> Path:
        """Commit `checkpoints/step_N`, then drop those beyond `keep_last` and of replaced runs.

        Raises:
            NonFiniteError: A weight, buffer or moment is not finite; nothing is written.
            StorageError: The disk refuses; earlier checkpoints are untouched.
        """
        folder = self.checkpoints / f"step_{progress.step}"
        weights, moments = weights_of(module), moments_of(module, optimizer)
        for name, tensor in (weights | moments).items():
            check_finite(tensor, f"step {progress.step}: {name}")
        state = {k: v for k, v in asdict(progress).items() if k != "records"}
        files = {
            "weights.safetensors": weights,
            "moments.safetensors": moments,
            "state.json": state | {"groups": groups_of(optimizer)},
        }
        # What can stand there is a damaged checkpoint of this run or a step of a replaced one.
        store.commit(folder, files, overwrite=True, schema=SCHEMA, metadata={"run": self.identity})
        kept = self.steps()[-self.keep_last :]
        for other in self._owners():
            if other not in kept:
                store.remove(other)
        return folder

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        store.append(self.path / "metrics.jsonl", record)

    def crash(self, t: int, error: BaseException) -> None:
        """Leave crash.json: the batch that did it and the checkpoint that is still good."""
        kept = self.steps()
        record = {
            "batch": t,
            "error": type(error).__name__,
            "message": str(error),
            "last_checkpoint": kept[-1].name if kept else None,
            "resolved": False,
        }
        self._write("crash.json", record)

    def finished(self) -> None:
        """The run got through: what an earlier attempt left in crash.json is settled."""
        path = self.path / "crash.json"
        if path.exists():
            self._write("crash.json", _read_object(path, "remove it") | {"resolved": True})

    def steps(self) -> list[Path]:
        """This run's checkpoint folders, oldest first."""
        return self._candidates(self.identity)

    def _candidates(self, *owners: str | None) -> list[Path]:
        found = [folder for folder, owner in self._owners().items() if owner in owners]
        return sorted(found, key=lambda p: int(p.name.removeprefix("step_")))

    def _owners(self) -> dict[Path, str | None]:
        """Checkpoint folder -> identity of its run, None where the manifest cannot be read."""
        owners: dict[Path, str | None] = {}
        if not self.checkpoints.is_dir():
            return owners
        for folder in self.checkpoints.iterdir():
            manifest = folder / "manifest.json"
            if re.fullmatch(r"step_\d+", folder.name) and manifest.is_file():
                try:
                    owners[folder] = read_json(manifest)["metadata"]["run"]
                except (ValueError, KeyError, TypeError):
                    owners[folder] = None
        return owners

    def _cut_metrics(self, step: int) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        records = store.read_jsonl(path)
        fits = [
            type(r.get("step")) is int and r["step"] >= 0 and isinstance(r.get("loss"), float | None)
            for r in records
        ]
        if not all(fits):
            raise CorruptArtefact(
                f"{path}, line {fits.index(False) + 1}: no step, or a loss that is no number",
                got=show(json.dumps(records[fits.index(False)]), 200),
            )
        kept = [r for r in records if r["step"] < step]
        store.write_text(path, "".join(json.dumps(r) + "\n" for r in kept), overwrite=True)
        return kept

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        store.write_text(self.path / name, json.dumps(value, indent=2) + "\n", overwrite=True)


@contextmanager
def open_run(
    path: Path,
    config: FitConfig,
    record: Mapping[str, Any] | None,
    resume: Resume,
    read_record: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Iterator[RunFolder]:
    """Lock a run folder, made if need be, and settle whether this is the same run.

    Args:
        path: The folder.
        config: Of the loop.
        record: What else makes the run what it is.
        resume: What to do with a run that is there.
        read_record: A stored record -> how it would be written today.

    Raises:
        ConfigError: Another run's settings, or an unknown `resume`.
        StorageError: Another live process holds it (its pid is named), the folder is something
            else, or `resume` says "never" or "must" and the disk says otherwise.
    """
    check_choice("resume", resume, Resume)
    if path.exists() and not path.is_dir():
        raise StorageError(f"{path} is a file", expected="a folder for the run")
    with store.lock(path):
        _refuse_links(path)
        started = (path / "config.json").exists()
        _check_purpose(path, started)
        if started and resume == "never" and not config.overwrite:
            raise StorageError(
                f"{path} already holds a run", fix="another folder, or overwrite=True (--overwrite)"
            )
        run = RunFolder(path, config.keep_last, _settle(path, config, record, read_record))
        if resume == "must" and not run.steps():
            raise StorageError(f"{path} has no checkpoint to resume from", fix="resume='auto'")
        if (path / "crash.json").exists():  # read again at the end: better refused now
            _read_object(path / "crash.json", "remove it")
        run._write("env.json", _environment())
        yield run


def _refuse_links(path: Path) -> None:
    """A run's files are its own: through a link, going on would write somewhere else.

    Raises:
        StorageError: A link, a pipe or a device among them, or a file in the checkpoints' place.
    """
    inner = path / "checkpoints"
    if inner.is_file():
        raise StorageError(f"{inner} is a file", expected="the folder of a run's checkpoints")
    for place in (p for folder in (path, inner) if folder.is_dir() for p in folder.iterdir()):
        kind = os.lstat(place).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise StorageError(
                f"{place} is no file of a run",
                got="a link" if stat.S_ISLNK(kind) else "a pipe or a device",
                expected="plain files and folders: going on would write through it",
                fix="copy what it leads to, or train into a new folder",
            )


def _check_purpose(path: Path, started: bool) -> None:
    """A run never mixes its files into a folder that holds something else."""
    if started or not path.exists():
        return
    foreign = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    if foreign:
        raise StorageError(
            f"{path} is not empty and holds no run",
            got=", ".join(foreign[:5]),
            expected="a new or empty folder, or one with a run's config.json",
        )


def _settle(
    path: Path,
    config: FitConfig,
    record: Mapping[str, Any] | None,
    read_record: Callable[[dict[str, Any]], dict[str, Any]],
) -> str:
    """The run's identity: that of config.json where its settings agree, else a fresh one.

    Raises:
        ConfigError: The folder belongs to a run with other settings.
    """
    asked = json.loads(json.dumps({"fit": asdict(config), "record": dict(record or {})}))
    file, anew = path / "config.json", "overwrite=True starts it anew"
    if file.exists() and not config.overwrite:
        stored = _read_object(file, anew)
        if not isinstance(stored.get("run"), str):
            raise CorruptArtefact(f"{file} names no run", fix=anew)
        known = {k: v for k, v in stored.items() if k != "run"}
        if isinstance(known.get("record"), dict):
            known["record"] = read_record(known["record"])
        there = _flat(known)
        here = _without_plan(_flat(asked), there, path)
        keys = [
            key
            for key in sorted(there.keys() | here.keys())
            if there.get(key, "absent") != here.get(key, "absent") and key.removeprefix("fit.") not in NEUTRAL
        ]
        if keys:
            raise ConfigError(
                f"{path} holds a run with other settings",
                got=", ".join(f"{k}={here.get(k, 'absent')!r}" for k in keys),
                expected=", ".join(f"{k}={there.get(k, 'absent')!r}" for k in keys),
                fix="another folder, the old settings, or overwrite=True (--overwrite)",
            )
        return stored["run"]
    identity = uuid.uuid4().hex
    text = json.dumps({"run": identity, **asked}, indent=2) + "\n"
    store.write_text(file, text, overwrite=config.overwrite)
    return identity


def _without_plan(here: dict[str, Any], there: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings of today as far as the stored ones can be compared with them.

    Runs of earlier versions do not say what decides their batches. They go on, with a word.
    """
    plan = f"data.{PLAN}."
    if any(key.startswith(plan) for key in there) or not any(key.startswith(plan) for key in here):
        return here
    warnings.warn(
        DataWarning(
            f"{path} was begun by an earlier version, which did not record how its batches are made: "
            "that they are the same now is not checked"
        ),
        stacklevel=2,
    )
    return {key: value for key, value in here.items() if not key.startswith(plan)}


def _read_object(file: Path, fix: str) -> dict[str, Any]:
    """A file of settings or facts that a run wrote.

    Raises:
        CorruptArtefact: It cannot be read, or is no JSON object.
    """
    why = None
    try:
        if isinstance(found := read_json(file), dict):
            return found
    except (OSError, ValueError) as error:
        why = reason(error)
    raise CorruptArtefact(f"{file} is not what a run wrote", got=why or "no JSON object", fix=fix)


def _environment() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}".removeprefix("record.")] = value
    return flat
