"""Every kind of text source gives the same documents; every broken one says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interp.activations import TextConfig, read_texts
from interp.core.errors import ConfigError, StorageError

TEXTS = ["One day,\na cat.", "Ein Bär — 熊 \u2028 same line", "the end"]


def jsonl(path: Path) -> Path:
    lines = [json.dumps({"id": i, "story": t}, ensure_ascii=False) for i, t in enumerate(TEXTS)]
    path.write_text("\n".join(lines) + "\n\n", "utf-8")
    return path


def write_json(path: Path) -> Path:
    path.write_text(json.dumps([{"story": t} for t in TEXTS]))
    return path


def parquet(path: Path) -> Path:
    import pandas

    pandas.DataFrame({"id": [0, 1, 2], "story": TEXTS}).to_parquet(path)
    return path


def saved(path: Path) -> Path:
    import datasets

    datasets.Dataset.from_dict({"id": [0, 1, 2], "story": TEXTS}).save_to_disk(str(path))
    return path


def saved_splits(path: Path) -> Path:
    import datasets

    train = datasets.Dataset.from_dict({"story": TEXTS})
    test = datasets.Dataset.from_dict({"story": ["held out"]})
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(path))
    return path


SOURCES: dict[str, Callable[[Path], Path]] = {
    "a.jsonl": jsonl,
    "a.json": write_json,
    "a.parquet": parquet,
    "folder": saved,
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_documents(name: str, tmp_path: Path) -> None:
    path = SOURCES[name](tmp_path / name)
    assert read_texts(path, TextConfig(field="story")) == TEXTS
    assert read_texts(str(path), TextConfig(field="story")) == TEXTS
    with pytest.raises(ConfigError, match="did you mean 'story'") as caught:
        read_texts(path, TextConfig(field="stroy"))
    assert "stroy" in str(caught.value) and name in str(caught.value)


def test_lists_and_tables_in_memory() -> None:
    import datasets

    assert read_texts(TEXTS) == TEXTS
    assert read_texts(tuple(TEXTS)) == TEXTS
    assert read_texts(datasets.Dataset.from_dict({"text": TEXTS})) == TEXTS


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    path = saved_splits(tmp_path / "dict")
    assert read_texts(path, TextConfig(field="story", split="test")) == ["held out"]
    for wrong in (None, "tset"):
        with pytest.raises(ConfigError, match="train, test"):
            read_texts(path, TextConfig(field="story", split=wrong))


def test_documents_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\n\n  \n\nfour", "utf-8")
    assert read_texts(path) == ["one\ntwo", "three", "four"]
    assert read_texts(path, TextConfig(separator="")) == [path.read_text()]
    assert read_texts(path, TextConfig(separator="\n")) == ["one", "two", "three", "four"]
    (tmp_path / "b.txt").write_text("five")
    assert read_texts([path, tmp_path / "b.txt"]) == ["one\ntwo", "three", "four", "five"]


def bad(name: str, content: bytes) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: p / "absent.txt", StorageError, "no file or folder"),
        (lambda p: "Once upon a time", StorageError, "list of strings"),
        (lambda p: p, ConfigError, "no saved datasets folder"),
        (bad("a.txt", b""), ConfigError, "no text in"),
        (bad("a.txt", b"abc \xff"), StorageError, "byte 4"),
        (bad("a.csv", b"a,b"), ConfigError, r"\.jsonl"),
        (bad("a.jsonl", b'{"text": "a"}\n{"text": '), StorageError, "line 2"),
        (bad("a.jsonl", b'{"text": "a"}\n{"text": 3}'), ConfigError, "line 2"),
        (bad("a.jsonl", b'{"text": "a"}\n[1]'), ConfigError, "line 2"),
        (bad("a.json", b'{"text": "a"}'), ConfigError, "holds no list"),
        (bad("a.parquet", b"PAR1 no"), StorageError, "parquet"),
        (lambda p: [], ConfigError, "no text"),
        (lambda p: ["", " \n"], ConfigError, "no text"),
        (lambda p: ["a", 3], ConfigError, "document 1"),
        (lambda p: 7, ConfigError, "int"),
    ],
)
def test_what_cannot_be_read_says_why(
    make: Callable[[Path], Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        read_texts(make(tmp_path))


def test_a_broken_datasets_folder(tmp_path: Path) -> None:
    path = saved(tmp_path / "folder")
    next(path.glob("*.arrow")).write_bytes(b"nothing")
    with pytest.raises(StorageError, match="cannot read the dataset"):
        read_texts(path, TextConfig(field="story"))
