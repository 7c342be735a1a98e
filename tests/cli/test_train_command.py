"""`interp train`: flags, YAML, both; what it writes, what it refuses; any YAML is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.activations import ActivationStream, FitConfig, StreamConfig, write_shards
from interp.cli.main import main, parse
from interp.cli.train import Train, read_file
from interp.core.blocks import names_of
from interp.core.errors import ConfigError, InterpError
from interp.dictionaries import load
from interp.dictionaries.train_checks import check_configs
from interp.dictionaries.train_config import TrainConfig
from interp.models import wrap
from tests.activations.toys import unchecked
from tests.models.zoo import make

SITE = "blocks.0.hook_resid_post"
SMALL = {
    "site": SITE,
    "d_sae": 37,
    "k": 3,
    "steps": 12,
    "batch_size": 53,
    "lr": 1e-3,
    "log_every": 1,
    "init_rows": 106,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = wrap(make("llama"))
    ids = torch.randint(5, 50, (30, 11))
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(ActivationStream(model, SITE, ids, StreamConfig(batch_size=53)), folder)
    return str(folder)


def written(path: Path, values: Any) -> str:
    path.write_text(yaml.safe_dump(values) if not isinstance(values, str) else values)
    return str(path)


def test_a_file_and_flags_make_a_run_with_everything(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = [{"name": "few", "k": 2}, {"name": "jump", "activation": "jumprelu", "l0": 3}]
    run = written(tmp_path / "run.yaml", SMALL | {"data": shards, "dictionaries": variants})
    out = tmp_path / "out"
    command = ["train", "--config", run, "--out", str(out), "--d-sae", "41"]
    assert main(command) == 0, capsys.readouterr().err
    for name in ("few", "jump"):
        assert load(out / "dictionaries" / name).config.d_sae == 41, "a flag wins over the file"
    assert {"report.html", "report.json", "metrics.jsonl", "command.json", "checkpoints"} <= {
        p.name for p in out.iterdir()
    }
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 12
    said = capsys.readouterr().out
    assert "few: FVU" in said and "report.html" in said
    assert main(command) == 0, "a finished run is loaded and reported again"
    other = [*command, "--lr", "0.5"]
    assert main(other) == 2, "other settings do not mix with this run"
    assert "lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shared", "variants", "flags", "named"),
    [
        ({"sparsity": 2.0}, [{"name": "a"}, {"name": "b", "k": 2}], [], "sparsity"),
        ({}, [{"name": "a"}, {"name": "b", "activation": "relu", "k": 2}], [], "read k"),
        ({}, [{"name": "a", "k": 2}, {"name": "b", "k": 4}], ["--k", "5"], "--k is given"),
        ({}, [{"name": "a", "k": 2}, {"name": "b"}], ["--k=3"], "--k is given"),
        ({}, [{"name": "a", "decoder_norm": "free"}], ["--decoder-norm", "unit"], "--decoder-norm is given"),
        ({"exclude_bos": False}, [{"name": "a"}, {"name": "b"}], [], "rows already"),
    ],
    ids=str,
)
def test_what_no_dictionary_would_read_is_refused(
    shared: dict[str, Any],
    variants: list[dict[str, Any]],
    flags: list[str],
    named: str,
    shards: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is shared is for who reads it; a flag that a dictionary's own value would hide is refused."""
    values = SMALL | shared | {"data": shards, "dictionaries": variants}
    run = written(tmp_path / "run.yaml", values)
    assert main(["train", "--config", run, "--out", str(tmp_path / "out"), *flags]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out" / "dictionaries").exists()


def test_finetuned_dictionaries_are_written_beside_the_others(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("\n\n".join(f"John saw {i} cats near the old house by the lake." for i in range(9)))
    settings = SMALL | {"site": "blocks.1.hook_resid_post", "finetune": 7}
    run = written(tmp_path / "run.yaml", settings | {"model": "tiny-grammar", "data": str(data)})
    out = tmp_path / "out"
    assert main(["train", "--config", run, "--out", str(out)]) == 0, capsys.readouterr().err
    plain, tuned = (load(out / "dictionaries" / name) for name in ("0", "0-finetuned"))
    assert not torch.equal(plain.W_dec, tuned.W_dec)
    assert tuned.metadata["finetuning"]["config"]["steps"] == 7
    assert "0-finetuned: FVU" in capsys.readouterr().out
    assert (out / "finetuning" / "0" / "metrics.jsonl").exists()
    for argv, words in (
        (["--config", run, "--activation", "relu", "--k", "32"], "no number of active latents"),
        (["--data", shards, "--finetune", "3", "--site", SITE], "runs text through the model"),
        (["--config", run, "--finetune", "-1"], "steps is out of range"),
    ):
        assert main(["train", *argv, "--out", str(tmp_path / "no")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_flags_default_to_the_file(tmp_path: Path) -> None:
    run = written(tmp_path / "run.yaml", "d_sae: 99\nlr: 1e-3\nactivation: relu\nl0: 7\n")
    parsed: Any = parse(["train", "--config", run, "--l0", "9"])
    assert (parsed.training.d_sae, parsed.training.lr, parsed.training.l0) == (99, 1e-3, 9)
    assert parsed.training.batch_size == TrainConfig().batch_size


def test_flags_and_files_name_a_setting_by_its_block_or_by_itself(tmp_path: Path) -> None:
    nested = "d_sae: 99\npenalty: {l0: 7}\nactivation: relu\nfit:\n  steps: 50\n  lr: 1e-3\n"
    flat = "d_sae: 99\nl0: 7\nactivation: relu\nsteps: 50\nlr: 1e-3\n"
    files = [written(tmp_path / f"{i}.yaml", text) for i, text in enumerate((nested, flat))]
    flags = [
        ["--batch-size", "31", "--no-exclude-bos", "--betas", "0.5", "0.9"],
        ["--stream.batch-size=31", "--stream.no-exclude-bos", "--fit.betas", "0.5", "0.9"],
    ]
    made = [unchecked(parse)(["train", "--config", f, *more]).training for f in files for more in flags]
    assert all(one == made[0] for one in made) and made[0].fit.steps == 50
    assert (made[0].stream.batch_size, made[0].stream.exclude_bos) == (31, False)
    assert made[0].fit.betas == (0.5, 0.9) and made[0].stream.buffer_sequences == 512
    parsed: Any = parse(["train", "--data-seed", "5", "--stream.dtype", "float16", "--dtype", "float64"])
    assert parsed.training == TrainConfig(data_seed=5).changed({"stream": {"dtype": "float16"}})
    assert parsed.placement.dtype == "float64"
    parsed = parse(["train", "--fit.grad-clip", "0.5", "--fit.seed=3", "--fit.no-overwrite"])
    assert parsed.training == TrainConfig(fit=FitConfig(grad_clip=0.5, seed=3))


def test_two_values_for_one_setting_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written(tmp_path / "run.yaml", "steps: 5\nfit: {steps: 6}\n")
    assert unchecked(main)(["train", "--config", run]) == 2
    assert "steps=5, fit.steps=6" in capsys.readouterr().err
    assert unchecked(main)(["train", "--data-seed", "5", "--fit.seed", "6"]) == 2
    assert "data_seed=5, fit.seed=6" in capsys.readouterr().err
    run = written(tmp_path / "many.yaml", "dictionaries:\n- fit: {lr: 1e-3}\n")
    assert unchecked(main)(["train", "--config", run, "--lr", "0.1", "--data", "x"]) == 2
    assert "dictionaries in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fit: {stesp: 5}", "did you mean 'steps'"),
        ("fit: 5", "fit holds settings"),
        ("max_bytes: 5", "stream.max_bytes or text.max_bytes"),
        ("d_sea: 64", "did you mean 'd_sae'"),
        ("activation: topkk", "did you mean 'topk'"),
        ("d_sae: true", "d_sae has a wrong value"),
        ("lr: .nan", "lr is out of range"),
        ("d_sae: 1000000000000000000000", "d_sae is out of range"),
        ("data: 7", "data must be text"),
        ("finetune: some", "finetune must be a number of steps"),
        ("- 1", "keys and values"),
        ("d_sae: [", "cannot be read as YAML"),
    ],
)
def test_wrong_files_are_answered_with_what_to_correct(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = written(tmp_path / "run.yaml", text)
    assert unchecked(main)(["train", "--config", run]) == 2
    assert expected in capsys.readouterr().err


def test_k_above_the_width_and_missing_data_are_refused(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = ["train", "--data", shards, "--k", "99", "--d-sae", "41", "--out", str(tmp_path / "o")]
    assert main(many) == 2
    assert "at most d_sae = 41" in capsys.readouterr().err
    assert main(["train"]) == 2 and "--data" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


_junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.integers(min_value=2**70)
    | st.sampled_from(["topk", "unit", "mean", "linear"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_names = st.sampled_from([*names_of(TrainConfig), "d_sea", "dictionaries", ""])


@settings(max_examples=300)
@given(values=st.dictionaries(_names | st.text(max_size=8), _junk, max_size=6))
def test_any_mapping_makes_a_config_or_an_error_of_ours(values: dict[str, Any]) -> None:
    """F17: 0 tracebacks of other kinds."""
    try:
        unchecked(lambda: check_configs([TrainConfig.of(values)]))()
    except InterpError as error:
        assert str(error)


@settings(max_examples=100)
@given(text=st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_is_yaml_or_refused(text: str | bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("yaml") / "run.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    try:
        assert isinstance(read_file(path), dict)
        unchecked(Train.preset)(["--config", str(path)])
    except InterpError as error:
        assert str(error)


def test_sinks_get_every_line_once_and_a_missing_one_names_its_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import builtins

    from interp.core.errors import MissingDependency
    from interp.dictionaries.sinks import Sink, open_sinks
    from interp.dictionaries.training import run_training
    from tests.dictionaries.small import planted, small

    lines: list[tuple[int, dict[str, float]]] = []
    closed: list[bool] = []
    sink = Sink(lambda metrics, step: lines.append((step, metrics)), lambda: closed.append(True))
    made = run_training(small(), planted(300), callbacks=[sink])
    sink.finish()
    assert [step for step, _ in lines] == list(range(40)) and closed == [True]
    assert lines[7][1]["fvu"] == made.report.records[7]["fvu"]

    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] in ("wandb", "tensorboard") or name == "torch.utils.tensorboard":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    for name in ("tensorboard", "wandb"):
        with pytest.raises(MissingDependency, match=f"pip install {name}"):
            open_sinks((name,), tmp_path)
    with pytest.raises(ConfigError, match="sink has a wrong value"):
        open_sinks(("wandbb",), tmp_path)


def test_json_is_yaml_too(tmp_path: Path) -> None:
    assert read_file(Path(written(tmp_path / "a.yaml", json.dumps(SMALL)))) == SMALL
