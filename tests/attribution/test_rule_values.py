"""Rules by value: against captum, loops written out, and numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift as CaptumDeepLift
from torch import Tensor, nn

import interp
from interp.attribution import attribute
from interp.attribution.methods.deeplift import lift, logarithmic_means
from interp.core.errors import ModelError
from tests.attribution import toys
from tests.models import zoo

# ---- DeepLIFT -----------------------------------------------------------------------------------

POOLED = {
    "one dimension": ((1, 4, 8), lambda: nn.MaxPool1d(2)),
    "padded": ((1, 2, 6, 6), lambda: nn.MaxPool2d(2, 2, padding=1)),
    "overlapping": ((1, 2, 6, 6), lambda: nn.MaxPool2d(3, 1)),
    "three dimensions": ((1, 1, 4, 4, 4), lambda: nn.MaxPool3d(2)),
}


@pytest.mark.parametrize("kind", POOLED)
def test_pooling_is_captums_and_exact_where_captums_is_not(kind: str) -> None:
    shape, pool = POOLED[kind]
    missed = []
    for seed in range(5):
        torch.manual_seed(seed)
        convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)](shape[1], 3, 3, padding=1)
        n = pool()(convolution(torch.zeros(shape))).numel()
        after = nn.Sequential(convolution, pool(), nn.Flatten(), nn.Linear(n, 5), nn.ReLU(), nn.Linear(5, 1))
        x, r = torch.randn(2, *shape)
        theirs = CaptumDeepLift(after).attribute(x, r).detach().flatten()
        how = {"units": "entry"} if len(shape) == 4 else {}  # an image's are pixels by default
        ours = attribute(interp.wrap(after), x, toys.first, method="deeplift", baseline=r, **how)
        if kind != "overlapping":  # captum writes one window over another there
            torch.testing.assert_close(ours.scores, theirs, rtol=0, atol=1e-5)
        assert ours.gap < 1e-5
        # behind a ReLU captum's own sum is off: units that stand at 0 in both take another row's gradient
        before = nn.Sequential(convolution, nn.ReLU(), pool(), nn.Flatten(), nn.Linear(n, 1))
        captums = attribute(interp.wrap(before), x, toys.first, method="captum_deeplift", baseline=r)
        assert captums.converged == (captums.relative_gap < captums.tolerance)
        missed.append(captums.gap)
        ours = attribute(interp.wrap(before), x, toys.first, method="deeplift", baseline=r)
        assert ours.converged and ours.gap < 1e-5
    assert max(missed) > 0.01


def test_two_inputs_and_writes_in_place_are_captums() -> None:
    """Captum's own case: 2 relu(a) + 2 relu(b - 1.5), with ReLUs that write in place."""

    class Two(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            self.one, self.two = nn.ReLU(inplace), nn.ReLU(inplace)

        def forward(self, both: Tensor) -> Tensor:
            a, b = both.clone().unbind(1)
            return 2 * self.one(a.clone()) + 2 * self.two(b - 1.5)

    both, nothing = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    theirs = CaptumDeepLift(Two(False)).attribute(both, nothing).detach()[0]
    for inplace in (False, True):
        ours = attribute(interp.wrap(Two(inplace)), both, lambda out: out, method="deeplift")
        torch.testing.assert_close(ours.scores, theirs)
    assert theirs.tolist() == [2.0, 1.0]


def test_no_axis_need_be_the_batch() -> None:
    """Time first, as recurrent layers and attention have it by default."""
    torch.manual_seed(0)
    weight = torch.randn(7, 20)
    time_first = toys.wrapped(
        lambda m, z: torch.cat(
            [F.relu((row @ weight).reshape(1, 5, 4).transpose(0, 1)).sum()[None] for row in z]
        )
    )
    batch_first = toys.wrapped(lambda m, z: F.relu(z @ weight).sum(-1))
    x, r = torch.randn(2, 1, 7)
    ours, expected = (
        attribute(model, x, lambda out: out, method="deeplift", baseline=r)
        for model in (time_first, batch_first)
    )
    torch.testing.assert_close(ours.scores, expected.scores, rtol=0, atol=1e-5)


def test_an_order_statistic_moves_at_a_slope_between_zero_and_one() -> None:
    for seed in range(50):
        torch.manual_seed(seed)
        x, r = torch.randn(2, 1, 7, dtype=torch.float64)
        for k in range(1, 8):
            found, missed = lift(lambda z, k=k: z.kthvalue(k, 1).values, x, r)
            moved = int((found != 0).sum())
            share = found.sum() / (x - r)[found != 0].sum()
            assert missed < 1e-12 and moved == 1 and 0 <= float(share) <= 1


def test_the_null_of_a_maximum_is_nothing() -> None:
    x = torch.randn(1, 7)
    found, missed = lift(lambda z: z.max(1).values, x, x.clone())
    assert not bool(found.any()) and missed == 0


def test_places_that_follow_the_data_are_not_called_converged() -> None:
    model = toys.wrapped(lambda m, z: z.gather(1, z.argmax(1, keepdim=True)))
    x, r = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    found = attribute(model, x, toys.first, method="deeplift", baseline=r)
    assert not found.converged and not found.check().ok and "NOT converged" in found.gap_sentence
    # the same with a sum that falls short: the smallest, 0 of the input, which is 4 of the reference
    least = toys.wrapped(lambda m, z: z.gather(1, z.argmin(1, keepdim=True)))
    r = torch.tensor([[2.0, 3.0, 4.0]])
    short = attribute(least, x, toys.first, method="deeplift", baseline=r)
    assert short.scores.tolist() == [0.0, 0.0, -4.0] and short.difference == -2.0
    assert not short.converged and not short.check().ok
    for kind, here, then in ((torch.argmax, x, torch.tensor([[1.0, 3.0, 0.0]])), (torch.argmin, x, r)):
        _, missed = lift(lambda z, k=kind: z.gather(1, k(z, 1, keepdim=True))[:, 0], here, then)
        assert missed == 2.0  # too much and too little alike
    same = attribute(model, x, toys.first, method="deeplift", baseline=r * 0 + torch.tensor([[1.0, 0, 0]]))
    assert same.converged and same.scores.tolist() == [2.0, 0.0, 0.0]


def test_a_mask_that_moves_between_two_live_sides_is_refused() -> None:
    model = toys.wrapped(lambda m, z: torch.where(z > 0, z, 0.1 * z).sum(-1, keepdim=True))
    x = torch.tensor([[1.0, -2.0]])
    with pytest.raises(ModelError, match=r"torch\.where"):
        attribute(model, x, toys.first, method="deeplift", baseline=-x)
    still = attribute(model, x, toys.first, method="deeplift", baseline=x / 2)
    torch.testing.assert_close(still.scores, torch.tensor([0.5, -0.1]))


def test_below_the_smallest_difference_the_slope_is_that_of_the_middle() -> None:
    x = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    r = x - torch.tensor([[0.0, 5e-7, 5e-3]], dtype=torch.float64)
    found, missed = lift(lambda z: z.exp().sum(-1), x, r)
    expected = [math.exp(float(a)) - math.exp(float(b)) for a, b in zip(x[0], r[0], strict=True)]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-8)
    assert missed < 1e-12


