"""The structural probe: distances in a syntax tree as squared distances after a linear map.

Hewitt and Manning 2019, "A Structural Probe for Finding Syntax in Word Representations": find B
[rank, d] such that |B (h_i - h_j)|^2 is near the number of arcs between words i and j.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from interp.probing.splits import group_codes, split_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class StructuralResult(Result, headline="Trees in the states, by a map of rank {rank}"):
    """How well squared distances after a linear map are distances in gold trees."""

    spearman: Float[Tensor, ""] = measured(
        "Spearman with tree distance", "", "the map holds more of the tree", null="linear_spearman"
    )
    """DSpr: rank correlation with tree distance, mean over the words of all test sentences of one
    length, then over lengths 5 to 50."""
    uuas: Float[Tensor, ""] = measured("UUAS", "", "the map holds more of the tree", null="linear_uuas")
    """Share of gold arcs between words that are no punctuation, undirected, in the minimum spanning
    tree of those words."""
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
    n_skipped: int | None = None
    """Words of test sentences left out of UUAS as punctuation; None where nobody said which are."""
    lengths: tuple[int, ...] | None = None
    """Lengths of the test sentences that `spearman` averages over; None in results that were saved
    when it averaged over sentences."""

    @property
    def caption(self) -> str:
        """What the figures count."""
        said = "punctuation counts as words" if self.n_skipped is None else "UUAS without punctuation"
        if self.lengths:
            said += f"; DSpr over lengths {self.lengths[0]} to {self.lengths[-1]}"
        return said

    def check(self) -> Checks:
        """Better than word order."""
        gain = self.uuas - self.linear_uuas
        return Checks([Check.at_least("UUAS above word order", gain, 0.0)])


LENGTHS = range(5, 51)
"""Lengths of the sentences that DSpr averages over (Hewitt and Manning 2019, section 4.2)."""


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
    punctuation: Sequence[Sequence[bool]] | None = None,
    groups: Sequence[Any] | Tensor | None = None,
) -> StructuralResult:
    """Train the probe on some sentences, score it on the others, beside linear word order.

    Both scores are the paper's: UUAS leaves punctuation out of the guessed tree and of the gold one,
    DSpr is averaged within each sentence length and then over lengths 5 to 50.

    Args:
        rows: Word vectors of each sentence, [words, d].
        heads: Head of each word, -1 for the root; one tree per sentence.
        config: Rank and training.
        punctuation: Which words are punctuation, per sentence; without it all words count, and the
            result says so. Of UD: `[tag == "PUNCT" for tag in sentence.labels["upos"]]`.
        groups: One entry per sentence; documents stay on one side.

    Raises:
        ShapeError: Words, heads, punctuation or groups of different numbers.
        ConfigError: Heads that are no tree, fewer than two sentences of three words, or no test
            sentence of 5 to 50 words or with an arc between words.
    """
    config = config or StructuralConfig()
    counted = _counted(heads, punctuation)
    if len(rows) != len(heads):
        raise ShapeError("one tree per sentence", got=len(heads), expected=len(rows))
    for x, tree in zip(rows, heads, strict=True):
        if len(x) != len(tree):
            raise ShapeError("one head per word", got=len(tree), expected=len(x))
    codes = group_codes(groups, len(heads))
    kept = [i for i, tree in enumerate(heads) if 3 <= len(tree) <= config.max_words]
    if len(kept) < 2:
        raise ConfigError("too few sentences", got=len(kept), expected="two of 3 words or more")
    words = [check_rows(rows[i], "word vectors").float() for i in kept]
    gold = [tree_distances(heads[i]) for i in kept]
    counted = [counted[i] for i in kept]
    cut = split_rows(len(kept), config.test_fraction, config.seed, groups=codes[kept])
    lengths = sorted({len(gold[i]) for i in cut.test.tolist()} & set(LENGTHS))
    arcs = sum(len(_gold_arcs(gold[i], counted[i])) for i in cut.test.tolist())
    if not lengths or not arcs:
        raise ConfigError(
            f"no test sentence of {LENGTHS[0]} to {LENGTHS[-1]} words" if arcs else "no arc to test",
            got=f"{len(cut.test)} test sentences of {min(map(len, gold))} to {max(map(len, gold))} words",
            expected=f"sentences of {LENGTHS[0]} to {LENGTHS[-1]} words that are not all punctuation",
            fix="more sentences, or another seed",
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
        spearman=mean_spearman(guessed, gold),
        uuas=uuas(guessed, gold, counted),
        linear_spearman=mean_spearman(linear, gold),
        linear_uuas=uuas(linear, gold, counted),
        matrix=probe.matrix.detach(),
        rank=config.rank,
        n_train=len(cut.train),
        n_test=len(cut.test),
        n_skipped=None if punctuation is None else sum(int((~counted[i]).sum()) for i in cut.test.tolist()),
        lengths=tuple(lengths),
    )


def _counted(heads: Sequence[Sequence[int]], punctuation: Sequence[Sequence[bool]] | None) -> list[Tensor]:
    """Which words UUAS counts, per sentence."""
    if punctuation is None:
        return [torch.ones(len(tree), dtype=torch.bool) for tree in heads]
    sizes, found = [len(tree) for tree in heads], [len(marks) for marks in punctuation]
    if sizes != found:
        off = next((i for i, (a, b) in enumerate(zip(sizes, found, strict=False)) if a != b), None)
        told = f"{len(found)} sentences" if off is None else f"{found[off]} marks in sentence {off}"
        wanted = f"{len(sizes)} sentences" if off is None else f"{sizes[off]} words"
        raise ShapeError("one mark of punctuation per word", got=told, expected=wanted)
    return [~torch.as_tensor(list(marks), dtype=torch.bool) for marks in punctuation]


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


def mean_spearman(guessed: Mapping[int, Tensor], gold: Sequence[Tensor]) -> Float[Tensor, ""]:
    """DSpr: rank correlations of the distances from each word, averaged within each sentence length,
    then over the lengths from 5 to 50."""
    by_length: dict[int, list[Tensor]] = {}
    for i, distance in guessed.items():
        if len(distance) in LENGTHS:
            by_length.setdefault(len(distance), []).extend(
                torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1]
                for a, b in zip(distance, gold[i], strict=True)
            )
    return torch.stack([torch.stack(rows).nan_to_num(0.0).mean() for rows in by_length.values()]).mean()


def _gold_arcs(gold: Tensor, counted: Tensor) -> list[list[int]]:
    """Arcs of a gold tree between words that count, as pairs (lower, higher)."""
    both = counted[:, None] & counted[None]
    return ((gold == 1) & both).triu(1).nonzero().tolist()


def uuas(
    guessed: Mapping[int, Tensor], gold: Sequence[Tensor], counted: Sequence[Tensor]
) -> Float[Tensor, ""]:
    """Share of gold arcs (undirected) in the minimum spanning tree of the words that count."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    hits, arcs = 0, 0
    for i, distance in guessed.items():
        at = counted[i].nonzero().flatten()
        own = {(a, b) for a, b in _gold_arcs(gold[i], counted[i])}
        if len(at) > 1:
            # scipy reads 0 as "no edge"; shifting all distances changes no spanning tree.
            among = (distance[at][:, at].double() + 1).triu(1)
            pairs = zip(*minimum_spanning_tree(among.numpy()).nonzero(), strict=True)
            hits += sum((int(at[a]), int(at[b])) in own for a, b in pairs)
        arcs += len(own)
    return torch.tensor(hits / arcs, dtype=torch.float64)
