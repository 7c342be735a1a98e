"""Stability, splitting, absorption: planted structure is found, nothing where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from interp.core.errors import ConfigError, ShapeError
from interp.core.randomness import permutation
from interp.core.result import Result
from interp.dictionaries import (
    AbsorptionConfig,
    Dictionary,
    DictionaryConfig,
    SplittingConfig,
    SyntheticConfig,
    SyntheticWorld,
    score_absorption,
    score_splitting,
    score_stability,
)
from interp.dictionaries.scores.recovery import random_directions


def relu(encoder: torch.Tensor, decoder: torch.Tensor, bias: float = -0.5) -> Dictionary:
    """A ReLU dictionary of given weights."""
    n, d = decoder.shape
    config = DictionaryConfig(d_in=d, d_sae=n, activation="relu")
    numbers = {"b_enc": torch.full((n,), bias), "b_dec": torch.zeros(d)}
    return Dictionary.from_state(config, {"encoder": encoder, "W_dec": decoder, **numbers})


def plain(decoder: torch.Tensor) -> Dictionary:
    return relu(decoder, decoder)


# --- stability ---------------------------------------------------------------------------------


def test_a_permuted_copy_is_the_same_dictionary() -> None:
    rows = random_directions(53, 17)
    order = torch.randperm(53)
    found = score_stability([plain(rows), plain(rows[order]), plain(rows * 3)])
    torch.testing.assert_close(found.agreement, torch.ones(3, 3))
    torch.testing.assert_close(found.latent, torch.ones(3, 53))
    assert found.mean_shared == 1 and found.check().ok


def test_agreement_counts_what_is_shared() -> None:
    """40 of 100 rows in common, in 300 dimensions, where strangers are nearly orthogonal."""
    shared, a, b = random_directions(40, 300, 5), random_directions(60, 300, 6), random_directions(60, 300, 7)
    first, second = torch.cat([shared, a]), torch.cat([b, shared])
    found = score_stability([plain(first), plain(second)], names=["one", "two"])
    assert found.mean_shared == pytest.approx(0.4)
    assert bool((found.latent[0, :40] > 0.999).all() and (found.latent[0, 40:] < 0.5).all())
    assert bool((found.latent[1, 60:] > 0.999).all() and (found.latent[1, :60] < 0.5).all())
    assert found.labels["run"] == ["one", "two"]


def test_strangers_agree_as_chance_does() -> None:
    runs = [plain(random_directions(97, 31, seed)) for seed in (11, 12, 13)]
    found = score_stability(runs)
    assert found.mean_agreement == pytest.approx(float(found.null), abs=0.02)
    assert found.mean_shared < 0.02
    signed = score_stability([plain(random_directions(7, 5)), plain(-random_directions(7, 5))])
    either = score_stability([plain(random_directions(7, 5)), plain(-random_directions(7, 5))], signed=False)
    assert either.mean_agreement == pytest.approx(1) and signed.mean_agreement < 0.9


def test_unequal_or_single_dictionaries_are_refused(tmp_path: Any) -> None:
    one = plain(random_directions(7, 5))
    with pytest.raises(ConfigError):
        score_stability([one])
    with pytest.raises(ShapeError):
        score_stability([one, plain(random_directions(8, 5))])
    score_stability([one, one]).save(tmp_path / "s")
    assert float(Result.load(tmp_path / "s").agreement[0, 1]) == pytest.approx(1)  # type: ignore[attr-defined]


# --- splitting ---------------------------------------------------------------------------------


def family() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Five orthogonal parents, each row one of three children of one parent; the rows."""
    basis = torch.linalg.qr(torch.randn(29, 29))[0].T
    parents, wiggles = basis[:5], basis[5:20].reshape(5, 3, 29)
    children = F.normalize(parents[:, None] + 0.8 * wiggles, dim=2)
    which, child = torch.randint(5, (3001,)), torch.randint(3, (3001,))
    return parents, children.reshape(15, 29), children[which, child] * 2


def test_three_children_are_found_under_each_parent() -> None:
    parents, children, rows = family()
    strangers = torch.linalg.qr(torch.cat([children, random_directions(4, 29)]).T)[0].T[15:]
    # children answer to their own wiggle, parents to all of theirs
    found = score_splitting(plain(parents), relu(children, torch.cat([children]), -1.4), rows)
    assert found.n_children.tolist() == [3] * 5
    assert found.parent.tolist() == [i for i in range(5) for _ in range(3)]
    torch.testing.assert_close(found.coverage, torch.ones(5))
    torch.testing.assert_close(found.given, torch.ones(15))
    assert found.split_share == 1 and found.novel_share == 0
    wide = relu(torch.cat([children, strangers]), torch.cat([children, strangers]), -1.4)
    more = score_splitting(plain(parents), wide, rows)
    assert more.parent[15:].tolist() == [-1] * 4 and more.n_children.tolist() == [3] * 5


