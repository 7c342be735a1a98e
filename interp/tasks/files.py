"""The doors for files: `load_task` for prompts, `load_labels` for labelled text, both by content.

docs/tasks.md shows an example of every format.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from interp.core.errors import ConfigError
from interp.core.foreign import TEXT_BYTES
from interp.core.names import did_you_mean
from interp.core.settings import check_choice
from interp.tasks.catalogue import TASKS, bundled
from interp.tasks.formats.archives import open_files
from interp.tasks.formats.registry import LABEL_ARCHIVES, LABEL_FORMATS, TASK_FORMATS, Labels
from interp.tasks.formats.source import File
from interp.tasks.formats.table import ArchiveFormat, Format, Options
from interp.tasks.prompts import Prompt, Prompts
from interp.tasks.task import Task

Content = TypeVar("Content")
ASIDE = ("readme", "license", "licence", "contents", "cats")


def load_task(
    path: str | Path,
    *,
    member: str | None = None,
    tokenizer: Any = None,
    shots: int = 5,
    encoding: str = "utf-8",
    max_bytes: int = TEXT_BYTES,
) -> Task:
    """A bundled task by its name, or the task that a file holds.

    Args:
        path: A name from `interp.tasks.list_tasks()`, or a file: this package's JSON, CSV or JSON lines,
            auto-circuit JSON, EAP-IG CSV, feature-circuits JSON, function-vector JSON, BLiMP, and
            more (docs/tasks.md). Recognised by content; `.gz`, zip and tar are opened.
        member: One file of an archive; by default all of them, each a template.
        tokenizer: For answer columns that hold token ids: a tokenizer, or the folder of one.
        shots: Solved examples before each question, for files of input-output pairs.
        encoding: Of the text; a byte order mark is dropped.
        max_bytes: Most bytes to read, unpacked: a larger file or archive is refused unread.

    Raises:
        ConfigError: Nothing that is known, or something wrong in it: names file, line, column,
            value and fix. A file of labels is sent to `load_labels`.
        StorageError: No such file, or one that cannot be read.
    """
    if _means_name(str(path)):
        return bundled(str(path))
    files = open_files(path, member, encoding, max_bytes)
    folder = Path(path).parent
    options = Options(tokenizer=_tokenizer(tokenizer), folder=folder, shots=shots)
    known: Sequence[Format[Task]] = TASK_FORMATS
    if len(files) == 1:
        return _chosen(files[0], known, LABEL_FORMATS, "load_labels").read(files[0], options)
    tasks = []
    for file in _content(files):
        tasks.append(_chosen(file, known, LABEL_FORMATS, "load_labels").read(file, options))
    return _together(Path(path), tasks)


def load_labels(
    path: str | Path,
    *,
    member: str | None = None,
    encoding: str = "utf-8",
    max_bytes: int = TEXT_BYTES,
    missing: str = "refuse",
    as_text: bool = False,
) -> Labels:
    """The labelled text that a file holds: `LabelledCorpus` (per word) or `LabelledTexts`.

    Args:
        path: A file: CoNLL-U, word-per-line TSV, JSON lines, labelled texts as CSV, TSV or JSON
            lines, CoNLL-2000, nltk's zips (Brown, treebanks), and more (docs/tasks.md). Recognised
            by content; `.gz`, zip and tar are opened.
        member: One file of an archive.
        encoding: Of the text; a byte order mark is dropped.
        max_bytes: Most bytes to read, unpacked: a larger file or archive is refused unread.
        missing: What a text labelled NaN, infinite or not at all is: "refuse", by file and line,
            or "drop", which leaves it out; the corpus's `name` says how many.
        as_text: Labels are words, whatever they look like. By default a word among labels of which
            half or more are numbers is one more text that is not labelled.

    Raises:
        ConfigError: Nothing that is known, or something wrong in it: names file, line, column,
            value and fix. A file of prompts is sent to `load_task`.
        StorageError: No such file, or one that cannot be read.
    """
    check_choice("missing", missing, ("refuse", "drop"))
    options = Options(missing=missing, as_text=as_text)
    files = open_files(path, member, encoding, max_bytes)
    if len(files) > 1:
        rest = _content(files)
        archive = _archive(files)
        if archive is not None:
            return archive.read(files, options)
        raise ConfigError(
            f"{Path(path).name} holds {len(rest)} files",
            got=", ".join(file.stem for file in rest[:30]),
            expected="one of them",
            fix=f"member={rest[0].stem!r}" if rest else None,
        )
    return _chosen(files[0], LABEL_FORMATS, TASK_FORMATS, "load_task").read(files[0], options)


def _means_name(path: str) -> bool:
    """Whether a bundled task is meant: no file's name, but perhaps a mistyped one of ours."""
    if path in TASKS:
        return True
    return bool(TASKS) and "." not in path and os.sep not in path and not os.path.exists(path)