@pytest.mark.parametrize("gap", [1e-6, 5e-4, 9.9e-4, 1.1e-3, 0.1, 3.0])
def test_the_logarithmic_mean_on_both_sides_of_its_threshold(gap: float) -> None:
    """sqrt(p q) sinh(d / 2) / (d / 2) is the same number, without the cancellation."""
    logits = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    then = logits - torch.tensor([[gap, 0.0]], dtype=torch.float64)
    p, q = (np.exp(z) / np.exp(z).sum() for z in (logits[0].numpy(), then[0].numpy()))
    half = np.log(p / q) / 2
    expected = np.sqrt(p * q) * np.sinh(half) / half
    found = logarithmic_means(logits, then, -1)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    if gap > 1e-4:  # neither end would do
        assert abs(p / expected - 1).max() > 1e-5


def test_a_masked_score_is_one_that_is_not_there() -> None:
    torch.manual_seed(3)
    x, r = torch.randn(2, 1, 5, dtype=torch.float64)
    mask = torch.tensor([0.0, 0.0, -torch.inf, 0.0, -torch.inf], dtype=torch.float64)
    value = torch.randn(5, dtype=torch.float64)
    seen = mask == 0
    for softened in (
        lambda z, v: (z.softmax(-1) * v).sum(-1),
        lambda z, v: z.logsumexp(-1),
        lambda z, v: z.log_softmax(-1)[:, 0],
    ):
        whole, missed = lift(lambda z, f=softened: f(z + mask, value), x, r)
        part, _ = lift(lambda z, f=softened: f(z, value[seen]), x[:, seen], r[:, seen])
        torch.testing.assert_close(whole[:, seen], part, rtol=1e-12, atol=1e-12)
        assert not bool(whole[:, ~seen].any()) and missed < 1e-12