def test_a_dictionary_is_its_own_only_child() -> None:
    parents, _, rows = family()
    found = score_splitting(plain(parents), plain(parents), rows)
    assert found.parent.tolist() == list(range(5)) and found.n_children.tolist() == [1] * 5
    assert found.split_share == 0


def test_strangers_have_no_children() -> None:
    parents, _, rows = family()
    found = score_splitting(plain(parents), plain(random_directions(40, 29)), rows)
    assert int(found.n_children.sum()) <= 3
    rare = score_splitting(plain(parents), plain(parents), rows[:20], SplittingConfig(min_firings=100))
    assert not bool(rare.is_measured.any()) and int(rare.n_children.sum()) == 0
    with pytest.raises(ShapeError):
        score_splitting(plain(parents), plain(parents), rows[:0])


# --- absorption --------------------------------------------------------------------------------

WORLD = SyntheticConfig(
    d=41, n_features=28, children=3, p_first=0.25, p_last=0.15, p_child=0.5, spread=0.05, seed=2
)


def orthogonal_world() -> tuple[SyntheticWorld, torch.Tensor]:
    """Roots with children on orthogonal directions, so that hand-made codes are exact."""
    world = SyntheticWorld(WORLD)
    basis = torch.linalg.qr(torch.randn(41, 41, generator=torch.Generator().manual_seed(0)))[0].T
    object.__setattr__(world, "_features", basis[:28].contiguous())
    return world, basis[:28]


def absorbing(features: torch.Tensor, parent: torch.Tensor) -> Dictionary:
    """Root latents fall silent where a child is on; the child's decoder brings the root along."""
    encoder, decoder = features.clone(), features.clone()
    for child, root in enumerate(parent.tolist()):
        if root >= 0:
            encoder[root] -= features[child]
            decoder[child] = features[child] + features[root]
    return relu(encoder, decoder)


def roots_of(world: SyntheticWorld, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"root {i}": truth[:, i] > 0 for i in range(world.n_roots)}


def test_absorption_is_found_where_it_was_built_in() -> None:
    world, features = orthogonal_world()
    x, truth = world.sample(12_000)
    found = score_absorption(
        absorbing(features, world.parent), x, roots_of(world, truth), AbsorptionConfig(max_latents=1)
    )
    # half of the root's firings come with a child, and there its latent is silent
    torch.testing.assert_close(found.rate, torch.full((7,), 0.5), atol=0.05, rtol=0)
    assert [m[0] for m in found.main] == list(range(7))
    for root, absorbers in enumerate(found.absorbers):
        assert {j for j, _ in absorbers[:3]} == set(range(7 + 3 * root, 10 + 3 * root))
    assert bool((found.probe_f1 > 0.99).all() and (found.latent_f1 < 0.75).all())
    assert bool((found.fraction > 0.4).all())


def test_the_truth_absorbs_nothing() -> None:
    """Null: the same concepts, rows and thresholds, with latents for what there is."""
    world, features = orthogonal_world()
    x, truth = world.sample(12_000)
    found = score_absorption(plain(features), x, roots_of(world, truth))
    assert float(found.rate.max()) == 0 and float(found.fraction.max()) < 0.01
    assert found.n_main.tolist() == [1] * 7 and bool((found.latent_f1 > 0.99).all())
    given = score_absorption(plain(features), x, roots_of(world, truth), directions=features[:7])
    assert float(given.rate.max()) == 0


class Given:
    """A coder whose latents are handed to it, row by row in order."""

    def __init__(self, decoder: torch.Tensor, latents: torch.Tensor) -> None:
        self.site_in = self.site_out = "rows"
        self.W_dec, self.W_enc, self.latents, self.at = decoder, decoder.T, latents, 0

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.at += len(x)
        return self.latents[self.at - len(x) : self.at]

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.W_dec


@pytest.mark.parametrize("n_features", [128, 256])
@pytest.mark.parametrize("knows_directions", [True, False])
def test_the_truth_absorbs_nothing_in_superposition(n_features: int, knows_directions: bool) -> None:
    """Null: true magnitudes as latents, true directions as decoder, 2 to 4 features a dimension."""
    world = SyntheticWorld(
        SyntheticConfig(d=64, n_features=n_features, children=3, p_first=0.04, p_last=0.02, p_child=0.5)
    )
    x, truth = world.sample(12_000)
    concepts = dict(list(roots_of(world, truth).items())[:8])
    known = world.features[:8] if knows_directions else None
    found = score_absorption(Given(world.features, truth), x, concepts, directions=known)
    assert float(found.rate.max()) == 0
    assert float(found.fraction.mean()) < 0.02 and float(found.fraction.max()) < 0.04
    # The phenomenon in the same rows: half of what a root did is done by its child.
    child, root = n_features // 4 + 3 * torch.arange(8), torch.arange(8)
    taken = truth.clone()
    taken[:, root] = truth[:, root] * torch.where(truth[:, child] > 0, 0.25, 1.0)
    decoder = world.features.clone()
    decoder[child] = F.normalize(decoder[child] + decoder[root], dim=1)
    less = score_absorption(Given(decoder, taken), x, concepts, directions=known)
    assert bool((less.fraction > found.fraction + 0.03).all())


