"""Calls of the room of lenses."""

from __future__ import annotations

from typing import Any

import torch

from interp import lenses
from interp.lenses import TokenTableConfig, TunedLensConfig
from interp.models import contrast
from interp.tasks.labels import Labelled
from tests.devices.place import MIDDLE, Call, Place, drawn
from tests.models import zoo

TEXT = "Lily had a red ball and"
K = TokenTableConfig(k=3)


def one(place: Place) -> Any:
    """One text, [pos]."""
    return place.ids()[0]


def _weights(place: Place) -> Any:
    return lenses.read_weights(place.model, "out", K)


def _paths(place: Place) -> Any:
    return lenses.path_vectors(place.model, contrast(place.model, [7], [9]), [[], ["L0H1"], ["L2H4"]])


def _propagated(place: Place) -> Any:
    target = contrast(place.model, [7], [9])
    return [
        lenses.propagate(place.model, one(place), target, MIDDLE, norms=norms)
        for norms in ("frozen", "exact")
    ]


def _tuned(place: Place) -> Any:
    config = TunedLensConfig(steps=3, batch_tokens=16, n_ctx=9)
    return lenses.train_tuned_lens(place.model, place.ids(12), config)[0]


def _identity(place: Place) -> Any:
    return lenses.TunedLens.identity(place.model).to(place.device)


def _benchmark(place: Place) -> Any:
    prompts = [lenses.LensPrompt("a", "own", TEXT, ("ball",))]
    return lenses.benchmark_lenses(place.grammar, prompts)


def _stitched(place: Place) -> Any:
    other = place.make("gpt2")
    return lenses.run_stitched(place.model, other, place.ids(), (1, 1))


def _syntax(place: Place) -> Any:
    words = tuple(TEXT.split())
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    relations = {"deprel": ("nsubj", "root", "det", "amod", "obj", "cc")}
    said = Labelled(TEXT, words, tuple(spans), relations, (1, -1, 4, 4, 1, 4))
    return lenses.score_syntax(place.grammar, [said] * 12, min_count=5)


LENSES: dict[str, Call] = {
    "benchmark_lenses": _benchmark,
    "class_lens": lambda p: lenses.class_lens(p.make("vit"), p.put(drawn(3, 3, 12, 12)), [1, 2, 3]),
    "score_identifiability": lambda p: lenses.score_identifiability(
        p.rows(3, 7), p.put(torch.tensor([1, 2, 3]))
    ),
    "decoder_lens": lambda p: lenses.decoder_lens(p.t5, one(p), [0, 11, 7], target=19, k=3),
    "encoder_decoder": lambda p: lenses.encoder_decoder(p.t5) and None,
    "score_decoder_lens": lambda p: lenses.score_decoder_lens(p.t5, p.ids(), [[5, 6], [7, 8], [9, 5]]),
    "direct_logit_attribution": lambda p: [
        lenses.direct_logit_attribution(p.model, one(p), 7, neurons=neurons, positions=positions)
        for neurons, positions in ((False, [0, -1]), (True, None))
    ],
    "measure_coupling": lambda p: lenses.measure_coupling(p.rows(3, 7), p.rows(3, 7, seed=1)),
    "head_atlas": lambda p: lenses.head_atlas(p.model, p.ids(2)),
    "compare_heads": lambda p: lenses.compare_heads(p.model, p.ids(2), n_permutations=99),
    "record_attention": lambda p: lenses.record_attention(p.model, one(p)),
    "score_syntax": _syntax,
    "find_heads": lambda p: lenses.find_heads(p.model, n_tokens=8),
    "ablate_second_order": lambda p: lenses.ablate_second_order(p.model, p.ids(8), list(range(8)), [1]),
    "neuron_directions": lambda p: lenses.neuron_directions(p.model, p.ids(8), 0, [1, 2, 5], k=4),
    "sparse_code": lambda p: lenses.sparse_code(p.rows(5, 13), p.rows(29, 13, seed=1), 3),
    "split_second_order": lambda p: lenses.split_second_order(p.model, one(p), 7, layer=0),
    "second_order_directions": lambda p: lenses.second_order_directions(p.model, one(p), 0, [1, 2]),
    "logit_lens": lambda p: [
        lenses.logit_lens(p.model, one(p), components="all", target=7),
        lenses.logit_lens(p.t5, {"input_ids": p.ids(1)}),
        lenses.logit_lens(p.grammar, TEXT),
    ],
    "split_attention": lambda p: lenses.split_attention(p.model, p.ids(12), 1),
    "decompose_positions": lambda p: lenses.decompose_positions([p.put(drawn(7, 5, 13))]),
    "split_stream": lambda p: lenses.split_stream(p.model, p.ids(12), batch_size=5),
    "path_vectors": _paths,
    "propagate": _propagated,
    "score_tokens": lambda p: lenses.score_tokens(p.model, one(p), _paths(p)),
    "score_lenses": lambda p: lenses.score_lenses(p.model, p.ids(5), {"none": _identity(p)}),
    "TunedLens": lambda p: _identity(p),
    "train_tuned_lens": _tuned,
    "tuned_lens": lambda p: lenses.tuned_lens(p.model, one(p), _identity(p)),
    "measure_active_overlap": lambda p: lenses.measure_active_overlap(p.model, p.ids(), k=5),
    "clamp_neuron": lambda p: lenses.clamp_neuron(p.model, p.ids(), (0, 5), 2.5, k=3),
    "align_models": lambda p: lenses.align_models(p.model, p.make("gpt2")),
    "compare_tables": lambda p: lenses.compare_tables(_weights(p), _weights(p)),
    "run_stitched": _stitched,
    "stitch_kernel": lambda p: lenses.stitch_kernel(p.model, p.make("gpt2")),
    "read_pairs": lambda p: lenses.read_pairs(p.model, "OV", [(0, 1), (2, 3)], K),
    "neuron_atlas": lambda p: lenses.neuron_atlas(p.model, K),
    "read_directions": lambda p: lenses.read_directions(p.model, p.rows(3, zoo.D), config=K),
    "read_weights": _weights,
    "FeatureVectors": lambda p: [_paths(p).coupling, _paths(p).cosines],
}
LENSES_LEFT = {
    **dict.fromkeys(("HeadAtlasConfig", "LensConfig", "TokenTableConfig", "TunedLensConfig"), "settings"),
    **dict.fromkeys(("LensPrompt", "load_lens_prompts"), "text"),
    "EncoderDecoder": "what `encoder_decoder` gives",
    **dict.fromkeys(
        (
            "LensBenchmark ClassLensResult DecoderScores Decomposition TokenScores HeadDistances "
            "AttentionRecord HeadAtlas SyntaxScores WeightHeads NeuronDirections SecondOrderAblation "
            "SparseCode SecondOrder AttentionParts PositionContext LensResult LensScores ActiveOverlap "
            "ClampEffect Alignment NeuronAgreement PairTable TokenTable"
        ).split(),
        "results of what is called here",
    ),
}
