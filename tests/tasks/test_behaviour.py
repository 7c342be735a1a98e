"""Reports of behaviour: known accuracies of written-down models, intervals, and the null."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

import interp
from interp.core.errors import ConfigError
from interp.core.frames.intervals import wilson
from interp.tasks import Prompt, Prompts, Task, TaskReport, load_task, measure
from tests.tasks.toys import bigram

MODEL = bigram({("cat", "sleeps"): 2.0, ("cat", "sleep"): 1.0, ("dogs", "sleep"): 1.0, ("dogs", "runs"): 3.0})
RIGHT = Prompt("the cat", "the cats", (" sleeps",), (" sleep",), "one")
WRONG = Prompt("the dogs", "the dog", (" sleep",), (" sleeps",), "many")
AGREEMENT = Task(name="agreement", pool=Prompts([RIGHT, WRONG, replace(RIGHT, clean="near cat")]))


def test_a_report_counts_per_template_what_the_model_says() -> None:
    report = measure(MODEL, AGREEMENT)
    rows = {row["group"]: row for row in report.to_frame().to_dict("records")}
    assert set(rows) == {"one", "many"}
    assert rows["one"]["n"] == 2
    assert rows["one"]["right"] == rows["one"]["top1"] == rows["one"]["preferred"] == 1
    assert rows["many"]["right"] == rows["many"]["top1"] == 0
    assert rows["many"]["preferred"] == 1  # " runs" is on top, but it is no distractor
    assert rows["many"]["logit_difference"] == 1
    total = 2.718281828**2 + 2.718281828 + 9
    assert rows["one"]["probability"] == pytest.approx(2.718281828**2 / total)
    assert report.overall()["right"] == pytest.approx(2 / 3)
    assert report.overall()["n"] == 3


def test_the_criterion_decides_what_is_right() -> None:
    report = measure(MODEL, replace(AGREEMENT, criterion="preference"))
    assert report.right.tolist() == [1, 1]


def test_batches_change_nothing() -> None:
    whole, apart = (measure(MODEL, AGREEMENT, batch_size=size) for size in (64, 1))
    for field in report_fields():
        torch.testing.assert_close(getattr(whole, field), getattr(apart, field))


def report_fields() -> list[str]:
    return ["right", "low", "high", "top1", "preferred", "logit_difference", "probability"]


def test_several_tasks_are_a_group_each() -> None:
    other = Task(name="other", pool=Prompts([WRONG]), bar=0.5)
    report = measure(MODEL, [AGREEMENT, other])
    assert report.groups == ["agreement", "other"]
    assert report.grouped_by == "task"
    assert [check.name for check in report.check()] == ["right[other]", "interval_width"]
    assert not report.check().ok


def test_prompts_are_measured_as_they_are_and_need_no_corrupted_side_that_fits() -> None:
    odd = replace(RIGHT, corrupted="zebra zebra zebra")
    report = measure(MODEL, Prompts([odd, odd], "twice"))
    assert report.n.tolist() == [2]
    assert report.name == "twice"


def test_sentences_are_compared_as_wholes() -> None:
    pairs = Prompts([Prompt("the cat sleeps", "the cat sleep"), Prompt("dogs sleep", "dogs runs")])
    report = measure(MODEL, Task(name="pairs", pool=pairs, criterion="sentence"))
    assert report.right.tolist() == [0.5]
    assert report.overall()["logit_difference"] == pytest.approx((1.0 - 2.0) / 2)
    assert bool(report.probability.isnan().all())
    with pytest.raises(ConfigError, match="corrupted"):
        single = Prompts([Prompt("the cat sleeps")])
        measure(MODEL, Task(name="single", pool=single, criterion="sentence"))


def test_a_model_that_knows_nothing_gets_nothing() -> None:
    report = measure(bigram({}), AGREEMENT)
    assert report.right.tolist() == [0, 0]
    assert report.logit_difference.tolist() == [0, 0]


def test_what_cannot_be_counted_is_refused() -> None:
    bare = Task(name="bare", pool=Prompts([Prompt("the", None, (" cat",))]), criterion="preference")
    with pytest.raises(ConfigError, match="without distractors"):
        measure(MODEL, bare)
    with pytest.raises(ConfigError, match="no task"):
        measure(MODEL, [])
    with pytest.raises(ConfigError, match="at least one prompt"):
        measure(MODEL, AGREEMENT, batch_size=0)


def test_intervals_are_wilsons() -> None:
    counts = [(0, 5), (5, 5), (3, 7), (97, 100), (1, 1), (500, 1000)]
    share = torch.tensor([k / n for k, n in counts], dtype=torch.float64)
    low, high = wilson(share.float(), torch.tensor([n for _, n in counts]))
    for i, (k, n) in enumerate(counts):
        reference = binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert float(low[i]) == pytest.approx(reference.low, abs=1e-6)
        assert float(high[i]) == pytest.approx(reference.high, abs=1e-6)


def test_a_report_comes_back_from_disk_and_draws(tmp_path: Path) -> None:
    report = measure(MODEL, replace(AGREEMENT, bar=0.5))
    report.save(tmp_path / "report")
    again = interp.Result.load(tmp_path / "report")
    assert isinstance(again, TaskReport)
    assert again.overall() == report.overall()
    assert again.criteria == report.criteria
    figure = again.plot()
    assert list(figure.data[0].x) == report.right.tolist()
    assert "dotted: the bar" in figure.layout.title.subtitle.text


def test_a_story_model_prefers_the_better_sentence_and_its_random_twin_does_not(shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    # pairs of equal length: otherwise any model prefers the sentence of fewer tokens
    pairs = load_task(shared_data / "tasks" / "blimp.tar.gz").sample(600).fitting(model)
    task = Task(name="pairs", pool=pairs, criterion="sentence")
    trained, random = (measure(m, task, n=170).overall() for m in (model, model.randomised(0)))
    # Measured: .665 [.591, .731] of 170 pairs, random weights .500 [.426, .574].
    assert trained["n"] == 170
    for name, value in (("right", 0.665), ("low", 0.591), ("high", 0.731)):
        assert trained[name] == pytest.approx(value, abs=0.012), trained  # two pairs
    assert random["right"] == pytest.approx(0.500, abs=0.03), random
    assert random["low"] < 0.5 < random["high"] < trained["right"]
