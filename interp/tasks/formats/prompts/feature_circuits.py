"""The feature-circuits repository's agreement data: JSON lines of prefix pairs.

Source: Marks et al. 2024, "Sparse feature circuits" (github.com/saprmarks/feature-circuits). The
corrupted prefix has another number, the distractor is the verb that fits it, `case` the template.
"""

from __future__ import annotations

from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt, Prompts
from interp.tasks.task import Task

NEEDED = {"clean_prefix", "patch_prefix", "clean_answer", "patch_answer"}


def reads(file: File) -> bool:
    """Whether the first object has the two prefixes and answers."""
    return file.jsonl is not None and file.jsonl[0][1].keys() >= NEEDED


def read(file: File, options: Options) -> Task:
    """The task."""
    prompts = []
    for number, value in file.jsonl or []:
        record = Record(file, number, value)
        prompts.append(
            Prompt(
                clean=record.text("clean_prefix"),
                corrupted=record.text("patch_prefix"),
                answers=(record.text("clean_answer"),),
                distractors=(record.text("patch_answer"),),
                template=str(value.get("case", "")),
            )
        )
    return Task(
        name=file.stem,
        description="subject-verb agreement",
        pool=Prompts(prompts, file.stem),
        criterion="preference",
        source=f"feature-circuits, {file.name}",
    )


FORMAT = Format("feature-circuits JSON lines", '{"clean_prefix": ..., ...}', reads, read)
