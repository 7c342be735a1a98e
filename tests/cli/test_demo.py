"""`interp demo`: from nothing, or on a model of one's own, to one page; twice."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import BertModel

from interp.cli.demo import head_map, scene
from interp.cli.demo.command import DEFAULT_OUT
from interp.cli.main import main
from interp.core.store import commit
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer, small_files
from tests.models import zoo


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo as `make demo` runs it, once."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        read = 0

        def count(module: torch.nn.Module, args: tuple[object, ...]) -> None:
            nonlocal read
            if isinstance(module, SmallTransformer) and isinstance(args[0], torch.Tensor):
                read += args[0].numel()

        counting = register_module_forward_pre_hook(count)  # of every module in the process
        try:
            assert main(["demo"]) == 0
        finally:
            counting.remove()
        # Measured: 752,629, which with all the rest takes two cores under a minute.
        assert 0 < read < 1_000_000, f"{read} tokens through the model"
    return folder / DEFAULT_OUT


def test_the_page_has_every_section_and_its_checks_hold(page: Path) -> None:
    numbers = json.loads((page / "report.json").read_text())
    titles = [section["title"] for section in numbers["sections"]]
    assert titles == [
        "What the model can do",
        "What each layer predicts",
        "What a layer knows, and in which basis",
        "Which part says it",
        "What each head does",
        "Where heads look",
        "Which tokens made the answer",
        "Which edges carry the answer",
        "What the weights say",
        "What a probe can read",
        "What the stream is made of",
        "A circuit appears",
    ]
    checks = [c for s in numbers["sections"] for block in s["blocks"] for c in block["checks"]]
    names = [check["name"] for check in checks]
    assert {"held_out_accuracy", "previous_token_head", "induction_head"} <= set(names)
    assert all(check["ok"] for check in checks)


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = (page / "report.html").read_text()
    assert "default-src 'none'" in html.unescape(text)
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=.https?:", text)
    assert sorted(path.name for path in page.iterdir()) == ["report.html", "report.json"]


def short(folder: Path) -> Path:
    """A model with a context of three tokens and no tokenizer: the demo reads random ids."""
    sizes = {"n_layers": 1, "d_model": 16, "n_ctx": 3, "d_head": 4, "d_vocab": 7, "n_heads": 3}
    torch.manual_seed(0)
    commit(folder, small_files(SmallTransformer(SmallConfig(**sizes, d_mlp=11))), schema="model/1")
    return folder


def test_a_second_demo_replaces_the_first_and_a_strangers_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path, full_count: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["demo", "--model", str(short(tmp_path / "model"))]
    if full_count:
        argv = ["demo", "--model", str(shared_data / "models" / "stories260k"), "--text", "Once upon"]
    assert main(argv) == 0
    first = (DEFAULT_OUT / "report.html").read_bytes()
    assert main(argv) == 0
    assert (DEFAULT_OUT / "report.html").read_bytes() == first  # same question, same bytes
    numbers = json.loads((DEFAULT_OUT / "report.json").read_text())
    assert numbers["sections"][0]["title"] == "What each layer predicts"  # nothing was trained
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.html").write_text("years of work")
    assert main([*argv, "--out", "mine"]) == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.html"]


READ = ["What each layer predicts", "Which part says it"]
TOKENS, WEIGHTS = "Which tokens made the answer", "What the weights say"
PROBE = "What a probe can read"


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("context of three tokens", [*READ, TOKENS, WEIGHTS]),
        ("no head", ["What each head does", "Where heads look", WEIGHTS, PROBE]),
        ("attention out of reach", [*READ, TOKENS, WEIGHTS, PROBE]),
    ],
)
def test_folders_that_lack_something_show_what_they_have(
    kind: str, titles: list[str], tmp_path: Path
) -> None:
    """No tokenizer here: the demo reads random ids, as many as vocabulary and context hold."""
    if kind == "context of three tokens":
        short(tmp_path / "model")
    else:
        raw = zoo.make("bert" if kind == "no head" else "gptj")
        if kind == "no head":
            raw = BertModel(raw.config)
        raw.save_pretrained(tmp_path / "model")
    assert main(["demo", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [section["title"] for section in numbers["sections"]] == titles
    if kind == "no head":  # random weights: the highest score of all is no induction head's
        html = (tmp_path / "out" / "report.html").read_text()
        assert "which is little: none of these heads" in html


def test_a_model_that_reads_images_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.make("vit").save_pretrained(tmp_path / "model")
    assert main(["demo", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 2
    assert "token sequences" in capsys.readouterr().err


@pytest.mark.parametrize("kind", head_map.KINDS)
def test_head_scores_find_the_head_made_for_them(kind: str) -> None:
    block, n_layers, n_heads = 5, 2, 3
    offset = {"previous token": 1, "induction": block - 1, "duplicate token": block}.get(kind)
    patterns = torch.zeros(n_layers, n_heads, 2 * block, 2 * block)
    patterns[..., 0] = 1.0  # every head rests on the first token,
    if offset:  # but L1H2, which looks `offset` back wherever it can
        made = torch.zeros(2 * block, 2 * block)
        for query in range(2 * block):
            made[query, max(query - offset, 0)] = 1.0
        patterns[1, 2] = made
    scores = head_map.head_scores(patterns, block)
    assert scores[kind][1, 2] == 1.0
    if offset:
        # The one query whose target is the first token counts for both kinds of head.
        own = 1.0 / block if offset == block else 0.0
        assert torch.allclose(scores[kind][0], torch.full((n_heads,), own))
    assert all(score.shape == (n_layers, n_heads) for score in scores.values())


def test_the_repeated_block_is_new_for_another_seed() -> None:
    first = scene.repeated_block(97, seed=0)
    assert first.shape == (1, 2 * scene.BLOCK)
    assert torch.equal(first[0, : scene.BLOCK], first[0, scene.BLOCK :])
    assert len(first.unique()) == scene.BLOCK
    assert not torch.equal(first, scene.repeated_block(97, seed=1))
