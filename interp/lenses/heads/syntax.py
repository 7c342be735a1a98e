"""Heads as parsers: does a word's most attended word govern it, more often than a fixed offset?

Clark et al. 2019, "What Does BERT Look At?", section 4.2 (arXiv 1906.04341).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.frames.quantity import called, measured
from interp.core.result import Result
from interp.lenses.heads.atlas import head_patterns, pattern_sites
from interp.models.hooked import HookedModel
from interp.tasks.labels import Labelled
from interp.tasks.words import words_of_tokens

OFFSETS = 8
"""Fixed offsets tried as a baseline: -8 to 8 words."""
DIRECTIONS = ("dependent to head", "head to dependent")
ALL = "all"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SyntaxScores(Result, headline="Heads as parsers"):
    """Share of dependents whose head a rule finds, per relation.

    A head of the model and an offset are both chosen on one half of the sentences and scored on the
    other, so that trying many heads earns nothing.
    """

    accuracy: Float[Tensor, "relation direction layer head"]
    """On all sentences: the governor of a word is the word it attends to most (direction 0), or
    that attends to it most (direction 1)."""
    offset_accuracy: Float[Tensor, "relation offset"]
    """On all sentences: the governor stands this many words further."""
    count: Int[Tensor, " relation"]
    """Dependents."""
    best: Int[Tensor, "relation 3"]
    """Direction, layer and head chosen on the first half."""
    held_out: Float[Tensor, " relation"] = measured(
        "governor found",
        "share, held out",
        "the head finds more governors",
        signed=False,
        legend="best head",
        null="held_out_offset",
    )
    """Accuracy of that head on the second half."""
    best_offset: Int[Tensor, " relation"]
    """Offset chosen on the first half, in words."""
    held_out_offset: Float[Tensor, " relation"] = called("best fixed offset")
    """Accuracy of that offset on the second half."""
    n_sentences: int
    """Sentences read."""
    n_skipped: int
    """Sentences left out: without trees, too long, or with a word that has no token."""

    def ticks(self, axis: str) -> list[str] | None:
        """Relations with what was counted, and the head that was chosen."""
        names = super().ticks(axis)
        if axis != "relation" or names is None:
            return names
        rows = zip(names, self.count.tolist(), self.best.tolist(), strict=True)
        return [f"{name} ({n:,}), L{layer}H{head}" for name, n, (_, layer, head) in rows]

    @property
    def margin(self) -> Float[Tensor, " relation"]:
        """Accuracy of the chosen head above the chosen offset's, on the second half."""
        return self.held_out - self.held_out_offset

    def check(self) -> Checks:
        """Most sentences could be read."""
        share = self.n_skipped / max(self.n_skipped + self.n_sentences, 1)
        return Checks([Check.at_most("share of sentences left out", share, 0.5)])


@torch.no_grad()
def score_syntax(
    model: HookedModel,
    sentences: Sequence[Labelled],
    *,
    layer: str = "deprel",
    min_count: int = 50,
    max_tokens: int = 128,
) -> SyntaxScores:
    """Score every head on every dependency relation.

    Attention to a word is the sum over its tokens, attention from a word the mean; special tokens
    and the word itself do not count.

    Args:
        sentences: Sentences with heads and relations per word (`interp.tasks.load_labels`).
        layer: Which label layer names the relations.
        min_count: Relations with fewer dependents count in "all" only.
        max_tokens: Longer sentences are left out.

    Raises:
        ModelError: The model offers no attention patterns.
        ConfigError: No sentence can be read, or none has such a layer.
        TokenError: The model has no tokenizer, or its tokens cannot be found in the text.
    """
    names = pattern_sites(model)
    found: list[_Sentence] = []
    for sentence in sentences:
        read = _read(model, sentence, names, layer, max_tokens)
        if read is not None:
            found.append(read)
    counts = Counter(relation for s in found for relation in s.relations)
    relations = [ALL, *(r for r, n in counts.most_common() if n >= min_count)]
    if len(found) < 2 or not counts:
        raise ConfigError(
            "no trees to score heads on",
            got=f"{len(found)} readable sentences of {len(sentences)}",
            expected=f"sentences with heads and a label layer {layer!r}",
        )
    halves = [_tally(found[half::2], relations) for half in (0, 1)]
    (hits_a, offsets_a, n_a), (hits_b, offsets_b, n_b) = halves
    n = (n_a + n_b).clamp(min=1)
    best = hits_a.flatten(1).argmax(-1)
    offset = offsets_a.argmax(-1)
    shape = (len(DIRECTIONS), len(names), model.cfg.n_heads)
    every = torch.arange(len(relations))
    second = n_b.clamp(min=1)
    return SyntaxScores(
        accuracy=((hits_a + hits_b) / n[:, None, None]).unflatten(-1, shape[1:]),
        offset_accuracy=(offsets_a + offsets_b) / n[:, None],
        count=(n_a + n_b).long(),
        best=torch.stack(torch.unravel_index(best, shape), -1),
        held_out=hits_b.flatten(1)[every, best] / second,
        best_offset=offset - OFFSETS,
        held_out_offset=offsets_b[every, offset] / second,
        n_sentences=len(found),
        n_skipped=len(sentences) - len(found),
        labels={
            "relation": relations,
            "direction": list(DIRECTIONS),
            "offset": [f"{o:+d}" for o in range(-OFFSETS, OFFSETS + 1)],
        },
        provenance=model.provenance(names),
    )


