"""Labelled text: real treebanks counted independently, every word where it stands, faults named."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import ConfigError
from interp.tasks import Labelled, LabelledCorpus, LabelledTexts, load_labels

ROW = "{}\t{}\tlemma\tNOUN\tNN\t_\t{}\tdep\t_\t{}"


@pytest.fixture(scope="module")
def ewt(shared_data: Path) -> Path:
    return shared_data / "corpora" / "ud_ewt" / "en_ewt-ud-dev.conllu.gz"


@pytest.fixture(scope="module")
def treebank(ewt: Path) -> LabelledCorpus:
    corpus = load_labels(ewt)
    assert isinstance(corpus, LabelledCorpus)
    return corpus


# --- CoNLL-U --------------------------------------------------------------------------------------


def test_ewt_is_counted_as_its_lines_are(ewt: Path, treebank: LabelledCorpus) -> None:
    text = gzip.decompress(ewt.read_bytes()).decode()
    words = re.findall(r"^\d+\t.*$", text, re.M)
    assert len(treebank) == text.count("# sent_id =") == 2001
    assert treebank.n_words == len(words) == 25_147  # as UD's own statistics say
    assert len(treebank.groups) == text.count("# newdoc id =") == 318
    assert treebank.layers == ("lemma", "upos", "xpos", "feats", "deprel")
    counted: dict[str, int] = {}
    for line in words:
        tag = line.split("\t")[3]
        counted[tag] = counted.get(tag, 0) + 1
    assert treebank.counts("upos") == counted
    assert list(treebank.counts("upos").values()) == sorted(counted.values(), reverse=True)


def test_every_word_of_ewt_stands_where_its_span_says(treebank: LabelledCorpus) -> None:
    outside = 0
    for sentence in treebank:
        for word, (start, end) in zip(sentence.words, sentence.spans, strict=True):
            outside += sentence.text[start:end] != word
        between = re.sub(r"\s", "", sentence.text)
        assert len(between) <= sum(len(re.sub(r"\s", "", w)) for w in sentence.words) + 5
    assert outside < 5  # words of a written form that they do not spell out


def test_trees_of_ewt_have_one_root_and_no_cycle(treebank: LabelledCorpus) -> None:
    for sentence in treebank:
        heads = sentence.heads
        assert heads is not None and heads.count(-1) == 1
        for word in range(len(heads)):
            steps = 0
            while heads[word] >= 0 and steps <= len(heads):
                word, steps = heads[word], steps + 1
            assert heads[word] == -1
        root = heads.index(-1)
        assert sentence.labels["deprel"][root] == "root"


def sentence_of(tmp_path: Path, text: str) -> Labelled:
    corpus = load_labels(written(tmp_path, "a.conllu", text))
    assert isinstance(corpus, LabelledCorpus) and len(corpus) == 1
    return corpus[0]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_multiword_tokens_give_their_words_their_places(tmp_path: Path) -> None:
    rows = [
        "# text = Don't go au lit.",
        "1-2\tDon't" + "\t_" * 8,
        ROW.format(1, "Do", 3, "_"),
        ROW.format(2, "n't", 3, "_"),
        ROW.format(3, "go", 0, "_"),
        "3.1\tgone" + "\t_" * 8,
        "4-5\tau" + "\t_" * 8,
        ROW.format(4, "à", 6, "_"),
        ROW.format(5, "le", 6, "_"),
        ROW.format(6, "lit", 3, "SpaceAfter=No"),
        ROW.format(7, ".", 3, "_"),
    ]
    found = sentence_of(tmp_path, "\n".join(rows) + "\n\n")
    assert found.words == ("Do", "n't", "go", "à", "le", "lit", ".")
    assert found.spans == ((0, 2), (2, 5), (6, 8), (9, 11), (9, 11), (12, 15), (15, 16))
    assert found.heads == (2, 2, -1, 5, 5, 2, 2)
    assert found.labels["feats"] == (None,) * 7
    without = sentence_of(tmp_path, "\n".join(rows[1:]) + "\n")
    assert without.text == "Don't go au lit."
    assert without.spans == found.spans


GOOD = f"# text = a b\n{ROW.format(1, 'a', 2, '_')}\n{ROW.format(2, 'b', 0, '_')}\n\n"
BROKEN_CONLLU = {
    "text and words part": (GOOD.replace("= a b", "= a c"), ("line 2", "word 1", "'c'", "'b'")),
    "text goes on": (GOOD.replace("= a b", "= a b c"), ("part at word 2", "' c'")),
    "columns": (GOOD.replace("\tNOUN", "", 1) + GOOD, ("line 2", "9 columns", "10")),
    "spaces for tabs": (GOOD + "1 a b c\n", ("line 5", "1 columns")),
    "order": (GOOD.replace("\n2\t", "\n3\t"), ("line 3", "'id'", "in order")),
    "id": (GOOD.replace("\n2\t", "\nx\t"), ("line 3", "word id", "'x'")),
    "head": (
        GOOD.replace("a\tlemma\tNOUN\tNN\t_\t2", "a\tlemma\tNOUN\tNN\t_\t7"),
        ("line 2", "'head'", "'7'", "1 to 2"),
    ),
    "own head": (
        GOOD.replace("a\tlemma\tNOUN\tNN\t_\t2", "a\tlemma\tNOUN\tNN\t_\t1"),
        ("line 2", "'head'", "'1'"),
    ),
    "no form": (GOOD.replace("2\tb", "2\t"), ("line 3", "'form'")),
}


@pytest.mark.parametrize("case", BROKEN_CONLLU)
def test_broken_treebanks_say_line_and_column(tmp_path: Path, case: str) -> None:
    content, parts = BROKEN_CONLLU[case]
    if case == "columns":  # the first row decides the format
        content = GOOD + content
        parts = ("line 6", *parts[1:])
    with pytest.raises(ConfigError) as caught:
        load_labels(written(tmp_path, "bad.conllu", content))
    for part in ("bad.conllu", *parts):
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize("dress", ["crlf", "bom", "open"])
def test_how_a_treebank_was_saved_does_not_matter(tmp_path: Path, dress: str) -> None:
    data = {
        "crlf": GOOD.replace("\n", "\r\n").encode(),
        "bom": GOOD.encode("utf-8-sig"),
        "open": GOOD.rstrip("\n").encode(),
    }[dress]
    assert load_labels(written(tmp_path, "b.conllu", data))[0] == sentence_of(tmp_path, GOOD)


# --- nltk's zips ----------------------------------------------------------------------------------


@pytest.mark.full
def test_brown_is_all_there(shared_data: Path) -> None:
    corpus = load_labels(shared_data / "corpora" / "nltk" / "brown.zip")
    assert isinstance(corpus, LabelledCorpus)
    # nltk: len(brown.sents()), len(brown.words()), len(brown.fileids()), len(brown.categories())
    assert (len(corpus), corpus.n_words, len(corpus.groups)) == (57_340, 1_161_192, 500)
    assert len(corpus.counts("genre")) == 15
    assert corpus.counts("tag")["nn"] > 150_000


def test_a_file_of_brown_reads_as_its_pairs(shared_data: Path) -> None:
    path = shared_data / "corpora" / "nltk" / "brown.zip"
    corpus = load_labels(path, member="ca01")
    with zipfile.ZipFile(path) as archive:
        tokens = archive.read("brown/ca01").decode().split()
    assert isinstance(corpus, LabelledCorpus)
    assert corpus.n_words == len(tokens) == 2242
    pairs = [(w, t) for s in corpus for w, t in zip(s.words, s.labels["tag"], strict=True)]
    assert pairs == [tuple(token.rsplit("/", 1)) for token in tokens]
    assert corpus[0].words[:4] == ("The", "Fulton", "County", "Grand")


def test_the_dependency_treebank_has_its_trees(shared_data: Path) -> None:
    corpus = load_labels(shared_data / "corpora" / "nltk" / "dependency_treebank.zip")
    assert isinstance(corpus, LabelledCorpus)
    assert (len(corpus), corpus.n_words) == (3914, 94_084)  # nltk's own counts
    first = corpus[0] if corpus[0].words[0] == "Pierre" else corpus[1]
    assert all(sentence.heads is not None for sentence in corpus)
    assert first.heads is not None


def test_chunks_and_whole_texts_load_too(shared_data: Path) -> None:
    folder = shared_data / "corpora" / "nltk"
    chunks = load_labels(folder / "conll2000.zip", member="test")
    assert isinstance(chunks, LabelledCorpus)
    assert (len(chunks), chunks.n_words) == (2012, 47_377)  # Tjong Kim Sang and Buchholz 2000
    assert chunks.layers == ("tag", "chunk")
    with pytest.raises(ConfigError, match=r"(?s)2 files.*test, train"):
        load_labels(folder / "conll2000.zip")
    names = load_labels(folder / "names.zip")
    assert isinstance(names, LabelledTexts)
    assert (names.labels.count("female"), names.labels.count("male")) == (5001, 2943)
    reviews = load_labels(folder / "movie_reviews.zip")
    assert isinstance(reviews, LabelledTexts)
    assert (len(reviews), sum(map(int, reviews.labels))) == (2000, 1000)


# --- texts ----------------------------------------------------------------------------------------


def test_statements_keep_their_subject_together(shared_data: Path) -> None:
    path = shared_data / "tasks" / "geometry_of_truth" / "cities.csv"
    data = load_labels(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert isinstance(data, LabelledTexts)
    assert data.texts == tuple(row["statement"] for row in rows)
    assert data.labels == tuple(int(row["label"]) for row in rows)
    assert data.groups == tuple(row["city"] for row in rows)
    assert data.target == "truth" and data.classes == (0, 1)
    words = load_labels(path.with_name("sp_en_trans.csv"))
    assert isinstance(words, LabelledTexts)
    assert words.groups[:2] == ("con", "uno")


def test_places_have_coordinates_and_works_years(shared_data: Path) -> None:
    path = shared_data / "tasks" / "space_time.tar.gz"
    places = load_labels(path, member="us_place")
    assert isinstance(places, LabelledTexts)
    assert places.texts[0] == "New York" and places.groups[0] == "New York"
    both = places.numbers("latitude", "longitude")
    assert both.shape == (29_997, 2)
    torch.testing.assert_close(both[0], torch.tensor([40.6943, -73.9249]))
    assert places.with_labels("longitude").labels[0] == -73.9249
    works = load_labels(path, member="art")
    assert isinstance(works, LabelledTexts)
    assert works.labels[:2] == (1986, 1981) and works.target == "year"


def test_pairs_and_reviews_have_their_scores(shared_data: Path) -> None:
    pairs = load_labels(shared_data / "tasks" / "stsb" / "stsb-en-dev.csv")
    assert isinstance(pairs, LabelledTexts)
    assert len(pairs) == 1500 and pairs.labels[0] == 5.0
    assert pairs.seconds[0] == "A man wearing a hard hat is dancing."
    reviews = load_labels(shared_data / "tasks" / "sst2" / "dev.tsv")
    assert isinstance(reviews, LabelledTexts)
    assert (len(reviews), sum(map(int, reviews.labels))) == (872, 444)


# --- own files ------------------------------------------------------------------------------------


def test_own_word_tables(tmp_path: Path) -> None:
    text = "word\tupos\thead\tgroup\nthe\tDET\t2\td1\ncat\tNOUN\t0\td1\n\nruns\t_\t0\td2\n"
    corpus = load_labels(written(tmp_path, "own.tsv", text))
    assert isinstance(corpus, LabelledCorpus)
    first, second = corpus
    assert (first.text, first.words, first.heads) == ("the cat", ("the", "cat"), (1, -1))
    assert first.labels == {"upos": ("DET", "NOUN")} and second.labels == {"upos": (None,)}
    assert corpus.groups == ("d1", "d2")
    assert corpus.counts("upos") == {"DET": 1, "NOUN": 1}
    with pytest.raises(ConfigError, match="did you mean 'upos'"):
        corpus.counts("upso")
    lines = [
        {"text": "The  cat.", "words": ["The", "cat", "."], "labels": {"x": ["a", None, 3]}},
        {"words": ["b"], "heads": [-1], "group": "g", "id": "s2", "labels": {"x": ["c"]}},
    ]
    path = written(tmp_path, "own.jsonl", "\n".join(map(json.dumps, lines)))
    corpus = load_labels(path)
    assert isinstance(corpus, LabelledCorpus)
    assert corpus[0].spans == ((0, 3), (5, 8), (8, 9))
    assert corpus[0].labels == {"x": ("a", None, "3")}
    assert (corpus[1].group, corpus[1].id, corpus[1].heads) == ("g", "s2", (-1,))
    assert corpus.to_frame()["word"].tolist() == ["The", "cat", ".", "b"]


def test_own_text_tables(tmp_path: Path) -> None:
    rows = "text,label,group,size\nbig,1,a,3.5\nsmall,0,b,2\n"
    data = load_labels(written(tmp_path, "a.csv", rows))
    assert isinstance(data, LabelledTexts)
    assert (data.texts, data.labels, data.groups) == (("big", "small"), (1, 0), ("a", "b"))
    assert data.columns == {"size": (3.5, 2.0)}
    tabbed = load_labels(written(tmp_path, "a.tsv", rows.replace(",", "\t")))
    lines = [
        {"text": "big", "label": 1, "group": "a", "size": 3.5},
        {"text": "small", "label": 0, "group": "b", "size": 2.0},
    ]
    as_lines = load_labels(written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))))
    assert tabbed == data == as_lines
    assert data.take([1]).texts == ("small",)
    assert data[1:].groups == ("b",)
    assert data.to_frame().columns.tolist() == ["text", "label", "group", "size"]
    with pytest.raises(ConfigError, match="not numbers"):
        load_labels(written(tmp_path, "b.csv", "text,label\na,yes\nb,no\n")).numbers()
    with pytest.raises(ConfigError, match="did you mean 'size'"):
        data.with_labels("sise")


BROKEN: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "ragged": ("a.tsv", "word\tupos\na\tX\tY\n", ("line 2", "3 fields", "word, upos")),
    "twice": ("a.tsv", "word\tx\tx\na\tb\tc\n", ("line 1", "'x'", "two columns")),
    "no words": ("a.tsv", "word\tupos\n\n", ("no words",)),
    "no word": ("a.tsv", "word\tupos\n\tX\n", ("line 2", "'word'")),
    "head": ("a.tsv", "word\thead\na\t2\n", ("line 2", "'head'", "0 to 1")),
    "labels": ("a.jsonl", '{"words": ["a"], "labels": {"x": []}}', ("line 1", "'x'", "0", "1")),
    "heads": ("a.jsonl", '{"words": ["a"], "heads": ["0"]}', ("line 1", "heads", "['0']")),
    "span": ("a.jsonl", '{"words": ["a", "c"], "text": "a b c"}', ("word 1", "'b c'", "'c'")),
    "field": ("a.jsonl", '{"words": ["a"], "label": {}}', ("'label'", "unknown field")),
    "truth": ("a.csv", "statement,label\nx,1\ny,2\n", ("line 3", "'label'", "0 to 1")),
    "unlabelled": ("a.csv", "text,label\nx,1\ny,\n", ("line 3", "without a label", "y")),
    "fields": ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}', ("line 2", "same fields")),
    "latitude": ("a.csv", "name,latitude,longitude\nx,91,0\n", ("line 2", "latitude", "-90 to 90")),
    "number": ("a.csv", "name,latitude,longitude\nx,1,nan\n", ("line 2", "longitude", "finite")),
    "date": ("a.csv", "title,release_date\nx,soon\n", ("line 2", "release_date", "YYYY")),
    "score": ("a.csv", "a b,c d,3\na b,c d,6\n", ("line 2", "similarity", "0 to 5")),
    "triple": ("a.json", '[["a", 0.0, 0.5], ["b", 0.0]]', ("[1]", "3 entries", "['b', 0.0]")),
    "gender": ("a.json", '[["a", 0.0, 0.5], ["b", "x", 0.5]]', ("[1].definitional", "number", "'x'")),
    "note": ("a.jsonl", '{"Name": "a", "Annotation": ""}\n', ("line 1", "Annotation", "text")),
    "tagged": ("a.txt", "a/b c/d\nthe/at cat\n", ("line 2", "word/tag", "'cat'")),
    "chunk": ("a.txt", "a b O\nc d\n", ("line 2", "2 fields", "3 fields")),
    "prose": ("a.txt", "Call me Ishmael.\n", ("a.txt, line 1", "no format", "CoNLL-U")),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_say_place_value_and_what_was_expected(tmp_path: Path, case: str) -> None:
    name, content, parts = BROKEN[case]
    with pytest.raises(ConfigError) as caught:
        load_labels(written(tmp_path, name, content))
    for part in (name, *parts):
        assert part in str(caught.value), str(caught.value)


# --- the records themselves -----------------------------------------------------------------------

BAD_RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "beside": ({"spans": ((0, 3), (3, 6))}, "span of word 1"),
    "outside": ({"spans": ((0, 3), (4, 9))}, "span of word 1"),
    "backwards": ({"spans": ((4, 7), (0, 3)), "words": ("cat", "the")}, "span of word 1"),
    "missing": ({"spans": ((0, 3),)}, "spans per word"),
    "labels": ({"labels": {"x": ("a",)}}, "x per word"),
    "heads": ({"heads": (1, 2)}, "impossible head"),
    "itself": ({"heads": (0, -1)}, "impossible head"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_misaligned_records_cannot_be_made(case: str) -> None:
    changes, what = BAD_RECORDS[case]
    good: dict[str, Any] = {
        "text": "the cat",
        "words": ("the", "cat"),
        "spans": ((0, 3), (4, 7)),
        "labels": {},
    }
    assert str(Labelled(**good)) == "the cat"
    with pytest.raises(ConfigError, match=what):
        Labelled(**(good | changes))


def test_columns_of_unequal_length_cannot_be_made() -> None:
    for field in ("labels", "groups", "seconds", "columns"):
        value: Any = {"c": ("x",)} if field == "columns" else ("x",)
        fields: dict[str, Any] = {"texts": ("a", "b"), "labels": (1, 2)} | {field: value}
        with pytest.raises(ConfigError, match="per text"):
            LabelledTexts(**fields)


WORDS = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=6)


@given(st.lists(WORDS, min_size=1, max_size=9), st.data())
def test_any_words_in_any_spacing_are_found_again(words: list[str], data: st.DataObject) -> None:
    from interp.tasks.formats import spans

    gaps = data.draw(
        st.lists(st.sampled_from(["", " ", "  ", "\u00a0"]), min_size=len(words), max_size=len(words))
    )
    text = "".join(gap + word for gap, word in zip(gaps, words, strict=True))
    found = spans.found(text, words)
    assert [text[start:end] for start, end in found] == words
    joined, places = spans.joined(words)
    assert [joined[start:end] for start, end in places] == words
    with pytest.raises(ConfigError, match="part at"):
        spans.found(text + "x", words)


def test_a_column_labels_every_text_or_says_which_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,size,kind\na,1,3,x\nb,0,nan,\nc,1,5,z\nd,0,n/a,x\n")
    data = load_labels(tmp_path / "a.csv")
    assert isinstance(data, LabelledTexts)
    with pytest.raises(ConfigError, match="'size' does not label every text") as caught:
        data.with_labels("size")
    assert "row 1 ('b'), 2 in all" in str(caught.value)
    kept = data.with_labels("size", missing="drop")
    assert kept.texts == ("a", "c") and kept.labels == (3, 5) and kept.columns["label"] == (1, 1)
    with pytest.raises(ConfigError, match="row 1"):
        data.with_labels("kind")
    assert data.with_labels("kind", missing="drop").labels == ("x", "z", "x")
    assert data.with_labels("size", as_text=True).labels == ("3", "nan", "5", "n/a")
    with pytest.raises(ConfigError, match="missing"):
        data.with_labels("size", missing="Drop")
