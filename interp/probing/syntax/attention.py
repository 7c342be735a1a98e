"""Syntax from attention maps alone (Clark et al. 2019, "What Does BERT Look At?", section 5).

p(head of j = i) is proportional to exp sum_k (w_k A^k[j, i] + u_k A^k[i, j]) over all maps k; the
weights are all there is to learn, so what the probe knows the maps must have said. ROOT is one more
candidate: in its place stand a times the attention to (from) the token that starts the text and b
times that of the token that ends it, with two numbers a and b for all maps, as in the authors' code.
With words, every weight also depends linearly on the embeddings of the two words, ROOT's being 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ShapeError
from interp.core.finite import check_finite
from interp.core.frames.quantity import called, measured
from interp.core.randomness import generator
from interp.core.result import Result
from interp.core.settings import check_flags
from interp.models.hooked import HookedModel
from interp.probing.config import AttentionProbeConfig
from interp.probing.scores import accuracy
from interp.probing.splits import Split, split_rows
from interp.probing.syntax.maps import PATTERNS, WordMaps, word_maps
from interp.tasks.labels import Labelled


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionProbeResult(Result, headline="Heads of words, from attention alone"):
    """How much of the gold trees attention maps alone tell, beside what no model is needed for.

    UAS is the share of test words whose head is guessed right, ROOT among the candidates; without a
    token that starts or ends the text there is no ROOT, and the root's word is not asked.
    """

    uas: Float[Tensor, ""]
    """UAS of the probe."""
    low: Float[Tensor, ""]
    """Lower end of its confidence interval, sentences taken as groups."""
    high: Float[Tensor, ""]
    """Upper end of its confidence interval."""
    offset_uas: Float[Tensor, ""]
    """UAS of the best fixed offset ("the head is the next word"), chosen on training sentences; before
    the first word it says ROOT, behind the last one the last word."""
    random_init_uas: Float[Tensor, ""] | None
    """UAS of the same probe on the maps of the same model with fresh weights."""
    weight: Float[Tensor, "layer head direction"]
    """Weight of every map: read from the word to its head, and backwards."""
    relation_uas: Float[Tensor, "relation"] = measured(
        "UAS",
        "share of words",
        "more heads guessed right",
        signed=False,
        legend="attention probe",
        null="relation_offset",
    )
    """UAS per relation that training sentences have too, most frequent first."""
    relation_offset: Float[Tensor, "relation"] = called("best fixed offset")
    """UAS of the fixed offset that is best for a relation on the training sentences."""
    offset: int
    """The best fixed offset."""
    n_train: int
    """Training arcs."""
    n_test: int
    """Test arcs."""
    root_uas: Float[Tensor, ""] | None = None
    """Share of test sentences whose root is told; None where it was not asked."""

    @property
    def caption(self) -> str:
        """The scores over all relations."""
        said = f"over all relations {float(self.uas):.2f} [{float(self.low):.2f}, {float(self.high):.2f}]"
        said += f", best fixed offset {float(self.offset_uas):.2f}"
        if self.random_init_uas is not None:
            said += f", with random weights {float(self.random_init_uas):.2f}"
        if self.root_uas is None:
            return f"{said}; ROOT is not asked"
        return f"{said}; ROOT {float(self.root_uas):.2f}"

    def check(self) -> Checks:
        """Beats the offset, and the model without training."""
        checks = [Check.at_least("above the best offset", self.uas - self.offset_uas, 0.0)]
        if self.random_init_uas is not None:
            gain = self.uas - self.random_init_uas
            checks.append(Check.at_least("above random weights", gain, 0.0))
        return Checks(checks)


class AttentionProbe(nn.Module):
    """Scores of arcs from attention maps.

    Attributes:
        weight: [directions * maps].
        root: What the tokens that start and end the text count for ROOT, [2].
        words: With words, [rank, d]; a word's few numbers.
        mix: With words, [directions * maps, 2 * rank].
    """

    def __init__(self, n_maps: int, config: AttentionProbeConfig, d_word: int = 0) -> None:
        super().__init__()
        self.transposed: bool = config.transposed
        n = n_maps * (2 if config.transposed else 1)
        self.weight: nn.Parameter = nn.Parameter(torch.zeros(n))
        self.root: nn.Parameter = nn.Parameter(torch.ones(2))
        self.words: nn.Parameter | None = None
        if config.word_rank and d_word:
            draw = generator(config.seed, "attention probe")
            start = torch.randn(config.word_rank, d_word, generator=draw) / d_word**0.5
            self.words = nn.Parameter(start)
            self.mix: nn.Parameter = nn.Parameter(torch.zeros(n, 2 * config.word_rank))

    def forward(
        self, maps: Tensor, vectors: Tensor | None = None, edges: Tensor | None = None
    ) -> Float[Tensor, "b w candidate"]:
        """Scores [sentence, word, candidate head] of maps [sentence, map, word, word]; with `edges`
        ROOT is the last candidate."""
        if self.transposed:
            maps = torch.cat([maps, maps.transpose(-1, -2)], 1)
        if edges is not None:
            ways = [edges[..., 0], edges[..., 1]] if self.transposed else [edges[..., 0]]
            maps = torch.cat([maps, torch.cat(ways, 1) @ self.root[:, None]], -1)
        scores = torch.einsum("k,bkji->bji", self.weight, maps)
        if self.words is not None and vectors is not None:
            few = vectors @ self.words.T
            rank = few.shape[-1]
            own = torch.einsum("bjr,kr->bkj", few, self.mix[:, :rank])
            its = torch.einsum("bir,kr->bki", few, self.mix[:, rank:])
            its = nn.functional.pad(its, (0, maps.shape[-1] - its.shape[-1]))
            scores = scores + ((own[..., :, None] + its[..., None, :]) * maps).sum(1)
        return scores


def attention_probe(
    model: HookedModel,
    sentences: Iterable[Labelled],
    config: AttentionProbeConfig | None = None,
    *,
    random_init: bool = True,
) -> AttentionProbeResult:
    """Train the probe on gold trees and compare it with fixed offsets and with random weights.

    Args:
        model: A model whose attention patterns are sites.
        sentences: With heads and, for relations, the layer "deprel" (`interp.tasks.load_labels`).
        config: Size and training of the probe.
        random_init: Train the same probe on `model.randomised(config.seed)`.

    Raises:
        SiteError: The model offers no attention patterns.
        ConfigError: No sentence has a tree, or none is short enough.
    """
    check_flags(random_init=random_init)
    config = config or AttentionProbeConfig()
    every = list(sentences)
    real = word_maps(model, every, config)
    fresh = None
    if random_init:
        fresh = word_maps(model.randomised(config.seed), every, config)
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    found = fit_attention_probe(real, config, shape=shape, random_init=fresh)
    return replace(found, provenance=model.provenance([PATTERNS]))


def fit_attention_probe(
    sentences: Sequence[WordMaps],
    config: AttentionProbeConfig | None = None,
    *,
    shape: tuple[int, int] | None = None,
    random_init: Sequence[WordMaps] | None = None,
) -> AttentionProbeResult:
    """`attention_probe` on maps that are there already.

    Args:
        sentences: Maps and trees.
        config: Size and training.
        shape: (layers, heads) of the maps; one layer by default.
        random_init: The same sentences through the same model with fresh weights.

    Raises:
        ShapeError: Another number of maps than layers * heads, or than in the first sentence.
        ConfigError: Fewer than two sentences, or none with an arc to learn or to test.
        NonFiniteError: NaN in a map.
    """
    config = config or AttentionProbeConfig()
    if len(sentences) < 2:
        raise ConfigError("too few sentences", got=len(sentences), expected="two or more")
    n_maps = sentences[0].maps.shape[0]
    shape = shape or (1, n_maps)
    if shape[0] * shape[1] != n_maps:
        raise ShapeError("layers and heads of the maps", got=shape, expected=f"{n_maps} in all")
    for sentence in (*sentences, *(random_init or ())):
        _check_maps(sentence, n_maps, sentences[0].edges is not None)
    groups = [s.group or str(i) for i, s in enumerate(sentences)]
    split = split_rows(len(sentences), config.test_fraction, config.seed, groups=groups)
    for side, name in ((split.train, "training"), (split.test, "test")):
        if not any(bool((sentences[i].heads >= 0).any()) for i in side.tolist()):
            raise ConfigError(
                f"no arc in the {name} sentences",
                got=f"{len(side)} sentences",
                expected="heads that are not skipped",
                fix="more sentences",
            )
    probe = _train(sentences, split, config)
    right, arcs = _test(probe, sentences, split)
    best, offset_uas, per_relation = _offsets(sentences, split, config)
    codes = torch.tensor([i for i, _, _ in arcs])
    score = accuracy(right, codes)
    fresh = None
    if random_init is not None:
        null, _ = _test(_train(random_init, split, config), random_init, split)
        fresh = null.double().mean()
    names = [r for r, _ in Counter(r for _, _, r in arcs if r in per_relation).most_common(12)]
    relation = torch.tensor([names.index(r) if r in names else -1 for _, _, r in arcs])
    roots = torch.tensor([int(sentences[i].heads[w]) == len(sentences[i].heads) for i, w, _ in arcs])
    weight = probe.weight.detach().view(-1, *shape).permute(1, 2, 0)
    return AttentionProbeResult(
        uas=torch.tensor(score.value).double(),
        low=torch.tensor(score.low).double(),
        high=torch.tensor(score.high).double(),
        offset_uas=torch.tensor(offset_uas).double(),
        random_init_uas=fresh,
        weight=weight,
        relation_uas=torch.tensor([float(right[relation == i].double().mean()) for i in range(len(names))]),
        relation_offset=torch.tensor([per_relation[r] for r in names]).double(),
        offset=best,
        n_train=sum(int((sentences[i].heads >= 0).sum()) for i in split.train.tolist()),
        n_test=len(arcs),
        root_uas=right[roots].double().mean() if bool(roots.any()) else None,
        labels={
            "layer": [f"L{i}" for i in range(shape[0])],
            "head": [f"H{i}" for i in range(shape[1])],
            "direction": ["word to head", "head to word"][: weight.shape[2]],
            "relation": names,
        },
    )


def _check_maps(sentence: WordMaps, n_maps: int, rooted: bool) -> None:
    check_finite(sentence.maps, "an attention map")
    if len(sentence.maps) != n_maps:
        raise ShapeError("maps of a sentence", got=len(sentence.maps), expected=n_maps)
    if (sentence.edges is not None) != rooted:
        raise ShapeError("edges of a sentence", got="some have them", expected="all, or none")
    most = len(sentence.heads) - (sentence.edges is None)
    if int(sentence.heads.max()) > most:
        raise ConfigError("a head that is no word", got=int(sentence.heads.max()), expected=f"up to {most}")


def _train(sentences: Sequence[WordMaps], split: Split, config: AttentionProbeConfig) -> AttentionProbe:
    train = [sentences[i] for i in split.train.tolist()]
    vectors = train[0].vectors
    probe = AttentionProbe(len(train[0].maps), config, 0 if vectors is None else vectors.shape[1])

    def batches(t: int) -> _Batch:
        pick = generator(config.seed, "attention probe batch", t)
        rows = torch.randint(len(train), (config.sentences_per_step,), generator=pick)
        return _padded([train[i] for i in rows.tolist()])

    def step(module: nn.Module, batch: _Batch, t: int) -> Tensor:
        scores = _without_self(module(batch.maps, batch.words, batch.edges), batch.heads)
        asked = batch.heads >= 0
        if not bool(asked.any()):  # sentences without an arc teach nothing
            return 0 * scores.sum()
        return nn.functional.cross_entropy(scores[asked], batch.heads[asked])

    schedule = FitConfig(
        steps=config.steps,
        lr=config.lr,
        lr_schedule="cosine",
        optimizer="adamw",
        weight_decay=config.weight_decay,
        seed=config.seed,
        log_every=max(config.steps // 10, 1),
    )
    fit(probe, step, batches, schedule)
    return probe


class _Batch(NamedTuple):
    """Sentences side by side."""

    maps: Tensor
    """[b k w w]"""
    heads: Tensor
    """[b w]; -1: not asked, -2: no word, w: ROOT"""
    words: Tensor | None
    """Word vectors, [b w d]."""
    edges: Tensor | None
    """[b k w edge way]"""


def _padded(part: Sequence[WordMaps]) -> _Batch:
    width, k = max(len(s.heads) for s in part), len(part[0].maps)
    maps = torch.zeros(len(part), k, width, width)
    heads = torch.full((len(part), width), -2)
    first = part[0].vectors
    words = None if first is None else torch.zeros(len(part), width, first.shape[1])
    edges = None if part[0].edges is None else torch.zeros(len(part), k, width, 2, 2)
    for i, sentence in enumerate(part):
        n = len(sentence.heads)
        maps[i, :, :n, :n] = sentence.maps
        heads[i, :n] = sentence.heads.masked_fill(sentence.heads == n, width)
        if words is not None and sentence.vectors is not None:
            words[i, :n] = sentence.vectors
        if edges is not None and sentence.edges is not None:
            edges[i, :, :n] = sentence.edges
    return _Batch(maps, heads, words, edges)


def _without_self(scores: Tensor, heads: Tensor) -> Tensor:
    """No word is its own head, and no padding is a head."""
    blocked = torch.eye(heads.shape[1], dtype=torch.bool) | (heads == -2)[:, None, :]
    blocked = nn.functional.pad(blocked, (0, scores.shape[-1] - heads.shape[1]))  # ROOT never is
    return scores.masked_fill(blocked, -1e9)


def _test(
    probe: AttentionProbe, sentences: Sequence[WordMaps], split: Split
) -> tuple[Tensor, list[tuple[int, int, str]]]:
    """Per test arc: guessed right or not, and (sentence, word, relation)."""
    right, arcs = [], []
    for i in split.test.tolist():
        one = _padded([sentences[i]])
        with torch.no_grad():
            guess = _without_self(probe(one.maps, one.words, one.edges), one.heads)[0].argmax(-1)
        for word in (one.heads[0] >= 0).nonzero().flatten().tolist():
            right.append(bool(guess[word] == one.heads[0, word]))
            arcs.append((i, word, sentences[i].relations[word]))
    return torch.tensor(right, dtype=torch.bool), arcs


class _Arc(NamedTuple):
    """One word and its head, for the baseline of fixed offsets."""

    relation: str
    word: int
    head: int
    n: int
    """Words of the sentence; as a head, ROOT."""

    def at(self, offset: int) -> bool:
        """Whether the head is where the offset says; before the first word it says ROOT."""
        place = self.word + offset
        return self.head == (self.n if place < 0 else min(place, self.n - 1))


def _offsets(
    sentences: Sequence[WordMaps], split: Split, config: AttentionProbeConfig
) -> tuple[int, float, dict[str, float]]:
    """The best offset of the training arcs, its test UAS, and the same relation by relation."""
    reach = config.max_offset
    every = [o for o in range(-reach, reach + 1) if o]

    def arcs(rows: Tensor) -> list[_Arc]:
        return [
            _Arc(sentence.relations[word], word, head, len(sentence.heads))
            for sentence in (sentences[i] for i in rows.tolist())
            for word, head in enumerate(sentence.heads.tolist())
            if head >= 0
        ]

    def told(among: Sequence[_Arc], offset: int) -> float:
        return sum(arc.at(offset) for arc in among) / max(len(among), 1)

    def best_of(among: Sequence[_Arc]) -> int:
        return max(every, key=lambda offset: told(among, offset))

    train, test = arcs(split.train), arcs(split.test)
    best = best_of(train)
    per_relation = {}
    for name in {arc.relation for arc in test} & {arc.relation for arc in train}:
        own = best_of([arc for arc in train if arc.relation == name])
        per_relation[name] = told([arc for arc in test if arc.relation == name], own)
    return best, told(test, best), per_relation
