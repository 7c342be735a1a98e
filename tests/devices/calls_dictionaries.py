"""Calls of the room of dictionaries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from interp import dictionaries
from interp.dictionaries import (
    DistilConfig,
    EvaluationConfig,
    FinetuneConfig,
    SyntheticConfig,
    SyntheticWorld,
    TrainConfig,
)
from interp.dictionaries.train_checks import at_defaults, unread
from tests.devices.place import SITE, Call, Place, drawn
from tests.models import zoo

ACTIVATIONS = ("topk", "abstopk", "batchtopk", "jumprelu", "gated", "relu", "matching_pursuit")
WORLD = SyntheticConfig(d=zoo.D, n_features=30, children=2)


def setting(activation: str, **more: Any) -> TrainConfig:
    """A few quick steps of every part that the activation has."""
    given = {"activation": activation, "d_sae": 37, "k": 3, "steps": 4, "batch_size": 29}
    given |= {"init_rows": 61, "log_every": 2, "lr_warmup": 1, "sparsity_warmup": 2, "dead_after": 30}
    given |= more
    config = at_defaults(TrainConfig(**given), set(unread(TrainConfig(**given))))
    return replace(config, l0=3.0) if activation in ("jumprelu", "gated", "relu") else config


def trained(place: Place, activation: str) -> Any:
    """A dictionary trained on rows that lie there."""
    return dictionaries.train(setting(activation), place.rows(211, 13))


def _plain(place: Place, seed: int = 0) -> Any:
    made = place.dictionary("relu", k=None)
    with torch.no_grad():
        made.W_dec.copy_(place.put(drawn(*made.W_dec.shape, seed=seed)))
    return made


def _rows(place: Place) -> Any:
    return place.rows(211, zoo.D)


def _transcoders(place: Place) -> Any:
    into, out = "blocks.{}.ln2.hook_normalized", "blocks.{}.hook_mlp_out"
    made = [
        place.dictionary(
            "relu",
            d_out=zoo.D,
            apply_b_dec_to_input=False,
            k=None,
            site_in=into.format(i),
            site_out=out.format(i),
        )
        for i in range(2)
    ]
    where = Path(mkdtemp()) / "set"
    dictionaries.save_transcoders(made, where)
    return list(dictionaries.load_transcoders(where))


def _saved(place: Place) -> Any:
    where = Path(mkdtemp()) / "made"
    dictionaries.save(place.dictionary(), where)
    return dictionaries.load(where)


def _coded(place: Place) -> Any:
    found = []
    for activation in ACTIVATIONS:
        d = place.dictionary(activation, **({} if "topk" in activation else {"k": None}))
        found += [d(_rows(place)), d.encode(_rows(place)), d.error(_rows(place))]
    return found


def _run(place: Place) -> Any:
    return dictionaries.run_training(setting("topk"), place.rows(211, 13)).dictionaries


def _concepts(place: Place) -> Any:
    world = SyntheticWorld(WORLD).sample(400)
    has = place.put(world.truth[:, :3] > 0)
    return dictionaries.score_absorption(
        _plain(place), place.put(world.x), {str(i): has[:, i] for i in range(3)}
    )


DICTIONARIES: dict[str, Call] = {
    "Dictionary": _coded,
    "distil": lambda p: dictionaries.distil(
        p.dictionary("matching_pursuit", k=None, max_iterations=3), lambda t: _rows(p), DistilConfig(steps=2)
    ),
    "finetune": lambda p: [
        dictionaries.finetune(
            p.dictionary(a, **({} if "topk" in a else {"k": None})),
            p.model,
            p.ids(7),
            FinetuneConfig(steps=2, batch_sequences=2, n_ctx=9),
        )[0]
        for a in ("topk", "batchtopk")
    ],
    "load_transcoders save_transcoders": _transcoders,
    "load save": _saved,
    "check_l0": lambda p: dictionaries.check_l0(p.dictionary(), _rows(p), strict=False).value,
    "to_jumprelu": lambda p: dictionaries.to_jumprelu(p.dictionary(), _rows(p)),
    "score_absorption": _concepts,
    "score_splitting": lambda p: dictionaries.score_splitting(_plain(p), _plain(p, 1), _rows(p)),
    "score_stability": lambda p: dictionaries.score_stability([_plain(p), _plain(p, 1)]),
    "evaluate": lambda p: [
        dictionaries.evaluate(p.dictionary(), None, _rows(p)),
        dictionaries.evaluate(p.dictionary(), p.model, p.ids(7), EvaluationConfig(batch_sequences=3)),
    ],
    "score_recovery": lambda p: dictionaries.score_recovery(
        p.dictionary(), SyntheticWorld(WORLD), 500, with_ceiling=False
    ),
    "SyntheticWorld": lambda p: SyntheticWorld(WORLD).sample(50),
    "run_training": _run,
    "train": lambda p: (
        [trained(p, activation) for activation in ACTIVATIONS]
        + [dictionaries.train(setting("topk", site=SITE, n_ctx=9), p.ids(40), model=p.model)]
    ),
}
DICTIONARIES_LEFT = {
    **dict.fromkeys(
        (
            "DictionaryConfig AbsorptionConfig DistilConfig EvaluationConfig FinetuneConfig SplittingConfig "
            "PenaltyConfig SyntheticConfig TrainConfig"
        ).split(),
        "settings",
    ),
    **dict.fromkeys(
        "Absorption DictionaryReport Recovery Splitting Stability DictionaryRun".split(),
        "results of what is called here",
    ),
    "from_saelens": "another library's object; its tensors are copied as `load` copies a file's",
    "score_ceilings": "a world's own rows, which are the host's",
    "open_sinks": "numbers of Python to other programs",
}