def _archive(files: Sequence[File]) -> ArchiveFormat[Any] | None:
    return next((kind for kind in LABEL_ARCHIVES if kind.reads(files)), None)


def _content(files: Sequence[File]) -> list[File]:
    return [file for file in files if file.stem.casefold() not in ASIDE]


def _chosen(file: File, known: Sequence[Format[Any]], other: Sequence[Format[Any]], door: str) -> Format[Any]:
    """The first format that reads the file, or the error that says what it looks like instead."""
    found = next((kind for kind in known if kind.reads(file)), None)
    if found is not None:
        return found
    broken = file.bad_json() if file.jsonl is None else None
    if broken is not None:
        raise broken
    elsewhere = next((kind for kind in other if kind.reads(file)), None)
    if elsewhere is not None:
        raise file.fault(
            f"this is a file of {'labels' if door == 'load_labels' else 'prompts'}",
            got=elsewhere.name,
            fix=f"interp.tasks.{door}(...)",
        )
    raise file.fault(
        "no format that is known",
        line=1,
        got=repr(file.lines[0][:120]),
        expected="\n    ".join(["one of", *(f"{kind.name}: {kind.looks}" for kind in known)]),
        fix=_near(file) or "docs/tasks.md shows each format",
    )


def _near(file: File) -> str:
    """A hint for a header that is nearly one of ours."""
    wanted = ("clean", "corrupted", "answers", "distractors", "text", "label", "word", "statement")
    names = [name.strip() for name in file.header("\t" if "\t" in file.lines[0] else ",")]
    hints = []
    for name in names[:20]:
        near = did_you_mean(name, wanted) if name.isidentifier() and name not in wanted else ""
        if near and abs(len(name) - len(near.split("'")[1])) <= 2:
            hints.append(f"column {name!r}: {near}")
    return "; ".join(hints)


def _together(path: Path, tasks: Sequence[Task]) -> Task:
    """The files of one archive as one task, each a template."""
    if not tasks:
        raise ConfigError(f"{path.name} holds no prompts")
    kinds = {(task.metric, task.criterion, task.ids) for task in tasks}
    if len(kinds) > 1 or any(task.pool is None for task in tasks):
        raise ConfigError(
            f"{path.name} holds tasks of several kinds",
            got=", ".join(sorted({task.metric for task in tasks})),
            fix=f"member={tasks[0].name!r}",
        )
    pool: list[Prompt] = [prompt for task in tasks for prompt in task.pool or ()]
    name = path.name.partition(".")[0]
    first = tasks[0]
    return Task(
        name=name,
        description=f"{len(tasks)} sets of prompts",
        pool=Prompts(pool, name, ids=first.ids),
        metric=first.metric,
        criterion=first.criterion,
        source=path.name,
        ids=first.ids,
    )


def _tokenizer(given: Any) -> Any:
    """A tokenizer, loaded if a folder was given."""
    if not isinstance(given, str | Path):
        return given
    from interp.models.text.reading import load_tokenizer

    found = load_tokenizer(given)
    if found is None:
        raise ConfigError("no tokenizer lies in this folder", got=given)
    return found
