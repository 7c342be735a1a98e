"""The structural probe: planted trees are recovered, noise is not."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from interp.core.errors import ConfigError, ShapeError
from interp.probing.config import StructuralConfig
from interp.probing.syntax.structural import mean_spearman, structural_probe, tree_distances, uuas

QUICK = StructuralConfig(rank=16, steps=150, lr=0.02)


def random_tree(n: int, draw: torch.Generator) -> list[int]:
    order = torch.randperm(n, generator=draw).tolist()
    heads = [-1] * n
    for place in range(1, n):
        heads[order[place]] = order[int(torch.randint(place, (1,), generator=draw))]
    return heads


def embedded(heads: list[int], draw: torch.Generator, d: int = 43, noise: float = 0.05) -> torch.Tensor:
    """Words at their path from the root: one orthogonal step per arc, so |h_i - h_j|^2 = arcs."""
    n = len(heads)
    path = torch.zeros(n, n)
    for word in range(n):
        at = word
        while heads[at] >= 0:
            path[word, at] = 1
            at = heads[at]
    basis = torch.linalg.qr(torch.randn(31, d, generator=torch.Generator().manual_seed(3)).T).Q.T
    return path @ basis[:n] + 0.05 * torch.randn(n, d, generator=draw)


def test_distances_of_a_tree() -> None:
    #   1 is the root of 0 and 2; 3 hangs on 2
    expected = [[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]]
    assert tree_distances([1, -1, 1, 2]).tolist() == expected


def test_a_planted_tree_is_recovered_and_noise_is_not() -> None:
    draw = torch.Generator().manual_seed(0)
    heads = [random_tree(6 + i % 5, draw) for i in range(80)]
    told = structural_probe([embedded(tree, draw) for tree in heads], heads, QUICK)
    blind = structural_probe([torch.randn(len(tree), 43) for tree in heads], heads, QUICK)
    assert float(told.uuas) > 0.95 and float(told.spearman) > 0.93, (told.uuas, told.spearman)
    assert float(blind.uuas) < 0.45 and float(blind.spearman) < 0.5
    assert float(told.uuas) > float(told.linear_uuas) + 0.3
    assert told.check().ok and not blind.check().ok


def by_hand(
    distances: list[np.ndarray], gold: list[np.ndarray], words: list[list[bool]]
) -> tuple[float, float]:
    """UUAS and DSpr as the paper's section 4.2 says them, with scipy's rank correlation and Kruskal's
    algorithm on the pairs of words that are no punctuation."""
    right, arcs, by_length = 0, 0, {}
    for d, g, keep in zip(distances, gold, words, strict=True):
        at = [i for i, kept in enumerate(keep) if kept]
        parts = {i: {i} for i in at}
        for a, b in sorted(combinations(at, 2), key=lambda pair: d[pair]):
            if parts[a] is not parts[b]:
                joined = parts[a] | parts[b]
                parts |= dict.fromkeys(joined, joined)
                right += int(g[a, b] == 1)
        arcs += sum(g[pair] == 1 for pair in combinations(at, 2))
        if 5 <= len(d) <= 50:
            by_length.setdefault(len(d), []).extend(spearmanr(a, b)[0] for a, b in zip(d, g, strict=True))
    return right / arcs, float(np.mean([np.mean(rows) for rows in by_length.values()]))


def test_both_scores_are_the_papers() -> None:
    """Many short sentences, long ones up to the last that counts, one too short and one too long for DSpr."""
    draw = torch.Generator().manual_seed(1)
    sizes = [5] * 9 + [23, 4, 50, 51]
    heads = [random_tree(n, draw) for n in sizes]
    gold = [tree_distances(tree) for tree in heads]
    marks = [[bool(i % 3 == 1) for i in range(n)] for n in sizes]
    noise = [torch.randn(n, n, generator=draw) * (2 if n == 5 else 0.3) for n in sizes]
    guessed = {i: (g + off).abs() for i, (g, off) in enumerate(zip(gold, noise, strict=True))}
    guessed = {i: d + d.T for i, d in guessed.items()}
    counted = [~torch.tensor(row) for row in marks]
    told = by_hand(
        [guessed[i].numpy() for i in range(len(sizes))],
        [g.numpy() for g in gold],
        [[not mark for mark in row] for row in marks],
    )
    assert float(uuas(guessed, gold, counted)) == pytest.approx(told[0])
    assert float(mean_spearman(guessed, gold)) == pytest.approx(told[1])
    # Both ways differ here from what counts every word and every sentence alike.
    every = [torch.ones(n, dtype=torch.bool) for n in sizes]
    assert abs(float(uuas(guessed, gold, every)) - told[0]) > 0.02
    flat = [spearmanr(a, b)[0] for i, g in enumerate(gold) for a, b in zip(guessed[i], g, strict=True)]
    assert abs(float(np.mean(flat)) - told[1]) > 0.02


def test_punctuation_is_left_out_of_the_score() -> None:
    """Full stops whose vectors are noise: they spoil the spanning tree until they are skipped."""
    draw = torch.Generator().manual_seed(0)
    heads, rows, marks = [], [], []
    for i in range(60):
        tree = random_tree(6 + i % 5, draw)
        words = embedded(tree, draw)
        stops = torch.randn(3, 43, generator=draw) * 0.4 + words.mean(0)
        heads.append([*tree, *(int(torch.randint(len(tree), (1,), generator=draw)) for _ in range(3))])
        rows.append(torch.cat([words, stops]))
        marks.append([False] * len(tree) + [True] * 3)
    counted = structural_probe(rows, heads, QUICK)
    skipped = structural_probe(rows, heads, QUICK, punctuation=marks)
    assert float(skipped.uuas) > float(counted.uuas) + 0.15, (skipped.uuas, counted.uuas)
    assert float(skipped.spearman) == float(counted.spearman)  # DSpr is over all words
    assert skipped.n_skipped == 3 * skipped.n_test and counted.n_skipped is None
    assert "without punctuation" in skipped.caption and "counts as words" in counted.caption
    assert skipped.lengths == tuple(range(9, 14))


def test_punctuation_that_does_not_fit_is_explained() -> None:
    heads, rows = [[1, -1, 1, 2, 3]] * 4, [torch.randn(5, 3)] * 4
    with pytest.raises(ShapeError, match="4 marks in sentence 2"):
        structural_probe(rows, heads, punctuation=[[False] * (5 - (i == 2)) for i in range(4)])
    with pytest.raises(ShapeError, match="3 sentences"):
        structural_probe(rows, heads, punctuation=[[False] * 5] * 3)
    with pytest.raises(ConfigError, match="no arc to test"):
        structural_probe(rows, heads, punctuation=[[True] * 5] * 4)
    with pytest.raises(ConfigError, match="no test sentence of 5 to 50 words"):
        structural_probe([torch.randn(4, 3)] * 4, [[1, -1, 1, 2]] * 4)


def test_bad_trees_are_explained() -> None:
    with pytest.raises(ConfigError, match="no tree"):
        tree_distances([1, 0, -1])
    with pytest.raises(ConfigError, match="no tree"):
        tree_distances([-1, -1])
    for heads in ([1, 0], [1, 2, 0], [-1, 1], [-1, 2]):  # a cycle, itself, no word
        with pytest.raises(ConfigError, match="no tree"):
            tree_distances(heads)
    with pytest.raises(ShapeError, match="one head per word"):
        structural_probe([torch.randn(4, 3)] * 2, [[1, -1, 1]] * 2)
    with pytest.raises(ConfigError, match="too few sentences"):
        structural_probe([torch.randn(2, 3)] * 2, [[1, -1]] * 2)
