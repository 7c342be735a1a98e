"""Labels per text in this package's own forms: CSV, TSV or JSON lines with `text` and `label`.

`group` names the document or subject of a text; every other column is kept under its own name.
A label or column of whole numbers becomes integers, one of numbers floats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from interp.core.foreign import DIGITS
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import LARGEST, Label, LabelledTexts

NEEDED = {"text", "label"}
_NO_NUMBER = re.compile(
    r"[-+]?(?:nan(?:\(\w*\))?|1?\.?#?(?:inf|ind|qnan|nan)|infinity|∞|#?n/?a!?|null|none|\?"
    r"|[-+\d.]+e\+?\d{3,})",
    re.I,
)
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
    return from_records(records, "text", "label", options=options)


def from_records(
    records: Sequence[Record],
    text: str,
    label: str,
    group: str | None = "group",
    options: Options | None = None,
) -> LabelledTexts:
    """Records with a text and a label field -> LabelledTexts; other fields become columns.

    All records have the same fields.

    Raises:
        ConfigError: A text without a label, or with one that is no number among numbers; by line.
    """
    given, options = len(records), options or Options()
    records = usable(records, text, label, options)
    dropped = given - len(records)
    names = [name for name in records[0].values if name not in (text, label, group)]
    groups: tuple[str, ...] = ()
    if group is not None and group in records[0].values:
        groups = tuple(str(record.values[group]) for record in records)
    return LabelledTexts(
        texts=tuple(record.text(text) for record in records),
        labels=typed(records, label, options.as_text),
        groups=groups,
        name=records[0].file.stem + (f" ({dropped:,} without a label)" if dropped else ""),
        target=label,
        columns={name or "index": typed(records, name) for name in names},
    )


def usable(records: Sequence[Record], text: str, label: str, options: Options) -> Sequence[Record]:
    """The records whose label says something.

    "nan" and "inf" are words in a column of words; in a column of numbers they are numbers that
    nobody measured, and would become a class of their own. So would any other word in a column
    of which half or more are numbers, unless the caller says that labels are words.
    """
    values = [record.values[label] for record in records]
    numbers = 0 if options.as_text else sum(map(_is_number, values))
    numeric = numbers > 0 or (
        not options.as_text and all(v in ("", None) or _NO_NUMBER.fullmatch(str(v).strip()) for v in values)
    )
    kind = _kind(next((v for v in values if v is not None), ""))
    kept = []
    for record, value in zip(records, values, strict=True):
        if value in ("", None):
            what = "a text without a label"
        elif isinstance(value, dict | list):
            raise record.fault(label, "a label is text or a number", got=repr(value)[:80])
        elif (
            numeric
            and not _is_number(value)
            and (2 * numbers >= len(values) or _NO_NUMBER.fullmatch(str(value).strip()))
        ):
            what = "a label that is no number among numbers"
        elif _kind(value) != kind and not options.as_text:
            raise record.fault(
                label,
                "labels of two kinds: one would pass for the other",
                got=f"{value!r}, {_kind(value)}",
                expected=kind,
                fix="write all of them alike, or as_text=True",
            )
        else:
            kept.append(record)
            continue
        if options.missing == "refuse":
            raise record.fault(
                label,
                what,
                got=f"{value!r} of {str(record.values[text])[:60]!r}",
                expected=f"up to {LARGEST:.2g}" if numeric else None,
                fix='leave the row out, or missing="drop"; as_text=True if labels are words',
            )
    if not kept:
        raise records[0].file.fault("no text has a label")
    return kept


def _kind(value: object) -> str:
    """How JSON writes it; in a table everything is text."""
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "a number"


def _is_number(value: object) -> bool:
    """Whether it is a number, or text that spells one, that is finite in float32."""
    if isinstance(value, str):
        return bool(_NUMBER.fullmatch(value)) and len(value) <= 4 * DIGITS and abs(float(value)) <= LARGEST
    return isinstance(value, int | float) and abs(value) <= LARGEST


def typed(records: Sequence[Record], field: str, as_text: bool = False) -> tuple[Label, ...]:
    """A column as integers or floats if all of it is and it may be, else as text."""
    raw = [record.values[field] for record in records]
    for pattern, convert in () if as_text else ((_WHOLE, int), (_NUMBER, float)):
        if all(
            pattern.fullmatch(v) and len(v) <= DIGITS if isinstance(v, str) else isinstance(v, int | convert)
            for v in raw
        ) and all(map(_is_number, raw)):
            return tuple(map(convert, raw))
    return tuple("" if value is None else str(value) for value in raw)


def delimiter_of(file: File) -> str:
    """Tab if the first line has one, else comma."""
    return "\t" if "\t" in file.lines[0] else ","


FORMAT = Format("labelled texts", "columns `text` and `label`", reads, read)
