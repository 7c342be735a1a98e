"""The tuned lens: the logit lens before training, nearer to the output after, refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.activations import TextConfig, TokenSequences, tokenize_texts
from interp.cli.main import main
from interp.core.errors import ConfigError, CorruptArtefact, ModelError, ProvenanceError
from interp.core.result import Result
from interp.lenses import LensScores, TunedLens, TunedLensConfig, score_lenses
from tests.models import zoo

IDS = torch.tensor([11, 7, 23, 5, 42, 17, 3])
QUICK = TunedLensConfig(steps=5, batch_tokens=32)


def rows_of_ids(n: int = 20) -> torch.Tensor:
    return torch.randint(0, zoo.V, (n, 13), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def gpt2() -> interp.HookedModel:
    return interp.wrap(zoo.make("gpt2"))


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> interp.HookedModel:
    return interp.load_model(shared_data / "models" / "stories260k")


def documents(shared_data: Path) -> list[str]:
    file = shared_data / "corpora" / "tinystories" / "tinystories_1000.json"
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def trained(stories: interp.HookedModel, shared_data: Path, full_count: bool) -> TunedLens:
    text = tokenize_texts(stories, documents(shared_data)[:600], TextConfig(n_ctx=128))
    size = TunedLensConfig() if full_count else TunedLensConfig(steps=80, batch_tokens=512)
    lens, report = interp.train_tuned_lens(stories, text, size)
    assert report.check().ok
    return lens


# --- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox", "bert", "opt-post"])
def test_before_training_it_is_the_logit_lens(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    tuned = interp.tuned_lens(model, IDS, TunedLens.identity(model), target=19)
    plain = interp.logit_lens(model, IDS, target=19)
    assert tuned.kind == "tuned" and tuned.components == plain.components
    for field in ("probs_top", "ids_top", "kl", "entropy", "target_prob", "target_rank"):
        assert torch.equal(getattr(tuned, field), getattr(plain, field))


def test_the_last_row_stays_the_output_after_training(gpt2: interp.HookedModel) -> None:
    lens, _ = interp.train_tuned_lens(gpt2, rows_of_ids(), QUICK)
    tuned, plain = interp.tuned_lens(gpt2, IDS, lens), interp.logit_lens(gpt2, IDS)
    assert tuned.check().ok
    assert torch.equal(tuned.probs_top[-1], plain.probs_top[-1])
    assert not torch.equal(tuned.kl[:-1], plain.kl[:-1])


def test_the_numbers_by_hand(gpt2: interp.HookedModel) -> None:
    lens, _ = interp.train_tuned_lens(gpt2, rows_of_ids(), QUICK)
    result = interp.tuned_lens(gpt2, IDS, lens, k=zoo.V)
    acts = gpt2.capture(IDS, ["blocks.1.hook_resid_post"])
    x = acts["resid_post", 1][0]
    one = lens.maps[2]
    moved = x + x @ one.weight.T + one.bias
    assert float((moved - x).abs().max()) > 1e-4
    with torch.no_grad():
        p = gpt2.module.lm_head(gpt2.module.transformer.ln_f(moved)).softmax(-1)
    torch.testing.assert_close(result.probs_top[2], p.topk(zoo.V).values)


def test_training_leaves_the_model_as_it_was(gpt2: interp.HookedModel) -> None:
    before = gpt2.fingerprint()
    interp.train_tuned_lens(gpt2, rows_of_ids(), QUICK)
    assert gpt2.fingerprint() == before
    assert all(parameter.grad is None for parameter in gpt2.module.parameters())


def test_the_gradient_of_each_row_is_that_of_its_own_divergence(gpt2: interp.HookedModel) -> None:
    from interp.lenses.tuned import _Step

    lens = TunedLens.identity(gpt2)
    sites = [*lens.rows.values(), f"blocks.{zoo.L - 1}.hook_resid_post"]
    acts = gpt2.capture(rows_of_ids(3), sites)
    batch = {site: acts[site].flatten(0, 1) for site in sites}
    loss, metrics = _Step(gpt2, sites[-1])(lens, batch, 0)
    assert not loss.requires_grad and len(metrics) == zoo.L
    found = [p.grad.clone() for p in lens.parameters() if p.grad is not None]
    lens.zero_grad()
    total = torch.zeros(())
    for site in lens.rows.values():
        p = gpt2.unembed(gpt2.ln_final(batch[sites[-1]])).softmax(-1).detach()
        q = gpt2.unembed(gpt2.ln_final(lens(site, batch[site]))).log_softmax(-1)
        total = total + torch.nn.functional.kl_div(q, p, reduction="batchmean")
    expected = torch.autograd.grad(total, list(lens.parameters()))
    torch.testing.assert_close(loss, total.detach(), atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_half_precision_models_get_maps_in_single(gpt2: interp.HookedModel) -> None:
    model = gpt2.to(torch.bfloat16)
    lens, _ = interp.train_tuned_lens(model, rows_of_ids(), QUICK)
    assert lens.maps[0].weight.dtype == torch.float32
    assert interp.tuned_lens(model, IDS, lens).check().ok


# --- the artefact ------------------------------------------------------------------------------


def test_it_is_saved_and_loaded_with_its_provenance(gpt2: interp.HookedModel, tmp_path: Path) -> None:
    tokens = TokenSequences.of(rows_of_ids())
    lens, report = interp.train_tuned_lens(gpt2, tokens, QUICK, out=tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
    assert report.records[-1]["kl embed"] > 0
    lens.save(tmp_path / "lens")
    again = TunedLens.load(tmp_path / "lens")
    assert again.provenance == lens.provenance
    assert again.provenance.data_fingerprint == tokens.fingerprint
    assert again.provenance.model_fingerprint == gpt2.fingerprint()
    from_file = interp.tuned_lens(gpt2, IDS, tmp_path / "lens")
    assert torch.equal(from_file.kl, interp.tuned_lens(gpt2, IDS, lens).kl)
    weights = tmp_path / "lens" / "tuned_lens.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptArtefact):
        TunedLens.load(tmp_path / "lens")


@pytest.mark.parametrize("other", ["llama", "same shape"])
def test_another_model_refuses_it(gpt2: interp.HookedModel, tmp_path: Path, other: str) -> None:
    lens, _ = interp.train_tuned_lens(gpt2, rows_of_ids(), QUICK)
    lens.save(tmp_path / "lens")
    stranger = interp.wrap(zoo.make("llama" if other == "llama" else "gpt2", seed=7))
    with pytest.raises(ProvenanceError, match="made for something else") as error:
        interp.tuned_lens(stranger, IDS, tmp_path / "lens")
    assert "model_fingerprint" in error.value.got
    with pytest.raises(ProvenanceError):
        score_lenses(stranger, rows_of_ids(), {"tuned": lens})
    noted = interp.tuned_lens(stranger, IDS, lens, strict=False)
    assert any("model_fingerprint" in note for note in noted.provenance.notes)


# --- the phenomenon, and the null --------------------------------------------------------------


def test_it_beats_the_logit_lens_at_every_layer_but_the_last(
    stories: interp.HookedModel, trained: TunedLens, shared_data: Path, tmp_path: Path, full_count: bool
) -> None:
    held_out = documents(shared_data)[900:940]
    scores = score_lenses(stories, held_out, {"tuned": trained}, n_ctx=128)
    assert scores.n_tokens > 5_000 and scores.check().ok
    logit, tuned = scores.kl
    figures = f"KL by row: logit {logit.tolist()}, tuned {tuned.tolist()}"
    assert logit[:-1].tolist() == pytest.approx([22.3, 12.3, 5.5, 2.5, 1.01], rel=0.02), figures
    if not full_count:  # 80 steps
        assert tuned[:-1].tolist() == pytest.approx([3.06, 2.29, 1.63, 1.14, 0.61], rel=0.1), figures
    assert bool((tuned[:-1] < 0.7 * logit[:-1]).all()), figures
    assert bool((scores.cross_entropy[1, :-1] < scores.cross_entropy[0, :-1]).all())
    assert bool((scores.agreement[1, :-1] > scores.agreement[0, :-1]).all())
    assert bool((tuned.diff() < 0).all()), figures  # predictions refine layer by layer
    assert torch.equal(scores.kl[0, -1], scores.kl[1, -1])
    scores.save(tmp_path / "scores")
    again = Result.load(tmp_path / "scores")
    assert isinstance(again, LensScores) and torch.equal(again.kl, scores.kl)
    figure = again.plot(field="kl")
    assert [trace.name for trace in figure.data] == ["logit", "tuned"]


def test_scores_equal_the_lens_itself(stories: interp.HookedModel, trained: TunedLens) -> None:
    text = "Once upon a time there was a dog."
    scores = score_lenses(stories, stories.to_tokens(text), {"tuned": trained})
    for i, lens in enumerate((interp.logit_lens(stories, text), interp.tuned_lens(stories, text, trained))):
        torch.testing.assert_close(scores.kl[i], lens.kl[:, :-1].mean(1), atol=1e-4, rtol=1e-4)


def test_trained_on_a_model_without_structure_it_finds_the_average_only(
    stories: interp.HookedModel, trained: TunedLens, shared_data: Path
) -> None:
    """The null: of a random model's output, early layers hold nothing but its constant part."""
    null = stories.randomised(0)
    text = tokenize_texts(null, documents(shared_data)[:100], TextConfig(n_ctx=64))
    lens, _ = interp.train_tuned_lens(null, text, TunedLensConfig(steps=30, batch_tokens=256))
    held_out = documents(shared_data)[900:910]
    gains = []
    for model, one in ((stories, trained), (null, lens)):
        kl = score_lenses(model, held_out, {"tuned": one}, n_ctx=64).kl
        gains.append(float((kl[0, :-1] - kl[1, :-1]).mean()))
    assert gains[0] > 2 and abs(gains[1]) < 0.05, f"nats gained: real {gains[0]}, null {gains[1]}"


