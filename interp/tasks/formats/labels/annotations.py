"""What people wrote about features: JSON lines of the feature-circuits repository.

Source: Marks et al. 2024, "Sparse feature circuits". Texts are the annotations, labels the
features' names (`resid_5/3036`), groups the components they begin with.
"""

from __future__ import annotations

from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import LabelledTexts

NEEDED = {"Name", "Annotation"}


def reads(file: File) -> bool:
    """Whether the first object has the fields of an annotation."""
    return bool(file.jsonl) and file.jsonl[0][1].keys() >= NEEDED


def read(file: File, options: Options | None = None) -> LabelledTexts:
    """The annotations."""
    records = [Record(file, number, value) for number, value in file.jsonl or []]
    return LabelledTexts(
        texts=tuple(record.text("Annotation") for record in records),
        labels=tuple(record.text("Name") for record in records),
        groups=tuple(record.text("Name").partition("_")[0] for record in records),
        name=file.stem,
        target="feature",
        columns={"notes": tuple(str(record.values.get("Notes", "")) for record in records)},
    )


FORMAT = Format("feature annotations", '{"Name": "resid_5/3036", "Annotation": ...}', reads, read)
