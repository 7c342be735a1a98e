"""The structural probe: distances in a syntax tree as squared distances after a linear map.

Hewitt and Manning 2019, "A Structural Probe for Finding Syntax in Word Representations": find B
[rank, d] such that |B (h_i - h_j)|^2 is near the number of arcs between words i and j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ShapeError
from interp.core.frames.quantity import called, measured
from interp.core.randomness import generator
from interp.core.result import Result
from interp.probing.config import StructuralConfig
from interp.probing.rows import check_rows
from interp.probing.splits import split_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class StructuralResult(Result, headline="Trees in the states, by a map of rank {rank}"):
    """How well squared distances after a linear map are distances in gold trees."""

    spearman: Float[Tensor, ""] = measured(
        "Spearman with tree distance", "", "the map holds more of the tree", null="linear_spearman"
    )
    """Rank correlation with tree distance, mean over words, then test sentences."""
    uuas: Float[Tensor, ""] = measured("UUAS", "", "the map holds more of the tree", null="linear_uuas")
    """Share of gold arcs, undirected, in the minimum spanning tree."""
    linear_spearman: Float[Tensor, ""] = called("word order")
    """Rank correlation of the distance in words, which needs no model."""
    linear_uuas: Float[Tensor, ""] = called("word order")
    """Share of gold arcs in the tree that links neighbours."""
    matrix: Float[Tensor, "rank d"]
    """The map, of rows centred and scaled to unit mean square."""
    rank: int
    """Rank of the map at most."""
    n_train: int
    """Training sentences."""
    n_test: int
    """Test sentences."""

    def check(self) -> Checks:
        """Better than word order."""
        gain = self.uuas - self.linear_uuas
        return Checks([Check.at_least("UUAS above word order", gain, 0.0)])


def tree_distances(heads: Sequence[int]) -> Float[Tensor, "w w"]:
    """Number of arcs between every two words of a tree of heads (-1: root).

    Raises:
        ConfigError: The heads are no tree: a cycle, a head that is no word, not one root.
    """
    n = len(heads)
    if sum(head < 0 for head in heads) != 1 or max(heads, default=0) >= n:
        raise ConfigError("these heads are no tree", got=list(heads), expected="one root, no cycle")
    distance = torch.full((n, n), float("inf")).fill_diagonal_(0)
    for word, head in enumerate(heads):
        if head >= 0:
            distance[word, head] = distance[head, word] = 1
    for k in range(n):  # Floyd and Warshall
        distance = torch.minimum(distance, distance[:, k : k + 1] + distance[k : k + 1])
    if not bool(torch.isfinite(distance).all()):
        raise ConfigError("these heads are no tree", got=list(heads), expected="one root, no cycle")
    return distance


class DistanceProbe(nn.Module):
    """Squared distances between words after a linear map; `matrix` is [rank, d]."""

    def __init__(self, d: int, rank: int, seed: int) -> None:
        super().__init__()
        start = torch.randn(rank, d, generator=generator(seed, "structural probe"))
        self.matrix: nn.Parameter = nn.Parameter(start * 0.5 / (rank * d) ** 0.5)

    def forward(self, words: Float[Tensor, "w d"]) -> Float[Tensor, "w w"]:
        """|B (h_i - h_j)|^2 for every two words."""
        moved = words @ self.matrix.T
        return (moved[:, None] - moved[None]).square().sum(-1)


def structural_probe(
    rows: Sequence[Tensor],
    heads: Sequence[Sequence[int]],
    config: StructuralConfig | None = None,
    *,
    groups: Sequence[object] | None = None,
) -> StructuralResult:
    """Train the probe on some sentences, score it on the others, beside linear word order.

    Args:
        rows: Word vectors of each sentence, [words, d].
        heads: Head of each word, -1 for the root; one tree per sentence.
        config: Rank and training.
        groups: One entry per sentence; documents stay on one side.

    Raises:
        ShapeError: Words and heads of different numbers.
        ConfigError: Heads that are no tree, or fewer than two sentences of three words.
    """
    config = config or StructuralConfig()
    if len(rows) != len(heads):
        raise ShapeError("one tree per sentence", got=len(heads), expected=len(rows))
    for x, tree in zip(rows, heads, strict=True):
        if len(x) != len(tree):
            raise ShapeError("one head per word", got=len(tree), expected=len(x))
    kept = [i for i, tree in enumerate(heads) if 3 <= len(tree) <= config.max_words]
    if len(kept) < 2:
        raise ConfigError("too few sentences", got=len(kept), expected="two of 3 words or more")
    words = [check_rows(rows[i], "word vectors").float() for i in kept]
    gold = [tree_distances(heads[i]) for i in kept]
    cut = split_rows(
        len(kept), config.test_fraction, config.seed, groups=groups and [groups[i] for i in kept]
    )
    centre = torch.cat([words[i] for i in cut.train.tolist()]).mean(0)
    size = torch.cat([words[i] for i in cut.train.tolist()]).sub(centre).square().mean().sqrt()
    words = [(x - centre) / size.clamp(min=1e-30) for x in words]
    probe = _train(words, gold, cut.train.tolist(), config)
    with torch.no_grad():
        guessed = {i: probe(words[i]) for i in cut.test.tolist()}
    linear = {
        i: (torch.arange(len(gold[i]))[:, None] - torch.arange(len(gold[i]))).abs().float() for i in guessed
    }
    return StructuralResult(
        spearman=_mean_spearman(guessed, gold),
        uuas=_uuas(guessed, gold),
        linear_spearman=_mean_spearman(linear, gold),
        linear_uuas=_uuas(linear, gold),
        matrix=probe.matrix.detach(),
        rank=config.rank,
        n_train=len(cut.train),
        n_test=len(cut.test),
    )


def _train(
    words: list[Tensor], gold: list[Tensor], rows: list[int], config: StructuralConfig
) -> DistanceProbe:
    probe = DistanceProbe(words[0].shape[1], config.rank, config.seed)

    def batches(t: int) -> list[int]:
        pick = generator(config.seed, "structural probe batch", t)
        return [rows[i] for i in torch.randint(len(rows), (8,), generator=pick).tolist()]

    def step(module: nn.Module, batch: list[int], t: int) -> Tensor:
        # The paper's loss: |difference| averaged over the pairs of each sentence.
        gaps = [(module(words[i]) - gold[i]).abs().mean() for i in batch]
        return torch.stack(gaps).mean()

    schedule = FitConfig(
        steps=config.steps,
        lr=config.lr,
        lr_schedule="cosine",
        seed=config.seed,
        log_every=max(config.steps // 10, 1),
    )
    fit(probe, step, batches, schedule)
    return probe


def _ranks(values: Tensor) -> Tensor:
    """Ranks with ties averaged."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    top = counts.cumsum(0).double()
    return (top - (counts - 1) / 2)[place]


def _mean_spearman(guessed: dict[int, Tensor], gold: list[Tensor]) -> Tensor:
    """Rank correlation of the distances from each word, averaged over words, then sentences."""
    per_sentence = []
    for i, distance in guessed.items():
        rows = [
            torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1]
            for a, b in zip(distance, gold[i], strict=True)
        ]
        per_sentence.append(torch.stack(rows).nan_to_num(0.0).mean())
    return torch.stack(per_sentence).mean()


def _uuas(guessed: dict[int, Tensor], gold: list[Tensor]) -> Tensor:
    """Share of gold arcs (undirected) in the minimum spanning tree of the guessed distances."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    hits, arcs = 0, 0
    for i, distance in guessed.items():
        # scipy reads 0 as "no edge"; shifting all distances changes no spanning tree.
        tree = minimum_spanning_tree((distance.double() + 1).triu(1).numpy()).toarray() > 0
        own = gold[i].triu(1).numpy() == 1
        hits, arcs = hits + int((tree & own).sum()), arcs + int(own.sum())
    return torch.tensor(hits / arcs, dtype=torch.float64)