def as_saebench_does(
    acts: Any, cosines: Any, projection: float, main: list[int], config: AbsorptionConfig
) -> tuple[float, bool]:
    """One activation's absorption fraction and full absorption (SAEBench 0.6), written out."""
    carried = acts * cosines
    own = sum(carried[j] for j in main)
    able = [j for j in range(len(acts)) if j not in main and cosines[j] >= 0.1 and carried[j] > 0]
    mass = sum(sorted((carried[j] for j in able), reverse=True)[: config.n_absorbers])
    if own >= projection or mass / projection < 0.4:
        fraction = 0.0
    elif own <= 0:
        fraction = 1.0
    else:
        made_up = min(mass, projection - own)
        fraction = made_up / (made_up + own)
    best = int(np.argmax(carried))
    silent = all(abs(acts[j]) < 1e-8 for j in main)
    whole = silent and cosines[best] >= 0.025 and projection > 0 and carried[best] / projection >= 0.4
    return min(max(fraction, 0.0), 1.0), whole


@pytest.mark.parametrize("is_signed", [False, True])
def test_rate_and_fraction_are_those_of_saebench(is_signed: bool) -> None:
    """Latents of every kind beside the concept: silent mains, weak ones, absorbers that overshoot; and
    rows of the concept that its direction does not show, which count in nothing."""
    draw = torch.Generator().manual_seed(5)
    n, width, latents = 6000, 11, 23
    decoder = F.normalize(torch.randn(latents, width, generator=draw), dim=1)
    way = decoder[0]
    has = torch.rand(n, generator=draw) < 0.4
    x = torch.randn(n, width, generator=draw) * 0.7
    shown = has & (torch.rand(n, generator=draw) < 0.85)
    x = x - (x @ way)[:, None] * way + (torch.rand(n, 1, generator=draw) + 0.5) * shown[:, None] * way
    z = 2 * torch.rand(n, latents, generator=draw) * (torch.rand(n, latents, generator=draw) < 0.3)
    if is_signed:
        z = z * torch.where(torch.rand(n, latents, generator=draw) < 0.3, -1.0, 1.0)
    z[:, 0] = has * (torch.rand(n, generator=draw) < 0.8) * torch.rand(n, generator=draw)
    config = AbsorptionConfig()
    found = score_absorption(Given(decoder, z), x, {"it": has}, config, directions=way[None])
    assert found.main == ((0,),)
    second = permutation(n, 0, "absorption halves")[n // 2 :]
    rows = second[has[second] & (x[second] @ way > 0.25)]  # where it is shown, at .5 and above
    cosines = (decoder @ way).numpy().astype(float)
    told = [
        as_saebench_does(z[i].numpy().astype(float), cosines, float(x[i] @ way), [0], config)
        for i in rows.tolist()
    ]
    fractions, wholes = zip(*told, strict=True)
    assert 0.03 < np.mean(wholes) < 0.5 and len({round(f, 3) for f in fractions}) > 20
    assert float(found.fraction[0]) == pytest.approx(np.mean(fractions), abs=1e-5)
    assert float(found.rate[0]) == pytest.approx(np.mean(wholes), abs=1e-5)


def test_a_concept_split_into_latents_is_counted_and_not_called_absorbed() -> None:
    """One latent per (root, child or none): the k-sparse choice takes them all in."""
    world, features = orthogonal_world()
    x, truth = world.sample(12_000)
    found = score_absorption(absorbing(features, world.parent), x, roots_of(world, truth))
    assert found.n_main.tolist() == [4] * 7 and float(found.rate.max()) == 0


def test_random_concepts_are_not_readable_and_not_absorbed(tmp_path: Any) -> None:
    world, features = orthogonal_world()
    x, _ = world.sample(6000)
    found = score_absorption(plain(features), x, {"noise": torch.rand(6000) < 0.2})
    assert float(found.probe_f1[0]) < 0.45
    found.save(tmp_path / "a")
    assert Result.load(tmp_path / "a").main == found.main  # type: ignore[attr-defined]


def test_concepts_that_do_not_fit_are_refused() -> None:
    dictionary, rows = plain(random_directions(7, 5)), torch.randn(100, 5)
    with pytest.raises(ConfigError, match="all or none"):
        score_absorption(dictionary, rows, {"never": torch.zeros(100, dtype=torch.bool)})
    with pytest.raises(ShapeError, match="never"):
        score_absorption(dictionary, rows, {"never": torch.zeros(99, dtype=torch.bool)})
    with pytest.raises(ConfigError):
        score_absorption(dictionary, rows, {})
    with pytest.raises(ShapeError, match="space"):
        score_absorption(dictionary, torch.randn(100, 6), {"a": torch.rand(100) > 0.5})
    with pytest.raises(ShapeError, match="directions"):
        score_absorption(dictionary, rows, {"a": torch.rand(100) > 0.5}, directions=torch.zeros(2, 5))
