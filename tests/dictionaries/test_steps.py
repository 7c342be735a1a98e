"""The fast steps' gradients are autograd's, in float64, for every activation and every extra."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError
from interp.dictionaries import Dictionary, DictionaryConfig
from interp.dictionaries.steps import sparse
from interp.dictionaries.steps.table import TrainLoss, make_step
from tests.dictionaries.by_autograd import total

D_IN, D_OUT, D_SAE, N = 13, 11, 61, 37
FREE = {"apply_b_dec_to_input": False}
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "topk": {"k": 5},
    "abstopk": {"k": 5},
    "batchtopk": {"k": 4.5},
    "relu": {},
    "jumprelu": {"bandwidth": 0.4},
    "gated": {},
    "matching_pursuit": {"max_iterations": 6, "residual_threshold": 1.0},
}
SHAPES: dict[str, dict[str, Any]] = {
    "sae": {},
    "sae-free": FREE,
    "transcoder": {"d_out": D_OUT, **FREE},
    "skip": {"d_out": D_OUT, "skip": True, **FREE},
    # the target is in units of its own: only the encoder sees normalised rows
    "transcoder-norm": {"d_out": D_OUT, "normalize_activations": "layer_norm", **FREE},
    "groups": {"groups": (7, 23, D_SAE)},
    "layer_norm": {"normalize_activations": "layer_norm"},
    "constant_norm": {"normalize_activations": "constant_norm_rescale"},
}


def made(activation: str, **more: Any) -> Dictionary:
    """A float64 dictionary of random numbers; the pursuit's rows have norm 1."""
    about = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float64"} | ACTIVATIONS[activation] | more
    d = Dictionary(DictionaryConfig(activation=activation, **about))
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in d.state_dict().items():
            noise = torch.randn(tensor.shape, generator=source, dtype=torch.float64)
            is_pursued = activation == "matching_pursuit" and name == "W_dec"
            tensor.copy_(noise / noise.norm(dim=1, keepdim=True) if is_pursued else 0.3 * noise)
        if activation == "jumprelu":
            d.threshold.abs_().add_(0.1)
    return d


def rows(d: Dictionary, n: int = N, seed: int = 5) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D_IN, generator=source, dtype=torch.float64) + 0.1
    if not d.config.is_transcoder:
        return x, x
    return x, torch.randn(n, d.config.width_out, generator=source, dtype=torch.float64)


def losses(d: Dictionary, n_dead: int = 0, coefficient: float = 0.7) -> TrainLoss:
    dead = torch.zeros(d.config.d_sae, dtype=torch.bool)
    dead[torch.randperm(d.config.d_sae, generator=torch.Generator().manual_seed(2))[:n_dead]] = True
    weight = torch.tensor(coefficient, dtype=torch.float64)
    return TrainLoss(coefficient=weight, dead=dead, auxk_alpha=0.3 if n_dead else 0.0)


def agree(d: Dictionary, given: TrainLoss, x: Tensor, y: Tensor, lp: float = 1.0) -> None:
    """Loss and every gradient of the step are autograd's to rounding."""
    expected = total(d, given, x, y, lp)
    names = dict(d.named_parameters())
    by_autograd = torch.autograd.grad(expected, list(names.values()), allow_unused=True)
    step = make_step(d, given)
    step.lp = lp
    loss, metrics = step(x, y)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-11)
    for name, grad in zip(names, by_autograd, strict=True):
        grad = torch.zeros_like(names[name]) if grad is None else grad
        scale = grad.abs().max().clamp_min(1e-3)
        assert (names[name].grad - grad).abs().max() <= 1e-11 * scale, name
    assert all(value.ndim == 0 and value.isfinite() for value in metrics.values())


@pytest.mark.parametrize("crossover", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    ("activation", "shape"),
    [
        (activation, shape)
        for activation in ACTIVATIONS
        for shape in SHAPES
        # matching pursuit is no transcoder and has no groups
        if activation != "matching_pursuit"
        or shape not in ("transcoder", "skip", "transcoder-norm", "groups")
    ],
)
def test_gradients_are_autograds(
    activation: str, shape: str, crossover: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "CROSSOVER", crossover)
    d = made(activation, **SHAPES[shape])
    agree(d, losses(d), *rows(d))


