"""Tagged corpora as nltk packs them: Brown, Penn Treebank samples, CoNLL-2000 chunks, dependencies.

Read straight from the zip, without nltk. None of them keeps the original spacing, so a sentence's
text is its words with single spaces between them. Documents are the groups; Brown's genres
(`cats.txt`) are the layer `genre`, one label per word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from interp.tasks.formats import spans
from interp.tasks.formats.source import LINES, File, Record
from interp.tasks.formats.table import ArchiveFormat, Format, Options
from interp.tasks.labels import ROOT, Label, Labelled, LabelledCorpus, LabelledTexts

_PAIR = re.compile(r"\S+/\S+")
_BROWN = re.compile(r"c[a-r]\d\d")
_CHUNK = re.compile(r"\S+ \S+ (O|[BI]-\S+)")
Tagged = list[tuple[str, str]]


def _labelled(pairs: Tagged, group: str, genre: str | None = None) -> Labelled:
    text, places = spans.joined([word for word, _ in pairs])
    labels: dict[str, tuple[str | None, ...]] = {"tag": tuple(tag for _, tag in pairs)}
    if genre is not None:
        labels["genre"] = (genre,) * len(pairs)
    return Labelled(text, tuple(word for word, _ in pairs), places, labels, group=group)


def _pair(file: File, number: int, token: str) -> tuple[str, str]:
    """`word/tag` -> both; the last slash that nothing escapes divides."""
    word, _, tag = token.rpartition("/")
    if not word or not tag:
        raise file.fault("not word/tag", line=number, got=repr(token))
    return word.replace("\\/", "/"), tag


# --- Brown: one sentence a line ----------------------------------------------------------------


def reads_slashed(file: File) -> bool:
    """Whether the first line with text consists of word/tag pairs."""
    first = next((line for line in file.lines if line.strip()), "")
    return all(_PAIR.fullmatch(token) for token in first.split()) and "/" in first


def read_slashed(file: File, options: Options | None = None) -> LabelledCorpus:
    """The sentences of one tagged Brown file."""
    return LabelledCorpus(list(_slashed(file, None)), file.stem)


def _slashed(file: File, genre: str | None) -> Iterator[Labelled]:
    if file.text.count("/") > LINES:
        raise file.fault(f"more than {LINES:,} words with tags", expected="a file cut into parts")
    for number, line in enumerate(file.lines, 1):
        if line.strip():
            pairs = [_pair(file, number, token) for token in line.split()]
            yield _labelled(pairs, file.stem, genre)


def reads_brown(files: Sequence[File]) -> bool:
    """Whether there are files named as Brown's are, and its list of genres."""
    names = [file.stem for file in files]
    return "cats" in names and any(_BROWN.fullmatch(name) for name in names)


def read_brown(files: Sequence[File], options: Options | None = None) -> LabelledCorpus:
    """All sentences of the Brown corpus, in order of its files."""
    (listing,) = (file for file in files if file.stem == "cats")
    genres = dict(line.split()[:2] for line in listing.lines if len(line.split()) >= 2)
    texts = [file for file in files if _BROWN.fullmatch(file.stem)]
    missing = next((file for file in texts if file.stem not in genres), None)
    if missing is not None:
        raise listing.fault("a file without a genre", got=missing.stem)
    sentences = [s for file in texts for s in _slashed(file, genres[file.stem])]
    return LabelledCorpus(sentences, "brown")


# --- Penn Treebank's tagged files: bracketed noun groups, blank lines between sentences -----------


def reads_pos(files: Sequence[File]) -> bool:
    """Whether there are files that end in `.pos`."""
    return any(file.name.endswith(".pos") for file in files)


def read_pos(files: Sequence[File], options: Options | None = None) -> LabelledCorpus:
    """All sentences of a treebank's tagged files. Empty lines divide them, but not before a `.`."""
    sentences: list[Labelled] = []
    for file in files:
        if file.name.endswith(".pos"):
            sentences += _pos(file)
    return LabelledCorpus(sentences, "treebank")


def _pos(file: File) -> Iterator[Labelled]:
    pairs: Tagged = []
    for number, line in enumerate([*file.lines, ""], 1):
        for token in line.split():
            if token not in ("[", "]") and set(token) != {"="}:
                pairs.append(_pair(file, number, token))
        rule = line.startswith("=") or number > len(file.lines)
        if pairs and (rule or (not line.strip() and any(tag == "." for _, tag in pairs))):
            yield _labelled(pairs, file.stem)
            pairs = []


# --- CoNLL-2000: word tag chunk ------------------------------------------------------------------


def reads_chunks(file: File) -> bool:
    """Whether the first line is a word, a tag and a chunk, separated by spaces."""
    return bool(_CHUNK.fullmatch(file.lines[0]))


