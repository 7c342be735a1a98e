"""`interp lens` and `interp models` on a real model: the page, the numbers, the refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.cli.main import main

TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> str:
    return str(shared_data / "models" / "stories260k")


@pytest.fixture(scope="module")
def page(stories: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of the command; the tests look at what it wrote."""
    folder = tmp_path_factory.mktemp("lens") / "out"
    assert main(["lens", stories, TEXT, "--out", str(folder), "--colour", "kl"]) == 0
    return folder


def test_it_writes_the_page_the_numbers_and_the_question(page: Path) -> None:
    names = sorted(path.name for path in page.iterdir())
    assert names == ["config.json", "lens", "report.html", "report.json"]
    config = json.loads((page / "config.json").read_text())
    assert config["text"] == TEXT
    assert config["reading"]["k"] == 5


def test_the_saved_result_is_the_models_own_distribution_at_the_last_layer(page: Path, stories: str) -> None:
    import torch

    from interp.core.result import Result
    from interp.models import load_model

    lens = Result.load(page / "lens")
    model = load_model(stories)
    own = model(TEXT)[0].softmax(-1)
    last = lens.probs_top[-1]
    torch.testing.assert_close(last, own.gather(-1, lens.ids_top[-1]), atol=1e-5, rtol=1e-4)
    assert float(lens.kl[-1].max()) < 1e-6
    assert float(lens.kl[0].mean()) > 10 * float(lens.kl[-2].mean()) > 0  # it emerges over layers
    assert lens.check().ok


def test_a_second_run_is_refused_before_the_model_is_read(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in page.rglob("*")}
    assert main(["lens", "/no/such/model", TEXT, "--out", str(page)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in page.rglob("*")} == before


def test_without_out_the_folder_is_named_and_printed(
    stories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["lens", stories, "Once upon", "--components", "all", "--k", "2"]
    assert main(argv) == 0
    (folder,) = (tmp_path / "interp-out").iterdir()
    assert folder.name.startswith("lens-stories260k-")
    assert str(folder / "report.html") in capsys.readouterr().out
    assert main(argv) == 2
    assert main([*argv, "--overwrite"]) == 0


@pytest.mark.parametrize(
    "argv, says",
    [(["--target", "Lily Lily"], "Lily Lily"), (["--k", "0"], "k is out"), (["--device", "warp"], "warp")],
)
def test_what_the_model_cannot_do_is_exit_2_and_leaves_nothing(
    stories: str, tmp_path: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lens", stories, "Once", "--out", str(tmp_path / "out"), *argv]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_encoder_decoder_is_read_by_the_decoder_lens(
    tmp_path: Path, stories: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random T5 with a tokenizer of words, from a folder; other models are refused."""
    from interp.core.result import Result
    from tests.models import zoo
    from tests.tasks.toys import words_tokenizer

    folder, out = tmp_path / "t5", tmp_path / "out"
    zoo.make("t5").save_pretrained(folder)
    words = ("<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(zoo.V - 3)))
    words_tokenizer(words, bos=False).save_pretrained(folder)
    command = ["lens", str(folder), "w3 w1 w4", "--kind", "decoder", "--k", "2"]
    assert main([*command, "--out", str(out)]) == 0
    lens = Result.load(out / "lens")
    assert lens.kind == "decoder" and lens.check().ok  # type: ignore[attr-defined]
    assert lens.components[0] == "embed"  # type: ignore[attr-defined]
    assert "Decoder lens" in (out / "report.html").read_text()
    assert main(["lens", stories, "Once", "--kind", "decoder", "--out", str(tmp_path / "b")]) == 2
    assert "no encoder-decoder" in capsys.readouterr().err
    assert main([*command, "--components", "all", "--out", str(tmp_path / "c")]) == 2
    assert "decoder lens reads the residual stream" in capsys.readouterr().err


def test_models_prints_and_writes_the_map(
    stories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["models", stories]) == 0
    printed = capsys.readouterr().out
    assert "blocks.*.attn.hook_z" in printed
    assert (tmp_path / "interp-out" / "models.txt").read_text() in printed


def test_models_lists_what_is_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from interp.models import bundled_models

    monkeypatch.chdir(tmp_path)
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in bundled_models())
    assert bundled_models() or "interp demo" in printed


def test_a_text_beyond_the_context_is_cut_only_when_asked(
    stories: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from interp.core.result import Result

    long = f"{TEXT} " * 30
    assert main(["lens", stories, long, "--out", str(tmp_path / "refused")]) == 2
    assert "--truncate" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["lens", stories, long, "--out", str(tmp_path / "cut"), "--truncate"]) == 0
    assert Result.load(tmp_path / "cut" / "lens").entropy.shape[1] == 512