@pytest.mark.parametrize("crossover", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("n_dead", [1, 3, 6, 29])  # below, at and above d_out / 2
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("activation", ["topk", "abstopk", "batchtopk"])
def test_auxk_and_norm_rescaling(
    activation: str, rescale: bool, n_dead: int, crossover: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.dictionaries.steps.topk.CROSSOVER", crossover)
    for shape in ("sae", "skip", "groups", "layer_norm"):
        d = made(activation, rescale_acts_by_decoder_norm=rescale, **SHAPES[shape])
        agree(d, losses(d, n_dead), *rows(d))


def decoder_gradient(d: Dictionary, given: TrainLoss, x: Tensor, y: Tensor) -> Tensor:
    make_step(d, given)(x, y)
    assert d.W_dec.grad is not None
    return d.W_dec.grad.clone()


@pytest.mark.parametrize("crossover", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("n_dead", [3, 29])
@pytest.mark.parametrize("shape", ["sae", "skip", "layer_norm", "constant_norm"])
@pytest.mark.parametrize("activation", ["topk", "abstopk", "batchtopk"])
def test_dead_latents_that_help_are_taught(
    activation: str, shape: str, n_dead: int, crossover: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what the dead make points away from the error it counts nothing, and teaches nothing."""
    monkeypatch.setattr("interp.dictionaries.steps.topk.CROSSOVER", crossover)
    d = made(activation, **SHAPES[shape])
    x, y = rows(d)
    given = losses(d, n_dead)
    without = dataclasses.replace(given, auxk_alpha=0.0)
    with torch.no_grad():  # what lives is chosen and says little: the error is left to the dead
        d.b_enc[~given.dead] += 5
        d.W_dec[~given.dead] *= 0.02

    def taught() -> float:
        return float((decoder_gradient(d, given, x, y) - decoder_gradient(d, without, x, y)).abs().max())

    if taught() < 1e-9:
        with torch.no_grad():
            d.W_dec[given.dead] *= -1
    assert taught() > 1e-4
    agree(d, given, x, y)


@pytest.mark.parametrize("shape", SHAPES)
def test_gates_that_teach_the_decoder(shape: str) -> None:
    d = made("gated", **SHAPES[shape])
    agree(d, dataclasses.replace(losses(d), gates_teach=True), *rows(d))


@pytest.mark.parametrize("lp", [0.3, 0.9, 1.0, 2.0])
def test_the_penalty_of_any_power(lp: float) -> None:
    d = made("relu")
    agree(d, losses(d), *rows(d), lp=lp)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_is_the_slope_of_the_loss(activation: str) -> None:
    """Finite differences: not even the oracle's formulas are trusted. STE parts are left out."""
    d = made(activation, **({"bandwidth": 1e-9} if activation == "jumprelu" else {}))
    x, y = rows(d)
    step = make_step(d, losses(d))
    step(x, y)
    source = torch.Generator().manual_seed(8)
    for name, parameter in d.named_parameters():
        # gates alone learn by a decoder that is held fixed: no slope of any one function
        if activation == "gated" and name in ("W_dec", "b_dec"):
            continue
        along = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
        expected = float((parameter.grad * along).sum())
        found = []
        for eps in (1e-7, -1e-7):
            with torch.no_grad():
                parameter.add_(along, alpha=eps)
                found.append(float(make_step(_without_gradients(d), losses(d))(x, y)[0]))
                parameter.add_(along, alpha=-eps)
        slope = (found[0] - found[1]) / 2e-7
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-5), name


def _without_gradients(d: Dictionary) -> Dictionary:
    return Dictionary.from_state(d.config, d.state_dict())


def test_the_thresholds_gradient_is_the_written_formula() -> None:
    """arXiv 2407.14435 eq. 10-11 over a loop of samples and latents."""
    d = made("jumprelu")
    x, y = rows(d)
    given = losses(d)
    make_step(d, given)(x, y)
    with torch.no_grad():
        pre = d.preactivations(x)
        z = pre * (pre > d.threshold)
        to_z = 2 / N * (d.decode(z) - y) @ d.W_dec.T
    eps, weight = d.config.bandwidth, float(given.coefficient) / N
    in_window = 0
    for i in range(D_SAE):
        expected, theta = 0.0, float(d.threshold[i].detach())
        for r in range(N):
            if abs(float(pre[r, i]) - theta) < eps / 2:
                in_window += 1
                expected -= (theta * float(to_z[r, i]) + weight) / eps
        assert float(d.threshold.grad[i]) == pytest.approx(expected, abs=1e-11)
    assert in_window > 20


def test_batchtopk_keeps_exactly_the_best_of_the_batch() -> None:
    for n, count, ties in [(37, 166, False), (5, 3, False), (211, 40, False), (37, 166, True)]:
        scores = torch.randn(n, 61, generator=torch.Generator().manual_seed(n))
        scores[0] += 5  # rows that differ a lot
        if ties:
            scores = scores.round()
        flat = sparse.strongest(scores, count, torch.empty(scores.shape, dtype=torch.bool))
        best = scores.relu().flatten().topk(count).values
        assert len(flat) == count and (flat.diff() > 0).all()
        assert torch.equal(scores.flatten()[flat].sort(descending=True).values, best)


def test_batchtopk_keeps_fewer_where_fewer_are_positive() -> None:
    scores = -torch.ones(7, 11)
    scores[2, 3] = scores[4, 5] = 1.0
    flat = sparse.strongest(scores, 20, torch.empty(7, 11, dtype=torch.bool))
    assert flat.tolist() == [2 * 11 + 3, 4 * 11 + 5]


@pytest.mark.parametrize("groups", [(), (7, 23, D_SAE)])
def test_both_orders_by_column_are_one(groups: tuple[int, ...]) -> None:
    """What an accelerator sorts, the CPU counts; empty rows and columns are among them."""
    source = torch.Generator().manual_seed(4)
    flat = torch.randperm(N * D_SAE, generator=source)[:101].sort().values
    entries = sparse.SparseEntries(flat, N, D_SAE, groups)
    counted = sparse.by_counting(entries.column, entries.offsets, D_SAE)
    ordered = sparse.by_sorting(entries.column, entries.row, D_SAE)
    for ours, theirs in zip(counted, ordered, strict=True):
        assert torch.equal(ours.long(), theirs.long())
    assert (counted.offsets.diff() == 0).any()


def test_metrics_say_what_fired() -> None:
    for activation in ACTIVATIONS:
        d = made(activation)
        x, y = rows(d)
        step = make_step(d, losses(d))
        _, metrics = step(x, y)
        with torch.no_grad():
            if activation == "batchtopk":
                d.threshold.zero_()  # as in training: the best of the batch
            z = d.encode(x)
            assert metrics["l0"] == pytest.approx(float((z != 0).sum(1).double().mean()))
            assert metrics["mse"] == pytest.approx(float((d.decode(z) - y).pow(2).sum(1).mean()))
            assert torch.equal(step.fired, (z != 0).any(0))


def test_a_step_repeats_itself_bit_by_bit_whatever_its_buffers_held() -> None:
    for activation in ACTIVATIONS:
        d = made(activation)
        x, y = rows(d)
        step = make_step(d, losses(d))
        first = step(x, y)[0]
        grads = [p.grad.clone() for p in d.parameters()]
        step(*rows(d, n=53, seed=6))
        assert torch.equal(step(x, y)[0], first)
        for p, grad in zip(d.parameters(), grads, strict=True):
            assert torch.equal(p.grad, grad)


def test_under_autocast_only_the_choice_of_latents_is_coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "CROSSOVER", 1.0)
    for activation in ("topk", "batchtopk", "relu", "jumprelu", "gated"):
        d = made(activation, dtype="float32", **SHAPES["groups"])
        x, y = (t.float() for t in rows(d))
        given = losses(d)
        given = TrainLoss(coefficient=given.coefficient.float(), dead=given.dead)
        exact = make_step(d, given)(x, y)[0]
        step = make_step(d, given)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = step(x, y)[0]
        assert step.buffer("pre", (N, D_SAE), torch.bfloat16).isfinite().all()
        assert coarse == pytest.approx(float(exact), rel=1e-3)


def test_bad_batches_and_masks_are_refused() -> None:
    d = made("topk")
    x, y = rows(d)
    step = make_step(d, losses(d))
    with pytest.raises(ShapeError, match="does not fit"):
        step(x, y[:5])
    with pytest.raises(ShapeError, match="does not fit"):
        step(x[:, :5], y)
    bad = TrainLoss(coefficient=torch.ones(()), dead=torch.zeros(7, dtype=torch.bool))
    with pytest.raises(ConfigError, match="dead"):
        make_step(d, bad)
