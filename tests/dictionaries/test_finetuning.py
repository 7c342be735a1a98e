"""Finetuned through the model, a dictionary costs it less; more steps on the error do not."""

from __future__ import annotations

import signal
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.activations import TokenSequences
from interp.core.errors import ConfigError, Interrupted, ProvenanceError
from interp.dictionaries import (
    Dictionary,
    DictionaryConfig,
    FinetuneConfig,
    TrainConfig,
    evaluate,
    finetune,
    finetuning,
    train,
)
from interp.tasks import GrammarConfig
from interp.tasks import grammar_batch as grammar
from tests.models import zoo

IDS = torch.randint(5, zoo.V, (12, 9), generator=torch.Generator().manual_seed(0))


def random_dictionary(model: Any, activation: Any = "topk", **more: Any) -> Dictionary:
    """Of the gpt2-shaped model's middle layer; trained on nothing."""
    site = more.pop("site", "blocks.1.hook_resid_post")
    width = {"d_in": zoo.D, "d_sae": 51, "site_in": site, "activation": activation}
    given = {"k": 7} if "topk" in activation else {}
    made = Dictionary(DictionaryConfig(**width, **given, **more), seed=1)
    with torch.no_grad():
        made.W_dec.mul_(torch.linspace(0.5, 2, 51)[:, None])  # norms to keep
        if activation in ("jumprelu", "batchtopk"):
            made.threshold.uniform_(0.5, 1.5) if activation == "jumprelu" else made.threshold.fill_(1)
        if activation == "gated":
            made.b_gate.fill_(-1)
    made.provenance = model.provenance([site], d_in=zoo.D)
    return made


@cache
def gpt2() -> Any:
    return interp.wrap(zoo.make("gpt2"))