def test_what_stands_still_behind_a_layer_sends_back_the_mean_of_both_multipliers() -> None:
    """RevealCancel, y = relu(h1 + h2 - 1), h1 = a - b, h2 = c: h1 is 0 at (3, 3, 2) as at the reference.

    h2 rises from 0 to 2: m+ = 1 / 2; nothing falls: m- = relu'(-1) = 0. What moves h1 gets (m+ + m-) / 2.
    """
    first, second = nn.Linear(3, 2, bias=False), nn.Linear(2, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]]))
        second.weight.copy_(torch.tensor([[1.0, 1.0]]))
        second.bias.fill_(-1.0)
    model = interp.wrap(nn.Sequential(first, second, nn.ReLU()))
    x = torch.tensor([[3.0, 3.0, 2.0]])
    found = attribute(model, x, toys.first, method="deeplift_reveal_cancel")
    assert found.scores.tolist() == pytest.approx([0.75, -0.75, 1.0], abs=1e-6)


# ---- relevance ----------------------------------------------------------------------------------


def test_epsilon_is_a_share_of_the_largest_output() -> None:
    torch.manual_seed(4)
    module = toys.mlp((5, 7, 1))
    x = torch.randn(1, 5)
    first, second = module[0], module[2]
    for epsilon in (0.0, 0.1, 1.0):
        z = first(x)[0].detach()
        h = z.relu()
        top = second(h).detach()
        relevance = h * second.weight[0].detach() / (top + epsilon * top.abs() * top.sign()) * top
        stable = z + epsilon * z.abs().max() * torch.where(z >= 0, 1.0, -1.0)
        expected = (x[0] * (first.weight.detach() * (relevance / stable)[:, None])).sum(0)
        found = attribute(interp.wrap(module), x, toys.first, method="lrp_epsilon", epsilon=epsilon)
        torch.testing.assert_close(found.scores, expected, rtol=1e-4, atol=1e-6)
        scaled = attribute(
            interp.wrap(module), x, lambda out: 1e3 * toys.first(out), method="lrp_epsilon", epsilon=epsilon
        )
        torch.testing.assert_close(scaled.scores, 1e3 * found.scores, rtol=1e-4, atol=1e-4)


def test_at_zero_an_activation_passes_its_slope() -> None:
    model = toys.wrapped(lambda m, z: (z[:, :1] - z[:, 1:]).tanh())
    zero = attribute(model, torch.tensor([[2.0, 2.0]]), toys.first, method="lrp_epsilon")
    assert zero.scores.tolist() == [2.0, -2.0]
    near = attribute(model, torch.tensor([[2.5, 2.0]]), toys.first, method="lrp_epsilon")
    slope = math.tanh(0.5) / 0.5
    assert near.scores.tolist() == pytest.approx([2.5 * slope, -2.0 * slope], rel=1e-5)


def attending(m: Any, z: Tensor) -> Tensor:
    return (z @ m.qk.weight @ z.mT).softmax(-1) @ m.v(z)


