"""Rows 64, 65, 68, 69: model folders of strangers are one clear error, and their code never runs.

Every door to a model's folder (load_model, the tokenizer, the tasks' tokenizer, the command line)
meets every kind of hostile folder, with standard input answering "y" to everything.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import interp
from interp.core.errors import ModelError
from interp.core.store import commit
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer, small_files
from interp.models.text.reading import load_tokenizer
from tests.faults.test_f11_malicious import BYTEARRAY, evil_code, torch_zip
from tests.support.folders import edit, model_folder, tokenizer_files
from tests.support.hostile import judged, require_refused

CODE = """
import pathlib
pathlib.Path({canary!r}).write_text("ran")
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
class C(PretrainedConfig):
    model_type = "stranger"
class M(PreTrainedModel):
    config_class = C
class T(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("honest")
    made = {
        "plain": model_folder(root / "plain"),
        "shards": model_folder(root / "shards", shards=True),
        "pickled": model_folder(root / "pickled", pickled=True),
    }
    for folder in made.values():
        interp.load_model(folder)  # they are honest; and what is imported late is imported now
    return made


def own_code(folder: Path, known: bool = False) -> None:
    (folder / "evil.py").write_text(CODE.format(canary=str(folder / "canary")))
    names = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoModelForCausalLM": "evil.M"}
    if not known:
        edit(folder / "config.json", model_type="stranger")
    edit(folder / "config.json", auto_map=names)
    tokens = {"AutoTokenizer": ["evil.T", "evil.T"], "AutoProcessor": "evil.T"}
    edit(folder / "tokenizer_config.json", auto_map=tokens, tokenizer_class="T")


def header(**entries: object) -> bytes:
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw


def config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def write(name: str, data: bytes | str) -> Callable[[Path], object]:
    raw = data.encode() if isinstance(data, str) else data
    return lambda folder: (folder / name).write_bytes(raw)


def reshaped(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    tensors[name] = torch.zeros(8, 31)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def index(**changes: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        content = json.loads(path.read_text())
        for key, value in changes.items():
            first = next(iter(content["weight_map"]))
            content["weight_map"][first if key == "first" else key] = value
        path.write_text(json.dumps(content))

    return change


PLAIN: dict[str, Callable[[Path], object]] = {
    "own code, unknown type": own_code,
    "own code, no type": lambda f: (own_code(f), edit(f / "config.json", model_type=None)),
    "unknown type": config(model_type="stranger"),
    "type no text": config(model_type=["gpt2"]),
    "a Trainer": config(architectures=["Trainer"]),
    "a pipeline": config(architectures=["pipeline"]),
    "an auto class": config(architectures=["AutoModel"]),
    "architectures a number": config(architectures=7),
    "architectures of numbers": config(architectures=[7]),
    "another family's class": config(architectures=["BertModel"]),
    "a million layers": config(n_layer=10**6),
    "a billion layers": config(n_layer=10**9),
    "ten thousand layers": config(n_layer=9_999),
    "layers of a nested part": config(text_config={"num_hidden_layers": 10**9}),
    "layers a text": config(n_layer="two"),
    "layers a list": config(n_layer=[2]),
    "layers none": config(n_layer=-2),
    "width of a billion": config(n_embd=10**9),
    "width that overflows": config(n_embd=10**30),
    "width a text": config(n_embd="8"),
    "width a fraction": config(n_embd=8.5),
    "heads none": config(n_head=0),
    "vocabulary of a trillion": config(vocab_size=10**12),
    "positions without end": config(n_positions=10**12),
    "a million classes": config(num_labels=10**6),
    "quantised by nobody": config(quantization_config={"quant_method": "stranger"}),
    "quantised, no object": config(quantization_config=[4]),
    "kernels of a stranger": config(attn_implementation="stranger/kernels"),
    "kernels of a stranger, private": config(_attn_implementation="stranger/kernels:f"),
    "kernels of a nested part": config(text_config={"attn_implementation": "a/b"}),
    "activation of a stranger": config(activation_function="__import__"),
    "dtype of a stranger": config(dtype="save"),
    "config no JSON": write("config.json", "{"),
    "config a list": write("config.json", "[]"),
    "config nested": write("config.json", '{"model_type": "gpt2", "a": ' + "[" * 50_000),
    "config nested, whole": write("config.json", '{"a": ' + "[" * 500 + "]" * 500 + "}"),
    "config of digits": write("config.json", '{"n_embd": ' + "9" * 9_999 + "}"),
    "config of values": write("config.json", '{"a": [' + "[]," * 5_000_000 + "[]]}"),
    "config not UTF-8": write("config.json", b'{"model_type": "\xff\xfe"}'),
    "config empty": write("config.json", b""),
    "weights empty": write("model.safetensors", b""),
    "weights cut": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:-9]
    ),
    "weights of another model": write(
        "model.safetensors", header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}) + b"\0" * 4
    ),
    "a shape that lies": write(
        "model.safetensors",
        header(a={"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}) + b"\0" * 4,
    ),
    "one tensor twice": write(
        "model.safetensors",
        struct.pack("<Q", 110)
        + (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2)[:-1].ljust(109)
        + b"}"
        + b"\0" * 4,
    ),
    "weights of another shape": reshaped,
    "settings of generation without end": write(
        "generation_config.json", '{"x": [' + "[]," * 3_000_000 + "[]]}"
    ),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "weights a folder": lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()),
}
SHARDS: dict[str, Callable[[Path], object]] = {
    "index leaves the folder": index(first="../plain/model.safetensors"),
    "index names /etc": index(first="/etc/passwd"),
    "index names nothing": index(first="absent.safetensors"),
    "index names a tensor that is nowhere": index(stranger="model-00001-of-00002.safetensors"),
    "index no JSON": write("model.safetensors.index.json", "{"),
    "index no map": write("model.safetensors.index.json", '{"weight_map": ["a"]}'),
    "index with an entry twice": write(
        "model.safetensors.index.json", '{"weight_map": {"a": "b", "a": "c"}}'
    ),
}
PICKLED: dict[str, Callable[[Path], object]] = {
    "a pickle that runs": lambda f: torch_zip(f / "pytorch_model.bin", b"\x80\x02" + evil_code(f / "canary")),
    "a bare pickle that runs": lambda f: (f / "pytorch_model.bin").write_bytes(evil_code(f / "canary")),
    "a pickle of two gigabytes": lambda f: torch_zip(f / "pytorch_model.bin", BYTEARRAY),
    "a tensor made of a number": lambda f: torch_zip(
        f / "pytorch_model.bin", b"\x80\x02ctorch\nFloatTensor\nJ\x00\x00\x00\x70\x85R."
    ),
    "a zip bomb": lambda f: torch_zip(
        f / "pytorch_model.bin", b"\x80\x02}.", extra=b"\0" * 300_000_000, compressed=True
    ),
    "no pickle": write("pytorch_model.bin", b"nothing" * 99),
    "a pickle of numbers": lambda f: torch.save([1, 2], f / "pytorch_model.bin"),
    "a tensor larger than its bytes": lambda f: torch.save(
        {"transformer.wte.weight": torch.zeros(1).expand(1 << 40)}, f / "pytorch_model.bin"
    ),
}
CASES = [
    *(("plain", name, make) for name, make in PLAIN.items()),
    *(("shards", name, make) for name, make in SHARDS.items()),
    *(("pickled", name, make) for name, make in PICKLED.items()),
]


