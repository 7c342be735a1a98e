"""Rows 66, 67, 70: labels that are no numbers, archives that lie or swell, YAML that multiplies.

And the one formatter: whatever foreign text an error or a terminal shows is bounded and visible.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from interp.activations import TextConfig, read_texts
from interp.activations.packed import _Headers, _pages, unpacked_size
from interp.cli.attribute import read_rows
from interp.cli.main import main
from interp.cli.train import read_file
from interp.core.errors import ConfigError, InterpError, StorageError
from interp.core.escape import esc
from interp.core.foreign import one_line, parse_json, show, stand_in
from interp.core.store import read_jsonl
from interp.dictionaries import load
from interp.tasks import load_labels, load_task
from tests.support.hostile import judged, require_refused

GIGABYTE = 1 << 30


class Zeros(io.RawIOBase):
    """A gigabyte of one letter, made as it is read."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        count = min(len(buffer), self.left)
        buffer[:count] = b"a" * count
        self.left -= count
        return count


def packed(size: int) -> bytes:
    """Text of that size, gzipped: members of a megabyte, one behind the other."""
    whole, rest = divmod(size, 1 << 20)
    return gzip.compress(b"a" * (1 << 20)) * whole + gzip.compress(b"a" * rest)


def gz(path: Path) -> Path:
    path = path / "bomb.csv.gz"
    path.write_bytes(packed(GIGABYTE))
    return path


def zipped(path: Path) -> Path:
    path = path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.csv", "b.csv", "c.csv"):
            archive.writestr(name, b"a" * (60 << 20))
    return path


def lying_zip(path: Path) -> Path:
    """The directory says ten bytes; the member holds three hundred megabytes."""
    path = path / "lie.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", b"a" * (300 << 20))
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\1\2")
    raw[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(raw)
    return path


def many_members(path: Path) -> Path:
    path = path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_001):
            archive.writestr(f"{number}.csv", b"")
    return path


def tarred(path: Path) -> Path:
    path = path / "bomb.tar.gz"
    info = tarfile.TarInfo("a.csv")
    info.size = GIGABYTE
    path.write_bytes(gzip.compress(info.tobuf()) + packed(GIGABYTE))
    return path


def lying_tar(path: Path) -> Path:
    """A header that claims a terabyte in a file of a kilobyte."""
    path = path / "lie.tar"
    info = tarfile.TarInfo("a.csv")
    info.size = 1 << 40
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"a" * 512)
    return path


def sparse(path: Path) -> Path:
    """A hundred gigabytes that take no room."""
    path = path / "sparse.csv"
    with path.open("wb") as file:
        file.truncate(100 * GIGABYTE)
    return path


def fifo(path: Path) -> Path:
    path = path / "pipe.csv"
    os.mkfifo(path)
    return path


def deep(path: Path) -> Path:
    path = path / "deep.json"
    path.write_text("[" * 5_000_000)
    return path


def digits(path: Path) -> Path:
    path = path / "digits.json"
    path.write_text('{"prompts": [{"clean": "a", "read_at": ' + "9" * 10_000_000 + "}]}")
    return path


def values(path: Path) -> Path:
    path = path / "values.json"
    path.write_text("[" + "[]," * 10_000_000 + "[]]")
    return path


def wide(path: Path) -> Path:
    path = path / "wide.csv"
    path.write_text("text,label\n" + "," * 60_000_000 + "\n")
    return path


def long_directory(path: Path) -> Path:
    """A zip that lists four hundred thousand members of which none is there."""
    path = path / "long.zip"
    entry = b"PK\1\2" + bytes(24) + (5).to_bytes(2, "little") + bytes(16)
    listed = b"".join(entry + b"%05x" % number for number in range(400_000))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(listed), 4, 0)
    path.write_bytes(b"PK\3\4" + listed + end)
    return path


