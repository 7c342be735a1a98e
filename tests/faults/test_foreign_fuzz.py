"""Mutated files, per reader: 0 raw tracebacks, 0 hangs, 0 accepted against a checksum.

Bits are flipped, files cut, JSON and YAML spliced, values exchanged for others of a wrong type. At
full size each reader gets 10,000 files (or 600 s of them; `INTERP_FUZZ_SECONDS` says otherwise) from a
seed of the run's own, which a failure names; in the push suite a few dozen, always the same.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.activations import read_texts
from interp.activations.shards import _read_plan
from interp.cli.train import Train, read_file
from interp.core import store
from interp.core.disk.artefact import render_manifest
from interp.core.errors import InterpError
from interp.core.result import Result
from interp.dictionaries import Dictionary, DictionaryConfig, load
from interp.lenses.benchmark import load_lens_prompts
from interp.lenses.result import LensResult
from interp.models import load_model
from interp.models.gate import inspect_folder
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer, load_small, small_files
from interp.models.text.reading import load_tokenizer
from interp.tasks import load_labels, load_task
from tests.support.checker import Violation
from tests.support.folders import model_folder, tokenizer_files

SECONDS = float(os.environ.get("INTERP_FUZZ_SECONDS", "600"))
WRONG: list[Any] = [
    None,
    True,
    0,
    -1,
    3.5,
    1e308,
    2**31,
    2**63,
    10**30,
    "",
    "a",
    "\ud800",
    "../../x",
    "\0",
    [],
    [[]],
    {},
    {"a": 1},
    ["a", 1, None],
    "\x1b[2J",
    "9" * 40,
    {"type": "Sequence"},
    "nan",
    float("nan"),
]
PIECES = [
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"NaN",
    b"1e999",
    b"-",
    b"\n",
    b"\0",
    b"\xff",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object:a",
    b"\xef\xbb\xbf",
    b"9" * 70,
    b"[" * 120,
    b"\\ud800",
    b"\t",
    b"PK\3\4",
    b"\x1b[2J",
    b"'",
    b"#",
    b"\r",
    b"null",
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One file made of another."""
    kind = chance.randrange(6)
    if kind == 0:
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 5)):
            if changed:
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    if kind == 1:
        return data[: chance.randrange(len(data) + 1)]
    if kind == 2:
        at = chance.randrange(len(data) + 1)
        return data[:at] + chance.choice(PIECES) + data[at + chance.randrange(3) :]
    if kind == 3:
        a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        return data[:a] + data[b:] if chance.random() < 0.5 else data[:b] + data[a:]
    try:
        value = json.loads(data)
    except ValueError:
        return mutated(data, chance)
    return json.dumps(exchanged(value, chance)).encode()