@pytest.mark.thin(3)
@pytest.mark.parametrize(("kind", "name", "make"), CASES, ids=[f"{k}: {n}" for k, n, _ in CASES])
def test_hostile_folders(
    kind: str, name: str, make: Callable[[Path], object], honest: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(honest[kind], folder)
    make(folder)
    verdict = judged(lambda: interp.load_model(folder), tmp_path)
    require_refused(verdict)
    assert not (folder / "canary").exists()
    assert "weights_only" not in verdict.message  # the library's advice to load it in full


def test_code_beside_a_known_type_is_left_alone(honest: dict[str, Path], tmp_path: Path) -> None:
    """Many honest folders keep the code they were once loaded with; it is not needed, nor run."""
    folder = tmp_path / "model"
    shutil.copytree(honest["plain"], folder)
    own_code(folder, known=True)
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    for door in (
        lambda: interp.load_model(folder),
        lambda: load_tokenizer(folder),
        lambda: interp.load_model(folder, backend="transformer_lens"),
    ):
        verdict = judged(door, tmp_path)
        assert verdict.outcome in ("accepted", "refused"), verdict
        assert not (folder / "canary").exists()
    assert judged(lambda: interp.load_model(folder), tmp_path).outcome == "accepted"


@pytest.mark.parametrize("backend", ["interp", "transformer_lens"])
def test_no_door_runs_code(backend: str, honest: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(honest["plain"], folder)
    own_code(folder)
    require_refused(judged(lambda: interp.load_model(folder, backend=backend), tmp_path))
    tokens = judged(lambda: load_tokenizer(folder), tmp_path)
    assert tokens.outcome in ("accepted", "refused"), tokens
    assert not (folder / "canary").exists()
    with pytest.raises(ModelError, match="never runs code"):
        interp.load_model(folder, trust_remote_code=True)


def test_the_canary_sings_where_code_is_trusted(honest: dict[str, Path], tmp_path: Path) -> None:
    """The folder is what it claims: transformers, told to trust it, runs its file."""
    import transformers

    folder = tmp_path / "model"
    shutil.copytree(honest["plain"], folder)
    own_code(folder)
    judged(lambda: transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=True), tmp_path)
    assert (folder / "canary").exists()


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A small model with our manifest and a tokenizer that it lists."""
    cfg = SmallConfig(n_layers=1, d_model=8, n_ctx=16, d_head=4, d_vocab=8)
    made = tokenizer_files(tmp_path / "parts")
    more = {path.name: path.read_bytes() for path in made.iterdir()}
    folder = tmp_path / "ours"
    commit(folder, small_files(SmallTransformer(cfg)) | more, schema="small-transformer/1")
    return folder


def test_every_byte_of_a_listed_file_is_verified(ours: Path, full_count: bool) -> None:
    """Row 65: one flipped bit anywhere, in any file, the manifest included."""
    import random

    assert interp.load_model(ours).cfg.n_layers == 1
    chance = random.Random(0)
    for path in sorted(ours.iterdir()):
        whole = path.read_bytes()
        for _ in range(100 if full_count else 6):
            changed = bytearray(whole)
            changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            for door in (interp.load_model, load_tokenizer):
                with pytest.raises(interp.InterpError):
                    door(ours)
        path.write_bytes(whole)
    interp.load_model(ours)


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja", "vocab.txt", "evil.py"])
def test_a_file_beside_the_manifest_is_refused(ours: Path, name: str) -> None:
    (ours / name).write_text("{}")
    with pytest.raises(interp.InterpError, match="beside a manifest"):
        interp.load_model(ours)


SMALL: dict[str, dict[str, object]] = {
    "a million layers": {"n_layers": 10**6},
    "a billion wide": {"d_model": 10**9},
    "wider than memory": {"d_vocab": 10**15},
    "positions": {"n_ctx": 10**8},
    "eps a text": {"eps": "small"},
    "heads a list": {"n_heads": [2]},
    "activation a list": {"act_fn": ["relu"]},
    "scale a text": {"attn_scale": "x"},
    "unsupported, a list": {"use_qk_norm": [True]},
    "name a dict": {"normalization_type": {}},
    "dtype a number": {"dtype": 7},
    "range a text": {"initializer_range": "x"},
    "rotary a text": {"positional_embedding_type": "rotary", "rotary_dim": "x"},
}


@pytest.mark.parametrize("name", SMALL)
def test_hostile_small_models(name: str, ours: Path, tmp_path: Path) -> None:
    (ours / "manifest.json").unlink()
    edit(ours / "hooked_transformer.json", **SMALL[name])
    require_refused(judged(lambda: interp.load_model(ours), tmp_path))
