"""SST-2's TSV: a sentence, a tab, 0 (negative) or 1 (positive); no header.

Source: Socher et al. 2013, "Recursive deep models for semantic compositionality", two classes.
"""

from __future__ import annotations

from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import LabelledTexts


def reads(file: File) -> bool:
    """Whether the first line is a text, a tab, and 0 or 1."""
    text, tab, label = file.lines[0].rpartition("\t")
    return bool(text and tab) and "\t" not in text and label in ("0", "1")


def read(file: File, options: Options | None = None) -> LabelledTexts:
    """The sentences; labels are 0 and 1."""
    rows = file.table("\t", header=False, quoting=False)
    records = [Record(file, n, {"sentence": row[0], "label": row[1]}) for n, row in rows]
    return LabelledTexts(
        texts=tuple(record.text("sentence") for record in records),
        labels=tuple(record.integer("label", 0, 1) for record in records),
        name=file.stem,
        target="sentiment",
    )


FORMAT = Format("SST-2", "sentence<TAB>0 or 1, no header", reads, read)
