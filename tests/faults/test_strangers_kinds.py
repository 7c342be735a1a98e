"""Files from strangers, by kinds: fields of other types, forged tensors, labels of two kinds, echoes.

Rows 64-72 of the fault book a third time. A kind is tested where it is decided, and at the doors.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import tarfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from interp import load_model
from interp.activations import read_texts
from interp.cli.config import Common
from interp.cli.main import main
from interp.cli.process import revealing
from interp.cli.train import Train
from interp.core import store
from interp.core.errors import (
    BadName,
    ConfigError,
    CorruptArtefact,
    InterpError,
    MemoryBudgetError,
    ModelError,
    StorageError,
    TokenWarning,
)
from interp.core.foreign import parse_json
from interp.core.provenance import Provenance
from interp.core.result import Result
from interp.dictionaries import Dictionary, DictionaryConfig
from interp.dictionaries import load as load_dictionary
from interp.probing import Probe, train_probe
from interp.probing.probe import ProbeShape
from interp.tasks import load_labels
from interp.tasks.labels import Labelled, LabelledTexts
from tests.faults.test_strangers_again import edit, run
from tests.support.folders import model_folder

ACTS = "\x1b]0;owned\x07\u202e"


def acts(text: str) -> bool:
    return bool(set(text) & set(ACTS[:1] + ACTS[-2:]))


# --- JSON: one reader ---


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]'])
def test_entries_occur_once_wherever_json_is_read(text: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(ValueError, match="twice"):
            parse_json(given)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("number", ["1e999", "4" * 4000, "NaN"])
def test_bytes_of_json_are_utf_8(number: str, encoding: str) -> None:
    with pytest.raises(ValueError):
        parse_json(f'{{"a": {number}}}'.encode(encoding))
    with pytest.raises(ValueError):
        parse_json('{"a": 1}'.encode(encoding))
    assert parse_json('{"a": 1}'.encode("utf-8-sig")) == {"a": 1}


def test_settings_of_a_dictionary_and_texts_name_entries_once(tmp_path: Path) -> None:
    Dictionary(DictionaryConfig(d_in=4, d_sae=8, k=2)).save(tmp_path / "d")
    (tmp_path / "d" / "manifest.json").unlink()
    cfg = tmp_path / "d" / "cfg.json"
    load_dictionary(tmp_path / "d")
    said = cfg.read_text()
    cfg.write_text(said.rstrip().removesuffix("}") + ', "d_in": 4}')
    with pytest.raises(CorruptArtefact, match="no JSON"):
        load_dictionary(tmp_path / "d")
    cfg.write_bytes(said.encode("utf-16"))
    with pytest.raises(CorruptArtefact, match="no JSON"):
        load_dictionary(tmp_path / "d")
    (tmp_path / "t.jsonl").write_text('{"text": "a", "text": "b"}\n')
    with pytest.raises(StorageError, match="line 1"):
        read_texts(tmp_path / "t.jsonl")


# --- memory is no damage ---


def test_want_of_memory_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = train_probe(torch.randn(40, 4), [i % 2 for i in range(40)])
    probe.save(tmp_path / "p")
    Forgeable.honest().save(tmp_path / "r")
    Dictionary(DictionaryConfig(d_in=4, d_sae=8, k=2)).save(tmp_path / "d")

    def starve(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("safetensors.torch.load", starve)
    monkeypatch.setattr("safetensors.torch.load_file", starve)
    for read in (
        lambda: Probe.load(tmp_path / "p"),
        lambda: Result.load(tmp_path / "r"),
        lambda: load_dictionary(tmp_path / "d"),
        lambda: store.load_tensors(tmp_path / "r" / "tensors.safetensors"),
    ):
        with pytest.raises(MemoryBudgetError, match="memory"):
            read()


# --- results, provenance, probes: fields of their annotated types ---


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Forgeable(Result):
    """A result with a field of every kind that results have."""

    score: Float[Tensor, " layer"]
    """Numbers."""
    name: str
    """A text."""
    count: int
    """A whole number."""
    share: float
    """A number."""
    whole: bool
    """Yes or no."""
    pieces: tuple[str, ...]
    """Texts."""
    words: dict[int, str]
    """Texts by number."""
    rows: tuple[tuple[tuple[int, float], ...], ...]
    """Nested."""
    note: str | None = None
    """A text or nothing."""

    @classmethod
    def honest(cls, **more: Any) -> Forgeable:
        """One that fits."""
        values = {"name": "a", "count": 2, "share": 0.5, "whole": True, "pieces": ("a",), "words": {3: "b"}}
        return cls(score=torch.ones(3), rows=(((1, 0.5),),), **values | more)


def forge(folder: Path, **fields: Any) -> None:
    """Change fields of a saved result, and sign it anew."""
    held = store.open_artefact(folder)
    values = held.json("result.json")
    values["fields"] |= fields
    files = {"result.json": values, "tensors.safetensors": held.tensors("tensors.safetensors")}
    store.commit(folder, files, schema=str(held.manifest["schema"]), overwrite=True)


FORGED = [
    {"name": 5},
    {"count": "x"},
    {"count": 1.5},
    {"count": True},
    {"share": "x"},
    {"share": [1]},
    {"whole": 1},
    {"pieces": {"__tuple__": [1]}},
    {"pieces": ["a"]},
    {"pieces": "ab"},
    {"words": {"__dict__": [["3", "b"]]}},
    {"words": 7},
    {"rows": {"__tuple__": [{"__tuple__": [1]}]}},
    {"note": 5},
    {"labels": {"layer": [[1], {}, "a"]}},
    {"labels": 5},
    {"provenance": "x"},
    *(
        {"provenance": {"__provenance__": {"model": "m", "model_fingerprint": "f"} | wrong}}
        for wrong in ({"model": 5}, {"sites": "ab"}, {"sites": [["x"]]}, {"d_in": "x"}, {"versions": 5})
    ),
]


@pytest.mark.parametrize("fields", FORGED, ids=lambda fields: json.dumps(fields)[:60])
def test_a_result_holds_what_its_annotations_say(fields: dict[str, Any], tmp_path: Path) -> None:
    honest = Forgeable.honest(provenance=Provenance("m", "f", ("a",), 3))
    honest.save(tmp_path / "r")
    again = Forgeable.load(tmp_path / "r")
    assert again.words == {3: "b"} and again.provenance == honest.provenance
    forge(tmp_path / "r", **fields)
    with pytest.raises(InterpError):
        Result.load(tmp_path / "r")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "x"},
        {"classes": ["a", "a"]},
        {"classes": ["a"]},
        {"classes": [{}, {}]},
        {"classes": [1, 2]},
        {"classes": 5},
        {"name": 5},
        {"hidden": -1},
        {"provenance": {"model": 5, "model_fingerprint": "f"}},
        {"provenance": {"model": "a", "model_fingerprint": "f", "sites": [["x"]]}},
    ],
    ids=repr,
)
def test_a_forged_probe_is_refused_at_loading(change: dict[str, Any], tmp_path: Path) -> None:
    probe = train_probe(torch.randn(40, 4), [i % 2 for i in range(40)])
    files = probe.files()
    provenance = change.pop("provenance", None)
    about = files["probe.json"] | {"shape": asdict(probe.shape) | change, "provenance": provenance}
    store.commit(tmp_path / "p", files | {"probe.json": about}, schema=probe.schema)
    with pytest.raises(InterpError):
        Probe.load(tmp_path / "p")
    assert ProbeShape(4, "a").classes == ()


# --- tensors ---


def safetensors(dtype: str, shape: list[int], size: int) -> bytes:
    header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + bytes(size)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("F4", [2], 1),
        ("F6_E2M3", [4], 3),
        ("F8_E8M0", [1], 1),
        ("F32", [0, 2**62, 2**62], 0),
        ("F32", [0, 2**63], 0),
        ("F32", [1] * 100_000, 4),
    ],
    ids=lambda value: str(value)[:20],
)
def test_headers_that_torch_cannot_follow(dtype: str, shape: list[int], size: int, tmp_path: Path) -> None:
    raw = safetensors(dtype, shape, size)
    (tmp_path / "w.safetensors").write_bytes(raw)
    with pytest.raises(CorruptArtefact, match="a"):
        store.load_tensors(tmp_path / "w.safetensors")
    fields = {"type": "Forgeable", "module": __name__, "fields": {}}
    files = {"result.json": fields, "tensors.safetensors": raw}
    store.commit(tmp_path / "r", files, schema="result/Forgeable")
    with pytest.raises(CorruptArtefact):
        Result.load(tmp_path / "r")


# --- labels ---


def table(folder: Path, *cells: str) -> Path:
    path = folder / "t.csv"
    path.write_text("text,label\n" + "".join(f"t{i},{cell}\n" for i, cell in enumerate(cells)))
    return path


def lines(folder: Path, *values: Any) -> Path:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps({"text": f"t{i}", "label": v}) + "\n" for i, v in enumerate(values)))
    return path


@pytest.mark.parametrize(
    "cell",
    [
        "-",
        ".",
        "missing",
        "<NA>",
        "NaT",
        "sNaN",
        "#DIV/0!",
        "#VALUE!",
        "undefined",
        "Infinite",
        "**",
        "1d400",
        "9" * 400,
        "ｎａｎ",
        "nan\u200b",
        "1e300",
        "1" + "0" * 60,
    ],
    ids=ascii,
)
def test_a_cell_that_is_no_number_among_numbers(cell: str, tmp_path: Path) -> None:
    path = table(tmp_path, "1.5", cell)
    with pytest.raises(ConfigError, match=r"line 3.*no number"):
        load_labels(path)
    assert load_labels(path, missing="drop").labels == (1.5,)
    assert load_labels(path, as_text=True).labels == ("1.5", cell)


def test_columns_of_words_may_hold_a_number(tmp_path: Path) -> None:
    assert load_labels(table(tmp_path, "a", "b", "2")).labels == ("a", "b", "2")
    assert load_labels(table(tmp_path, "1", "2", "2")).labels == (1, 2, 2)
    assert load_labels(table(tmp_path, "1", "nan"), as_text=True).labels == ("1", "nan")


@pytest.mark.parametrize(
    "values", [(True, 1, 1.0), (1, "1"), ("a", "b", 1), (False, "x"), (10**60, 1)], ids=repr
)
def test_labels_of_two_kinds_are_not_merged(values: tuple[Any, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line "):
        load_labels(lines(tmp_path, *values))
    assert load_labels(lines(tmp_path, *values), as_text=True).labels == tuple(map(str, values))
    assert load_labels(lines(tmp_path, 1, 2.5)).labels == (1.0, 2.5)
    assert load_labels(lines(tmp_path, True, False)).labels == (1, 0)


@pytest.mark.parametrize(
    "value", [1e300, 10**60, 10**400, float("nan"), float("inf")], ids=lambda v: str(v)[:9]
)
def test_numbers_are_finite_in_float32(value: float) -> None:
    with pytest.raises(ConfigError, match="not numbers"):
        LabelledTexts(("a", "b"), (value, 1.0)).numbers()


def test_places_without_coordinates_are_dropped_when_asked(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("name,latitude,longitude,country\nA,1.5,2.5,x\nB,,3.5,x\nC,4.5,5.5,y\n")
    found = load_labels(tmp_path / "p.csv", missing="drop")
    assert found.labels == (1.5, 4.5)


@pytest.mark.parametrize("field", ["id", "head"])
def test_numbers_of_words_are_bounded(field: str, tmp_path: Path) -> None:
    row = ["1", "a", "a", "X", "_", "_", "0", "root", "_", "_"]
    row[0 if field == "id" else 6] = "9" * 5000
    (tmp_path / "t.conllu").write_text("\t".join(row) + "\n\n")
    with pytest.raises(ConfigError):
        load_labels(tmp_path / "t.conllu")


def test_heads_make_a_tree() -> None:
    words, text = ("a", "b", "c"), "a b c"
    spans = ((0, 1), (2, 3), (4, 5))
    Labelled(text, words, spans, {}, heads=(-1, 0, 1))
    with pytest.raises(ConfigError, match="back to their own word"):
        Labelled(text, words, spans, {}, heads=(-1, 2, 1))


# --- archives and columns of texts ---


def test_a_tar_with_two_members_of_one_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for label in "01":
            data = f"text,label\na,{label}\n".encode()
            info = tarfile.TarInfo("a.csv")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(StorageError, match="one name"):
        load_labels(tmp_path / "t.tar")


def test_columns_of_parquet_that_are_no_texts(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    two = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(two, tmp_path / "two.parquet")
    with pytest.raises(ConfigError, match="one name"):
        read_texts(tmp_path / "two.parquet")
    parquet.write_table(pa.table({"text": [["a"], ["b"]]}), tmp_path / "lists.parquet")
    with pytest.raises(ConfigError, match="no text"):
        read_texts(tmp_path / "lists.parquet")
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        parquet.write_table(pa.table({"text": pa.array(["a", "b"], kind)}), tmp_path / "good.parquet")
        assert read_texts(tmp_path / "good.parquet") == ["a", "b"]


# --- folders: runs, models, dictionaries ---


@pytest.mark.parametrize("text", ["[", "[]", "5", '{"a": NaN}', "folder"])
@pytest.mark.parametrize("name", ["crash.json", "config.json"])
def test_what_a_run_reads_again_is_refused_before_the_training(name: str, text: str, tmp_path: Path) -> None:
    run(tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink(missing_ok=True)
    path.mkdir() if text == "folder" else path.write_text(text)
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(StorageError, match=name):
        run(tmp_path / "run")
    assert sorted((tmp_path / "run").rglob("*")) == before


@pytest.mark.parametrize(
    "line", ['{"step": 0, "loss": "x"}', '{"step": -1}', '{"step": 0, "loss": {"a": 1}}']
)
def test_metrics_are_numbers(line: str, tmp_path: Path) -> None:
    run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(CorruptArtefact, match=r"metrics\.jsonl, line 1"):
        run(tmp_path / "run")


def test_a_file_in_the_place_of_checkpoints_says_so(tmp_path: Path) -> None:
    run(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "away")
    (tmp_path / "run" / "checkpoints").write_text("x")
    with pytest.raises(StorageError, match="checkpoints is a file"):
        run(tmp_path / "run")


def test_a_path_that_is_none_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BadName):
        run(Path("\0"))
    (tmp_path / "r.yaml").write_text('out: "\\0"\n')
    with pytest.raises(ConfigError, match="out"):
        Train.preset(["--config", str(tmp_path / "r.yaml")])


@pytest.mark.parametrize(
    "more", [{"use_kernels": True}, {"kernel_config": {"RMSNorm": "evil/kernels"}}], ids=repr
)
def test_settings_ask_for_no_kernels(more: dict[str, Any], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    edit(folder / "config.json", **more)
    with pytest.raises(ModelError, match="kernels"):
        load_model(folder)


def test_a_pipe_in_the_place_of_weights_is_called_one(tmp_path: Path) -> None:
    Dictionary(DictionaryConfig(d_in=4, d_sae=8, k=2)).save(tmp_path / "d")
    (tmp_path / "d" / "manifest.json").unlink()
    for name in ("sae_weights.safetensors", "cfg.json"):
        (tmp_path / "d" / name).unlink()
        os.mkfifo(tmp_path / "d" / name)
    with pytest.raises(StorageError, match="pipe"):
        load_dictionary(tmp_path / "d")


# --- what is shown ---


def test_reprs_show_foreign_names(tmp_path: Path) -> None:
    long = ACTS + "x" * 100_000
    shown = [
        repr(Forgeable.honest(provenance=Provenance(long, "f"))),
        repr(Dictionary(DictionaryConfig(d_in=4, d_sae=8, k=2, site_in=long))),
        repr(LabelledTexts(("a", "b"), (long, "x"), name=long)),
    ]
    for text in shown:
        assert not acts(text) and len(text) < 8_000, text[:300]


def test_warnings_show_foreign_tokens() -> None:
    with pytest.warns(TokenWarning) as caught:
        warnings.warn(ACTS + "x" * 100_000, TokenWarning, stacklevel=1)
    assert not acts(str(caught[0].message)) and len(str(caught[0].message)) < 2_000


def test_what_transformers_logs_of_a_folder_cannot_act(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers.utils.logging import get_logger, get_verbosity, set_verbosity, set_verbosity_warning

    folder = model_folder(tmp_path / "model")
    weights = load_file(folder / "model.safetensors") | {f"{ACTS}more": torch.zeros(3)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    level = get_verbosity()
    set_verbosity_warning()
    get_logger("transformers").addHandler(handler)
    try:
        load_model(folder)
    finally:
        get_logger("transformers").removeHandler(handler)
        set_verbosity(level)
    assert "more" in said.getvalue() and not acts(said.getvalue())
    assert not handler.filters


def test_both_streams_of_a_command_show_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with revealing():
        print(ACTS)
        print(f"a\r{ACTS}", file=sys.stderr)
        sys.stderr.write("\r 50%|█████     |")  # a progress bar
    assert "owned" in out.getvalue() and not acts(out.getvalue())
    assert "owned" in err.getvalue() and not acts(err.getvalue())
    assert "a␍" in err.getvalue() and err.getvalue().endswith("\r 50%|█████     |")


def test_a_fault_of_ours_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken(self: Common) -> int:
        raise ValueError(ACTS)

    monkeypatch.setattr("interp.cli.models.Models.run", broken)
    assert main(["models"]) == 1
    said = capsys.readouterr().err
    assert "bug of interp" in said and "--debug" in said and not acts(said)
    assert main(["models", "--debug"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "bug of interp" in said and not acts(said)