def read_chunks(file: File, options: Options | None = None) -> LabelledCorpus:
    """The sentences of a CoNLL-2000 file; layers `tag` and `chunk`."""
    found = [_columns(rows, file) for rows in _paragraphs(file, " ", 3)]
    return LabelledCorpus(found, file.stem)


def _columns(rows: list[tuple[int, list[str]]], file: File) -> Labelled:
    words = tuple(row[0] for _, row in rows)
    text, places = spans.joined(words)
    labels = {name: tuple(row[at] for _, row in rows) for name, at in (("tag", 1), ("chunk", 2))}
    return Labelled(text, words, places, dict(labels), group=file.stem, id=f"line {rows[0][0]}")


# --- nltk's dependency treebank: word tag head ----------------------------------------------------


def reads_dependencies(files: Sequence[File]) -> bool:
    """Whether there are files that end in `.dp`."""
    return any(file.name.endswith(".dp") for file in files)


def read_dependencies(files: Sequence[File], options: Options | None = None) -> LabelledCorpus:
    """All sentences of the dependency treebank; layer `tag`, and heads."""
    sentences = []
    for file in files:
        if file.name.endswith(".dp"):
            sentences += [_tree(rows, file) for rows in _paragraphs(file, "\t", 3)]
    return LabelledCorpus(sentences, "dependency_treebank")


def _tree(rows: list[tuple[int, list[str]]], file: File) -> Labelled:
    words = tuple(row[0] for _, row in rows)
    text, places = spans.joined(words)
    heads = []
    for number, row in rows:
        record = Record(file, number, {"head": row[2]})
        heads.append(record.integer("head", 0, len(rows)) - 1)
    tags = {"tag": tuple(row[1] for _, row in rows)}
    whole = tuple(head if head >= 0 else ROOT for head in heads)
    where = f"{file.stem} line {rows[0][0]}"
    return Labelled(text, words, places, dict(tags), whole, group=file.stem, id=where)


def _paragraphs(file: File, separator: str, width: int) -> Iterator[list[tuple[int, list[str]]]]:
    """Rows of each block between empty lines, with their line numbers."""
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate([*file.lines, ""], 1):
        if line.strip():
            fields = line.split(separator)
            if len(fields) != width or not all(fields):
                got = f"{len(fields)} fields: {line[:60]!r}"
                raise file.fault("not a word's row", line=number, got=got, expected=f"{width} fields")
            rows.append((number, fields))
        elif rows:
            yield rows
            rows = []


# --- whole texts in nltk's zips -------------------------------------------------------------------


def reads_folders(files: Sequence[File]) -> bool:
    """Whether there are text files in folders `pos` and `neg`."""
    return {"pos", "neg"} <= {_folder(file) for file in files}


def read_folders(files: Sequence[File], options: Options | None = None) -> LabelledTexts:
    """Reviews; labels 1 (`pos`) and 0 (`neg`)."""
    chosen = [file for file in files if _folder(file) in ("pos", "neg")]
    labels: tuple[Label, ...] = tuple(int(_folder(file) == "pos") for file in chosen)
    texts = tuple(file.text for file in chosen)
    groups = tuple(file.stem for file in chosen)
    return LabelledTexts(texts, labels, groups, "movie_reviews", "sentiment")


def _folder(file: File) -> str:
    parts = file.name.rpartition(": ")[2].split("/")
    return parts[-2] if len(parts) > 1 and file.name.endswith(".txt") else ""


def reads_names(files: Sequence[File]) -> bool:
    """Whether there are lists `male.txt` and `female.txt`."""
    return {"male", "female"} <= {file.stem for file in files}


def read_names(files: Sequence[File], options: Options | None = None) -> LabelledTexts:
    """First names; labels `female` and `male`. Some names stand in both lists."""
    rows = [
        (line.strip(), file.stem)
        for file in files
        if file.stem in ("male", "female")
        for line in file.lines
        if line.strip()
    ]
    texts, labels = zip(*rows, strict=True)
    return LabelledTexts(texts, labels, name="names", target="gender")


SLASHED = Format("tagged text", "word/tag word/tag ...", reads_slashed, read_slashed)
CHUNKS = Format("CoNLL-2000", "word tag chunk, separated by spaces", reads_chunks, read_chunks)
BROWN = ArchiveFormat("Brown corpus", reads_brown, read_brown)
TREEBANK = ArchiveFormat("tagged treebank", reads_pos, read_pos)
DEPENDENCIES = ArchiveFormat("dependency treebank", reads_dependencies, read_dependencies)
REVIEWS = ArchiveFormat("movie reviews", reads_folders, read_folders)
NAMES = ArchiveFormat("first names", reads_names, read_names)
