"""Professions with how strongly people think them male or female: a JSON list of triples.

Source: Bolukbasi et al. 2016, "Man is to computer programmer as woman is to homemaker?": word,
definitional and stereotypical gender, -1 (female) to 1 (male). Labels are the stereotype.
"""

from __future__ import annotations

from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import LabelledTexts


def reads(file: File) -> bool:
    """Whether it is a JSON list that begins with [text, number, number]."""
    value = file.json
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, list) and len(first) == 3 and isinstance(first[0], str)


def read(file: File, options: Options | None = None) -> LabelledTexts:
    """The professions, `_` between words replaced by a space."""
    names = ("profession", "definitional", "stereotypical")
    records = []
    for index, row in enumerate(file.json):
        if not isinstance(row, list) or len(row) != len(names):
            raise file.fault(f"[{index}]: three entries expected", got=repr(row)[:80])
        records.append(Record(file, f"[{index}]", dict(zip(names, row, strict=True))))
    return LabelledTexts(
        texts=tuple(record.text("profession").replace("_", " ") for record in records),
        labels=tuple(record.number("stereotypical") for record in records),
        name=file.stem,
        target="stereotypical",
        columns={"definitional": tuple(record.number("definitional") for record in records)},
    )


FORMAT = Format("professions", 'JSON [["accountant", 0.0, 0.4], ...]', reads, read)
