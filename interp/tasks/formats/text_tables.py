"""Labels per text in this package's own forms: CSV, TSV or JSON lines with `text` and `label`.

`group` names the document or subject of a text; every other column is kept under its own name.
A label or column of whole numbers becomes integers, one of numbers floats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import Label, LabelledTexts

NEEDED = {"text", "label"}
_WHOLE = re.compile(r"-?\d+")
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?")


def reads(file: File) -> bool:
    """Whether there are columns, or fields of the first object, `text` and `label`."""
    if file.jsonl is not None:
        return file.jsonl[0][1].keys() >= NEEDED
    return {name.strip() for name in file.header(delimiter_of(file))} >= NEEDED


def read(file: File, options: Options | None = None) -> LabelledTexts:
    """The texts of a table or of JSON lines."""
    if file.jsonl is None:
        records = file.records(delimiter_of(file))
    else:
        records = [Record(file, number, value) for number, value in file.jsonl]
        for record in records:
            for name in record.values.keys() ^ records[0].values.keys():
                raise record.fault(name, "every line needs the same fields")
    return from_records(records, "text", "label")


def from_records(
    records: Sequence[Record], text: str, label: str, group: str | None = "group"
) -> LabelledTexts:
    """Records with a text and a label field -> LabelledTexts; other fields become columns.

    All records have the same fields.
    """
    for record in records:
        if record.values[label] in ("", None):
            raise record.fault(label, "a text without a label", got=record.values[text])
    names = [name for name in records[0].values if name not in (text, label, group)]
    groups: tuple[str, ...] = ()
    if group is not None and group in records[0].values:
        groups = tuple(str(record.values[group]) for record in records)
    return LabelledTexts(
        texts=tuple(record.text(text) for record in records),
        labels=typed(records, label),
        groups=groups,
        name=records[0].file.stem,
        target=label,
        columns={name or "index": typed(records, name) for name in names},
    )


def typed(records: Sequence[Record], field: str) -> tuple[Label, ...]:
    """A column as integers or floats if all of it is, else as text."""
    raw = [record.values[field] for record in records]
    for pattern, convert in ((_WHOLE, int), (_NUMBER, float)):
        if all(
            pattern.fullmatch(v) if isinstance(v, str) else isinstance(v, int | convert)
            for v in raw
        ):
            return tuple(map(convert, raw))
    return tuple("" if value is None else str(value) for value in raw)


def delimiter_of(file: File) -> str:
    """Tab if the first line has one, else comma."""
    return "\t" if "\t" in file.lines[0] else ","


FORMAT = Format("labelled texts", "columns `text` and `label`", reads, read)
