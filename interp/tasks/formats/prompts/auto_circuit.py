"""auto-circuit's JSON: `{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}`.

Source: Miller et al. 2024, "Transformer circuit faithfulness metrics are not robust"
(github.com/UFO-101/auto-circuit). Prompts of token ids with answers per position (its tracr files)
become one prompt per position, read there; position 0 is the BOS and has no answer.
"""

from __future__ import annotations

from typing import Any

from interp.tasks.formats.records import listed
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt, Prompts
from interp.tasks.task import Task

PROMPTS = listed("prompts")


def read(file: File, options: Options) -> Task:
    """The task; `seq_labels` (names of positions) go into the description."""
    records = PROMPTS.records(file)
    ids = isinstance(records[0].get("clean"), list)
    prompts = [p for record in records for p in (_positions(record) if ids else [_prompt(record)])]
    labels = file.json.get("seq_labels")
    return Task(
        name=file.stem.removesuffix("_prompts"),
        description="positions: " + " ".join(map(repr, labels)) if labels else "",
        pool=Prompts(prompts, file.stem.removesuffix("_prompts"), ids=ids),
        source=f"auto-circuit, {file.name}",
        ids=ids,
    )


def _prompt(record: Record) -> Prompt:
    return Prompt(
        clean=record.text("clean"),
        corrupted=record.text("corrupt"),
        answers=record.texts("answers"),
        distractors=record.texts("wrong_answers"),
    )


def _positions(record: Record) -> list[Prompt]:
    sides = [_ids(record, name) for name in ("clean", "corrupt")]
    right, wrong = (_lists(record, name, len(sides[0])) for name in ("answers", "wrong_answers"))
    clean, corrupted = (" ".join(map(str, side)) for side in sides)
    return [
        Prompt(
            clean,
            corrupted,
            answers=tuple(map(str, answers)),
            # a wrong answer that is right here, too, tells the sides apart at other positions only
            distractors=tuple(str(value) for value in others if value not in answers),
            template=f"position {at}",
            read_at=at,
        )
        for at, (answers, others) in enumerate(zip(right, wrong, strict=True), 1)
    ]


def _ids(record: Record, field: str) -> list[int]:
    value: Any = record.get(field)
    if not isinstance(value, list) or not all(type(item) is int for item in value) or not value:
        raise record.fault(field, "a list of token ids expected", got=repr(value)[:80])
    return value


def _lists(record: Record, field: str, length: int) -> list[list[Any]]:
    value: Any = record.get(field)
    if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
        raise record.fault(field, "a list of answers per position expected", got=repr(value)[:80])
    if len(value) != length - 1:
        raise record.fault(
            field, "one list per position after the first", got=len(value), expected=length - 1
        )
    return value


FORMAT = Format(
    "auto-circuit JSON",
    '{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}',
    PROMPTS.has({"corrupt"}, {"wrong_answers"}),
    read,
)
