"""STS-B's CSV: two sentences and how similar people found them, 0 to 5; no header.

Source: Cer et al. 2017, "SemEval-2017 task 1: semantic textual similarity".
"""

from __future__ import annotations

from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import LabelledTexts


def reads(file: File) -> bool:
    """Whether the first row is two texts and a number from 0 to 5."""
    row = file.header()
    try:
        return len(row) == 3 and 0 <= float(row[2]) <= 5 and all(" " in text for text in row[:2])
    except ValueError:
        return False


def read(file: File, options: Options | None = None) -> LabelledTexts:
    """The pairs: `texts`, `seconds`, and similarities as labels."""
    rows = file.table(header=False)
    named = ("first", "second", "similarity")
    records = [Record(file, n, dict(zip(named, row, strict=True))) for n, row in rows]
    scores = tuple(record.number("similarity") for record in records)
    for record, score in zip(records, scores, strict=True):
        if not 0 <= score <= 5:
            raise record.fault("similarity", "out of range", got=score, expected="0 to 5")
    return LabelledTexts(
        texts=tuple(record.text("first") for record in records),
        labels=scores,
        name=file.stem,
        target="similarity",
        seconds=tuple(record.text("second") for record in records),
    )


FORMAT = Format("STS-B", "sentence,sentence,similarity; no header", reads, read)
