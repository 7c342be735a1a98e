"""Where dictionaries start: centres, scales, tied encoders, regressed transcoders."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from interp.core.errors import NonFiniteError
from interp.dictionaries.config import DictionaryConfig
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.initialising import Sample, geometric_median, initialise
from interp.dictionaries.trainee import Trainee
from tests.dictionaries.small import D, planted, small


def sae(**changes: object) -> Dictionary:
    return Dictionary(DictionaryConfig(**{"d_in": D, "d_sae": 37, "k": 3, **changes}), seed=3)  # type: ignore[arg-type]


def test_the_decoder_bias_is_the_mean_and_the_encoder_its_transpose() -> None:
    x = planted(500)
    d = sae()
    initialise(d, Sample(x, x))
    torch.testing.assert_close(d.b_dec.data, x.mean(0))
    torch.testing.assert_close(F.normalize(d.encoder.data, dim=1), d.W_dec.data)
    assert not d.b_enc.any(), "the centre encodes to zero: b_dec is subtracted from the input"


def test_without_subtraction_the_encoder_bias_makes_the_centre_encode_to_zero() -> None:
    x = planted(500)
    for activation in ("relu", "gated"):
        d = sae(apply_b_dec_to_input=False, activation=activation, k=None)
        initialise(d, Sample(x, x))
        at_center = d.preactivations(x.mean(0))
        if activation == "gated":
            at_center = at_center + d.b_gate
        torch.testing.assert_close(at_center, torch.zeros(37), atol=1e-4, rtol=0)


def test_the_first_reconstruction_is_the_best_multiple_of_itself() -> None:
    x = planted(500)
    d = sae()
    initialise(d, Sample(x, x))
    guess, rest = d.encode(x) @ d.W_dec, x - d.b_dec
    guess = guess.detach()
    best = float((guess * rest.detach()).sum() / guess.pow(2).sum())
    assert best == pytest.approx(1, abs=1e-4)


def test_an_encoder_starts_at_the_norm_asked_for() -> None:
    x = planted(500)
    for changes in ({}, {"activation": "jumprelu", "k": None}, {"d_out": 11}):
        d = sae(apply_b_dec_to_input=False, **changes)
        plain = sae(apply_b_dec_to_input=False, **changes)
        y = x[:, :11] if changes.get("d_out") else x
        initialise(plain, Sample(x, y))
        initialise(d, Sample(x, y), encoder_norm=0.07)
        torch.testing.assert_close(d.encoder.norm(dim=1), torch.full((37,), 0.07))
        with torch.no_grad():  # the same latents fire, each by the same factor
            one, other = d.encode(x), plain.encode(x)
        assert torch.equal(one != 0, other != 0)
        factor = 0.07 / plain.encoder.detach().norm(dim=1).mean()
        torch.testing.assert_close(one, other * factor, atol=1e-5, rtol=1e-3)


def test_what_a_penalty_makes_sparse_starts_small() -> None:
    norms = {}
    for activation in ("topk", "batchtopk", "relu", "jumprelu", "gated"):
        for norm in ("unit", "free"):
            config = small(activation=activation, decoder_norm=norm)
            d = Trainee(config, "input", "input", Sample(planted(500), planted(500))).dictionary
            both = (d.encoder.norm(dim=1).mean(), d.decoder_norms.mean())
            norms[activation, norm] = tuple(round(float(n.detach()), 3) for n in both)
    for activation in ("relu", "jumprelu", "gated"):
        assert norms[activation, "unit"] == (0.1, 1.0)
        assert norms[activation, "free"] == (0.1, 0.1)
    assert norms["topk", "unit"][0] > 0.3 and norms["batchtopk", "free"][1] == 1.0
    given = small(activation="topk", encoder_scale=0.2)
    assert given.encoder_norm == 0.2 and small().encoder_norm is None


def test_the_geometric_median_ignores_what_drags_the_mean() -> None:
    x = torch.randn(301, 7)
    x[:20] += 1e4
    assert geometric_median(x).norm() < 2 < x.mean(0).norm()
    square = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) + 5
    torch.testing.assert_close(geometric_median(square), torch.tensor([5.0, 5.0]))
    d = sae()
    rows = planted(301)
    rows[:20] += 1e4
    initialise(d, Sample(rows, rows), center="geometric_median")
    assert (d.b_dec - planted(301).mean(0)).norm() < 2


def test_untied_encoders_are_drawn_by_themselves() -> None:
    x = planted(500)
    d, other = sae(), sae()
    initialise(d, Sample(x, x), tied=False, seed=1)
    initialise(other, Sample(x, x), tied=False, seed=2)
    cosine = F.cosine_similarity(d.encoder.data, d.W_dec.data)
    assert cosine.abs().max() < 0.99
    assert not torch.equal(d.encoder, other.encoder)


def test_a_skip_path_starts_as_the_regression() -> None:
    x = planted(900)
    weight = torch.randn(11, D)
    y = x @ weight.T + 2
    d = sae(d_out=11, skip=True, apply_b_dec_to_input=False)
    initialise(d, Sample(x, y))
    torch.testing.assert_close(d.W_skip.data, weight, atol=0.05, rtol=0.05)
    torch.testing.assert_close(d.skip(x.mean(0)) + d.b_dec.data, y.mean(0), atol=1e-3, rtol=1e-3)


def test_a_transcoder_decoder_starts_where_its_latents_point() -> None:
    """y = relu(e x) w: the decoder row of a latent that reads e is w."""
    e, w = F.normalize(torch.randn(D), dim=0), F.normalize(torch.randn(11), dim=0)
    x = torch.randn(2000, D)
    y = (x @ e).relu()[:, None] * w
    d = sae(d_out=11, activation="relu", k=None, apply_b_dec_to_input=False)
    d.encoder.data[5] = e
    initialise(d, Sample(x, y))
    assert float(d.W_dec[5] @ w) > 0.99
    torch.testing.assert_close(d.decoder_norms, torch.ones(37))


def test_scales_give_variance_one_and_rows_that_do_not_vary_are_refused() -> None:
    x = 7 * planted(500)
    sample = Sample(x, x)
    scaled = sample.scaled(*sample.scales())
    assert float((scaled.x - scaled.x.mean(0)).pow(2).mean()) == pytest.approx(1, rel=1e-4)
    flat = torch.ones(5, 3)
    with pytest.raises(NonFiniteError, match="do not vary"):
        Sample(flat, flat).scales()
