"""Randomness depends on its three arguments and on nothing else."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import ConfigError
from interp.core.randomness import generator, permutation, permuted_index


def draw(*args, n=7):
    return torch.randn(n, generator=generator(*args))


def test_same_triple_same_stream_whatever_came_before():
    first = draw(3, "batch", 11)
    torch.manual_seed(99)
    torch.randn(1000)
    assert torch.equal(first, draw(3, "batch", 11))


def test_any_change_changes_the_stream():
    triples = [(3, "batch", 11), (4, "batch", 11), (3, "noise", 11), (3, "batch", 12), (3, "b", 0)]
    # pairs that a naive concatenation or sum would confuse
    triples += [(1, "a", 12), (1, "a1", 2), (11, "a", 2), (-3, "batch", 11), (2**40, "batch", 11)]
    streams = {tuple(draw(*triple).tolist()) for triple in triples}
    assert len(streams) == len(triples)


def test_drawing_does_not_touch_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    permutation(5000, 0, "x")
    permutation(50, 0, "x")
    draw(0, "x", 0)
    assert torch.equal(before, torch.get_rng_state())


def test_streams_of_neighbouring_steps_are_uncorrelated():
    rows = torch.stack([draw(0, "step", step, n=1009) for step in range(53)])
    correlation = torch.corrcoef(rows) - torch.eye(53)
    assert correlation.abs().max() < 5.5 / 1009**0.5


def test_another_process_draws_the_same():
    code = (
        "import json, torch; from interp.core.randomness import *;"
        "print(json.dumps([torch.randint(10**9, (3,), generator=generator(7, 'p', 2)).tolist(),"
        " permutation(13, 7, 'p').tolist(), permuted_index(12345, 10**12, 7, 'p')]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [
        torch.randint(10**9, (3,), generator=generator(7, "p", 2)).tolist(),
        permutation(13, 7, "p").tolist(),
        permuted_index(12345, 10**12, 7, "p"),
    ]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 101, 4096, 4097, 8192, 10007, 65536, 65537])
def test_permutation_is_a_bijection_and_agrees_with_its_index(n):
    order = permutation(n, 1, "shuffle", 2)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(n))
    for i in {0, 1, n // 3, n - 1} if n > 1 else range(n):
        assert permuted_index(i, n, 1, "shuffle", 2) == order[i]


@given(n=st.integers(4097, 2**62), seed=st.integers(-(2**70), 2**70), data=st.data())
def test_large_permutations_stay_inside_and_do_not_collide(n, seed, data):
    some = data.draw(st.sets(st.integers(0, n - 1), min_size=2, max_size=20))
    images = {permuted_index(i, n, seed, "p") for i in some}
    assert len(images) == len(some)
    assert all(0 <= image < n for image in images)


def test_epochs_and_seeds_shuffle_anew():
    base = permutation(10007, 0, "p", 0)
    for other in (permutation(10007, 0, "p", 1), permutation(10007, 1, "p", 0)):
        # two random permutations agree in about one place
        assert (base == other).sum() < 9


@pytest.mark.parametrize("n", [5, 4099])
def test_every_place_is_as_likely(n):
    """Chi-square of the image of one index over seeds, in five equal bins, 4 degrees of freedom."""
    seeds = 1500
    bins = torch.zeros(5)
    for seed in range(seeds):
        bins[permuted_index(2, n, seed, "uniform") * 5 // n] += 1
    expected = seeds / 5
    assert ((bins - expected) ** 2 / expected).sum() < 18.5  # p = 0.001


def test_neighbours_are_torn_apart():
    order = permutation(10007, 3, "p").double()
    steps = (order[1:] - order[:-1]).abs()
    assert abs(steps.mean() / 10007 - 1 / 3) < 0.02  # the mean distance of two random places
    ranks = torch.stack([torch.arange(10007).double(), order])
    assert torch.corrcoef(ranks)[0, 1].abs() < 0.04


@pytest.mark.parametrize(("i", "n"), [(-1, 5), (5, 5), (0, 0), (3, -1), (0, 2**62 + 1)])
def test_bad_indices_are_refused(i, n):
    with pytest.raises(ConfigError):
        permuted_index(i, n, 0, "p")
