"""The formats whose records are texts with a label.

A label or column of whole numbers becomes integers, one of numbers floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from interp.tasks.formats.records import Fields, Layout
from interp.tasks.formats.records import label as label_field
from interp.tasks.formats.records import text as text_field
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import Label, LabelledTexts
from interp.tasks.spelled import LARGEST, is_none, is_number, numbers_of


def labelled(
    name: str,
    looks: str,
    layout: Layout,
    reads: Callable[[File], bool],
    *,
    text: str = "text",
    label: str = "label",
    groups: Sequence[str] = (),
    fields: Fields | None = None,
    columns: Fields | None = None,
    target: str = "",
    others: bool = True,
    words: bool = False,
) -> Format[LabelledTexts]:
    """The format whose records are texts with a label.

    A text without a label, or with one that is no number among numbers, is refused by its place,
    or left out, as `Options.missing` says.

    Args:
        name: What people call it.
        looks: What a file of it looks like, for the error that finds none.
        layout: How its files are cut.
        reads: Whether a file is of it.
        text: Field with the text.
        label: Field with the label.
        groups: Fields that may name the group; the first that is there does.
        fields: Field of `LabelledTexts` -> what it is read from, where it is not just the above.
        columns: Name of a column -> what it is read from.
        target: What the labels say; "" is the label field's name.
        others: Every other field is a column; all records have the same fields then.
        words: Labels are words, also where they look like numbers: a date may be a bare year.
    """

    def read(file: File, options: Options | None = None) -> LabelledTexts:
        given = layout.records(file)
        as_text = words or (options or Options()).as_text
        records = _usable(given, text, label, replace(options or Options(), as_text=as_text))
        dropped = len(given) - len(records)
        named = records[0].values
        group = next((name for name in groups if name in named), None)
        rest = [name for name in named if others and name not in (text, label, group)]
        slots = {"texts": text_field(text), **(fields or {})}
        if group is not None:
            slots["groups"] = label_field(group)
        found: dict[str, tuple[Any, ...]] = (
            {"labels": typed(records, label, as_text)} if "labels" not in slots else {}
        )
        found |= _each(records, slots)
        if group is None and not all(found.get("groups", ())):
            found["groups"] = ()  # a subject that one text lacks divides nothing
        return LabelledTexts(
            **found,
            name=file.stem + (f" ({dropped:,} without a label)" if dropped else ""),
            target=target or label,
            columns={name or "index": typed(records, name) for name in rest} | _each(records, columns or {}),
        )

    return Format(name, looks, reads, read)


def _each(records: Sequence[Record], fields: Fields) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(map(take, records)) for name, take in fields.items()}


def _usable(records: Sequence[Record], text: str, label: str, options: Options) -> Sequence[Record]:
    """The records whose label says something.

    "nan" and "inf" are words in a column of words; in a column of numbers they are numbers that
    nobody measured, and would become a class of their own. So would any other word in a column
    of which half or more are numbers, unless the caller says that labels are words.
    """
    values = [record.get(label) for record in records]
    numbers = 0 if options.as_text else sum(map(is_number, values))
    numeric = numbers > 0 or (not options.as_text and all(map(is_none, values)))
    kind = _kind(next((v for v in values if v is not None), ""))
    kept = []
    for record, value in zip(records, values, strict=True):
        if value in ("", None):
            what = "a text without a label"
        elif isinstance(value, dict | list):
            raise record.fault(label, "a label is text or a number", got=repr(value)[:80])
        elif numeric and not is_number(value) and (2 * numbers >= len(values) or is_none(value)):
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
                got=f"{value!r} of {str(record.get(text))[:60]!r}",
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


def typed(records: Sequence[Record], field: str, as_text: bool = False) -> tuple[Label, ...]:
    """A column as integers or floats if all of it is and it may be, else as text."""
    raw = [record.values[field] for record in records]
    found = None if as_text else numbers_of(raw)
    if found is not None:
        return found
    return tuple("" if value is None else str(value) for value in raw)
