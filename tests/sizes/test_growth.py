"""Probes of many classes, attention as a flow, batches of a finetune: work and memory per unit of size."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor
from torch.nn.functional import one_hot

import interp
from interp.activations import TokenSequences
from interp.attribution import attention_flow
from interp.attribution.methods.attention import UNITS
from interp.core.randomness import permutation
from interp.dictionaries import FinetuneConfig, TrainConfig, finetuning, train
from interp.probing import ProbeConfig
from interp.probing.rows import Target
from interp.probing.solvers import logistic
from interp.probing.solvers.linear import solve
from interp.probing.solvers.spectrum import spectrum
from tests.models import zoo
from tests.support.allocations import peak_bytes
from tests.support.work import counted_elements


def exponent(work: Callable[[int], float], small: int) -> float:
    """How work grows with a size, over its last octave."""
    return math.log2(work(2 * small) / work(small))


# ---- classes of a probe ------------------------------------------------------------------------

N, D, PROBLEMS = 700, 16, 3


def classified(k: int) -> tuple[Tensor, Tensor]:
    """Rows [n d] and classes [n problem], the first of which the rows tell a little."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=draw)
    own = (x @ torch.randn(D, k, generator=draw)).argmax(1)
    rest = [own[torch.randperm(N, generator=draw)] for _ in range(PROBLEMS - 1)]
    return x, torch.stack([own, *rest], 1)


def solved(k: int, **more: Any) -> logistic.LogisticFit:
    x, codes = classified(k)
    penalty = torch.full((PROBLEMS,), 1.0, dtype=torch.float64)
    return logistic.fit_logistic(spectrum(x), codes, penalty, n_classes=k, balanced=True, **more)


def elements_of(run: Callable[[], Any]) -> int:
    with counted_elements() as seen:
        run()
    return seen.n


@pytest.mark.filterwarnings("ignore::interp.probing.solvers.logistic.UnconvergedWarning")
def test_work_of_a_step_grows_with_the_classes_and_no_faster() -> None:
    assert exponent(lambda k: elements_of(lambda: solved(k, max_iter=4)), 64) < 1.1

    def every_class_with_every_other(k: int) -> int:
        return elements_of(lambda: torch.ones(k, k).square())

    assert exponent(every_class_with_every_other, 64) > 1.8


def test_a_problem_that_is_solved_costs_nothing_more() -> None:
    """Many steps for one, few for the other; side by side they cost what they cost alone."""
    x, codes = classified(7)
    base, penalty = spectrum(x), torch.tensor([1e-3, 1e3], dtype=torch.float64)

    def fit(some: list[int]) -> logistic.LogisticFit:
        return logistic.fit_logistic(base, codes[:, some], penalty[some], n_classes=7)

    alone = [fit([i]) for i in (0, 1)]
    assert alone[0].iterations > 5 * alone[1].iterations
    both = fit([0, 1])
    for i, one in enumerate(alone):
        torch.testing.assert_close(both.weight[:, i], one.weight[:, 0], rtol=1e-3, atol=1e-3)
    cost = [elements_of(lambda i=i: fit([i])) for i in (0, 1)]
    assert elements_of(lambda: fit([0, 1])) < 1.2 * sum(cost) < cost[0] * 1.9


@pytest.mark.filterwarnings("ignore::interp.probing.solvers.logistic.UnconvergedWarning")
def test_memory_is_a_few_tables_of_rows_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and their change stay; what is made of them is made a block at a time."""
    k = 96
    table = N * PROBLEMS * k * 4
    monkeypatch.setattr(logistic, "BLOCK", 2**13)
    solved(k, max_iter=1)
    assert peak_bytes(lambda: solved(k, max_iter=3)) < 5 * table


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("block", [7, 2**18])
def test_slopes_are_those_of_one_column_per_class(
    k: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "BLOCK", block)
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(31, 6, generator=draw, dtype=torch.float64)
    codes = torch.randint(0, max(k, 2), (31, 2), generator=draw)
    penalty = torch.tensor([0.3, 2.0], dtype=torch.float64)
    weights = logistic._balance(codes, max(k, 2))
    made = logistic._Problems(spectrum(x), codes, k, penalty, weights)
    state, step = torch.randn(2, made.r + 1, 2, k, generator=draw, dtype=torch.float64)
    y = one_hot(codes, k) if k > 1 else codes[:, :, None]
    length = torch.tensor([0.4, 1.7], dtype=torch.float64, requires_grad=True)

    def loss(state: Tensor) -> Tensor:
        z = made.rows @ state[:-1].flatten(1)
        z = z.view(-1, 2, k) + state[-1]
        nats = (
            -(z.log_softmax(-1) * y).sum(-1) if k > 1 else torch.nn.functional.softplus(z - 2 * z * y)[..., 0]
        )
        return (nats * made.share).sum(0) + (penalty / 31 * state[:-1].square().sum((0, 2))) / 2

    here = state.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(loss(here).sum(), here)
    torch.testing.assert_close(made.gradient(state, made.logits(state)), expected)
    (slope,) = torch.autograd.grad(loss(state + length[:, None] * step).sum(), length, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), length)
    z, dz = made.logits(state), made.logits(step)
    found = made.slopes(z, dz, made.of_own(dz), length.detach())
    tied = penalty / 31 * ((state + length.detach()[:, None] * step)[:-1] * step[:-1]).sum((0, 2))
    torch.testing.assert_close(found[0] + tied, slope.detach())
    torch.testing.assert_close(found[1] + penalty / 31 * step[:-1].square().sum((0, 2)), bend)


def test_means_of_classes_are_those_of_their_rows() -> None:
    x, codes = classified(5)
    target = Target("label", "classes", codes[:, 0], tuple("abcde"))
    (found,) = solve(x, [target], ProbeConfig(kind="mass_mean", standardise=False))
    for c in range(5):
        mean = x[codes[:, 0] == c].double().mean(0) - x.double().mean(0)
        torch.testing.assert_close(found.weight[:, c], mean, atol=1e-5, rtol=1e-5)


# ---- attention as a flow -----------------------------------------------------------------------


def patterns(layers: int, n: int, seed: int = 0) -> Tensor:
    """Causal attention, [layer head query key]."""
    scores = 3 * torch.randn(layers, 2, n, n, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)


def by_a_table(given: Tensor, reader: int) -> list[float]:
    """The same with a table of all pairs of nodes."""
    layers, n = len(given), given.shape[-1]
    table = np.zeros(((layers + 1) * n,) * 2, dtype=np.int32)
    for i, layer in enumerate(given):
        mixed = (layer.mean(0).double().numpy() + np.eye(n)) / 2
        table[(i + 1) * n : (i + 2) * n, i * n : (i + 1) * n] = np.round(mixed * UNITS)
    graph, source = csr_array(table), layers * n + reader % n
    return [maximum_flow(graph, source, sink).flow_value / UNITS for sink in range(n)]


def traced(run: Callable[[], Any]) -> int:
    """Most bytes that Python and NumPy held at once."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("reader", [-1, 3])
