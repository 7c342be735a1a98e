"""The attention-only probe: planted maps are read exactly, noise is not, words come from tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import ConfigError, NonFiniteError, ShapeError, SiteError
from interp.probing.config import AttentionProbeConfig
from interp.probing.syntax import attention
from interp.probing.syntax.attention import AttentionProbe, attention_probe, fit_attention_probe
from interp.probing.syntax.maps import WordMaps, word_maps
from interp.tasks.labels import Labelled
from tests.models import tokenizers
from tests.probing.rows import small

QUICK = AttentionProbeConfig(steps=120, skip=())


def trees(n: int = 60, *, planted: int | None = 0, backwards: bool = False) -> list[WordMaps]:
    """Random trees of 5 to 9 words; one of three maps attends from every word to its head."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for i in range(n):
        w = 5 + i % 5
        heads = torch.randint(w - 1, (w,), generator=draw)
        heads += (heads >= torch.arange(w)).long()  # never itself
        heads[i % w] = -1  # the root
        maps = torch.rand(3, w, w, generator=draw).softmax(-1)
        if planted is not None:
            arcs = torch.zeros(w, w)
            arcs[heads >= 0, heads[heads >= 0]] = 1
            maps[planted] = arcs.T if backwards else arcs
        found.append(WordMaps(maps, heads, ("arc",) * w))
    return found


@pytest.mark.parametrize("backwards", [False, True])
def test_a_map_that_knows_the_tree_is_read_exactly(backwards: bool) -> None:
    found = fit_attention_probe(trees(backwards=backwards), QUICK, shape=(3, 1))
    assert float(found.uas) == 1.0
    direction = 1 if backwards else 0
    assert int(found.weight[..., direction].argmax()) == 0
    one_way = AttentionProbeConfig(steps=120, transposed=False)
    alone = fit_attention_probe(trees(backwards=backwards), one_way, shape=(3, 1))
    assert (float(alone.uas) == 1.0) is not backwards


def test_sentences_without_an_arc_are_passed_over() -> None:
    """A greeting has a root and a skipped mark: a step of such sentences has nothing to learn."""
    bare = [replace(s, heads=torch.full_like(s.heads, -1)) for s in trees()[::2]]
    config = replace(QUICK, sentences_per_step=1)
    found = fit_attention_probe([*trees(), *bare], config, shape=(3, 1))
    assert float(found.uas) > 0.9


def test_noise_tells_no_tree() -> None:
    found = fit_attention_probe(trees(200, planted=None), QUICK, random_init=trees(200))
    chance = 1 / 6  # 5 to 9 words, a word is not its own head
    assert abs(float(found.uas) - chance) < 0.07
    assert found.random_init_uas is not None and float(found.random_init_uas) == 1.0
    assert not found.check().ok  # "random weights" that know more are a failed check


def test_the_best_offset_is_chosen_on_the_training_sentences() -> None:
    chains = []
    for sentence in trees(40, planted=None):
        w = len(sentence.heads)
        heads = torch.arange(w) - 2
        chains.append(WordMaps(sentence.maps, heads.clamp(min=-1), ("back",) * w))
    for sentence in chains:
        sentence.heads[:2] = -1
    found = fit_attention_probe(chains, QUICK)
    assert found.offset == -2 and float(found.offset_uas) == 1.0
    assert float(found.relation_offset[0]) == 1.0


def rooted(n: int = 80, *, told: bool = True, backwards: bool = False) -> list[WordMaps]:
    """`trees` whose root attends to the text's last token (or is attended from it); or noise alone."""
    draw, found = torch.Generator().manual_seed(2), []
    for one in trees(n, planted=0 if told else None):
        w = len(one.heads)
        edges = 0.1 * torch.rand(3, w, 2, 2, generator=draw)
        root = one.heads < 0
        if told:
            edges[0, root, 1, int(backwards)] = 1
        found.append(replace(one, heads=one.heads.masked_fill(root, w), edges=edges))
    return found


@pytest.mark.parametrize("backwards", [False, True])
def test_root_is_a_candidate_that_the_edges_speak_for(backwards: bool) -> None:
    found = fit_attention_probe(rooted(backwards=backwards), QUICK)
    assert found.root_uas is not None and float(found.root_uas) > 0.95 and float(found.uas) > 0.95
    assert "ROOT 1.00" in found.caption
    blind = fit_attention_probe(rooted(told=False), QUICK)
    assert float(blind.uas) < 0.35 and blind.root_uas != 1, (blind.uas, blind.root_uas)
    unasked = fit_attention_probe(trees(), QUICK)
    assert unasked.root_uas is None and "ROOT is not asked" in unasked.caption


