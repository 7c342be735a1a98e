"""Labels per word in this package's own forms: TSV with one word a line, and JSON lines.

TSV: a header whose first column is `word`, a line per word, an empty line between sentences. The
columns `head` (1 to n, 0 for the root) and `group` mean heads and documents; every other column is
a layer, in which `_` means no label. JSON lines: one sentence an object,
`{"words": [...], "labels": {"upos": [...]}, "text": ..., "heads": [...], "group": ..., "id": ...}`
with heads counted from 0, -1 for the root; all but `words` may be absent.
"""

from __future__ import annotations

from typing import Any

from interp.tasks.formats import spans
from interp.tasks.formats.records import LINES
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import ROOT, Labelled, LabelledCorpus

FIELDS = ("words", "labels", "text", "heads", "group", "id")


def reads_tsv(file: File) -> bool:
    """Whether the header begins with `word` and a tab, or is `word` alone."""
    return file.lines[0].split("\t")[0] == "word"


def read_tsv(file: File, options: Options | None = None) -> LabelledCorpus:
    """The sentences of a word-per-line TSV."""
    names = file.lines[0].split("\t")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise file.fault("two columns of one name", line=1, column=twice)
    sentences = []
    rows: list[Record] = []
    for number, line in enumerate([*file.lines[1:], ""], 2):
        if line.strip():
            fields = line.split("\t")
            if len(fields) != len(names):
                raise file.fault(
                    "a row of another width",
                    line=number,
                    got=f"{len(fields)} fields: {fields[:6]}",
                    expected=f"{len(names)}: {', '.join(names)}",
                )
            rows.append(Record(file, number, dict(zip(names, fields, strict=True))))
        elif rows:
            sentences.append(_from_rows(rows, names))
            rows = []
    if not sentences:
        raise file.fault("a header, but no words")
    return LabelledCorpus(sentences, file.stem)


def _from_rows(rows: list[Record], names: list[str]) -> Labelled:
    words = tuple(row.text("word") for row in rows)
    text, places = spans.joined(words)
    heads = None
    if "head" in names:
        numbers = [row.integer("head", 0, len(rows)) for row in rows]
        heads = tuple(number - 1 if number else ROOT for number in numbers)
    layers = [name for name in names if name not in ("word", "head", "group")]
    return Labelled(
        text=text,
        words=words,
        spans=places,
        labels={
            name: tuple(None if row.values[name] == "_" else row.values[name] for row in rows)
            for name in layers
        },
        heads=heads,
        group=rows[0].values.get("group", ""),
        id=f"line {rows[0].place}",
    )


def read_jsonl(file: File, options: Options | None = None) -> LabelledCorpus:
    """The sentences of JSON lines with `words`."""
    return LabelledCorpus(list(map(_from_object, LINES.records(file))), file.stem)


def _from_object(record: Record) -> Labelled:
    unknown = next((name for name in record.values if name not in FIELDS), None)
    if unknown is not None:
        raise record.fault(unknown, "unknown field", expected=", ".join(FIELDS))
    words = record.texts("words")
    if not words or not all(words):
        raise record.fault("words", "one or more words expected", got=list(words)[:5])
    if "text" in record.values:
        text = record.text("text")
        number = record.place if isinstance(record.place, int) else None
        places = tuple(spans.found(text, words, record.file, number))
    else:
        text, places = spans.joined(words)
    labels: Any = record.values.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(v, list) for v in labels.values()):
        raise record.fault("labels", "layer name -> list of labels expected", got=repr(labels)[:99])
    for name, layer in labels.items():
        if len(layer) != len(words):
            raise record.fault(
                "labels", f"layer {name!r}: one label per word", got=len(layer), expected=len(words)
            )
    heads: Any = record.values.get("heads")
    if heads is not None:
        whole = isinstance(heads, list) and all(type(head) is int for head in heads)
        if not whole or len(heads) != len(words):
            raise record.fault("heads", "one whole number per word expected", got=repr(heads)[:99])
    return Labelled(
        text=text,
        words=words,
        spans=places,
        labels={k: tuple(None if x is None else str(x) for x in v) for k, v in labels.items()},
        heads=None if heads is None else tuple(heads),
        group=str(record.values.get("group", "")),
        id=str(record.values.get("id", f"line {record.place}")),
    )


TSV = Format("word-per-line TSV", "a header `word<TAB>label...`", reads_tsv, read_tsv)
JSONL = Format("JSON lines of words", '{"words": [...], "labels": {...}}', LINES.has({"words"}), read_jsonl)
