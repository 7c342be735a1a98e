"""True and false statements: CSV with `statement` and `label` (1 = true).

Source: Marks and Tegmark 2023, "The Geometry of Truth" (github.com/saprmarks/geometry-of-truth).
The group of a statement is its subject, so that a split between groups never trains on "Lodz is in
Poland" and tests on "Lodz is in Peru".
"""

from __future__ import annotations

import re
from dataclasses import replace

from interp.tasks.formats.labels.text_tables import from_records
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import LabelledTexts

SUBJECTS = ("city", "city1", "n1")
_QUOTED = re.compile(r"'([^']+)'")


def reads(file: File) -> bool:
    """Whether there are columns `statement` and `label`."""
    return {"statement", "label"} <= set(file.header())


def read(file: File, options: Options | None = None) -> LabelledTexts:
    """The statements; labels are 0 (false) and 1 (true)."""
    records = file.records()
    for record in records:
        record.integer("label", 0, 1)
    found = from_records(records, "statement", "label", group=None, options=options)
    groups = tuple(map(_subject, records))
    return replace(found, groups=groups if all(groups) else (), target="truth")


def _subject(record: Record) -> str:
    column = next((name for name in SUBJECTS if name in record.values), None)
    if column is not None:
        return record.text(column)
    quoted = _QUOTED.search(record.text("statement"))
    return quoted[1] if quoted else ""


FORMAT = Format("statements", "CSV with columns `statement` and `label`", reads, read)