def test_epsilon_and_attention_rules_part_at_the_softmax() -> None:
    """Ali et al. 2022 hold attention constant, Achtibat et al. 2024 pass relevance through it."""
    torch.manual_seed(5)
    model = toys.wrapped(attending, qk=nn.Linear(3, 3, bias=False), v=nn.Linear(3, 3, bias=False))
    x = torch.randn(1, 4, 3)
    target = lambda out: out[:, 2, 1]  # noqa: E731
    held = attribute(model, x, target, method="lrp_epsilon", epsilon=1e-12)
    through = attribute(model, x, target, method="attn_lrp", epsilon=1e-12)
    qk, v = (getattr(model.module, name).weight.detach() for name in ("qk", "v"))
    pattern = (x[0] @ qk @ x[0].T).softmax(-1)[2]
    values = pattern[:, None] * x[0] * v[1]  # of every position's entries, through values alone
    torch.testing.assert_close(held.scores.reshape(4, 3), values, rtol=1e-4, atol=1e-6)
    assert float(held.scores.sum()) == pytest.approx(held.value, rel=1e-4)  # conserved

    # AttnLRP: half through values; half of the other half to each side of q k, by eq. 13
    share = (pattern * (x[0] @ v[1])) / 2
    logits = (x[0] @ qk @ x[0].T)[2]
    scores = logits * (share - pattern * share.sum())
    expected = values / 2
    for j in range(4):
        parts = x[0, 2][:, None] * qk * x[0, j][None]  # sums to the logit
        sent = parts / parts.sum() * scores[j] / 2
        expected[2] += sent.sum(1)
        expected[j] += sent.sum(0)
    torch.testing.assert_close(through.scores.reshape(4, 3), expected, rtol=1e-3, atol=1e-5)
    assert float((held.scores - through.scores).abs().max()) > 0.05


def test_relevance_through_a_softmax_passes_by_what_is_masked() -> None:
    """A score of -inf is one that is not there: its weight is 0, and 0 * -inf is no relevance."""
    x = torch.tensor([[0.5, -1.0, 2.0, 0.3]], dtype=torch.float64)
    mask, value = torch.tensor([[0.0, -torch.inf, 0.0, 0.0]]).double(), torch.tensor([1.0, 5.0, -2.0, 0.5])
    seen = mask[0] == 0
    model = toys.wrapped(lambda m, z: ((z + mask).softmax(-1) * value * z.tanh()).sum(-1, keepdim=True))
    part = toys.wrapped(lambda m, z: (z.softmax(-1) * value[seen] * z.tanh()).sum(-1, keepdim=True))
    found = attribute(model, x, toys.first, method="attn_lrp").scores
    expected = attribute(part, x[:, seen], toys.first, method="attn_lrp").scores
    torch.testing.assert_close(found[seen], expected)
    assert found[1] == 0 and bool((expected != 0).all())


def test_what_is_held_constant_is_said_where_nothing_else_leads_to_the_site() -> None:
    model = interp.wrap(zoo.make("gpt2"))
    for method in ("lrp_epsilon", "lrp_gamma", "lrp_alpha_beta"):
        with pytest.raises(ModelError, match=r"softmax probabilities constant.*hook_q"):
            attribute(model, toys.IDS, (3, 5), method=method, site="blocks.1.attn.hook_q")
    found = attribute(model, toys.IDS, (3, 5), method="attn_lrp", site="blocks.1.attn.hook_q")
    assert float(found.scores.abs().max()) > 0


def test_a_softmax_of_the_targets_own_keeps_its_gradient() -> None:
    torch.manual_seed(7)
    linear = nn.Linear(5, 3, bias=False)
    x = torch.randn(1, 5)
    chosen = lambda out: out.softmax(-1)[:, 1]  # noqa: E731
    found = attribute(interp.wrap(nn.Sequential(linear)), x, chosen, method="lrp_epsilon", epsilon=1e-12)
    p = linear(x).softmax(-1)[0].detach()
    slope = p[1] * ((torch.arange(3) == 1).float() - p)
    torch.testing.assert_close(found.scores, x[0] * (slope @ linear.weight.detach()), rtol=1e-4, atol=1e-6)


