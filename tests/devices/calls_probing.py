"""Calls of the room of probing, and of the studies, which stand on several rooms."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

import interp
from interp import probing, studies
from interp.activations import FitConfig
from interp.probing import (
    AttentionProbeConfig,
    ContextProbeConfig,
    EraseConfig,
    Moments,
    ProbeConfig,
    SparseConfig,
    StructuralConfig,
)
from interp.studies import CharLSTM, LowSignalConfig, OptimalConfig
from interp.tasks.labels import Labelled
from tests.devices.place import SITE, Call, Place, drawn
from tests.models import tokenizers
from tests.probing.rows import small

N, D = 97, 11
LAST = torch.randn(N, generator=torch.Generator().manual_seed(9))
WORDS = tokenizers.word_level(bos=0)
FEW = ProbeConfig(n_shuffles=1, penalties=(1.0,))


def truth(place: Place, classes: int = 2) -> Any:
    """Labels that lie there, too: the first direction says the class."""
    return place.put((drawn(N, D)[:, 0] * 1.3 + classes / 2).clamp(0, classes - 1).long())


def at(place: Place) -> dict[str, Any]:
    """Rows of two sites."""
    return {"a": place.rows(N, D), "b": place.rows(N, D, seed=1)}


def reader(place: Place) -> Any:
    """A model with words."""
    return interp.wrap(small(d_vocab=len(WORDS)).to(place.device), WORDS)


def sentence(n: int) -> Labelled:
    """Words with their tree."""
    words, spans = tuple("red green blue one".split()[:n]), []
    for word in words:
        start = spans[-1][1] + 1 if spans else 0
        spans.append((start, start + len(word)))
    return Labelled(" ".join(words), words, tuple(spans), {"deprel": ("dep",) * n}, (1, -1, 1, 2)[:n])


SENTENCES = [sentence(2 + i % 3) for i in range(20)]


def _aligned(place: Place) -> Any:
    return probing.align_words(reader(place), SENTENCES, "deprel")


def _swept(place: Place) -> Any:
    texts = ["red green", "blue one", "green blue"] * 8
    labelled = probing.align_texts(reader(place), texts, ["a", "b", "b"] * 8)
    return probing.sweep_model(reader(place), labelled, config=FEW)


def _sweeps(place: Place) -> Any:
    labels = {"two": truth(place), "four": truth(place, 4), "number": place.put(LAST)}
    types, groups = place.put(torch.arange(N) % 23), place.put(torch.arange(N) // 3)
    given = {"types": types, "groups": groups, "random_init": at(place)}
    return probing.probe_sweep(at(place), labels, FEW, **given)


def _probes(place: Place) -> Any:
    found = []
    for kind in ("logistic", "ridge", "mass_mean", "mlp"):
        config = ProbeConfig(kind=kind, steps=5, penalties=(0.1, 1.0))
        probe = probing.train_probe(place.rows(N, D), truth(place, 4), config)
        found += [probe, probe(place.rows(N, D)), probe.predict(place.rows(N, D))]
    return found


def _erasers(place: Place) -> Any:
    found = []
    for method in ("leace", "mean_projection", "inlp"):
        eraser = probing.fit_eraser(place.rows(N, D), truth(place, 4), EraseConfig(method=method))
        there = eraser.to(place.device)
        found += [eraser, eraser(place.rows(N, D)), there(place.rows(N, D)), there.projection]
    return found


def _eraser_at_a_site(place: Place) -> Any:
    ids = place.ids(12)
    acts = place.model.capture(ids, SITE)
    labels = place.put(torch.arange(12 * 9) % 2)
    return probing.fit_eraser(acts.flat(SITE), labels, provenance=place.model.provenance([SITE]))


def _structural(place: Place) -> Any:
    heads = [[1, -1, 1, 2, 3, 3, 5][:n] for n in (5, 6, 7) * 7]
    rows = [place.rows(len(tree), 13, seed=i) for i, tree in enumerate(heads)]
    return probing.structural_probe(rows, heads, StructuralConfig(rank=4, steps=5))


def _context(place: Place) -> Any:
    states = place.put(drawn(2, 30, 5, 7))
    return probing.probe_context(states, {"w": place.put(drawn(30, 3))}, ContextProbeConfig(steps=4))


PROBING: dict[str, Call] = {
    "ablate_neurons": lambda p: probing.ablate_neurons(
        p.model, {"a": p.ids(2), "b": p.ids(3, seed=1)}, "blocks.1.mlp.hook_post", [1, 5], n_random=1
    ),
    "score_concept_agreement": lambda p: probing.score_concept_agreement(p.rows(3, 7), p.rows(3, 7, seed=1)),
    "score_concept_existence": lambda p: probing.score_concept_existence(
        p.rows(9, 7), (p.rows(9, 7, seed=1) > 0).float()
    ),
    "score_concept_location": lambda p: probing.score_concept_location(
        p.put(drawn(4, 5, 5)), (p.put(drawn(4, 5, 5, seed=1)) > 0).float()
    ),
    "elude": lambda p: probing.elude(p.rows(N, 3), p.rows(N, D), truth(p), ranks=(1,), steps=3),
    "probe_context": _context,
    "ablate_concept": lambda p: probing.ablate_concept(
        p.model, p.ids(), SITE, _eraser_at_a_site(p), n_random=1
    ),
    "audit_erasure": lambda p: probing.audit_erasure(p.rows(N, 3), {"two": truth(p)}, "two", probe=FEW),
    "Eraser fit_eraser": _erasers,
    "eraser_of": lambda p: probing.eraser_of(Moments(D, 1).update(p.rows(N, D), truth(p)[:, None].double())),
    "random_eraser": lambda p: probing.random_eraser(2, p.put(drawn(D)))(p.rows(N, D)),
    "gather": lambda p: probing.gather(reader(p), _aligned(p), "blocks.*.hook_resid_post"),
    "sweep_model": _swept,
    "code_length": lambda p: probing.code_length(at(p), truth(p, 3), FEW),
    "v_information": lambda p: probing.v_information(at(p), p.rows(N, 3, seed=5)),
    "Probe train_probe": _probes,
    "Moments": lambda p: vars(Moments(D, 1).update(p.rows(N, D), truth(p)[:, None])),
    "prune_neurons": lambda p: probing.prune_neurons(p.rows(N, D), truth(p), k=2, rounds=2),
    "sparse_sweep": lambda p: [
        probing.sparse_sweep(at(p), truth(p), SparseConfig(ranking=ranking, ks=(1, 2), n_shuffles=1))
        for ranking in ("mutual_info", "l1")
    ],
    "probe_sweep": _sweeps,
    "align_spans": lambda p: probing.align_spans(reader(p), ["red green"], [[(0, 3), (4, 9)]])[0].ids,
    "align_texts": lambda p: probing.align_texts(reader(p), ["red green", "blue"], ["a", "b"]).batch.ids,
    "align_words": lambda p: _aligned(p) and None,
    "attention_probe": lambda p: probing.attention_probe(
        reader(p), SENTENCES, AttentionProbeConfig(steps=3, word_rank=2)
    ),
    "structural_probe": _structural,
}
PROBING_LEFT = {
    **dict.fromkeys(
        (
            "AttentionProbeConfig ContextProbeConfig EraseConfig ProbeConfig SparseConfig StructuralConfig"
        ).split(),
        "settings",
    ),
    **dict.fromkeys(
        (
            "Ablation EludeResult ContextProbes ErasureAudit CodeLengths VInformation PruningCurve "
            "SparseSweep ProbeSweep AttentionProbeResult StructuralResult"
        ).split(),
        "results of what is called here",
    ),
    "split_rows": "numbers of rows, without rows",
    "LabelledTokens": "what alignment gives and `gather` reads",
}


def _amortised(place: Place) -> Any:
    encoder = nn.Linear(5, 5)
    with torch.no_grad():
        encoder.weight.copy_(drawn(5, 5))
        encoder.bias.zero_()
    config = FitConfig(steps=3, lr=0.01, log_every=1)
    return studies.amortize(
        encoder.to(place.device), place.rows(N, 5), place.rows(N, 5, seed=2), config=config
    )


def _lstm(place: Place) -> CharLSTM:
    torch.manual_seed(0)
    return CharLSTM(101, 16).to(place.device)


def _judge(texts: Any) -> Any:
    return (
        texts.double().mean(1) if isinstance(texts, torch.Tensor) else torch.tensor([len(t) for t in texts])
    )


def _function(place: Place, x: Any) -> Any:
    return x.square().sum(-1) + x[..., 0]


QUICK = LowSignalConfig(n_noise=4, n_rows=60, width=8, steps=3, instances=4)
STUDIES: dict[str, Call] = {
    "amortize": _amortised,
    "CharLSTM": lambda p: _lstm(p)(p.ids(2, 5)),
    "clamp_unit": lambda p: _lstm(p).run(p.ids(2, 5), edit=studies.clamp_unit(0, 2, 0.5)),
    "lstm_writer": lambda p: studies.lstm_writer(_lstm(p), p.ids(2, 4), 3)({1: 0.5}),
    "model_writer": lambda p: studies.model_writer(p.model, p.ids(2, 4), 3, SITE)({1: 0.5}),
    "write_clamped": lambda p: studies.write_clamped(
        studies.model_writer(p.model, p.ids(2, 4), 3, SITE), _judge, p.rows(N, 24), truth(p), 0, n_random=1
    ),
    "benchmark_end_tasks": lambda p: studies.benchmark_end_tasks(
        ("gradient_x_input",), n_models=3, deltas=(0.5,), queries=(2,)
    ),
    "ask_recourse": lambda p: studies.ask_recourse(partial(_function, p), p.put(drawn(5)), 1, 0.5),
    "ask_spurious": lambda p: studies.ask_spurious(partial(_function, p), p.rows(7, 5), 1),
    "compare_in_context": lambda p: studies.compare_in_context(
        lambda x, y, q: q[..., 0] * 0.5, 3, (2, 4), batch_size=8
    ),
    "eliminate_features": lambda p: studies.eliminate_features("saliency", QUICK),
    "benchmark_low_signal": lambda p: studies.benchmark_low_signal(["saliency"], QUICK),
    "find_optimal_support": lambda p: studies.find_optimal_support(
        p.rows(N, 5), truth(p), 2, OptimalConfig(seconds=1.0)
    ),
    "find_unit": lambda p: studies.find_unit(p.rows(N, D), truth(p), strengths=(1.0,)),
}
STUDIES_LEFT = {
    **dict.fromkeys(("LowSignalConfig", "OptimalConfig"), "settings"),
    **dict.fromkeys(
        (
            "Amortised ClampedWriting EndTask InContextResult Elimination LowSignal OptimalSupport UnitResult"
        ).split(),
        "results of what is called here",
    ),
}
