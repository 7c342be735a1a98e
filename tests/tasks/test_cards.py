"""What the cards of the bundled models show, measured again as scripts/bundled_figures.py did.

Not here: the other seeds and the model without some sums, which take hours of training
(`python scripts/train_bundled.py`).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.randomness import generator
from interp.tasks import InductionConfig, held_out_blocks, measure
from interp.tasks.grammar.asking import grammar_task, list_grammar
from tests.tasks.test_bundled import card, model

NEAR = 0.002
"""Cards are rounded to three digits; another processor moves a mean attention less than this."""


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    return importlib.import_module("bundled_figures")


def same_heads(found: dict[str, Any], shown: dict[str, Any]) -> None:
    for kind, row in shown.items():
        assert found[kind]["heads"] == pytest.approx(row["heads"], abs=NEAR)
        assert found[kind]["randomised"] == pytest.approx(row["randomised"], abs=NEAR)
    assert set(found) == set(shown) == {"previous", "induction"}


def test_induction_2l_repeats_and_looks_as_its_card_says(figures: Any) -> None:
    shown, small = card("induction-2l"), model("induction-2l")
    ids = held_out_blocks(InductionConfig(held_out=1000, seed=generator(0, "card").initial_seed()))
    half = ids.shape[1] // 2
    with torch.no_grad():
        right = small(ids)[:, half:-1].argmax(-1) == ids[:, half + 1 :]
    assert len(ids) == shown["prompts"]
    assert float(right.float().mean()) == pytest.approx(shown["repeated_half"], abs=NEAR)
    same_heads(figures.head_scores(small, ids[:100], half), shown["heads"])


def test_heads_of_tiny_grammar_are_those_of_its_card(figures: Any) -> None:
    lists = figures.repeated_lists(100)
    same_heads(figures.head_scores(model("tiny-grammar"), *lists), card("tiny-grammar")["heads"])


@pytest.mark.full
def test_the_direct_attribution_is_that_of_the_card(figures: Any) -> None:
    found, shown = figures.attribution_of_heads(model("tiny-grammar")), card("tiny-grammar")["attribution"]
    assert found["heads"] == pytest.approx(shown["heads"], abs=0.011)
    assert found["share_of_three"] == pytest.approx(shown["share_of_three"], abs=NEAR)
    assert shown["uniform_share_of_three"] == pytest.approx(3 / 16, abs=6e-4)


@pytest.mark.full
def test_the_probes_are_those_of_the_card(figures: Any) -> None:
    found, shown = figures.probes(model("tiny-grammar")), card("tiny-grammar")["probes"]
    assert set(found) == set(shown)
    for name, row in shown.items():  # of 180 test rows; one is .0056
        for key in ("score", "majority", "shuffled", "randomised"):
            assert found[name][key] == pytest.approx(row[key], abs=0.012), (name, key)


@pytest.mark.full
@pytest.mark.parametrize("name", list_grammar())
def test_every_template_is_what_the_card_says(name: str) -> None:
    shown = card("tiny-grammar")["behaviours"][name]
    report = measure(model("tiny-grammar"), grammar_task(name), card("tiny-grammar")["prompts"], seed=7)
    assert list(report.groups) == list(shown["templates"])
    for i, row in enumerate(shown["templates"].values()):
        assert int(report.n[i]) == row["n"]
        found = [float(report.top1[i]), float(report.preferred[i])]
        assert found == pytest.approx([row["top1"], row["restricted"]], abs=1.1 / row["n"])
    whole = report.overall()
    for key in ("right", "low", "high", "top1", "preferred", "probability"):
        assert whole[key] == pytest.approx(shown[key], abs=NEAR), key