@pytest.mark.parametrize("transposed", [False, True])
def test_the_probability_of_root_is_that_of_the_formula(transposed: bool) -> None:
    """p(i | j) of one sentence in numpy, ROOT's score from both edges, words' from w and u."""
    (one,), draw = rooted(1), np.random.default_rng(0)
    probe = AttentionProbe(3, AttentionProbeConfig(transposed=transposed))
    w = draw.normal(size=6 if transposed else 3)
    a, b = draw.normal(size=2)
    with torch.no_grad():
        probe.weight.copy_(torch.tensor(w))
        probe.root.copy_(torch.tensor([a, b]))
    maps, edges = one.maps.numpy(), one.edges.numpy()  # type: ignore[union-attr]
    expected = np.zeros((len(one.heads), len(one.heads) + 1))
    for k in range(3):
        expected[:, :-1] += w[k] * maps[k]
        expected[:, -1] += w[k] * (a * edges[k, :, 0, 0] + b * edges[k, :, 1, 0])
        if transposed:
            expected[:, :-1] += w[3 + k] * maps[k].T
            expected[:, -1] += w[3 + k] * (a * edges[k, :, 0, 1] + b * edges[k, :, 1, 1])
    with torch.no_grad():
        found = probe(one.maps[None], None, one.edges[None])[0]  # type: ignore[index]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_sentence_beside_longer_ones_has_its_own_candidates() -> None:
    """What pads a batch is no head: each word's distribution is that of its sentence alone."""
    short, long = trees(5)[0], trees(5)[4]
    assert len(short.heads) == 5 and len(long.heads) == 9
    probe = AttentionProbe(3, AttentionProbeConfig())
    with torch.no_grad():
        probe.weight.copy_(torch.linspace(-1, 2, 6))

    def chances(*sentences: WordMaps) -> torch.Tensor:
        batch = attention._padded(sentences)
        with torch.no_grad():
            scores = attention._without_self(probe(batch.maps, batch.words, batch.edges), batch.heads)
        return scores.softmax(-1)[0]

    beside, alone = chances(short, long), chances(short)
    torch.testing.assert_close(beside[:5, :5], alone)
    assert float(beside[:5, 5:].max()) == 0 and float(alone.diagonal().max()) == 0
    torch.testing.assert_close(alone.sum(-1), torch.ones(5))


def test_an_offset_before_the_first_word_says_root() -> None:
    """Chains to the left: "the word before" is right everywhere, at the root as well (the authors'
    baseline); behind the last word it says the last."""
    chains = []
    for one in rooted(40):
        w = len(one.heads)
        heads = torch.arange(w) - 1
        heads[0] = w
        chains.append(replace(one, heads=heads))
    found = fit_attention_probe(chains, AttentionProbeConfig(steps=2))
    assert found.offset == -1 and float(found.offset_uas) == 1.0
    right = [replace(one, heads=torch.arange(1, len(one.heads) + 1)) for one in chains]
    found = fit_attention_probe(right, AttentionProbeConfig(steps=2))
    share = sum(len(one.heads) - 1 for one in right) / sum(len(one.heads) for one in right)
    assert found.offset == 1 and float(found.offset_uas) == pytest.approx(share, abs=0.02)


def test_words_can_choose_the_map() -> None:
    # Words of kind 0 use map 0, words of kind 1 map 1: no fixed weights tell more than half.
    draw = torch.Generator().manual_seed(0)
    sentences = []
    for tree in trees(150, planted=None):
        w = len(tree.heads)
        kind = torch.randint(2, (w,), generator=draw)
        maps = torch.zeros(3, w, w)
        other = (tree.heads + 1) % w
        for word in range(w):
            if tree.heads[word] >= 0:
                maps[kind[word], word, tree.heads[word]] = 1
                maps[1 - kind[word], word, other[word]] = 1
        vectors = torch.nn.functional.one_hot(kind, 2).float()
        sentences.append(WordMaps(maps, tree.heads, tree.relations, vectors))
    plain = AttentionProbeConfig(steps=200, transposed=False)
    words = AttentionProbeConfig(steps=200, transposed=False, word_rank=2)
    without = float(fit_attention_probe(sentences, plain).uas)
    found = float(fit_attention_probe(sentences, words).uas)
    assert without < 0.75 and found > 0.95, (without, found)


# --- from a model --------------------------------------------------------------------------------


def sentence(*words: str, heads: tuple[int, ...]) -> Labelled:
    text, spans = " ".join(words), []
    for word in words:
        start = spans[-1][1] + 1 if spans else 0
        spans.append((start, start + len(word)))
    return Labelled(text, words, tuple(spans), {"deprel": ("dep",) * len(words)}, heads)