def emoji(path: Path) -> Path:
    """Sixty megabytes of letters; one character makes four bytes of each."""
    path = path / "emoji.csv"
    path.write_text("text,label\n🦊,1\n" + f"{'a' * 1000},b\n" * 60_000)
    return path


def emoji_list(path: Path) -> Path:
    path = path / "emoji.json"
    path.write_text('["🦊",' + '"aaaaaaa",' * 3_900_000 + '"b"]')
    return path


def rows(path: Path) -> Path:
    path = path / "rows.csv"
    path.write_text("text,label\n" + "a,b\n" * 999_000)
    return path


def words(path: Path) -> Path:
    path = path / "words.txt"
    path.write_text("a/b " * 3_000_000)
    return path


ARCHIVES = [
    long_directory,
    emoji,
    emoji_list,
    rows,
    words,
    gz,
    zipped,
    lying_zip,
    many_members,
    tarred,
    lying_tar,
    sparse,
    fifo,
    deep,
    digits,
    values,
    wide,
]


@pytest.mark.thin(3)
@pytest.mark.parametrize("door", [load_task, load_labels])
@pytest.mark.parametrize("make", ARCHIVES)
def test_hostile_files_of_tasks_and_labels(
    make: Callable[[Path], Path], door: Callable[..., object], tmp_path: Path
) -> None:
    path = make(tmp_path)
    require_refused(judged(lambda: door(path), tmp_path))


def test_the_budget_is_said_and_can_be_raised(tmp_path: Path) -> None:
    path = tmp_path / "few.csv.gz"
    rows = "text,label\n" + "a text,x\nanother,y\n" * 1000
    path.write_bytes(gzip.compress(rows.encode()))
    assert len(load_labels(path)) == 2000
    with pytest.raises(StorageError, match="1,000 bytes") as caught:
        load_labels(path, max_bytes=1_000)
    assert "max_bytes" in str(caught.value)


# ------------------------------------------------------------------ texts


def parquet(path: Path) -> Path:
    """Ten megabytes of one letter, a thousand times, in a file of kilobytes."""
    import pyarrow
    from pyarrow import parquet as pq

    path = path / "bomb.parquet"
    text = pyarrow.array(["a" * 10_000_000])
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000), text)
    pq.write_table(pyarrow.table({"text": column}), path, compression="zstd")
    return path


def varint(number: int) -> bytes:
    """A whole number as thrift writes it."""
    number, out = number << 1, b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def parquet_understated(path: Path) -> Path:
    """A footer that says a hundredth of what the pages themselves unpack to."""
    import pyarrow
    from pyarrow import parquet as pq

    path = path / "lie.parquet"
    texts = [f"{i}{'a' * 1_000_000}" for i in range(100)]
    pq.write_table(pyarrow.table({"text": texts}), path, compression="zstd", use_dictionary=False)
    held = pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size
    told, lie = varint(held), varint(1_100_000)
    assert len(told) == len(lie) and told in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(told, lie))
    return path


def parquet_cut(path: Path) -> Path:
    """Its pages begin with bytes that are no header."""
    import pyarrow
    from pyarrow import parquet as pq

    path = path / "cut.parquet"
    pq.write_table(pyarrow.table({"text": ["a"]}), path, compression="zstd")
    path.write_bytes(path.read_bytes()[:4] + b"\xff" * 20 + path.read_bytes()[24:])
    return path


def parquet_of_crumbs(path: Path) -> Path:
    """A page for each letter: its headers are most of it."""
    import pyarrow
    from pyarrow import parquet as pq

    table = pyarrow.table({"text": ["a"] * 300_000})
    small: dict[str, Any] = {"data_page_size": 1, "write_batch_size": 1, "use_dictionary": False}
    pq.write_table(table, path / "crumbs.parquet", compression="none", write_statistics=False, **small)
    return path / "crumbs.parquet"


def parquet_endless(path: Path) -> Path:
    """One header as long as its column: a field after the other."""
    import pyarrow
    from pyarrow import parquet as pq

    path = path / "endless.parquet"
    text = "x" * 20_000_000
    pq.write_table(pyarrow.table({"text": [text]}), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes()[:4] + b"\x11" * 20_000_000 + path.read_bytes()[20_000_004:])
    return path