def exchanged(value: Any, chance: random.Random) -> Any:
    """The same JSON value with one part removed, repeated or of another type."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        if chance.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if chance.random() < 0.1:
            return value | {key + "x": value[key]}
        return value | {key: exchanged(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [*value[:at], exchanged(value[at], chance), *value[at + 1 :]]
    return chance.choice(WRONG)


class Target:
    """A folder, which of its files are mutated, and the reader that meets them."""

    def __init__(
        self, folder: Path, files: list[str], read: Callable[[Path], object], checked: bool = False
    ) -> None:
        self.folder, self.files, self.read, self.checked = folder, files, read, checked


def resigned(folder: Path, schema: str) -> None:
    """A manifest that vouches for what lies there now, as a hostile writer would make it."""
    (folder / "manifest.json").unlink(missing_ok=True)
    import hashlib

    files = {
        p.name: {"size": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in folder.iterdir()
    }
    body = {"schema": schema, "versions": {}, "metadata": {}, "files": files}
    (folder / "manifest.json").write_bytes(render_manifest(body))


def targets(root: Path) -> Iterator[tuple[str, Target]]:
    """Every reader of foreign files."""
    model = model_folder(root / "model")
    yield "model folder", Target(model, ["config.json", "model.safetensors"], inspect_folder)
    yield (
        "loaded model",
        Target(
            model_folder(root / "loaded"), ["config.json", "model.safetensors", "tokenizer.json"], load_model
        ),
    )
    shards = model_folder(root / "shards", shards=True)
    yield "index", Target(shards, ["model.safetensors.index.json"], inspect_folder)
    pickled = model_folder(root / "pickled", pickled=True)
    yield "pickle", Target(pickled, ["pytorch_model.bin"], inspect_folder)
    tokens = tokenizer_files(root / "tokens")
    yield "tokenizer", Target(tokens, ["tokenizer.json", "tokenizer_config.json"], load_tokenizer)
    small = root / "small"
    cfg = SmallConfig(n_layers=1, d_model=8, n_ctx=16, d_head=4, d_vocab=8)
    store.commit(small, small_files(SmallTransformer(cfg)), schema="small-transformer/1")
    bare = root / "bare"
    shutil.copytree(small, bare)
    (bare / "manifest.json").unlink()
    yield "small model", Target(bare, ["hooked_transformer.json", "model.safetensors"], load_small)

    made = Dictionary(DictionaryConfig(d_in=4, d_sae=8, k=2))
    made.save(root / "sae")
    files = ["cfg.json", "sae_weights.safetensors", "manifest.json"]
    yield "dictionary", Target(root / "sae", files, load, checked=True)
    shutil.copytree(root / "sae", root / "foreign")
    (root / "foreign" / "manifest.json").unlink()
    yield "foreign dictionary", Target(root / "foreign", files[:2], load)
    torch.save({"encoder.weight": torch.ones(8, 4)}, root / "plain.pt")
    yield "checkpoint", Target(root, ["plain.pt"], lambda f: store.load_torch(f / "plain.pt"))

    result = root / "result"
    zero, ids = torch.zeros(2, 3), torch.zeros(2, 3, 1, dtype=torch.int64)
    LensResult(
        probs_top=torch.ones(2, 3, 1),
        ids_top=ids,
        entropy=zero,
        kl=zero,
        target_prob=None,
        target_rank=None,
        tokens=("a", "b", "c"),
        top_tokens=((("x",),) * 3,) * 2,
        targets=None,
        components=("0", "1"),
        kind="logit",
        tolerance=1e-6,
    ).save(result)
    yield ("result", Target(result, ["result.json", "tensors.safetensors"], Result.load, checked=True))
    schema = json.loads((result / "manifest.json").read_bytes())["schema"]
    forged = root / "forged"
    shutil.copytree(result, forged)

    def load_forged(folder: Path) -> object:
        resigned(folder, schema)
        return Result.load(folder)

    yield "forged result", Target(forged, ["result.json", "tensors.safetensors"], load_forged)

    text = root / "text"
    text.mkdir()
    (text / "run.yaml").write_text("d_sae: 64\nlr: 1e-3\ndictionaries: [&a {k: 4}, *a]\n")
    yield (
        "run.yaml",
        Target(
            text,
            ["run.yaml"],
            lambda f: (read_file(f / "run.yaml"), Train.preset(["--config", str(f / "run.yaml")])),
        ),
    )
    (text / "t.json").write_text(
        json.dumps({"prompts": [{"clean": "a b", "answers": [" c"], "read_at": 1}], "bar": 0.5})
    )
    (text / "t.csv").write_text("clean,answers,distractors\na b, c|d, e\nf g, h, i\n")
    (text / "l.csv").write_text("text,label,group\na b,1.5,x\nc d,2,y\n")
    (text / "l.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n')
    (text / "l.conllu").write_text("# newdoc id = a\n1\tthe\tthe\tDET\t_\t_\t0\troot\t_\t_\n\n")
    (text / "w.tsv").write_text("word\tupos\thead\nthe\tDET\t2\ncat\tNOUN\t0\n\n")
    (text / "d.jsonl").write_text('{"text": "a document"}\n{"text": "another"}\n')
    (text / "lens-eval-a.json").write_text(
        '{"items": [{"name": "a", "prompt": "b", "intermediates": ["c"]}]}'
    )
    with zipfile.ZipFile(text / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", "text,label\na,1\nb,2\n")
    for name in ("t.json", "t.csv"):
        yield f"task {name}", Target(text, [name], lambda f, n=name: load_task(f / n))
    for name in ("l.csv", "l.jsonl", "l.conllu", "w.tsv", "a.zip"):
        yield f"labels {name}", Target(text, [name], lambda f, n=name: load_labels(f / n))
    yield "texts", Target(text, ["d.jsonl"], lambda f: read_texts(f / "d.jsonl"))
    yield "lens prompts", Target(text, ["lens-eval-a.json"], load_lens_prompts)
    (text / "plan.json").write_text('{"provenance": {"model": "a"}, "rows": 3}')
    yield "plan", Target(text, ["plan.json"], lambda f: _read_plan(f / "plan.json"))


NAMES = [
    "model folder",
    "loaded model",
    "index",
    "pickle",
    "tokenizer",
    "small model",
    "dictionary",
    "foreign dictionary",
    "checkpoint",
    "result",
    "forged result",
    "run.yaml",
    "task t.json",
    "task t.csv",
    "labels l.csv",
    "labels l.jsonl",
    "labels l.conllu",
    "labels w.tsv",
    "labels a.zip",
    "texts",
    "lens prompts",
    "plan",
]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return dict(targets(tmp_path_factory.mktemp("fuzz")))


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files(name: str, known: dict[str, Target], full_count: bool) -> None:
    target = known[name]
    target.read(target.folder)  # unchanged, it is read
    whole = {file: (target.folder / file).read_bytes() for file in target.files}
    seed = os.environ.get("INTERP_FUZZ_SEED") or (str(time.time_ns()) if full_count else "")
    chance = random.Random(name + seed)
    began, slowest, counts = time.monotonic(), 0.0, {"refused": 0, "accepted": 0}
    for _ in range(10_000 if full_count else 40):
        file = chance.choice(target.files)
        data = mutated(whole[file], chance)
        (target.folder / file).write_bytes(data)
        start = time.process_time()
        try:
            target.read(target.folder)
            counts["accepted"] += 1
            same = data == whole[file]
            assert same or not target.checked, f"{file} was accepted against its manifest"
        except InterpError as error:
            counts["refused"] += 1
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", str(error))
            assert len(str(error)) < 15_000
        except Violation:
            counts["refused"] += 1  # the suite's own checker stands before the package's
        except Exception as error:
            raised = f"{name}: raw {type(error).__name__}, INTERP_FUZZ_SEED={seed}"
            raise AssertionError(f"{raised}, for {file} = {data[:2000]!r}") from error
        finally:
            (target.folder / file).write_bytes(whole[file])
        slowest = max(slowest, time.process_time() - start)
        if time.monotonic() - began > SECONDS:
            break
    assert slowest < 10, f"INTERP_FUZZ_SEED={seed}"
    assert counts["refused"] > 0, counts
    print(f"{name}: {counts}, seed {seed}, slowest {slowest:.3f} s, {time.monotonic() - began:.1f} s")