# --- errors, and the command -------------------------------------------------------------------


def test_bad_requests_are_explained(gpt2: interp.HookedModel) -> None:
    with pytest.raises(ConfigError, match="no tokenizer"):
        interp.train_tuned_lens(gpt2, "text.txt")
    with pytest.raises(ConfigError, match="shorter than one batch"):
        interp.train_tuned_lens(gpt2, rows_of_ids(1), QUICK)
    with pytest.raises(ModelError, match="read one text"):
        TunedLens.identity(interp.wrap(zoo.make("t5")))
    with pytest.raises(ModelError, match="residual stream and a head"):
        TunedLens.identity(interp.wrap(torch.nn.Linear(3, 3)))
    with pytest.raises(ConfigError, match="no sequence has a second token"):
        score_lenses(gpt2, IDS[:, None])


def test_the_command_trains_saves_and_reads(shared_data: Path, tmp_path: Path) -> None:
    model = str(shared_data / "models" / "stories260k")
    text = str(shared_data / "corpora" / "tinystories" / "tinystories_sample.txt")
    argv = ["lens", model, "Once upon a time", "--kind", "tuned"]
    train = [*argv, "--train-on", text, "--steps", "3", "--batch-tokens", "64"]
    assert main([*train, "--out", str(tmp_path / "a")]) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["config.json", "lens", "report.html", "report.json", "tuned_lens"]
    use = [*argv, "--tuned", str(tmp_path / "a" / "tuned_lens"), "--out", str(tmp_path / "b")]
    assert main(use) == 0
    first, second = (Result.load(tmp_path / x / "lens") for x in "ab")
    assert first.kind == "tuned" and torch.equal(first.kl, second.kl)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--kind", "tuned"], "neither"),
        (["--tuned", "x"], "--kind tuned"),
        (["--kind", "tuned", "--tuned", "x", "--train-on", "y"], "--tuned and --train-on"),
        (["--kind", "tuned", "--tuned", "x", "--components", "all"], "--components resid"),
    ],
)
def test_contradictions_on_the_command_line_are_exit_2(
    options: list[str], says: str, tmp_path: Path, capsys: Any
) -> None:
    argv = ["lens", "/no/such/model", "text", "--out", str(tmp_path / "out"), *options]
    assert main(argv) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
