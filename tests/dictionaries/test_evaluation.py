"""Evaluation: definitions by hand, streams equal to whole batches, losses equal to the splice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from interp.core.errors import ConfigError, ProvenanceError, ShapeError
from interp.core.result import Result
from interp.dictionaries import Dictionary, DictionaryConfig, DictionaryReport, evaluate
from interp.dictionaries.scores.config import EvaluationConfig
from interp.dictionaries.scores.tallies import Variance
from interp.models import wrap
from tests.models.zoo import MAKERS, D, V

SITE = "blocks.1.hook_resid_post"


def model_of(kind: str = "gpt2", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return wrap(MAKERS[kind](transformers).to(dtype).eval())


def tokens_of(n: int = 7, length: int = 11) -> torch.Tensor:
    return torch.randint(3, V, (n, length), generator=torch.Generator().manual_seed(1))


def dictionary_of(site_out: str = SITE, **more: Any) -> Dictionary:
    settings = {"d_in": D, "d_sae": 53, "k": 5, "site_in": SITE, "site_out": site_out}
    return Dictionary(DictionaryConfig(**{**settings, **more}))


def identity(site_in: str = SITE, site_out: str = SITE, d: int = D, **more: Any) -> Dictionary:
    """x = relu(x) - relu(-x): a ReLU dictionary that loses nothing."""
    is_sae = site_in == site_out
    config = DictionaryConfig(
        d_in=d,
        d_sae=2 * d,
        d_out=None if is_sae else d,
        activation="relu",
        site_in=site_in,
        site_out=site_out,
        apply_b_dec_to_input=is_sae,
        **more,
    )
    both = torch.cat([torch.eye(d), -torch.eye(d)])
    zeros = {"b_enc": torch.zeros(2 * d), "b_dec": torch.zeros(d)}
    return Dictionary.from_state(config, {"encoder": both, "W_dec": both, **zeros})


def test_every_statistic_is_its_definition() -> None:
    rows = torch.randn(997, 13) + 3
    dictionary = Dictionary(DictionaryConfig(d_in=13, d_sae=53, k=5))
    report = evaluate(dictionary, None, rows, EvaluationConfig(max_bytes=100_000))
    with torch.no_grad():
        z = dictionary.encode(rows)
        y = dictionary(rows).double()
    x = rows.double()
    expected = {
        "l0": (z != 0).sum(1).double().mean(),
        "l1": z.double().abs().sum(1).mean(),
        "mse": ((x - y) ** 2).sum(1).mean(),
        "fvu": ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(),
        "cosine": F.cosine_similarity(x, y).mean(),
        "norm_ratio": (y.norm(dim=1) / x.norm(dim=1)).mean(),
        "shrinkage": (y**2).sum() / (x * y).sum(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(report, name), value, msg=name)
    torch.testing.assert_close(report.density, (z != 0).double().mean(0))
    assert report.dead == int((~(z != 0).any(0)).sum())
    assert report.ce is None and report.recovered() is None and report.interval() is None
    assert report.n_tokens == 997


def test_rows_of_nothing_have_no_ratio_of_norms() -> None:
    """0 / 0 is left out of the mean; a cosine with nothing is 0, as torch has it; L0 and MSE count all."""
    rows = torch.randn(97, D) * (torch.arange(97) % 3 > 0)[:, None]
    dictionary = dictionary_of()
    report = evaluate(dictionary, None, rows)
    with torch.no_grad():
        x, y = rows.double(), dictionary(rows).double()
    some = x.norm(dim=1) > 0
    assert 0 < int((~some).sum()) < 97
    ratio = (y.norm(dim=1)[some] / x.norm(dim=1)[some]).mean()
    assert float(report.norm_ratio) == pytest.approx(float(ratio), rel=1e-6)
    assert float(report.cosine) == pytest.approx(float(F.cosine_similarity(x, y).mean()), rel=1e-6)
    assert float(report.mse) == pytest.approx(float((x - y).square().sum(1).mean()), rel=1e-6)


def test_the_mean_of_everything_explains_nothing_and_itself_explains_all() -> None:
    """FVU is 1 for the mean (not for the mean of a batch), 0 for the identity."""
    rows = torch.randn(501, D) * 0.01 + 100  # an offset that fp32 sums of squares would not survive
    mean = identity()
    with torch.no_grad():
        mean.W_dec.zero_()
        mean.b_dec.copy_(rows.mean(0))
    tight = EvaluationConfig(max_bytes=2000)
    assert float(evaluate(mean, None, rows, tight).fvu) == pytest.approx(1, abs=1e-4)
    assert float(evaluate(identity(), None, rows, tight).fvu) < 1e-12
    report = evaluate(identity(), None, rows)
    assert report.explained_variance == pytest.approx(1)
    assert report.dead == D and report.dense == D  # all rows are positive


def test_variance_by_pieces_is_that_of_the_whole() -> None:
    rows = torch.randn(1009, 7) * torch.logspace(-3, 2, 7) + 1e4
    pieces = Variance()
    for block in rows.split(97):
        pieces.update(block)
    exact = rows.double()
    assert pieces.squares == pytest.approx(float((exact - exact.mean(0)).square().sum()), rel=1e-12)
    torch.testing.assert_close(pieces.mean, exact.mean(0))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("site", [SITE, "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z"])
def test_a_lossless_dictionary_recovers_all(kind: str, site: str) -> None:
    model = model_of(kind)
    width = D if "hook_z" not in site else 24
    report = evaluate(identity(site, site, width), model, tokens_of())
    assert report.recovered() == pytest.approx(1, abs=1e-4)
    assert report.recovered("zero") == pytest.approx(1, abs=1e-4)
    assert report.recovered("mean", "kl") == pytest.approx(1, abs=1e-4)
    assert report.loss("spliced") == pytest.approx(report.loss("intact"), abs=1e-5)
    assert report.loss("intact", "kl") == 0


def test_the_mean_recovers_nothing_and_zero_is_the_other_ablation() -> None:
    model, tokens = model_of(), tokens_of()
    mean = identity()
    rows = model.capture(tokens, SITE)[SITE].flatten(0, 1)
    with torch.no_grad():
        mean.W_dec.zero_()
        mean.b_dec.copy_(rows.mean(0))
    report = evaluate(mean, model, tokens)
    assert report.recovered() == pytest.approx(0, abs=1e-4)
    assert float(report.fvu) == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        mean.b_dec.zero_()
    assert evaluate(mean, model, tokens).recovered("zero") == pytest.approx(0, abs=1e-6)


def test_kl_weighs_by_what_the_intact_model_predicts() -> None:
    """A reconstruction that throws the stream about: the two directions of KL are far apart."""
    torch.manual_seed(0)
    module, tokens = MAKERS["gpt2"](transformers).eval(), tokens_of()
    loud = identity()
    with torch.no_grad():
        module.transformer.ln_f.weight.mul_(15.0)  # predictions that are worth something
        loud.W_dec.mul_(-3.0)
    model = wrap(module)
    report = evaluate(loud, model, tokens)
    with torch.no_grad():
        p = model(tokens)[:, :-1].softmax(-1).double().numpy()
        q = model.with_coder(loud, error_term=False)(tokens)[:, :-1].softmax(-1).double().numpy()
    forward, backward = (p * np.log(p / q)).sum(-1).mean(), (q * np.log(q / p)).sum(-1).mean()
    assert abs(forward - backward) > 0.05 * forward
    assert report.loss("spliced", "kl") == pytest.approx(forward, rel=1e-5)


def test_losses_are_those_of_the_splice() -> None:
    model, tokens = model_of(), tokens_of()
    dictionary = dictionary_of()
    report = evaluate(dictionary, model, tokens, EvaluationConfig(batch_sequences=3))
    with torch.no_grad():
        old, new = model(tokens), model.with_coder(dictionary, error_term=False)(tokens)
        for name, logits in (("intact", old), ("spliced", new)):
            ce = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
            assert report.loss(name) == pytest.approx(float(ce), abs=1e-5), name
        old, new = old.log_softmax(-1), new.log_softmax(-1)
        kl = (old.exp() * (old - new)).sum(-1)[:, :-1].mean()
    assert report.loss("spliced", "kl") == pytest.approx(float(kl), abs=1e-5)
    assert (report.loss("spliced", "kl") or 0) > 1e-3  # the splice does something
    low, high = report.interval(draws=200) or (0, 0)
    assert low <= (report.recovered() or 0) <= high


def test_bos_and_padding_keep_their_own_activation_and_count_nowhere() -> None:
    model = model_of("llama")
    model.tokenization.bos_id = 1
    tokens = tokens_of(5, 9)
    tokens[:, 0] = 1
    from interp.models import TokenBatch

    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[2, 6:] = False
    batch = TokenBatch(tokens * mask, mask)
    report = evaluate(dictionary_of(), model, batch)
    assert report.n_tokens == int(mask.sum()) - 5
    assert report.predictions is not None and report.predictions.tolist() == [7, 7, 4, 7, 7]
    whole = evaluate(dictionary_of(), model, batch, EvaluationConfig(exclude_bos=False))
    assert whole.n_tokens == int(mask.sum())
    assert abs((whole.loss("spliced") or 0) - (report.loss("spliced") or 0)) > 1e-4
    padded = TokenBatch(F.pad(batch.ids, (0, 4), value=7), F.pad(mask, (0, 4)))
    again = evaluate(dictionary_of(), model, padded)
    assert again.summary() == pytest.approx(report.summary(), abs=1e-5)


def test_a_transcoder_replaces_what_the_mlp_writes() -> None:
    into, out = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
    model, tokens = model_of(), tokens_of()
    lossless = identity("blocks.1.hook_mlp_out", "blocks.1.hook_mlp_out")
    transcoder = identity(into, out)
    report = evaluate(transcoder, model, tokens)
    acts = model.capture(tokens, [into, out])
    x, y = acts[into].flatten(0, 1), acts[out].flatten(0, 1)
    assert float(report.mse) == pytest.approx(float((x - y).square().sum(1).mean()), rel=1e-4)
    assert report.architecture == "relu transcoder"
    assert (evaluate(lossless, model, tokens).recovered() or 0) > (report.recovered() or 9)


def test_a_skip_path_is_part_of_the_reconstruction() -> None:
    into, out = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
    model, tokens = model_of(), tokens_of()
    acts = model.capture(tokens, [into, out])
    x, y = acts[into].flatten(0, 1), acts[out].flatten(0, 1)
    weight = torch.linalg.lstsq(x, y).solution.T
    skip = Dictionary(
        DictionaryConfig(
            d_in=D,
            d_out=D,
            d_sae=29,
            activation="relu",
            skip=True,
            site_in=into,
            site_out=out,
            apply_b_dec_to_input=False,
        )
    )
    with torch.no_grad():
        skip.W_dec.zero_()
        skip.W_skip.copy_(weight)
    report = evaluate(skip, model, tokens)
    expected = (y - x @ weight.T).square().sum() / (y - y.mean(0)).square().sum()
    assert float(report.fvu) == pytest.approx(float(expected), rel=1e-3) and report.fvu < 0.9
    assert report.architecture == "relu skip transcoder"


def test_bf16_models_are_measured_in_fp32() -> None:
    """F25: the statistics of a bf16 model's own activations, against float64 sums over them."""
    model, tokens = model_of(dtype=torch.bfloat16), tokens_of(31, 29)
    dictionary = dictionary_of()
    report = evaluate(dictionary, model, tokens, EvaluationConfig(batch_sequences=5))
    x = torch.cat([model.capture(part, SITE)[SITE].flatten(0, 1) for part in tokens.split(5)])
    with torch.no_grad():
        y = dictionary(x.float()).double()
    x = x.double()
    fvu = (x - y).square().sum() / (x - x.mean(0)).square().sum()
    assert float(report.fvu) == pytest.approx(float(fvu), rel=8 * 2**-24)
    assert float(report.norm_ratio) == pytest.approx(float((y.norm(dim=1) / x.norm(dim=1)).mean()), rel=1e-6)
    logits = model(tokens[:5])[:, :-1].float()
    ce = F.cross_entropy(logits.transpose(1, 2), tokens[:5, 1:], reduction="none").mean(1)
    assert report.ce is not None
    torch.testing.assert_close(report.ce[0, :5].float(), ce, rtol=1e-5, atol=1e-5)


