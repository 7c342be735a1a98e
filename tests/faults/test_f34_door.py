"""F34: all public functions x all forms of input x one misspelt option.

Functions are found on the rooms' public faces: one that takes a model and inputs, and is in neither
table, fails the first test. Every form must give what the plain tensor gives; what is no input must
be refused by an `InterpError`; a misspelt option must be refused whoever would have swallowed it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from torch import Tensor

import interp
from interp.core.errors import InterpError
from interp.models.hooked import HookedModel
from interp.models.text.tokens import TokenBatch
from tests.models import zoo
from tests.models.tokenizers import word_level

ROOMS = ("activations", "tasks", "dictionaries", "lenses", "probing", "attribution", "studies")
READS = {"inputs", "text", "texts", "data", "source", "prompt", "prompts", "tokens", "a", "pairs"}
"""Names under which a public function takes what a model reads."""
ROW = [0, 1, 2, 3, 4]
ROWS = [ROW, [0, 5, 3, 2, 6], [0, 4, 4, 1, 2]]
SITE = "blocks.1.hook_resid_post"

Call = Callable[..., Any]


@cache
def decoder() -> HookedModel:
    return interp.wrap(zoo.make("llama"), word_level(0))


@cache
def absolute() -> HookedModel:
    return interp.wrap(zoo.make("gpt2"), word_level(0))


@cache
def two_sided() -> HookedModel:
    return interp.wrap(zoo.make("t5"), word_level(None))


@cache
def parts() -> Mapping[str, Any]:
    """What some functions need beside inputs."""
    from interp.dictionaries import Dictionary, DictionaryConfig
    from interp.lenses import TunedLens, propagate
    from interp.probing import fit_eraser

    m = decoder()
    look = torch.zeros(m.cfg.d_vocab)
    look[1], look[2] = 1.0, -1.0
    rows, labels = torch.randn(40, m.cfg.d_model), torch.arange(40) % 2
    return {
        "lens": TunedLens.identity(m),
        "observable": look,
        "features": propagate(m, torch.tensor([ROW]), look, SITE),
        "eraser": fit_eraser(rows, labels),
        "dictionary": Dictionary(DictionaryConfig(site_in=SITE, d_in=m.cfg.d_model, d_sae=30, k=4)),
    }


def _train(x: Any, **more: Any) -> Any:
    """Training takes 16,384 rows before its first step: here only its reading of data runs."""
    from interp.activations import StreamConfig, TextConfig
    from interp.dictionaries import TrainConfig, train
    from interp.dictionaries.sources import source_of

    if more:
        return train(TrainConfig(site=SITE), x, model=decoder(), **more)
    return source_of(x, decoder(), [SITE], StreamConfig(batch_size=4), TextConfig()).batch(0)


def _finetune(x: Any, **more: Any) -> Any:
    from interp.dictionaries import FinetuneConfig, finetune

    config = FinetuneConfig(steps=1)
    return finetune(parts()["dictionary"], decoder(), x, config, **more)


def _tuned(x: Any, **more: Any) -> Any:
    from interp.lenses import TunedLensConfig, train_tuned_lens

    config = TunedLensConfig(steps=1, n_ctx=5, batch_tokens=8)
    return train_tuned_lens(decoder(), x, config, **more)[0]


def _attribution(name: str) -> Call:
    return lambda x, **o: getattr(interp.attribution, name)(decoder(), x, 3, method="gradient_x_input", **o)


def _faithful(x: Any, **more: Any) -> Any:
    from interp.attribution import attribute, measure_faithfulness

    m = decoder()
    found = {"one": [attribute(m, torch.tensor([ROW]), 3, method="gradient_x_input")]}
    return measure_faithfulness(m, [x], 3, found, **more)


ONE: dict[str, Call] = {
    "HookedModel.__call__": lambda x, **o: decoder()(x, **o),
    "HookedModel.capture": lambda x, **o: decoder().capture(x, SITE, **o)[SITE],
    "HookedModel.run_with_cache": lambda x, **o: decoder().run_with_cache(x, SITE, **o)[0],
    "HookedModel.run_with_hooks": lambda x, **o: decoder().run_with_hooks(x, **o),
    "HookedModel.run_from": lambda x, **o: decoder().run_from(
        SITE, torch.ones(2, 5, decoder().cfg.d_model), x, **o
    ),
    "HookedModel.estimate": lambda x, **o: torch.tensor(decoder().estimate(x, SITE, **o)),
    "HookedModel.read": lambda x, **o: decoder().read(x, **o).ids,
    "HookedModel.generate": lambda x, **o: decoder().generate(x, 2, return_ids=True),
    "lenses.logit_lens": lambda x, **o: interp.lenses.logit_lens(decoder(), x, **o),
    "lenses.tuned_lens": lambda x, **o: interp.lenses.tuned_lens(
        decoder(), x, parts()["lens"], strict=False, **o
    ),
    "lenses.direct_logit_attribution": lambda x, **o: interp.lenses.direct_logit_attribution(
        decoder(), x, 3, **o
    ),
    "lenses.split_second_order": lambda x, **o: interp.lenses.split_second_order(
        decoder(), x, 3, layer=0, **o
    ),
    "lenses.second_order_directions": lambda x, **o: interp.lenses.second_order_directions(
        decoder(), x, 0, [1], **o
    ),
    "lenses.propagate": lambda x, **o: interp.lenses.propagate(
        decoder(), x, parts()["observable"], SITE, **o
    ),
    "lenses.score_tokens": lambda x, **o: interp.lenses.score_tokens(decoder(), x, parts()["features"], **o),
    "lenses.record_attention": lambda x, **o: interp.lenses.record_attention(decoder(), x, **o).patterns,
    "lenses.decoder_lens": lambda x, **o: interp.lenses.decoder_lens(two_sided(), x, max_new_tokens=2, **o),
    "lenses.run_stitched": lambda x, **o: interp.lenses.run_stitched(
        decoder(), decoder(), x, (1, 1), torch.eye(decoder().cfg.d_model), **o
    ),
    "attribution.attribute": _attribution("attribute"),
    "attribution.attribute_generated": lambda x, **o: interp.attribution.attribute_generated(
        decoder(), x, 2, method="gradient_x_input", **o
    ),
    "attribution.attribute_methods": lambda x, **o: interp.attribution.attribute_methods(
        decoder(), x, 3, methods=("gradient_x_input",), **o
    ),
    "attribution.attribute_pair": lambda x, **o: interp.attribution.attribute_pair(
        decoder(), x, x, reference="zero", **{"max_nodes": 4, "tolerance": 9.0} | o
    ),
    "attribution.attribute_pairs": lambda x, **o: interp.attribution.attribute_pairs(
        decoder(), [(x, x)], reference="zero", **{"max_nodes": 4, "tolerance": 9.0} | o
    ),
    "attribution.measure_faithfulness": _faithful,
    "attribution.score_units": lambda x, **o: interp.attribution.score_units(
        decoder(), [x], [3], [SITE], method="gradient_x_input", **o
    ),
}
"""One text each."""

MANY: dict[str, Call] = {
    "lenses.head_atlas": lambda x, **o: interp.lenses.head_atlas(decoder(), x, **o),
    "lenses.compare_heads": lambda x, **o: interp.lenses.compare_heads(decoder(), x, n_permutations=9, **o),
    "lenses.measure_active_overlap": lambda x, **o: interp.lenses.measure_active_overlap(
        decoder(), x, k=3, **o
    ),
    "lenses.clamp_neuron": lambda x, **o: interp.lenses.clamp_neuron(decoder(), x, (0, 1), 1.0, **o),
    "lenses.neuron_directions": lambda x, **o: interp.lenses.neuron_directions(decoder(), x, 0, [1, 2], **o),
    "lenses.ablate_second_order": lambda x, **o: interp.lenses.ablate_second_order(
        decoder(), x, [1, 2, 3], [0], **o
    ),
    "lenses.score_lenses": lambda x, **o: interp.lenses.score_lenses(decoder(), x, n_ctx=5, **o),
    "lenses.train_tuned_lens": _tuned,
    "lenses.score_decoder_lens": lambda x, **o: interp.lenses.score_decoder_lens(
        two_sided(), x, [[1], [2], [3]], **o
    ),
    "lenses.split_attention": lambda x, **o: interp.lenses.split_attention(absolute(), x, 0, **o),
    "lenses.split_stream": lambda x, **o: interp.lenses.split_stream(decoder(), x, **o),
    "probing.ablate_neurons": lambda x, **o: interp.probing.ablate_neurons(
        decoder(), {"all": x}, "blocks.1.mlp.hook_post", [1], **o
    ),
    "probing.ablate_concept": lambda x, **o: interp.probing.ablate_concept(
        decoder(), x, SITE, parts()["eraser"], n_random=1, strict=False, **o
    ),
    "dictionaries.evaluate": lambda x, **o: interp.dictionaries.evaluate(
        parts()["dictionary"], decoder(), x, **o
    ),
    "dictionaries.finetune": _finetune,
    "dictionaries.train": _train,
}
"""Several texts each."""

ELSEWHERE = {
    "activations.tokenize_texts": "text, by document: test_rooms_that_read_text_alone",
    "probing.align_texts": "text alone: test_rooms_that_read_text_alone",
    "probing.align_spans": "text alone: spans are characters",
    "studies.model_writer": "prompts of generate, which is above",
    "studies.lstm_writer": "no HookedModel",
    "attribution.linear_head": "text alone: test_rooms_that_read_text_alone",
    "dictionaries.run_training": "the function under train, which is above",
    "lenses.class_lens": "images: test_door.py, numbers in any form",
    "lenses.benchmark_lenses": "a table of prompts of its own",
    "studies.amortize": "rows of scores beside texts of an encoder in training",
}


def test_no_public_function_reads_inputs_outside_the_tables() -> None:
    missing = []
    for room in ROOMS:
        face = importlib.import_module(f"interp.{room}")
        for name in (n for n in dir(face) if not n.startswith("_")):
            function = getattr(face, name)
            if not inspect.isfunction(function):
                continue
            taken = set(inspect.signature(function).parameters)
            known = ONE.keys() | MANY.keys() | ELSEWHERE.keys()
            if "model" in taken and READS & taken and f"{room}.{name}" not in known:
                missing.append(f"{room}.{name}")
    for name, method in vars(HookedModel).items():
        takes = inspect.isfunction(method) and "inputs" in inspect.signature(method).parameters
        if takes and name != "_read" and f"HookedModel.{name}" not in ONE:
            missing.append(f"HookedModel.{name}")
    assert not missing


def forms(rows: list[list[int]]) -> dict[str, Any]:
    ids = torch.tensor(rows)
    fill = torch.full((len(rows), 2), 7)
    real = torch.ones_like(ids)
    none = torch.zeros_like(fill)
    given = {
        "lists": rows,
        "numpy": np.array(rows, dtype=np.int32),
        "dict": {"input_ids": ids},
        "encoding": transformers.BatchEncoding({"input_ids": rows, "attention_mask": real}),
        "batch": TokenBatch.of(ids),
        "right-padded dict": {
            "input_ids": torch.cat([ids, fill], 1),
            "attention_mask": torch.cat([real, none], 1),
        },
        "left-padded batch": TokenBatch(torch.cat([fill, ids], 1), torch.cat([none, real], 1).bool()),
    }
    if len(rows) > 1:
        given["series"] = pd.Series(rows)
    return given


PADDED_AS_GIVEN = {
    f"HookedModel.{n}"
    for n in (
        "__call__",
        "capture",
        "run_with_cache",
        "run_with_hooks",
        "run_from",
        "estimate",
        "read",
        "generate",
    )
}
"""They answer for every column they were given; test_door.py compares those."""


def tensors(result: Any) -> list[Tensor]:
    """Every number in a result, in a fixed order."""
    if isinstance(result, Tensor):
        return [result.double()] if not result.is_complex() else [result]
    if isinstance(result, torch.nn.Module):
        return [p.detach().double() for p in result.parameters()]
    if isinstance(result, list | tuple):
        return [t for one in result for t in tensors(one)]
    if isinstance(result, Mapping):
        return [t for key in sorted(result, key=str) for t in tensors(result[key])]
    if hasattr(result, "__dataclass_fields__"):
        return [t for key in result.__dataclass_fields__ for t in tensors(getattr(result, key))]
    return []


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", [*ONE, *MANY])
def test_every_form_means_what_the_tensor_means(name: str) -> None:
    rows = [ROW] if name in ONE else ROWS
    call = (ONE | MANY)[name]
    expected = tensors(call(torch.tensor(rows)))
    assert expected
    for form, given in forms(rows).items():
        if "padded" in form and (name in PADDED_AS_GIVEN or name == "lenses.run_stitched"):
            continue
        found = tensors(call(given))
        assert len(found) == len(expected), form
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-3, equal_nan=True, msg=form)


BAD = {
    "a set": {"red", "blue"},
    "floats": [[0.5, 1.5]],
    "a dict of something else": {"ids": torch.tensor([ROW])},
    "a mask that does not fit": {"input_ids": torch.tensor([ROW]), "attention_mask": [[1, 1]]},
    "beyond the vocabulary": [[0, 5_000]],
}


@pytest.mark.parametrize("name", [*ONE, *MANY])
def test_what_is_no_input_is_refused(name: str) -> None:
    for kind, given in BAD.items():
        with pytest.raises(InterpError):
            (ONE | MANY)[name](given)
            pytest.fail(kind)


@pytest.mark.parametrize("name", [n for n in (*ONE, *MANY) if n != "HookedModel.generate"])
def test_a_misspelt_option_is_refused(name: str) -> None:
    rows = [ROW] if name in ONE else ROWS
    for option in ("positon", "topk", "atention_mask"):
        with pytest.raises((InterpError, TypeError), match=option):
            (ONE | MANY)[name](torch.tensor(rows), **{option: 1})


def test_the_nearest_name_is_the_functions_own() -> None:
    with pytest.raises(InterpError, match="'components'"):
        interp.lenses.logit_lens(decoder(), [ROW], componets="all")
    with pytest.raises(InterpError, match="'positions'"):
        interp.lenses.direct_logit_attribution(decoder(), [ROW], position=-1)


def test_padding_is_cut_before_a_target_at_minus_one_is_read() -> None:
    from interp.attribution import attribute

    ids = torch.tensor([[*ROW, 7, 7]])
    mask = torch.tensor([[1] * 5 + [0] * 2])
    alone = attribute(decoder(), torch.tensor([ROW]), 3, method="gradient_x_input")
    padded = attribute(decoder(), {"input_ids": ids, "attention_mask": mask}, 3, method="gradient_x_input")
    assert padded.value == pytest.approx(alone.value) and len(padded.tokens) == 5


def test_rooms_that_read_text_alone() -> None:
    from interp.activations import tokenize_texts
    from interp.attribution import linear_head
    from interp.probing import align_texts

    texts = ["red blue", "one two"]
    for given in (texts, tuple(texts), pd.Series(texts), np.array(texts)):
        assert align_texts(decoder(), given, [0, 1]).batch.ids.shape == (2, 3)
        assert linear_head(decoder(), given, [0, 1])[1] == 1.0
        assert len(tokenize_texts(decoder(), list(given))) == 1
    for bad in ({"red", "blue"}, {"input_ids": torch.tensor([ROW])}):
        with pytest.raises(InterpError):
            align_texts(decoder(), bad, [0, 1])
        with pytest.raises(InterpError):
            tokenize_texts(decoder(), bad)
        with pytest.raises(InterpError):
            linear_head(decoder(), bad, [0, 1])
