"""Calls of the room of attribution, and of the studies that stand on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from interp import attribution
from interp.attribution import AttributionConfig, PairConfig, TrustConfig
from interp.attribution.methods.table import METHODS
from interp.tasks import grammar_task
from interp.tasks.prompts import Prompts
from tests.devices.place import Call, Place, drawn


def text(place: Place) -> Any:
    """One text, [pos]."""
    return place.ids(1, 4)[0]


def by(method: str) -> Call:
    """Attribution by one method."""

    def call(place: Place) -> Any:
        given = {"config": AttributionConfig(**QUICK.get(method, {})), **ELSEWHERE.get(method, {})}
        return attribution.attribute(place.model, text(place), 7, method=method, **given).scores

    return call


INNER = "blocks.0.mlp.hook_post"
ELSEWHERE: Mapping[str, Any] = {"layer_conductance": {"site": INNER}}
"""Methods that do not start at the embeddings."""
QUICK: Mapping[str, Any] = {}
PATTERNS = (drawn(2, 3, 7, 7) + torch.full((7, 7), -torch.inf).triu(1)).softmax(-1)
PAIR: Mapping[str, Any] = {"reference": "zero", "config": PairConfig(tolerance=1e-2)}
ATTRIBUTION: dict[str, Call] = {
    "attribute": lambda p: attribution.attribute(p.t5, text(p), 7, method="saliency").scores,
    **{f"METHODS {method}": by(method) for method in METHODS},  # what `attribute` runs
    "attribute_generated": lambda p: attribution.attribute_generated(p.model, text(p), 2),
    "attribute_methods": lambda p: attribution.attribute_methods(
        p.model, text(p), 7, ["saliency", "occlusion"]
    ),
    "linear_head": lambda p: _head(p),
    "attention_flow": lambda p: attribution.attention_flow(p.put(PATTERNS)),
    "attention_rollout": lambda p: attribution.attention_rollout(p.put(PATTERNS)),
    "attribute_pair attribute_pairs": lambda p: attribution.attribute_pairs(
        p.make("bert"), [(text(p), p.ids(1, 5, seed=3)[0])], **PAIR
    ),
    "compare_methods": lambda p: attribution.compare_methods(
        {name: [p.put(drawn(9, seed=i + 10 * s)) for i in range(4)] for s, name in enumerate("abc")}
    ),
    "measure_faithfulness pool_faithfulness": lambda p: [
        one := _judged(p),
        attribution.pool_faithfulness([one, one]),
    ],
    "score_ground_truth": lambda p: attribution.score_ground_truth(
        p.grammar, {"gender": _prompts()}, ("saliency",)
    ),
    "prune_curve": lambda p: _pruned(p),
    "score_units": lambda p: _relevance(p),
}
ATTRIBUTION_LEFT = {
    **dict.fromkeys(("AttributionConfig", "PairConfig", "TrustConfig"), "settings"),
    **dict.fromkeys(
        (
            "Attribution GeneratedAttribution PairAttribution Agreement Faithfulness GroundTruth "
            "RelevancePruning"
        ).split(),
        "results of what is called here",
    ),
}


def _head(place: Place) -> Any:
    target, accuracy = attribution.linear_head(place.encoder, [row[None] for row in place.ids(6)], [0, 1] * 3)
    return [target.of(place.encoder(place.ids(2))), accuracy]


def _judged(place: Place) -> Any:
    found = {
        m: [attribution.attribute(place.model, text(place), 7, method=m)] for m in ("saliency", "occlusion")
    }
    few = TrustConfig(steps=2, samples=2)
    return attribution.measure_faithfulness(
        place.model, [text(place)], 7, found, sensitivity=True, config=few
    )


def _prompts() -> Prompts:
    return grammar_task("pronouns").sample(2, seed=0)


def _relevance(place: Place) -> Any:
    return attribution.score_units(
        place.net, [place.rows(1, 5)], [0], ["0.hook_out"], method="lrp_alpha_beta", alpha=1.0
    )


def _pruned(place: Place) -> Any:
    def accuracy(run: Any) -> float:
        return float((run(place.rows(20, 5))[:, 0] > 0).double().mean())

    return attribution.prune_curve(place.net, accuracy, {"lrp": _relevance(place)}, [0.0, 0.5], n_random=2)