def saved_outside(path: Path) -> Path:
    """A saved dataset whose own file names one outside of it."""
    import datasets

    folder = path / "data"
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(folder))
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": "../../../etc/passwd"}]
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def text_fifo(path: Path) -> Path:
    os.mkfifo(path / "pipe.txt")
    return path / "pipe.txt"


def sparse_text(path: Path) -> Path:
    with (path / "sparse.jsonl").open("wb") as file:
        file.truncate(100 * GIGABYTE)
    return path / "sparse.jsonl"


def deep_line(path: Path) -> Path:
    (path / "deep.jsonl").write_text('{"text": ' + "[" * 1_000_000)
    return path / "deep.jsonl"


def saved(path: Path) -> Path:
    """The Arrow file of an honest folder of four texts."""
    import datasets

    texts = ["aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"]
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(path / "data"))
    return next((path / "data").glob("*.arrow"))


def saved_far(path: Path) -> Path:
    """The last text ends two gigabytes behind the file."""
    file = saved(path)
    told, lie = (struct.pack("<5i", 0, 8, 16, 24, end) for end in (32, 2_000_000_000))
    file.write_bytes(file.read_bytes().replace(told, lie))
    return file.parent


def saved_fifo(path: Path) -> Path:
    file = saved(path)
    file.unlink()
    os.mkfifo(file)
    return file.parent


