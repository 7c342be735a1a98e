"""Targets: every spelling × every function that takes one, against the same number by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp import lenses
from interp.core.errors import ConfigError, InterpError, ShapeError, TokenError
from interp.models import Target, activation, class_score, contrast, projection, text_loss, token_logit
from interp.models.stream.spelling import as_target
from tests.models import zoo

IDS = torch.tensor([5, 11, 7, 3, 29])
SITE = "blocks.1.hook_resid_post"


def model(name: str = "gpt2") -> interp.HookedModel:
    return interp.wrap(zoo.make(name, dtype=torch.float64))


def weights() -> Tensor:
    found = torch.zeros(zoo.V, dtype=torch.float64)
    found[19], found[31] = 0.5, -2.0
    return found


Hand = Callable[[Tensor], Tensor]
"""Logits [pos d_vocab] -> the number at every position, [pos]."""

SUMS: dict[str, tuple[Callable[[interp.HookedModel], Any], Hand]] = {
    "id": (lambda m: 19, lambda x: x[:, 19]),
    "numpy id": (lambda m: np.int64(19), lambda x: x[:, 19]),
    "tensor id": (lambda m: torch.tensor(19), lambda x: x[:, 19]),
    "none": (lambda m: None, lambda x: x.max(-1).values),
    "pair": (lambda m: (19, 31), lambda x: x[:, 19] - x[:, 31]),
    "pair of numpy": (lambda m: (np.int64(19), np.int64(31)), lambda x: x[:, 19] - x[:, 31]),
    "lists": (lambda m: ([19, 20], [31]), lambda x: x[:, [19, 20]].mean(-1) - x[:, 31]),
    "token and list": (lambda m: (19, [31, 32, 33]), lambda x: x[:, 19] - x[:, 31:34].mean(-1)),
    "observable": (lambda m: weights(), lambda x: x @ weights()),
    "token_logit": (lambda m: token_logit(m, 19), lambda x: x[:, 19]),
    "contrast": (lambda m: contrast(m, [19, 20], 31), lambda x: x[:, [19, 20]].mean(-1) - x[:, 31]),
    "one side": (lambda m: contrast(m, [19, 20]), lambda x: x[:, [19, 20]].mean(-1)),
}
OTHERS: dict[str, Callable[[interp.HookedModel], Any]] = {
    "text": lambda m: " Mary",
    "texts": lambda m: (" Mary", " John"),
    "list of two": lambda m: [19, 31],
    "tensor of ids": lambda m: torch.tensor([19, 31]),
    "ids per position": lambda m: IDS.roll(-1),
    "list per position": lambda m: IDS.tolist(),
    "numpy per position": lambda m: IDS.numpy(),
    "wrong width": lambda m: torch.ones(7),
    "matrix": lambda m: torch.ones(3, zoo.V),
    "boolean": lambda m: True,
    "booleans": lambda m: torch.ones(len(IDS), dtype=torch.bool),
    "float": lambda m: 1.5,
    "outside": lambda m: zoo.V,
    "negative": lambda m: -1,
    "outside in a pair": lambda m: (19, zoo.V),
    "empty side": lambda m: ([], [31]),
    "three": lambda m: (19, 20, 31),
    "triple in a list": lambda m: ([[19]], [31]),
    "dict": lambda m: {"answer": 19},
    "object": lambda m: object(),
    "function": lambda m: lambda out: out[:, -1, 19],
    "latent": lambda m: activation(SITE, index=3),
    "projection": lambda m: projection(SITE, torch.ones(zoo.D)),
    "loss": lambda m: text_loss(IDS),
    "class": lambda m: class_score(3),
}
TAKES: dict[str, Callable[[interp.HookedModel, Any], Any]] = {
    "attribute": lambda m, t: interp.attribute(m, IDS, t, method="input_x_gradient"),
    "direct_logit_attribution": lambda m, t: interp.direct_logit_attribution(m, IDS, t),
    "second_order": lambda m, t: lenses.split_second_order(m, IDS, t, layer=0),
    "logit_lens": lambda m, t: interp.logit_lens(m, IDS, target=t),
    "propagate": lambda m, t: lenses.propagate(m, IDS, t, "blocks.1.hook_resid_pre"),
    "path_vectors": lambda m, t: lenses.path_vectors(m, t, [["L1H0"]]),
}


@pytest.mark.parametrize("takes", TAKES)
@pytest.mark.parametrize("spelling", [*SUMS, *OTHERS])
def test_no_spelling_ends_in_a_raw_error(takes: str, spelling: str) -> None:
    m = model()
    target = SUMS[spelling][0](m) if spelling in SUMS else OTHERS[spelling](m)
    try:
        TAKES[takes](m, target)
    except InterpError as error:
        assert str(error).strip()


@pytest.mark.parametrize("spelling", SUMS)
def test_every_function_reads_the_same_number(spelling: str) -> None:
    m = model()
    spell, by_hand = SUMS[spelling]
    logits = m(IDS[None])[0]
    expected = by_hand(logits)
    found = as_target(m, spell(m), lambda: logits[None]).of(logits[None])
    torch.testing.assert_close(found, expected[-1:], rtol=1e-12, atol=1e-12)
    parts = interp.direct_logit_attribution(m, IDS, spell(m))
    torch.testing.assert_close(parts.total, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(parts.values.sum(0), expected, rtol=1e-8, atol=1e-8)
    if spelling != "none":  # what is read without an input needs to be told
        vectors = lenses.propagate(m, IDS, spell(m), "blocks.1.hook_resid_pre")
        assert vectors.total is not None
        torch.testing.assert_close(vectors.total, expected[-1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_the_direction_of_a_target_is_its_gradient_behind_the_final_norm(name: str) -> None:
    m = model(name)
    target = contrast(m, [19, 20], 31)
    direction, constant = target.direction(m)
    y = torch.randn(zoo.D, dtype=torch.float64)
    logits = y @ m.W_U.detach() + m.b_U.detach()
    expected = logits[[19, 20]].mean() - logits[31]
    torch.testing.assert_close(y @ direction + constant, expected, rtol=1e-8, atol=1e-8)
    shuffled = direction[torch.randperm(zoo.D, generator=torch.Generator().manual_seed(0))]
    assert abs(float(y @ shuffled + constant) - float(expected)) > 1e-3


def test_a_target_that_names_its_position_is_read_there() -> None:
    m = model()
    at = token_logit(m, 19, position=2)
    logits = m(IDS[None])[0]
    parts = interp.direct_logit_attribution(m, IDS, at)
    assert parts.positions == (2,)
    torch.testing.assert_close(parts.total, logits[2:3, 19])
    found = lenses.propagate(m, IDS, at, "blocks.1.hook_resid_pre").total
    assert found is not None
    torch.testing.assert_close(found, logits[2, 19])
    assert lenses.split_second_order(m, IDS, at, layer=0).position == 2
    for asked in (
        lambda: interp.direct_logit_attribution(m, IDS, at, positions=1),
        lambda: interp.direct_logit_attribution(m, IDS, at, positions=[1, 2]),
        lambda: lenses.propagate(m, IDS, at, "blocks.1.hook_resid_pre", position=1),
        lambda: lenses.split_second_order(m, IDS, at, layer=0, position=1),
        lambda: interp.logit_lens(m, IDS, target=at),
    ):
        with pytest.raises(ConfigError):
            asked()


def test_classes_are_read_where_there_are_no_positions() -> None:
    out = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    m = interp.wrap(zoo.make("vit"))
    read = {
        2: out[:, 2],
        (1, 3): out[:, 1] - out[:, 3],
        -1: out[:, 5],
        ((0, 1), 2): out[:, :2].mean(-1) - out[:, 2],
    }
    for written, expected in read.items():
        torch.testing.assert_close(as_target(m, written, lambda: out).of(out), expected)
    for wrong in (6, -7, "cat", (1, 6), True, 1.0):
        with pytest.raises(ConfigError):
            as_target(m, wrong, lambda: out)


def test_a_lens_follows_a_single_token() -> None:
    m = model()
    plain = interp.logit_lens(m, IDS, target=19)
    same = interp.logit_lens(m, IDS, target=token_logit(m, 19))
    assert torch.equal(plain.target_prob, same.target_prob) and same.targets == plain.targets
    for several in ((19, 31), weights(), contrast(m, 19, 31), activation(SITE, index=1), text_loss(IDS)):
        with pytest.raises(ConfigError, match="follows one token"):
            interp.logit_lens(m, IDS, target=several)


@pytest.mark.parametrize(
    ("written", "kind", "words"),
    [
        ([19, 31], ConfigError, "a pair is a tuple"),
        (torch.ones(7), ShapeError, "one weight per token"),
        ((19, zoo.V), TokenError, "no such token"),
        (([], 31), ConfigError, "names no token"),
        ((19, 20, 31), ConfigError, "cannot read this"),
        (True, ConfigError, "cannot read this"),
        (1.5, ConfigError, "cannot read this"),
    ],
)
def test_what_is_no_target_is_explained(written: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        interp.attribute(model(), IDS, written, method="saliency")


def test_metrics_of_prompts_are_targets() -> None:
    from interp.tasks import grammar_task, metric, metric_target
    from interp.tasks.metrics import METRICS

    m = interp.load_model("tiny-grammar")
    batch = grammar_task("indirect-object").sample(3, 0).tokenize(m)
    logits = m(batch.clean)
    for name in METRICS:
        target = metric_target(name, batch)
        assert isinstance(target, Target)
        assert torch.equal(target.of(logits), metric(name)(logits, batch, "none"))
    with pytest.raises(ConfigError, match="logit_difference"):
        metric_target("logit_diference", batch)
