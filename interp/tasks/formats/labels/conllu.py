"""CoNLL-U: Universal Dependencies' treebanks, ten columns per word.

Source: https://universaldependencies.org/format.html. Words are the syntactic words; a multiword
token ("don't") gives its words their places in it where they spell it out ("do" + "n't"), else its
whole span. Empty nodes (8.1) are left out. Layers: lemma, upos, xpos, feats, deprel; `_` is None
(a form or lemma of `_` is itself).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from interp.tasks.formats import spans
from interp.tasks.formats.source import File
from interp.tasks.formats.table import Format, Options
from interp.tasks.labels import ROOT, Labelled, LabelledCorpus

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
LAYERS = {"lemma": 2, "upos": 3, "xpos": 4, "feats": 5, "deprel": 7}
_ID = re.compile(r"[1-9]\d{0,8}|[1-9]\d{0,8}-[1-9]\d{0,8}|\d{1,9}\.[1-9]\d{0,8}")
_HEAD = re.compile(r"\d{1,9}")
Rows = list[tuple[int, list[str]]]


def reads(file: File) -> bool:
    """Whether the first line that is no comment has ten columns and a word id."""
    first = next((line for line in file.lines if line and not line.startswith("#")), "")
    fields = first.split("\t")
    return len(fields) == len(COLUMNS) and bool(_ID.fullmatch(fields[0]))


def read(file: File, options: Options | None = None) -> LabelledCorpus:
    """The sentences of a CoNLL-U file; documents (`# newdoc id`) are the groups."""
    document = ""
    sentences = []
    for comments, rows in _blocks(file):
        document = comments.get("newdoc id", document)
        sentences.append(_sentence(file, comments, rows, document))
    if not sentences:
        raise file.fault("no sentences")
    return LabelledCorpus(sentences, file.stem)


def _blocks(file: File) -> Iterator[tuple[dict[str, str], Rows]]:
    """Comments and word rows of each sentence."""
    comments: dict[str, str] = {}
    rows: Rows = []
    for number, line in enumerate([*file.lines, ""], 1):
        if line.startswith("#") and not rows:
            key, _, value = line[1:].partition("=")
            comments[key.strip()] = value.strip(" ")
        elif line.strip():
            rows.append((number, _columns(file, number, line)))
        elif rows:
            yield comments, rows
            comments, rows = {}, []


def _columns(file: File, number: int, line: str) -> list[str]:
    fields = line.split("\t")
    if len(fields) != len(COLUMNS):
        raise file.fault(
            "not a word's row",
            line=number,
            got=f"{len(fields)} columns: {line[:80]!r}",
            expected=f"{len(COLUMNS)}, separated by tabs: {', '.join(COLUMNS)}",
        )
    if not _ID.fullmatch(fields[0]):
        raise file.fault("not a word id", line=number, column="id", got=repr(fields[0]))
    if not fields[1]:
        raise file.fault("a word without a form", line=number, column="form")
    return fields


def _sentence(file: File, comments: dict[str, str], rows: Rows, document: str) -> Labelled:
    words = [(line, row) for line, row in rows if row[0].isdecimal()]
    for place, (line, row) in enumerate(words, 1):
        if int(row[0]) != place:
            raise file.fault(
                "words are not numbered in order", line=line, column="id", got=row[0], expected=place
            )
    if not words:
        raise file.fault("a sentence without words", line=rows[0][0])
    text, places = _places(file, comments.get("text"), rows)
    return Labelled(
        text=text,
        words=tuple(row[1] for _, row in words),
        spans=places,
        labels={
            name: tuple(
                None if row[at] == "_" and not (name == "lemma" and row[1] == "_") else row[at]
                for _, row in words
            )
            for name, at in LAYERS.items()
        },
        heads=_heads(file, words),
        group=document,
        id=comments.get("sent_id", ""),
    )


def _heads(file: File, words: Rows) -> tuple[int, ...] | None:
    if all(row[6] == "_" for _, row in words):
        return None
    heads = []
    for line, row in words:
        if not _HEAD.fullmatch(row[6]) or int(row[6]) > len(words) or row[6] == row[0]:
            raise file.fault(
                "not a head",
                line=line,
                column="head",
                got=repr(row[6]),
                expected=f"another word, 1 to {len(words)}, or 0 for the root",
            )
        heads.append(int(row[6]) - 1 if int(row[6]) else ROOT)
    return tuple(heads)


def _places(file: File, text: str | None, rows: Rows) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text, and the span of each word in it."""
    surface: list[tuple[str, list[str], bool]] = []  # form, the words it stands for, space after
    until = 0
    for _, row in rows:
        spaced = "SpaceAfter=No" not in row[9].split("|")
        if "-" in row[0]:
            until = int(row[0].partition("-")[2])
            surface.append((row[1], [], spaced))
        elif row[0].isdecimal():
            if int(row[0]) <= until:
                surface[-1][1].append(row[1])
            else:
                surface.append((row[1], [row[1]], spaced))
    if text is None:
        text = "".join(form + " " * spaced for form, _, spaced in surface).rstrip()
    places: list[tuple[int, int]] = []
    located = spans.found(text, [form for form, _, _ in surface], file, rows[0][0])
    for (start, end), (form, words, _) in zip(located, surface, strict=True):
        spelled = "".join(words) == form
        for word in words:
            places.append((start, start + len(word)) if spelled else (start, end))
            start += len(word) if spelled else 0
    return text, tuple(places)


FORMAT = Format("CoNLL-U", "ten columns per word, separated by tabs", reads, read)
