"""Prompts in this package's own forms: JSON, JSON lines and CSV (docs/tasks.md).

JSON: `{"name": ..., "description": ..., "metric": ..., "criterion": ..., "prompts": [{"clean": ...,
"corrupted": ..., "answers": [...], "distractors": [...], "template": ..., "variables": {...},
"read_at": ...}]}`, of which only `prompts` and each prompt's `clean` must be there; JSON lines: one
prompt a line. CSV: the same names as columns, several answers divided by `|`; spaces count, any
other column is a variable.
"""

from __future__ import annotations

from typing import Any

from interp.tasks.formats.prompts.pools import pooled
from interp.tasks.formats.records import LINES, TABLE
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.metrics import METRICS
from interp.tasks.prompts import Prompt, Prompts
from interp.tasks.task import CRITERIA, Task

FIELDS = ("clean", "corrupted", "answers", "distractors", "template", "variables", "read_at")
ANSWERED = {"clean", "answers"}
HEAD = ("name", "description", "metric", "criterion", "bar", "ids", "prompts")
FOREIGN = {"corrupt", "wrong_answers"}


def reads_json(file: File) -> bool:
    """Whether it is an object with `prompts`, the first of which has `clean` and nothing of
    auto-circuit's."""
    value = file.json
    prompts = value.get("prompts") if isinstance(value, dict) else None
    first = prompts[0] if isinstance(prompts, list) and prompts else None
    if not isinstance(first, dict):  # wrong, but ours: read_json says why
        return isinstance(value, dict) and "prompts" in value
    return not FOREIGN & first.keys()


def read_json(file: File, options: Options) -> Task:
    """The task of a JSON file."""
    head = Record(file, "file", file.json)
    _known(head, HEAD)
    rows = head.get("prompts")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise head.fault("prompts", "a list of one or more objects expected", got=repr(rows)[:80])
    records = [Record(file, f"prompts[{i}]", row) for i, row in enumerate(rows)]
    values = head.values
    for name, choices in (("metric", METRICS), ("criterion", CRITERIA)):
        if name in values and values[name] not in choices:
            raise head.fault(
                name, "not one of those there are", got=repr(values[name]), expected=", ".join(choices)
            )
    ids = values.get("ids", False) is True
    name = head.text("name") if values.get("name") else file.stem
    return Task(
        name=name,
        description=str(values.get("description", "")),
        pool=Prompts([_prompt(record) for record in records], name, ids=ids),
        metric=values.get("metric", "logit_difference"),
        criterion=values.get("criterion", "accuracy"),
        bar=head.number("bar") if values.get("bar") is not None else None,
        source=file.name,
        ids=ids,
    )


def read_jsonl(file: File, options: Options) -> Task:
    """The task of JSON lines."""
    return pooled(file, map(_prompt, LINES.records(file)))


def reads_csv(file: File) -> bool:
    """Whether there are columns `clean` and `answers`, and no column of token ids."""
    names = TABLE.first(file)
    return names.keys() >= ANSWERED and not any(name.endswith("_idx") for name in names)


def read_csv(file: File, options: Options) -> Task:
    """The task of a CSV file."""
    prompts = []
    for record in file.records():
        row = dict(record.values)
        record.text("clean")
        values: dict[str, Any] = {name: row[name] for name in FIELDS if row.get(name, "") != ""}
        for name in ("answers", "distractors"):
            if name in values:
                values[name] = values[name].split("|")
        if "read_at" in values:
            values["read_at"] = record.integer("read_at", -(10**9))
        values["variables"] = {k: v for k, v in row.items() if k not in FIELDS}
        prompts.append(_prompt(Record(file, record.place, values)))
    return pooled(file, prompts)


def _known(record: Record, names: tuple[str, ...]) -> None:
    from interp.core.names import did_you_mean

    unknown = next((name for name in record.values if name not in names), None)
    if unknown is not None:
        raise record.fault(
            unknown, "unknown field", expected=", ".join(names), fix=did_you_mean(unknown, names)
        )


def _prompt(record: Record) -> Prompt:
    _known(record, FIELDS)
    values = record.values
    variables = values.get("variables", {})
    if not isinstance(variables, dict):
        raise record.fault("variables", "name -> text expected", got=repr(variables)[:80])
    read_at = values.get("read_at")
    answers = {
        name: record.texts(name) if values.get(name) is not None else ()
        for name in ("answers", "distractors")
    }
    for name, texts in answers.items():
        if "" in texts:
            raise record.fault(name, "an empty text", got=list(texts)[:5])
    return Prompt(
        clean=record.text("clean"),
        corrupted=record.text("corrupted") if values.get("corrupted") is not None else None,
        template=str(values.get("template", "")),
        variables={str(k): str(v) for k, v in variables.items()},
        read_at=None if read_at is None else record.integer("read_at", -(10**9)),
        **answers,
    )


JSON = Format("prompts as JSON", '{"prompts": [{"clean": ...}]}', reads_json, read_json)
JSONL = Format("prompts as JSON lines", '{"clean": ..., "answers": [...]}', LINES.has(ANSWERED), read_jsonl)
CSV = Format("prompts as CSV", "columns `clean` and `answers`", reads_csv, read_csv)