def test_a_flow_is_that_of_the_whole_table(reader: int) -> None:
    given = patterns(3, 7)
    found = attention_flow(given, reader)
    assert found.tolist() == by_a_table(given, reader)
    assert not torch.equal(found, attention_flow(patterns(3, 7, seed=1), reader))


def test_a_flow_holds_its_edges() -> None:
    assert exponent(lambda layers: traced(lambda: attention_flow(patterns(layers, 24))), 12) < 1.2
    assert exponent(lambda layers: traced(lambda: by_a_table(patterns(layers, 24), -1)), 12) > 1.5


# ---- batches of a finetune ---------------------------------------------------------------------


def test_an_epoch_has_one_order_and_ids_are_looked_at_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    n, size = 23, 5
    drawn: list[int] = []
    looked: list[int] = []

    def counted(n: int, seed: int, purpose: str, epoch: int = 0) -> Tensor:
        drawn.append(epoch)
        return permutation(n, seed, purpose, epoch)

    batch_of = TokenSequences.batch

    def seen(self: TokenSequences, index: Any) -> Any:
        looked.append(len(index))
        return batch_of(self, index)

    monkeypatch.setattr(finetuning, "permutation", counted)
    monkeypatch.setattr(finetuning, "BLOCK", 4)
    monkeypatch.setattr(TokenSequences, "batch", seen)
    tokens = TokenSequences(torch.randint(5, zoo.V, (n, 6), generator=torch.Generator().manual_seed(0)))
    config = FinetuneConfig(batch_sequences=size, seed=3)
    batches = finetuning._Batches(interp.wrap(zoo.make("gpt2")), tokens, config)
    assert max(looked) == 4 and sum(looked) == n
    for t in range(12):
        numbers = [divmod(t * size + i, n) for i in range(size)]
        rows = torch.stack([permutation(n, 3, "finetune", epoch)[i] for epoch, i in numbers])
        assert torch.equal(batches(t).ids, tokens.ids[rows])
    assert drawn == [0, 1, 2]
    assert torch.equal(batches(0).ids, tokens.ids[permutation(n, 3, "finetune", 0)[:size]])


@pytest.mark.parametrize(
    ("activation", "matrices"),
    [
        pytest.param("topk", 1.2, marks=pytest.mark.full),
        pytest.param("batchtopk", 1.6, marks=pytest.mark.full),  # what is above a cutoff, a byte each
        # Random rows and no penalty so far: half of all latents are active, and every product is dense.
        pytest.param("relu", 2.8, marks=pytest.mark.full),
        pytest.param("jumprelu", 4.0, marks=pytest.mark.full),
    ],
)
def test_training_holds_weights_four_times_and_the_latents_of_a_batch(
    activation: str, matrices: float
) -> None:
    """Weights, gradients and Adam's two moments; [batch, d_sae] once where few latents are active."""
    d, m, batch = 64, 16384, 4096
    rows = torch.randn(4 * batch, d, generator=torch.Generator().manual_seed(0))
    few = {"k": 32} if "topk" in activation else {}
    config = TrainConfig(d_sae=m, activation=activation, steps=3, batch_size=batch, lr=1e-3, **few)
    weights = 4 * sum(p.numel() for p in train(config, rows).parameters())
    assert peak_bytes(lambda: train(config, rows)) < 4 * weights + matrices * batch * m * 4