def test_recurrent_relevance_is_conserved_without_biases_and_gates_take_none() -> None:
    """Arras et al. 2017, for one step by hand: all of it goes through the candidate."""
    torch.manual_seed(6)
    cell = nn.LSTMCell(4, 3, bias=False).eval()
    model = toys.wrapped(lambda m, z: m.cell(z)[0], cell=cell)
    x = torch.randn(1, 4)
    found = attribute(model, x, toys.first, method="lrp_epsilon", epsilon=1e-12)
    parts = cell.weight_ih.detach()[6] * x[0]  # rows: input, forget, candidate, output gate
    torch.testing.assert_close(found.scores, parts / parts.sum() * found.value, rtol=1e-4, atol=1e-7)
    for layer in (nn.LSTM(4, 3, 2, bias=False, bidirectional=True), nn.GRU(4, 3, 2, bias=False)):
        deep = toys.wrapped(lambda m, z: m.layer(z.reshape(len(z), 5, 4).transpose(0, 1))[0][-1], layer=layer)
        total = attribute(deep, torch.randn(1, 20), toys.first, method="lrp_epsilon", epsilon=1e-12)
        if isinstance(layer, nn.LSTM):
            assert float(total.scores.sum()) == pytest.approx(total.value, rel=1e-3)


@pytest.mark.parametrize("method", ["lrp_gamma", "lrp_alpha_beta"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_shares_of_one_layer_by_hand_with_a_bias_of_either_sign(method: str, sign: float) -> None:
    """Contributions and the bias are told apart by their signs; an output below 0 favours the negative."""
    layer = nn.Linear(3, 1).double()
    with torch.no_grad():
        layer.weight.copy_(sign * torch.tensor([[2.0, -1.0, 0.5]]))
        layer.bias.fill_(sign * 0.75)
    x = torch.tensor([[1.0, 0.5, 2.0]], dtype=torch.float64)
    found = attribute(interp.wrap(layer), x, toys.first, method=method, epsilon=1e-12)
    # parts 2, -0.5, 1 and a bias of 0.75, all times the sign: 3.75 of the output's own, -0.5 against it
    if method == "lrp_gamma":
        favoured = 1.25 * 3.75 - 0.5
        expected = [1.25 * 2.0 / favoured, -0.5 / favoured, 1.25 * 1.0 / favoured]
    elif sign > 0:
        expected = [2 * 2.0 / 3.75, -1.0, 2 * 1.0 / 3.75]
    else:
        expected = [-2.0 / 3.75, 2.0, -1.0 / 3.75]
    assert found.scores.tolist() == pytest.approx([sign * 3.25 * e for e in expected], rel=1e-6)


def test_where_a_slope_is_infinite_nothing_passes() -> None:
    """sqrt at 0: torch's own norms have slope 0 there, and so has every rule."""
    model = toys.wrapped(lambda m, z: (z[:, :1] - z[:, 1:]).sqrt())
    for method, baseline in (("lrp_epsilon", "zero"), ("deeplift", torch.tensor([[1.0, 1.0]]))):
        x = torch.tensor([[2.0, 2.0]])
        assert attribute(model, x, toys.first, method=method, baseline=baseline).scores.tolist() == [0, 0]


# ---- attention as an explanation ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_attention_is_read_by_all_of_an_encoder_and_by_the_last_of_a_decoder(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    acts = model.capture(toys.IDS, "blocks.*.attn.hook_pattern")
    patterns = [acts["pattern", layer][0].double().numpy().mean(0) for layer in range(model.cfg.n_layers)]
    rolled = np.eye(7)
    for pattern in patterns:
        rolled = (pattern + np.eye(7)) / 2 @ rolled
    reading = (lambda m: m[-1]) if name == "gpt2" else (lambda m: m.mean(0))
    for method, expected in (("attention", patterns[-1]), ("attention_rollout", rolled)):
        found = attribute(model, toys.IDS, lambda out: out[:, -1, 3], method=method)
        np.testing.assert_allclose(found.scores.numpy(), reading(expected), rtol=1e-5, atol=1e-7)