def test_an_encoder_has_no_next_token() -> None:
    report = evaluate(dictionary_of(), model_of("bert"), tokens_of())
    assert report.ce is None and report.kl is None and report.n_tokens == 77


def test_a_report_of_bare_rows_says_whose_dictionary_it_is() -> None:
    dictionary = dictionary_of()
    dictionary.provenance = model_of().provenance([SITE], d_in=D)
    report = evaluate(dictionary, None, torch.randn(101, D))
    assert report.provenance == dictionary.provenance is not None


def test_results_come_back_from_disk(tmp_path: Any) -> None:
    report = evaluate(dictionary_of(), model_of(), tokens_of())
    report.save(tmp_path / "report")
    again: Any = Result.load(tmp_path / "report")
    assert isinstance(again, DictionaryReport) and again.summary() == report.summary()
    assert report.provenance is not None and report.provenance.data_fingerprint


def test_bad_input_is_one_error_before_any_work() -> None:
    model, dictionary = model_of(), dictionary_of()
    with pytest.raises(ConfigError, match="without a model"):
        evaluate(dictionary, None, ["text"])
    with pytest.raises(ConfigError, match="with a model"):
        evaluate(dictionary, model, torch.randn(3, D))
    with pytest.raises(ConfigError, match="batch_sequences"):
        evaluate(dictionary, model, tokens_of(), EvaluationConfig(batch_sequences=0))
    with pytest.raises(ShapeError):
        evaluate(dictionary, None, torch.randn(3, D), targets=torch.randn(4, D))
    with pytest.raises(ConfigError, match="targets"):
        evaluate(identity(SITE, "blocks.2.hook_resid_post"), None, torch.randn(3, D))
    with pytest.raises(ConfigError, match="targets"):
        evaluate(dictionary, model, tokens_of(), targets=torch.randn(3, D))
    dictionary.provenance = model.randomised(3).provenance([SITE], d_in=D)
    with pytest.raises(ProvenanceError):
        evaluate(dictionary, model, tokens_of())
    assert evaluate(dictionary, model, tokens_of(), EvaluationConfig(strict=False)).n_tokens == 77
