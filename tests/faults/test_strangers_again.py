"""Files from strangers, found by strangers: links in run folders, doors without a gate, forgeries.

Rows 64-72 of the fault book once more; each test is a kind, seen at every door that has it.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from interp import load_model
from interp.activations import read_texts
from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.activations.shards import ShardReader, write_shards
from interp.core import store
from interp.core.errors import (
    ConfigError,
    CorruptArtefact,
    InterpError,
    ModelError,
    NonFiniteError,
    StorageError,
    TokenError,
)
from interp.core.foreign import Unparsable, parse_yaml
from interp.core.result import Result
from interp.dictionaries import load as load_dictionary
from interp.lenses import TunedLens
from interp.models.text import templates
from interp.models.text.reading import load_tokenizer, render_chat
from interp.models.text.templates import needs_guard
from interp.probing import Eraser, Probe, train_probe
from interp.tasks import load_labels
from tests.support.folders import model_folder

RULES: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<unk>": 2}, "unk_token": "<unk>"},
}


def run(out: Path, steps: int = 6, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    config = FitConfig(steps=steps, log_every=1, **options)
    fit(module, lambda m, b, t: (m(b) ** 2).mean(), lambda t: torch.ones(3, 2), config, out=out)
    return module


def tokenizer(folder: Path, template: Any = None, **rules: Any) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(RULES | rules))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


# --- run folders ---


@pytest.mark.parametrize("name", ["env.json", "metrics.jsonl", "crash.json", "checkpoints"])
def test_going_on_never_writes_through_a_link(name: str, tmp_path: Path) -> None:
    run(tmp_path / "run")
    victim = tmp_path / "victim"
    if name == "checkpoints":
        (tmp_path / "run" / name).rename(victim)
    else:
        victim.write_text('{"step": 0}\n')
        (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(victim)
    before = victim.read_text() if victim.is_file() else sorted(victim.iterdir())
    with pytest.raises(StorageError, match="no file of a run"):
        run(tmp_path / "run")
    assert before == (victim.read_text() if victim.is_file() else sorted(victim.iterdir()))


def test_a_pipe_in_a_run_folder_is_refused_and_not_read(tmp_path: Path) -> None:
    run(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "run" / "metrics.jsonl")
    with pytest.raises(StorageError, match="a pipe"):
        run(tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        {"groups": [{"maximize": True}]},
        {"groups": [{"weight_decay": 50.0}]},
        {"groups": [{"params": []}]},
        {"groups": []},
        {"step": -5},
        {"step": 10**9},
        {"more": 1},
        {"seconds": "x"},
    ],
    ids=lambda change: json.dumps(change)[:40],
)
def test_a_forged_checkpoint_turns_no_training_round(change: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "run")
    folder = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    held = store.open_artefact(folder)
    state = held.json("state.json")
    if change.get("groups"):
        change = {"groups": [state["groups"][0] | change["groups"][0]]}
    files: dict[str, Any] = {
        name: held.tensors(name) for name in ("weights.safetensors", "moments.safetensors")
    }
    metadata, schema = held.manifest["metadata"], str(held.manifest["schema"])
    files["state.json"] = state | change
    store.commit(folder, files, overwrite=True, schema=schema, metadata=metadata)
    with pytest.raises(InterpError):
        run(tmp_path / "run")


def test_a_line_of_metrics_without_a_step_is_refused_by_file(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"loss": 1.0}\n')
    with pytest.raises(CorruptArtefact, match=r"metrics\.jsonl"):
        run(tmp_path / "run")


# --- tokenizers and templates ---


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 1500000000 }}",
        "{{ messages|tojson(indent=300000000) }}",
        "{{ messages[0].content" + '|replace("a","aaaaaaaaaa")' * 9 + " }}",
        "{{ lipsum(n=400000)|length }}",
        "{{ messages|map(attribute='content')|map('center', 900000000)|first }}",
        "{% for x in messages|batch(150000000,'x') %}{{ x|length }}{% endfor %}",
    ],
)
@pytest.mark.parametrize("form", ["one", "several"])
def test_templates_of_any_form_are_judged_by_what_they_may_call(
    template: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_count: bool
) -> None:
    monkeypatch.setattr(templates, "SECONDS", templates.SECONDS if full_count else 2.0)
    assert needs_guard(template)
    given: Any = template if form == "one" else [{"name": "default", "template": template}]
    opened = load_tokenizer(tokenizer(tmp_path / "t", given))
    with pytest.raises(TokenError):
        render_chat(opened, [{"role": "user", "content": "a"}])


def test_plain_templates_need_no_guard() -> None:
    for template in (
        "{% for m in messages %}{{ m['role'] + ': ' + m.content|trim }}{% endfor %}",
        "{{ messages|map(attribute='role')|first }}",
        "{{ messages|tojson }}{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}",
        "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}",
    ):
        assert not needs_guard(template)


def test_a_panic_of_the_tokenizer_is_an_error_of_ours(tmp_path: Path) -> None:
    pattern = {"Regex": "(a|a)+b"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer.json").write_text(json.dumps(RULES | {"pre_tokenizer": split}))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(TokenError):
        load_model(folder).tokenize("a" * 44)


def test_a_tokenizer_that_adds_thousands_of_tokens_is_refused(tmp_path: Path) -> None:
    special = {"a": {"id": "a", "ids": [0] * 5000, "tokens": ["a"] * 5000}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    single = [sequence, {"SpecialToken": {"id": "a", "type_id": 0}}]
    pair = [sequence, {"Sequence": {"id": "B", "type_id": 0}}]
    post = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    with pytest.raises(TokenError, match="5,000 tokens to every text"):
        load_tokenizer(tokenizer(tmp_path / "t", post_processor=post))


# --- model and adapter folders ---


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_settings_lead_to_no_other_weights(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    edit(folder / "config.json", transformers_weights="z.safetensors.index.json")
    with pytest.raises(ModelError, match="transformers_weights"):
        load_model(folder)


@pytest.mark.parametrize("text", ["Infinity", "NaN", "-Infinity"])
def test_settings_are_numbers(text: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    config = (folder / "config.json").read_text().rstrip().removesuffix("}")
    (folder / "config.json").write_text(f'{config}, "resid_scale": {text}}}')
    with pytest.raises(ModelError, match="no number"):
        load_model(folder)


def test_two_settings_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    config = (folder / "config.json").read_text().rstrip().removesuffix("}")
    (folder / "config.json").write_text(f'{config}, "n_head": 2, "n_head": 1}}')
    with pytest.raises(ModelError, match="twice"):
        load_model(folder)


class Zeros:
    def __reduce__(self) -> Any:
        return bytearray, (1 << 20,)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: edit(f, target_modules="(([a-z_.0-9])+)+!"),
        lambda f: edit(f, r=12_000_000),
        lambda f: edit(f, r=50_000),
        lambda f: edit(f, rank_pattern={"(": 3}),
        lambda f: edit(f, rank_pattern=5),
        lambda f: edit(f, base_model_name_or_path="~nosuchuser/x"),
        lambda f: edit(f, base_model_name_or_path="a" * 5000),
        lambda f: edit(f, trainable_token_indices=[10**5]),
        lambda f: f.write_text("[" * 200_000),
        lambda f: (
            (f.parent / "adapter_model.safetensors").unlink(),
            (f.parent / "adapter_model.bin").write_bytes(pickle.dumps({"a": Zeros()}, 2)),
        ),
        lambda f: edit(f, init_lora_weights="pissa_niter_1000000000"),
        lambda f: edit(f, target_modules=["c_attn", *map(str, range(300_000))]),
    ],
    ids=[
        "a pattern without end",
        "a huge rank",
        "a rank beyond the file",
        "no pattern",
        "a number of patterns",
        "no such user",
        "a long name",
        "tokens that are not there",
        "depth",
        "a pickle",
        "a start of a billion rounds",
        "names of three hundred thousand modules",
    ],
)
def test_adapter_folders_pass_the_gate(spoil: Callable[[Path], Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="no peft: install [dev]")
    from transformers import AutoModelForCausalLM

    base = model_folder(tmp_path / "base")
    module = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM")
    peft.get_peft_model(module, config).save_pretrained(tmp_path / "adapter")
    settings = tmp_path / "adapter" / peft.utils.CONFIG_NAME
    edit(settings, base_model_name_or_path=str(base))
    load_model(tmp_path / "adapter")
    spoil(settings)
    with pytest.raises((ModelError, CorruptArtefact)):
        load_model(tmp_path / "adapter")


# --- dictionaries, probes, results, shards ---


def test_few_numbers_spread_over_many_are_refused(tmp_path: Path) -> None:
    def wide(*shape: int) -> torch.Tensor:
        return torch.zeros(1).expand(*shape)

    n, d = 300, 200
    tensors = {"encoder.weight": wide(n, d), "encoder.bias": wide(n), "decoder.weight": wide(d, n)}
    torch.save({**tensors, "bias": wide(d)}, tmp_path / "ae.pt")
    settings = {"dict_class": "AutoEncoder", "activation_dim": d, "dict_size": n}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": settings}))
    with pytest.raises(CorruptArtefact, match="more numbers than are stored"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize("kind", [Probe, TunedLens, Eraser])
@pytest.mark.parametrize("content", [{}, {"shape": 5}, [], "x"], ids=repr)
def test_a_forged_artefact_is_one_error(kind: Any, content: Any, tmp_path: Path) -> None:
    name = kind.schema.partition("/")[0]
    files = {f"{n}.json": content for n in (name, "probe", "lens", "eraser", "config")}
    tensors = {f"{n}.safetensors": {"w": torch.zeros(2)} for n in ("weights", "tensors")}
    store.commit(tmp_path / "a", {**files, **tensors}, schema=kind.schema)
    with pytest.raises(InterpError):
        kind.load(tmp_path / "a")


def test_a_probe_is_no_larger_than_its_numbers(tmp_path: Path) -> None:
    probe = train_probe(torch.randn(40, 4), [i % 2 for i in range(40)])
    files = probe.files()
    about = files["probe.json"]
    forged = about | {"shape": about["shape"] | {"hidden": 10**8}}
    store.commit(tmp_path / "p", files | {"probe.json": forged}, schema=probe.schema)
    with pytest.raises(CorruptArtefact, match="larger probe"):
        Probe.load(tmp_path / "p")


def test_an_artefact_of_no_numbers_is_refused(tmp_path: Path) -> None:
    probe = train_probe(torch.randn(40, 4), [i % 2 for i in range(40)])
    files = probe.files()
    (name,) = (n for n in files if n.endswith(".safetensors"))
    spoiled = {k: torch.full_like(v, torch.nan) for k, v in files[name].items() if v.is_floating_point()}
    store.commit(tmp_path / "p", files | {name: files[name] | spoiled}, schema=probe.schema)
    with pytest.raises(NonFiniteError):
        Probe.load(tmp_path / "p")


@pytest.mark.parametrize("values", [{}, [], {"module": 5}], ids=repr)
def test_a_result_of_no_known_type_is_one_error(values: Any, tmp_path: Path) -> None:
    files = {"result.json": values, "tensors.safetensors": {"w": torch.zeros(1)}}
    store.commit(tmp_path / "r", files, schema="result/Nope")
    with pytest.raises(StorageError, match="Nope"):
        Result.load(tmp_path / "r")


@pytest.mark.parametrize(
    "change",
    [
        {"shards": 10**9},
        {"shards": 0},
        {"rows": "x"},
        {"rows_per_shard": -3},
        {"sites": [5]},
        {"rows": 10**6},
        {"rows": 30},  # three full shards and a fourth of nothing
        {"provenance": "x"},
    ],
    ids=repr,
)
def test_a_forged_index_of_shards_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    from interp.activations import ActivationStream, ShardConfig, StreamConfig, TextConfig, tokenize_texts

    model = load_model("tiny-grammar")
    tokens = tokenize_texts(model, ["the dog runs"] * 12, TextConfig(pack=False))
    settings = StreamConfig(batch_size=8, buffer_sequences=6, forward_sequences=3)
    stream = ActivationStream(model, "blocks.0.hook_resid_post", tokens, settings)
    write_shards(stream, tmp_path / "s", ShardConfig(rows_per_shard=10))
    assert len(ShardReader(tmp_path / "s", batch_size=4))
    held = store.open_artefact(tmp_path / "s" / "index")
    forged = {"index.json": held.json("index.json") | change}
    schema = str(held.manifest["schema"])
    store.commit(tmp_path / "s" / "index", forged, overwrite=True, schema=schema)
    with pytest.raises(CorruptArtefact, match="no index"):
        ShardReader(tmp_path / "s", batch_size=4)


# --- tables and texts ---


@pytest.mark.parametrize("word", ["nan", "?", "#N/A", "∞", "-nan(ind)", "1e400", "1.#INF", "None"])
@pytest.mark.parametrize("beside", ["?", "nan", "0.25"])
def test_what_is_no_number_becomes_no_class_beside_numbers(word: str, beside: str, tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text(f"text,label\na,0.5\nb,{word}\nc,{beside}\n")
    with pytest.raises(ConfigError, match=r"(?s)no number.*line 3|line 3.*no number"):
        load_labels(path)
    left = load_labels(path, missing="drop")
    assert set(left.labels) <= {0.5, 0.25}


def test_entries_that_occur_twice_are_refused(tmp_path: Path) -> None:
    lines = tmp_path / "l.jsonl"
    lines.write_text('{"text": "a", "label": 0, "label": 1}\n{"text": "b", "label": 1}\n')
    with pytest.raises(InterpError, match="twice"):
        load_labels(lines)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for label in "10":
            with pytest.warns(UserWarning, match="Duplicate") if label == "0" else _nothing():
                archive.writestr("a.csv", f"text,label\na,{label}\n")
    with pytest.raises(StorageError, match="one name"):
        load_labels(tmp_path / "a.zip")
    import yaml

    with pytest.raises(Unparsable, match="twice"):
        parse_yaml("steps: 10\nsteps: 20\n", yaml.SafeLoader)
    merged = "a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\n"
    assert parse_yaml(merged, yaml.SafeLoader)["b"] == {"x": 1, "y": 2}


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_table_has_a_bound_on_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"text":"a","label":"b"}\n' + "{}\n" * 1_100_000)
    with pytest.raises(InterpError, match="lines"):
        load_labels(path)


def test_pipes_and_columns_of_numbers_are_no_texts(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(StorageError, match="regular file"):
        read_texts(tmp_path / "x.parquet")
    parquet.write_table(pa.table({"text": [0] * 100}), tmp_path / "n.parquet")
    with pytest.raises(ConfigError, match="is no text"):
        read_texts(tmp_path / "n.parquet")
    with pytest.raises(StorageError, match="no file or folder"):
        read_texts("a" * 5000 + ".jsonl")
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(StorageError):
        store.load_tensors(tmp_path / "w.safetensors")
