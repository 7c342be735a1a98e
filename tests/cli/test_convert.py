"""`interp convert` end to end: every way in, every way out, and refusals that leave nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from interp.cli.main import main
from interp.dictionaries import Dictionary, DictionaryConfig, load, load_transcoders, save
from tests.dictionaries.test_formats_golden import GOLDEN
from tests.dictionaries.zoo import make, rows


def run(*argv: object) -> int:
    return main(["convert", *map(str, argv)])


@pytest.mark.parametrize(
    "name", ["sparsify/layers.3", "dictionary_learning/BatchTopKSAE", "sparsify/layers.3.mlp"]
)
def test_other_libraries_to_native(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(GOLDEN / name, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "no manifest vouches for it" in said and str(tmp_path / "out") in said
    assert torch.equal(load(tmp_path / "out")(rows()), load(GOLDEN / name)(rows()))
    assert run(GOLDEN / name, tmp_path / "out") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(GOLDEN / name, tmp_path / "out", "--overwrite") == 0


def test_a_set_to_native_and_back(tmp_path: Path) -> None:
    assert run(GOLDEN / "circuit_tracer/relu", tmp_path / "native") == 0
    assert sorted(p.name for p in (tmp_path / "native").iterdir()) == ["layer_0", "layer_1"]
    back = ("--to", "circuit-tracer", "--model-name", "google/gemma-2-2b")
    assert run(tmp_path / "native", tmp_path / "set", *back) == 0
    first, second = (load_transcoders(tmp_path / "set"), load_transcoders(GOLDEN / "circuit_tracer/relu"))
    assert all(torch.equal(a(rows()), b(rows())) for a, b in zip(first, second, strict=True))
    config = yaml.safe_load((tmp_path / "set" / "config.yaml").read_text())
    assert config["model_name"] == "google/gemma-2-2b"


def test_topk_transcoders_to_jumprelu_to_circuit_tracer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import interp

    model = interp.load_model("tiny-grammar")
    d = model.cfg.d_model
    for layer in range(2):
        sites = (f"blocks.{layer}.ln2.hook_normalized", f"blocks.{layer}.hook_mlp_out")
        config = DictionaryConfig(
            d_in=d, d_sae=2 * d, d_out=d, k=7, apply_b_dec_to_input=False, site_in=sites[0], site_out=sites[1]
        )
        dictionary = Dictionary(config, seed=layer)
        dictionary.provenance = model.provenance(sites, d_in=d)
        save(dictionary, tmp_path / "topk" / f"layer_{layer}")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(["the cat sees the dogs near the house ."] * 400))
    assert run(tmp_path / "topk", tmp_path / "ct", "--to", "circuit-tracer") == 2
    assert "to_jumprelu" in capsys.readouterr().err
    asked = ("--model", "tiny-grammar", "--data", text, "--rows", 1000)
    assert run(tmp_path / "topk", tmp_path / "jump", "--to", "jumprelu", *asked) == 0
    made = load(tmp_path / "jump" / "layer_1")
    assert made.config.activation == "jumprelu"
    assert made.metadata["thresholds"]["l0"] == pytest.approx(7, abs=0.5)
    assert made.metadata["thresholds"]["rows"] == pytest.approx(1000, rel=0.3)
    assert made.provenance is not None and not made.provenance.notes
    assert run(tmp_path / "jump", tmp_path / "ct", "--to", "circuit-tracer") == 0
    assert len(load_transcoders(tmp_path / "ct")) == 2
    other = ("--model", "induction-2l", "--data", text, "--to", "jumprelu")
    assert run(tmp_path / "topk", tmp_path / "no", *other) == 2
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere", "out"], "no dictionary 'nowhere'"),
        (["IN", "out", "--to", "jumprelu"], "--model MODEL --data TEXT"),
        (["IN", "out", "--data", "x.txt"], "belong to --to jumprelu"),
        (["IN", "out", "--to", "circuit-tracer"], "one site of a block to another"),
        (["gpt2-small-res-jb/blocks.99.x", "out"], "has no dictionary"),
    ],
)
def test_refusals_say_what_to_do_and_leave_nothing(
    argv: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save(make("topk"), "IN")
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not Path("out").exists()


def test_a_set_that_cannot_be_written_whole_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from interp.core.disk import calls
    from interp.core.errors import StorageError

    step = calls.step

    def full(operation: str, path: Path) -> None:
        if "layer_1" in str(path):
            raise StorageError("the disk is full", got=operation)
        step(operation, path)

    monkeypatch.setattr(calls, "step", full)
    assert run(GOLDEN / "circuit_tracer/relu", tmp_path / "native") == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
