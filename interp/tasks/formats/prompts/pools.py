"""The task of a file's prompts, and the formats whose records are prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from interp.tasks.formats.records import Fields, Layout
from interp.tasks.formats.source import File
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt, Prompts
from interp.tasks.task import Criterion, Task


def prompts(
    name: str, looks: str, layout: Layout, reads: Callable[[File], bool], fields: Fields, **task: Any
) -> Format[Task]:
    """The format whose records are prompts.

    Args:
        name: What people call it.
        looks: What a file of it looks like, for the error that finds none.
        layout: How its files are cut.
        reads: Whether a file is of it.
        fields: Field of `Prompt` -> what it is read from.
        task: As in `pooled`. Without a metric: the logit difference where every prompt has a
            distractor, else the answer's probability.
    """

    def read(file: File, options: Options) -> Task:
        records = layout.records(file)
        found = [Prompt(**{slot: take(record) for slot, take in fields.items()}) for record in records]
        metric = "logit_difference" if all(p.distractors for p in found) else "answer_probability"
        return pooled(file, found, **{"metric": metric, **task})

    return Format(name, looks, reads, read)


def pooled(
    file: File,
    found: Iterable[Prompt],
    description: str = "",
    *,
    origin: str = "",
    metric: str = "logit_difference",
    criterion: Criterion = "accuracy",
) -> Task:
    """The task of a file's prompts; `origin` is who made the file."""
    source = f"{origin}, {file.name}" if origin else file.name
    return Task(
        name=file.stem,
        description=description,
        pool=Prompts(tuple(found), file.stem),
        metric=metric,
        criterion=criterion,
        source=source,
    )