def saved_images(path: Path) -> Path:
    """Texts that are pictures elsewhere: whoever decodes them opens what they name."""
    import pyarrow

    file, elsewhere = saved(path), path / "elsewhere"
    os.mkfifo(elsewhere)
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    rows = pyarrow.array([{"bytes": None, "path": str(elsewhere)}], image)
    features = {"text": {"_type": "Image"}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.table({"text": rows}).replace_schema_metadata(told)
    with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    (file.parent / "dataset_info.json").write_text(json.dumps({"features": features}))
    return file.parent


def saved_twice(path: Path) -> Path:
    import pyarrow

    file = saved(path)
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return file.parent


def compressed(table: Any, file: Path, codec: str) -> Path:
    """The table in place of an honest Arrow file, its batches compressed."""
    import pyarrow

    packed = pyarrow.ipc.IpcWriteOptions(compression=codec)
    stream = pyarrow.ipc.new_stream
    with pyarrow.OSFile(str(file), "wb") as out, stream(out, table.schema, options=packed) as writer:
        writer.write_table(table)
    return file.parent


def saved_packed(path: Path) -> Path:
    """Batches that unpack to nobody knows how much."""
    import pyarrow

    texts = [f"{i}{'a' * 1_000_000}" for i in range(100)]
    return compressed(pyarrow.table({"text": texts}), saved(path), "zstd")


def saved_words_packed(path: Path) -> Path:
    """As before, in the dictionary of a column that nobody asked for."""
    import pyarrow

    words = pyarrow.array(["a" * 1000] * 9).dictionary_encode()
    return compressed(pyarrow.table({"text": ["b"] * 9, "kind": words}), saved(path), "lz4")


def saved_info(path: Path) -> Path:
    """Settings of nine million values that no text needs: they are not read."""
    file = saved(path)
    (file.parent / "dataset_info.json").write_text('{"x":[' + "[]," * 9_000_000 + "[]]}")
    (file.parent / "state.json").write_text('{"_data_files": 5}')
    return file.parent


SAVED = [
    saved_outside,
    saved_far,
    saved_fifo,
    saved_images,
    saved_twice,
    saved_info,
    saved_packed,
    saved_words_packed,
]


PARQUET = [parquet, parquet_understated, parquet_cut, parquet_of_crumbs, parquet_endless]


@pytest.mark.thin(3)
@pytest.mark.parametrize("make", [*PARQUET, *SAVED, text_fifo, sparse_text, deep_line])
def test_hostile_texts(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    require_refused(judged(lambda: read_texts(path), tmp_path))


@pytest.mark.parametrize("packing", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("words", [True, False])
def test_pages_tell_what_they_unpack_to(packing: str, version: str, words: bool, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as pq

    texts = [f"text {i} " * 5 for i in range(3000)]
    more = {"data_page_version": version, "use_dictionary": words, "write_page_index": True}
    path, table = tmp_path / "a.parquet", pyarrow.table({"text": texts, "n": list(range(3000))})
    pq.write_table(
        table, path, compression=packing, row_group_size=900, data_page_size=2000, write_batch_size=50, **more
    )
    held = pq.read_metadata(path)
    columns = [held.row_group(i).column(0) for i in range(held.num_row_groups)]
    said = sum(column.total_uncompressed_size for column in columns)
    assert len(columns) == 4 and unpacked_size(path, columns) == said
    headers = _Headers(memoryview(path.read_bytes()))
    pages = [
        size
        for c in columns
        for size in _pages(headers, c.dictionary_page_offset or c.data_page_offset, c.total_compressed_size)
    ]
    assert len(pages) >= 8 and 0.8 * said < sum(pages) < said
    assert read_texts(path) == texts


def test_a_saved_column_of_words_is_no_hindrance(tmp_path: Path) -> None:
    import pyarrow

    file = saved(tmp_path)
    table = pyarrow.table({"text": ["b", "c"], "kind": pyarrow.array(["x", "y"]).dictionary_encode()})
    with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    assert read_texts(file.parent) == ["b", "c"]


def test_a_text_beyond_its_budget_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 1000)
    assert read_texts(tmp_path / "a.txt") == ["a" * 1000]
    with pytest.raises(StorageError, match="max_bytes"):
        read_texts(tmp_path / "a.txt", TextConfig(max_bytes=999))


def test_a_text_takes_its_budget_once_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("🦊" + "a" * 1000)
    assert read_texts(tmp_path / "a.txt", TextConfig(max_bytes=5000))
    with pytest.raises(StorageError, match="max_bytes"):
        read_texts(tmp_path / "a.txt", TextConfig(max_bytes=2000))


def test_a_table_within_bounds_stays_within_memory(tmp_path: Path, full_count: bool) -> None:
    """As many rows, and as many fields, as are read; at a push a fifth of them."""
    path = tmp_path / "a.csv"
    path.write_text("text,label,c,d,e\n" + "aaa,bbb,ccc,ddd,eee\n" * (590_000 if full_count else 118_000))
    verdict = judged(lambda: load_labels(path), tmp_path)
    assert verdict.outcome == "accepted" and verdict.mb < (512 if full_count else 200), verdict


def test_many_records_are_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":0}\n' * 900_000)
    verdict = judged(lambda: read_jsonl(path), tmp_path)
    assert verdict.outcome == "accepted" and verdict.mb < 512 and verdict.seconds < 10, verdict
    path.write_text('{"step":0}\n' * 1_100_000)
    require_refused(judged(lambda: read_jsonl(path), tmp_path))


@pytest.mark.parametrize("line", ["[1]", "", "{", '{"a":1},{"b":2}', '{"a":[1', "3"])
def test_the_line_that_is_no_record_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":0}\n' * 6 + line + '\n{"step":0}\n')
    with pytest.raises(StorageError, match="line 7"):
        read_jsonl(path)


# ------------------------------------------------------------------ YAML

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(f'*{old}' for _ in range(9))}]\n"
    for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
YAML = {
    "aliases that multiply": BOMB,
    "merged aliases": BOMB.replace("x", "{k: 1}", 1) + "z: {<<: [*b, *b]}\n",
    "an alias of itself": "a: &a [*a]\n",
    "deep": "a: " + "[" * 60_000,
    "deep, whole": "a: " + "[" * 500 + "]" * 500,
    "long": "- a\n" * 400_000,
    "many": "- a\n" * 30_000,
    "many keys": "{" + ",".join(f"{number:05x}: 1" for number in range(16_000)) + "}",
    "digits": f"steps: {'9' * 5_000}\n",
    "sixties": f"steps: 1{':1' * 5_000}\n",
    "an object": "a: !!python/object/apply:os.system ['true']\n",
    "a date": "steps: 2024-99-99\n",
    "a list for a key": "{[a]: b}\n",
    "controls": "a: \x00\n",
    "escapes": 'model_kind: "\\e]0;owned\\a"\n',
    "no keys": "- a\n",
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", YAML)
def test_hostile_yaml(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(YAML[name])
    (tmp_path / "layer_0.safetensors").write_bytes(b"")
    doors: dict[str, Callable[[], object]] = {
        "train": lambda: main(["train", "--config", str(tmp_path / "config.yaml")]) and _said(),
        "dictionary": lambda: load(tmp_path / "layer_0.safetensors"),
    }
    if name not in ("escapes",):
        doors["read_file"] = lambda: read_file(tmp_path / "config.yaml")
    for door, call in doors.items():
        verdict = judged(call, tmp_path)
        if door != "train":
            require_refused(verdict)
        assert verdict.seconds < 10 and verdict.mb < 512, (door, verdict)
        assert not verdict.outcome.startswith(("raw", "no answer")), (door, verdict)


def _said() -> None:
    raise ConfigError("the command ended in an error, as it should")


def test_honest_yaml_keeps_its_aliases(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("base: &b {lr: 1e-3}\nother: *b\nmerged: {<<: *b, k: 2}\n")
    found = read_file(tmp_path / "run.yaml")
    assert found["other"] == {"lr": 1e-3} and found["merged"] == {"lr": 1e-3, "k": 2}


# ------------------------------------------------------------------ labels


LABELS = {
    "a NaN in CSV": ("t.csv", "text,label\na,1.5\nb,nan\nc,2.5\n", 3),
    "an infinity in CSV": ("t.csv", "text,label\na,1.5\nb,-inf\nc,2.5\n", 3),
    "only NaN": ("t.csv", "text,label\na,nan\nb,nan\n", 2),
    "an overflow in CSV": ("t.csv", "text,label\na,1.5\nb,1e999\n", 3),
    "NA among whole numbers": ("t.tsv", "text\tlabel\na\t1\nb\tN/A\n", 3),
    "no label": ("t.csv", "text,label\na,1\nb,\n", 3),
    "NaN in JSON lines": ("t.jsonl", '{"text":"a","label":1}\n{"text":"b","label":NaN}\n', 2),
    "overflow in JSON lines": ("t.jsonl", '{"text":"a","label":1}\n{"text":"b","label":1e999}\n', 2),
    "null in JSON lines": ("t.jsonl", '{"text":"a","label":1}\n{"text":"b","label":null}\n', 2),
    "a list in JSON lines": ("t.jsonl", '{"text":"a","label":[1]}\n', 1),
    "a NaN statement": ("s.csv", "statement,label\na,1\nb,nan\n", 3),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_no_numbers(name: str, tmp_path: Path) -> None:
    file, content, line = LABELS[name]
    (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_labels(tmp_path / file)
    assert f"line {line}" in caught.value.what, caught.value


def test_missing_labels_are_dropped_when_asked(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\na,1.5\nb,nan\nc,inf\nd,\ne,2\n")
    found = load_labels(tmp_path / "t.csv", missing="drop")
    assert found.texts == ("a", "e") and found.labels == (1.5, 2.0)
    assert "3 without a label" in found.name
    with pytest.raises(ConfigError, match="missing"):
        load_labels(tmp_path / "t.csv", missing="ignore")


UNLABELLED = {
    "s.csv": ("statement,label\na,1\nb,\nc,0\n", ("a", "c"), (1, 0)),
    "p.csv": ("name,latitude,longitude\na,1.5,2\nb,nan,3\nc,-90,4\n", ("a", "c"), (1.5, -90.0)),
    "w.csv": ("title,release_date\na,1999-01-01\nb,\nc,2001-01-01\n", ("a", "c"), (1999, 2001)),
    "j.jsonl": ('{"Name": "r/2", "Annotation": "a"}\n{"Name": "", "Annotation": "b"}\n', ("a",), ("r/2",)),
    "t.json": ('[["a_b", 0.0, 0.5], ["c", 0.0, null]]', ("a b",), (0.5,)),
    "r.tsv": ("a\t1\nb\t\nc\t0\n", ("a", "c"), (1, 0)),
    "q.csv": ("a b,c d,3.5\ne f,g h,nan\n", ("a b",), (3.5,)),
}


@pytest.mark.parametrize("name", UNLABELLED)
def test_every_format_of_texts_refuses_or_drops_those_without_a_label(name: str, tmp_path: Path) -> None:
    content, texts, labels = UNLABELLED[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match='missing="drop"'):
        load_labels(tmp_path / name)
    found = load_labels(tmp_path / name, missing="drop")
    assert (found.texts, found.labels) == (texts, labels)
    assert "1 without a label" in found.name


def test_words_that_look_like_no_numbers_stay_words(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\na,nan\nb,naan\nc,inf\n")
    assert load_labels(tmp_path / "t.csv").labels == ("nan", "naan", "inf")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 65])
def test_numbers_in_task_files(number: str, tmp_path: Path) -> None:
    text = f'{{"prompts": [{{"clean": "a"}}],\n "bar": {number}}}'
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ConfigError, match="line 2"):
        load_task(tmp_path / "t.json")
    with pytest.raises(ValueError):
        parse_json(text)


# ------------------------------------------------------------------ what is shown

ACTS = "\x1b]0;owned\x07 \x1b[2J \x9b2J \u202eevil\u2066 \r over \x00 \x7f \ud800 \u2028next \ufeff"


@pytest.mark.parametrize("part", ["what", "got", "expected", "fix"])
def test_errors_show_what_is_there(part: str) -> None:
    parts = {"what": "a", part: ACTS + "\n  fix: rm -rf /\n" + "long" * 100_000}
    error = ConfigError(parts.pop("what"), **parts)
    text = str(error)
    assert len(text) < 6_000
    assert not set(text) & set("\x1b\x07\x9b\u202e\u2066\r\x00\x7f\ud800\u2028\ufeff")
    assert "␛" in text and "\\u202e" in text
    text.encode()
    labels = [line for line in text.split("\n") if line.startswith("  fix: rm")]
    assert not labels  # a forged line stands further in


def test_one_stand_in_for_pages_and_terminals() -> None:
    for letter in "\x1b\x00\x7f\u202e\ud800":
        assert esc(letter) == stand_in(letter) == show(letter)
    assert show(show(ACTS)) == show(ACTS)
    assert one_line("a\nb\x1b") == "a b␛"

    class Silent:
        def __str__(self) -> str:
            raise ValueError

    assert "Silent" in show(Silent()) and "Silent" in one_line(Silent())
    assert len(show(10**10_000)) < 200


def test_commands_print_what_is_there(tmp_path: Path) -> None:
    rows = {"prompts": [{"clean": f"say {ACTS.replace(chr(0), '').replace(chr(0xD800), '')}"}]}
    (tmp_path / "t.json").write_text(json.dumps(rows))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for more in ([], ["--json"]):
            assert main(["tasks", str(tmp_path / "t.json"), *more]) == 0
    assert "owned" in out.getvalue()
    assert not set(out.getvalue()) & set("\x1b\x07\x9b\u202e\u2066\r\x7f\u2028")


def test_rows_for_attribution_are_bounded(tmp_path: Path) -> None:
    for path in (sparse(tmp_path), fifo(tmp_path)):
        with pytest.raises(InterpError):
            read_rows(path)
