"""Labelled texts that are one record each: a format is which field is the text and which its label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from interp.tasks.formats.labels.texts import labelled
from interp.tasks.formats.records import LINES, TABLE, Layout, label, listed, number, text, unnamed, whole
from interp.tasks.formats.source import File, Record

SUBJECTS = ("city", "city1", "n1")
REGIONS = ("country", "state_name", "creator")
_QUOTED = re.compile(r"'([^']+)'")
_TRIPLES = listed(columns=("profession", "definitional", "stereotypical"))
_REVIEWS = unnamed("sentence", "label", delimiter="\t", quoting=False)
_PAIRS = unnamed("first", "second", "similarity")


def _delimiter(file: File) -> str:
    return "\t" if "\t" in file.lines[0] else ","


def _own_first(file: File) -> Mapping[str, Any]:
    names = dict.fromkeys(map(str.strip, file.header(_delimiter(file))))
    return names if file.jsonl is None else LINES.first(file)


def _own_records(file: File) -> list[Record]:
    if file.jsonl is None:
        return file.records(_delimiter(file))
    records = LINES.records(file)
    for record in records:
        for name in record.values.keys() ^ records[0].values.keys():
            raise record.fault(name, "every line needs the same fields")
    return records


_OWN = Layout(_own_first, _own_records)


def _subject(record: Record) -> str:
    column = next((name for name in SUBJECTS if name in record.values), None)
    if column is not None:
        return record.text(column)
    quoted = _QUOTED.search(record.text("statement"))
    return quoted[1] if quoted else ""


def _year(record: Record) -> int:
    date = record.text("release_date")
    if not date[:4].isdecimal():
        raise record.fault("release_date", "not a date", got=date, expected="YYYY-MM-DD")
    return int(date[:4])


def _is_score(first: str, second: str, score: str) -> bool:
    try:
        return 0 <= float(score) <= 5 and " " in first and " " in second
    except ValueError:
        return False


OWN = labelled(
    "labelled texts", "columns `text` and `label`", _OWN, _OWN.has({"text", "label"}), groups=("group",)
)
"""This package's own: CSV, TSV or JSON lines; `group` names the document or subject of a text."""

STATEMENTS = labelled(
    "statements",
    "CSV with columns `statement` and `label`",
    TABLE,
    TABLE.has({"statement", "label"}),
    text="statement",
    label="label",
    fields={"labels": whole("label", 0, 1), "groups": _subject},
    target="truth",
)
"""True (1) and false (0) statements: Marks and Tegmark 2023, "The Geometry of Truth"
(github.com/saprmarks/geometry-of-truth). The group is the subject, so that a split between groups
never trains on "Lodz is in Poland" and tests on "Lodz is in Peru"."""

PLACES = labelled(
    "places",
    "CSV with columns `name`, `latitude` and `longitude`",
    TABLE,
    TABLE.has({"name", "latitude", "longitude"}),
    text="name",
    label="latitude",
    groups=REGIONS,
    fields={"labels": number("latitude", -90, 90)},
    columns={"longitude": number("longitude", -180, 180)},
)
"""Names with coordinates in degrees: Gurnee and Tegmark 2023, "Language models represent space and
time". `numbers("latitude", "longitude")` gives both; the group is the country or the state."""

WORKS = labelled(
    "works",
    "CSV with columns `title` and `release_date`",
    TABLE,
    TABLE.has({"title", "release_date"}),
    text="title",
    label="release_date",
    groups=REGIONS,
    fields={"labels": _year},
    columns={"release_date": text("release_date")},
    target="year",
    words=True,
)
"""Titles with the year of their release, of the same paper; the group is the creator."""

ANNOTATIONS = labelled(
    "feature annotations",
    '{"Name": "resid_5/3036", "Annotation": ...}',
    LINES,
    LINES.has({"Name", "Annotation"}),
    text="Annotation",
    label="Name",
    fields={"labels": text("Name"), "groups": lambda record: record.text("Name").partition("_")[0]},
    columns={"notes": label("Notes")},
    target="feature",
    others=False,
)
"""What people wrote about features: Marks et al. 2024, "Sparse feature circuits". Texts are the
annotations, labels the features' names, groups the components they begin with."""

PROFESSIONS = labelled(
    "professions",
    'JSON [["accountant", 0.0, 0.4], ...]',
    _TRIPLES,
    _TRIPLES.is_like(lambda word, *_: isinstance(word, str)),
    text="profession",
    label="stereotypical",
    fields={
        "texts": lambda record: record.text("profession").replace("_", " "),
        "labels": number("stereotypical"),
    },
    columns={"definitional": number("definitional")},
)
"""How strongly people think them female (-1) or male (1): Bolukbasi et al. 2016, "Man is to computer
programmer as woman is to homemaker?". Labels are the stereotype."""

SENTIMENT = labelled(
    "SST-2",
    "sentence<TAB>0 or 1, no header",
    _REVIEWS,
    _REVIEWS.is_like(lambda sentence, score: bool(sentence) and score in ("0", "1")),
    text="sentence",
    label="label",
    fields={"labels": whole("label", 0, 1)},
    target="sentiment",
)
"""Negative (0) and positive (1) sentences: Socher et al. 2013, "Recursive deep models for semantic
compositionality", two classes."""

SIMILARITY = labelled(
    "STS-B",
    "sentence,sentence,similarity; no header",
    _PAIRS,
    _PAIRS.is_like(_is_score),
    text="first",
    label="similarity",
    fields={"labels": number("similarity", 0, 5), "seconds": text("second")},
    others=False,
)
"""Two sentences and how similar people found them: Cer et al. 2017, "SemEval-2017 task 1: semantic
textual similarity"."""