# --- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["topk", "abstopk", "batchtopk", "jumprelu", "gated"])
def test_the_first_step_is_the_gradient_by_hand(activation: str) -> None:
    """KL + weight x FVU by plain autograd, with the model's parameters on the graph."""
    model = gpt2()
    start = random_dictionary(model, activation)
    config = FinetuneConfig(steps=1, lr=1e-4, batch_sequences=12, fvu_weight=0.7)
    tokens = TokenSequences(IDS)
    batch = finetuning._Batches(model, tokens, config)(0)
    tuning = finetuning._Tuning(start, finetuning._Batches(model, tokens, config), config)
    _, metrics = tuning.step(start, batch, 0)
    found = {n: p.grad.clone() for n, p in start.named_parameters() if p.grad is not None}

    site, d = start.site_in, start
    bos = model.tokenization.bos_id
    keep = batch.mask if bos is None else batch.mask & (batch.ids != bos)
    intact = model(batch).detach()
    x = model.capture(batch, site)[site][keep]
    latents = tuning._latents(x)
    new = latents @ d.W_dec + d.b_dec
    held: list[Tensor] = []

    def put(value: Tensor, hook: Any) -> Tensor:
        held.append(value)
        out = value.clone()
        out[keep] = new
        return out

    said = model.run_with_hooks(batch, [(site, put)])
    p, q = (logits[keep].log_softmax(-1) for logits in (intact, said))
    kl = (p.exp() * (p - q)).sum(-1).mean()
    fvu = ((new - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    names = [n for n, q in d.named_parameters() if n in found]
    expected = torch.autograd.grad(
        kl + 0.7 * fvu, [dict(d.named_parameters())[n] for n in names], allow_unused=True
    )
    assert float(metrics["kl"]) == pytest.approx(float(kl.detach()), rel=1e-4)
    assert float(metrics["fvu"]) == pytest.approx(float(fvu.detach()), rel=1e-5)
    for name, hand in zip(names, expected, strict=True):
        ours = found[name]
        if hand is None:
            assert not ours.any(), name
        else:
            torch.testing.assert_close(ours, hand, rtol=1e-4, atol=1e-6, msg=name)
    assert any(h is not None and h.abs().max() > 1e-4 for h in expected)


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu", "gated"])
def test_l0_norms_the_model_and_the_dictionary_given_stay_as_they_were(activation: str) -> None:
    model = gpt2()
    start = random_dictionary(model, activation)
    before = {k: v.clone() for k, v in start.state_dict().items()}
    weights = {k: v.clone() for k, v in model.module.state_dict().items()}
    flags = [p.requires_grad for p in model.module.parameters()]
    config = FinetuneConfig(steps=30, lr=3e-3)
    made, report = finetune(start, model, torch.cat([IDS, IDS], 1), replace(config, n_ctx=9))
    for have, want in ((start.state_dict(), before), (model.module.state_dict(), weights)):
        assert all(torch.equal(have[k], want[k]) for k in want)
    assert all(p.grad is None for p in model.module.parameters())
    assert [p.requires_grad for p in model.module.parameters()] == flags
    assert not torch.equal(made.W_dec, start.W_dec) and len(report.records) >= 3
    torch.testing.assert_close(made.decoder_norms, start.decoder_norms, rtol=1e-5, atol=1e-6)
    x = model.capture(IDS, start.site_in)[start.site_in].flatten(0, 1)
    active = [float((d.encode(x) != 0).float().sum(-1).mean().detach()) for d in (start, made)]
    assert active[1] == pytest.approx(active[0], rel=0.03), active
    assert made.metadata["finetuning"]["config"]["steps"] == 30
    assert made.provenance == start.provenance


def test_heads_side_by_side_and_a_transcoder_are_finetuned_too() -> None:
    model = gpt2()
    z = random_dictionary(model, site="blocks.1.attn.hook_z")
    made, report = finetune(z, model, TokenSequences(IDS), FinetuneConfig(steps=20, log_every=1))
    kl = report.series("kl")[1]
    assert kl[-1] < kl[0] and made.site_in == z.site_in
    sites = {"site": "blocks.1.ln2.hook_normalized", "site_out": "blocks.1.hook_mlp_out"}
    config = TrainConfig(**sites, d_sae=37, k=5, steps=20, batch_size=32, skip=True)
    start = train(config, IDS, model=model)
    _, report = finetune(start, model, TokenSequences(IDS), FinetuneConfig(steps=20, log_every=1))
    kl = report.series("kl")[1]
    assert kl[-1] < kl[0]


# --- the phenomenon, and the null --------------------------------------------------------------


def texts(*batches: int) -> TokenSequences:
    return TokenSequences(torch.cat([grammar(GrammarConfig(seed=0), t)[0] for t in batches])[:, :65])


COSTS = {"before": 0.096, "KL": 0.070, "error only": 0.094}
"""In KL, of what the mean costs."""


@pytest.mark.full
def test_the_model_loses_less_for_a_little_more_error() -> None:
    """A narrow SAE of tiny-grammar, 40 steps; the null, as many steps on squared error."""
    model = interp.load_model("tiny-grammar")
    how = {"site": "blocks.2.hook_resid_post", "activation": "batchtopk", "d_sae": 128, "k": 6}
    start = train(TrainConfig(**how, steps=400, batch_size=512, lr=3e-3), texts(1, 2), model=model)
    held_out = texts(1_000_000).ids[:60]
    costs, errors = {}, {}
    for name, weight in (("before", None), ("KL", 0.3), ("error only", 1e4)):
        made = start
        if weight is not None:
            config = FinetuneConfig(steps=40, batch_sequences=16, fvu_weight=weight)
            made, _ = finetune(start, model, texts(7), config)
        found = evaluate(made, model, held_out)
        costs[name] = 1 - float(found.recovered("mean", measure="kl"))
        errors[name] = float(found.fvu)
        assert float(found.l0) == pytest.approx(6, rel=0.05)
    assert costs == pytest.approx(COSTS, abs=0.02), costs
    assert costs["KL"] < 0.8 * costs["before"], costs
    assert costs["error only"] > 0.93 * costs["before"], costs
    assert errors["KL"] < errors["before"] + 0.015, errors


# --- stopped and resumed -----------------------------------------------------------------------


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = gpt2(), TokenSequences(IDS)
    start = random_dictionary(model, "jumprelu")
    config = FinetuneConfig(steps=12, lr=3e-3)
    whole, _ = finetune(start, model, tokens, config)
    kept = finetuning._Norms.after_step

    def stop(self: Any, module: Any, t: int) -> None:
        kept(self, module, t)
        if t == 6:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(finetuning._Norms, "after_step", stop)
    with pytest.raises(Interrupted):
        finetune(start, model, tokens, config, out=tmp_path / "run")
    monkeypatch.setattr(finetuning._Norms, "after_step", kept)
    again, _ = finetune(start, model, tokens, config, out=tmp_path / "run", resume="must")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    with pytest.raises(ConfigError, match="lr"):
        finetune(start, model, tokens, FinetuneConfig(steps=12, lr=1e-3), out=tmp_path / "run")
    with torch.no_grad():
        start.W_dec[0] *= 2
    with pytest.raises(ConfigError, match="dictionary"):  # not the one the run began with
        finetune(start, model, tokens, config, out=tmp_path / "run")
    finetune(start, model, tokens, config, out=tmp_path / "run", overwrite=True)


def test_texts_without_rows_to_train_on_are_passed_over() -> None:
    """One sequence at a time: one of BOS alone, or with one token more, has no FVU to speak of."""
    model, lengths = gpt2(), torch.full((12,), 9)
    lengths[::2], lengths[1] = 1, 2
    config = FinetuneConfig(steps=12, batch_sequences=1, log_every=1, lr=1e-3)
    _, report = finetune(random_dictionary(model), model, TokenSequences(IDS, lengths), config)
    fvu = torch.tensor(report.series("fvu")[1])
    assert bool(fvu.isfinite().all()) and float(fvu.max()) < 1e3


# --- errors ------------------------------------------------------------------------------------


def test_what_cannot_be_finetuned_is_refused() -> None:
    model, tokens = gpt2(), TokenSequences(IDS)
    with pytest.raises(ConfigError, match="no number of active latents"):
        finetune(random_dictionary(model, "relu"), model, tokens)
    with pytest.raises(ProvenanceError):
        finetune(random_dictionary(model), model.randomised(3), tokens)
    with pytest.raises(ConfigError, match="from k"):
        finetune(random_dictionary(model), model, tokens, FinetuneConfig(l0=3))
    with pytest.raises(ConfigError, match="l0 is out of range"):
        finetune(random_dictionary(model, "gated"), model, tokens, FinetuneConfig(l0=0))
    with pytest.raises(ConfigError, match="steps"):
        finetune(random_dictionary(model), model, tokens, FinetuneConfig(steps=0))
    with pytest.raises(ConfigError, match="no token is left"):
        finetune(random_dictionary(model), model, TokenSequences(IDS[:, :1]))
    bert = interp.wrap(zoo.make("bert").bert)
    with pytest.raises(ConfigError, match="predicts no tokens"):
        finetune(random_dictionary(bert, site="blocks.1.hook_normalized_resid_post"), bert, tokens)
