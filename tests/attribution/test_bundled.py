"""Ground truth on the bundled model: the token that decides comes first, and not in the null."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

import interp

NAMES = ["Mary", "John", "Anna", "Tom"]
TEXT = "When {a} and {b} went to the park, {b} gave a book to"


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    return interp.load_model("tiny-grammar")


def usable(model: interp.HookedModel) -> list[tuple[str, str]]:
    """Pairs of names that are one token each."""
    known = []
    for name in NAMES:
        try:
            model.to_single_token(" " + name)
        except interp.InterpError:
            continue
        known.append(name)
    return list(itertools.permutations(known, 2))


def hits(model: interp.HookedModel, method: str) -> float:
    """Share of prompts in which the indirect object has the largest score."""
    found = []
    for a, b in usable(model):
        one = interp.attribute(
            model, TEXT.format(a=a, b=b), (" " + a, " " + b), method=method, baseline="mean"
        )
        found.append(one.tokens[int(one.scores.argmax())].strip() == a)
    return sum(found) / len(found)


@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "feature_ablation"])
def test_the_indirect_object_leads(model: interp.HookedModel, method: str) -> None:
    assert len(usable(model)) >= 2
    assert hits(model, method) >= 0.8


def test_not_in_a_model_that_knows_nothing(model: interp.HookedModel) -> None:
    assert hits(model.randomised(0), "deeplift") <= 0.5


def test_captums_deeplift_misses_most_of_the_sum_here(model: interp.HookedModel) -> None:
    text = TEXT.format(a="Mary", b="John")
    captum, ours = (
        interp.attribute(model, text, (" Mary", " John"), method=m, baseline="mean")
        for m in ("captum_deeplift", "deeplift")
    )
    assert captum.relative_gap > 0.2
    assert ours.relative_gap < 1e-4
    far = replace(ours, gap=12.344 * abs(ours.difference), complete=False)
    assert far.gap_sentence.endswith("(gap 1,234 %, this method promises no sum)")
    assert "(gap 0.8 %)" in replace(far, gap=0.008 * abs(ours.difference)).gap_sentence
