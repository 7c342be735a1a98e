"""The structural probe: planted trees are recovered, noise is not."""

from __future__ import annotations

import pytest
import torch

from interp.core.errors import ConfigError, ShapeError
from interp.probing.config import StructuralConfig
from interp.probing.syntax.structural import structural_probe, tree_distances

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
    assert float(told.uuas) > 0.95 and float(told.spearman) > 0.95, (told.uuas, told.spearman)
    assert float(blind.uuas) < 0.45 and float(blind.spearman) < 0.5
    assert float(told.uuas) > float(told.linear_uuas) + 0.3
    assert told.check().ok and not blind.check().ok


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