def test_attention_between_words_is_mean_from_and_sum_to() -> None:
    words = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(words)), words)
    one = sentence("red green", "blue", "one two three", heads=(1, -1, 1))
    (found,) = word_maps(model, [one], AttentionProbeConfig())
    acts = model.capture(one.text, "blocks.*.attn.hook_pattern")
    raw = acts["pattern", 1][0, 2]  # tokens: <s> red green blue one two three
    assert found.maps.shape == (2 * 3, 3, 3)
    tokens = {0: [1, 2], 1: [3], 2: [4, 5, 6]}
    for a, source in tokens.items():
        for b, goal in tokens.items():
            expected = raw[source][:, goal].sum(1).mean()
            torch.testing.assert_close(found.maps[3 + 2, a, b], expected, atol=1e-6, rtol=1e-5)


def test_a_subtype_of_a_skipped_relation_is_skipped_as_well() -> None:
    words = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(words)), words)
    one = sentence("red", "green", "blue", "one", heads=(1, -1, 1, 1))
    named = replace(one, labels={"deprel": ("punct:mark", "root", "punctual", "punct")})
    (found,) = word_maps(model, [named], AttentionProbeConfig(skip=("punct",)))
    assert found.heads.tolist() == [-1, 4, 1, -1]
    (found,) = word_maps(model, [named], AttentionProbeConfig(skip=()))
    assert found.heads.tolist() == [1, 4, 1, 1]


def test_edges_are_the_tokens_that_start_and_end_the_text() -> None:
    """`<s>` in front and nothing behind: one edge; without `<s>` there is no ROOT."""
    words = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(words)), words)
    one = sentence("red green", "blue", "one two three", heads=(1, -1, 1))
    longer = sentence(*"one two three red green blue one two".split(), heads=(-1, 0, 0, 0, 0, 0, 0, 0))
    found, _ = word_maps(model, [one, longer], AttentionProbeConfig())
    raw = model.capture(one.text, "blocks.*.attn.hook_pattern")["pattern", 1][0, 2]
    assert found.heads.tolist() == [1, 3, 1] and found.edges is not None
    for word, source in enumerate(([1, 2], [3], [4, 5, 6])):
        torch.testing.assert_close(found.edges[5, word, 0, 0], raw[source, 0].mean(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.edges[5, word, 0, 1], raw[0, source].sum(), atol=1e-6, rtol=1e-5)
    assert bool((found.edges[:, :, 1] == 0).all())
    plain = tokenizers.word_level(bos=None)
    bare = interp.wrap(small(d_vocab=len(plain)), plain)
    (found,) = word_maps(bare, [one], AttentionProbeConfig())
    assert found.edges is None and found.heads.tolist() == [1, -1, 1]


def test_what_ends_the_text_attends_to_all_of_a_word() -> None:
    """`</s>` sees every token of every word: TO a word is their sum, and no word sees what comes last."""
    words = tokenizers.word_level(bos=0, adds_bos=True, adds_eos=True)
    model = interp.wrap(small(d_vocab=len(words)), words)
    one = sentence("red green", "blue", "one two three", heads=(1, -1, 1))
    (found,) = word_maps(model, [one], AttentionProbeConfig())
    raw = model.capture(one.text, "blocks.*.attn.hook_pattern")["pattern", 1][0, 2]
    assert raw.shape == (8, 8) and found.edges is not None
    for word, source in enumerate(([1, 2], [3], [4, 5, 6])):
        expected = raw[7, source].sum()
        assert float(expected) > 0.01
        torch.testing.assert_close(found.edges[5, word, 1, 1], expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.edges[5, word, 0, 0], raw[source, 0].mean(), atol=1e-6, rtol=1e-5)
    assert not found.edges[:, :, 1, 0].any()


def test_the_whole_way_from_text_to_result() -> None:
    words = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(words)), words)
    data = [
        sentence(*"red green blue one".split()[: 2 + i % 3], heads=((1, -1, 1, 2)[: 2 + i % 3]))
        for i in range(40)
    ]
    found = attention_probe(model, data, AttentionProbeConfig(steps=30, word_rank=2))
    assert found.weight.shape == (2, 3, 2) and found.random_init_uas is not None
    assert found.provenance is not None


NAN = WordMaps(torch.full((1, 2, 2), torch.nan), torch.tensor([1, -1]), ("a", "b"))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"shape": (2, 7)}, ShapeError, "layers and heads"),
        ({"sentences": [NAN, NAN]}, NonFiniteError, "attention map"),
    ],
)
def test_bad_maps_are_explained(change: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        fit_attention_probe(change.get("sentences", trees(9)), QUICK, shape=change.get("shape"))


def test_models_and_texts_without_what_it_needs_are_refused() -> None:
    with pytest.raises(SiteError, match="no attention patterns"):
        word_maps(interp.wrap(torch.nn.Linear(3, 3)), [], AttentionProbeConfig())
    words = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(words)), words)
    with pytest.raises(ConfigError, match="no sentence to probe"):
        attention_probe(model, [sentence("red", heads=(-1,))])