@dataclass(frozen=True)
class _Sentence:
    """What is kept of one sentence."""

    relations: list[str]
    """Relation of every governed word."""
    distance: Tensor
    """Governor minus dependent, in words, [dependent]."""
    hits: Tensor
    """Whether a head finds the governor, bool [direction head dependent]."""


def _read(
    model: HookedModel, sentence: Labelled, names: Sequence[str], layer: str, most: int
) -> _Sentence | None:
    relations = sentence.labels.get(layer)
    if sentence.heads is None or relations is None or len(sentence) < 2:
        return None
    ids = next(iter(model.tokenize([sentence.text])))
    if len(ids) > min(most, model.cfg.n_ctx or most):
        return None
    words = words_of_tokens(model, sentence.text, ids, sentence.spans)
    if len(set(words) - {-1}) < len(sentence):
        return None
    attention = word_attention(head_patterns(model, ids, names).cpu(), words)
    governed = [i for i, head in enumerate(sentence.heads) if head >= 0 and relations[i]]
    heads = torch.tensor([sentence.heads[i] for i in governed], dtype=torch.long)
    index = torch.tensor(governed, dtype=torch.long)
    choice = torch.stack([attention.argmax(-1), attention.argmax(-2)])[..., index]
    return _Sentence([str(relations[i]) for i in governed], heads - index, choice == heads)


def word_attention(patterns: Tensor, words: Sequence[int]) -> Tensor:
    """Attention between words, [head word word]; -1 on the diagonal, so that none chooses itself.

    Args:
        patterns: [head query key] over tokens.
        words: The word of every token, -1 for none.
    """
    n = max(words) + 1
    member = torch.zeros(len(words), n, dtype=patterns.dtype)
    for token, word in enumerate(words):
        if word >= 0:
            member[token, word] = 1
    summed = patterns @ member
    found = torch.einsum("tw,htv->hwv", member / member.sum(0).clamp(min=1), summed)
    return found.masked_fill(torch.eye(n, dtype=torch.bool), -1.0)


def _tally(sentences: Sequence[_Sentence], relations: Sequence[str]) -> tuple[Tensor, ...]:
    """Hits [relation direction head], offset hits [relation offset], dependents [relation]."""
    place = {name: i for i, name in enumerate(relations)}
    shape = sentences[0].hits.shape[:2]
    hits = torch.zeros(len(relations), *shape)
    offsets = torch.zeros(len(relations), 2 * OFFSETS + 1)
    count = torch.zeros(len(relations))
    for sentence in sentences:
        for i, relation in enumerate(sentence.relations):
            for row in {0, place.get(relation, 0)}:
                hits[row] += sentence.hits[..., i]
                count[row] += 1
                step = int(sentence.distance[i])
                if abs(step) <= OFFSETS:
                    offsets[row, step + OFFSETS] += 1
    return hits, offsets, count
