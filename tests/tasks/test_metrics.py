"""Metrics against the same formulas written as loops, and against what the sources compute."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError
from interp.models.text.batch import TokenBatch
from interp.tasks import metrics
from interp.tasks.batch import PromptBatch
from tests.tasks.toys import bigram

V = 13


def batch_of(answers: list[list[int]], distractors: list[list[int]], width: int = 7) -> PromptBatch:
    """A batch of prompts of different lengths with these answers."""

    def padded(rows: list[list[int]]) -> Tensor:
        longest = max(map(len, rows))
        filled = [row + [-1] * (longest - len(row)) for row in rows]
        return torch.tensor(filled, dtype=torch.long).reshape(len(rows), longest)

    last = torch.arange(len(answers)) % width
    mask = torch.arange(width) <= last[:, None]
    clean = TokenBatch(torch.zeros(len(answers), width, dtype=torch.long), mask)
    names = ("",) * len(answers)
    return PromptBatch(clean, None, padded(answers), padded(distractors), last, names)


def loops(name: str, row: list[float], right: list[int], wrong: list[int]) -> float:
    """One prompt's metric, element by element."""
    top = max(row)
    total = sum(math.exp(x - top) for x in row)
    p = [math.exp(x - top) / total for x in row]

    def mean(values: list[float], ids: list[int]) -> float:
        return sum(values[i] for i in ids) / len(ids)

    best = max(row[i] for i in right)
    others = [row[i] for i in range(len(row)) if i not in right]
    return {
        "logit_difference": lambda: mean(row, right) - mean(row, wrong),
        "probability_difference": lambda: mean(p, right) - mean(p, wrong),
        "mass_difference": lambda: sum(p[i] for i in right) - sum(p[i] for i in wrong),
        "answer_probability": lambda: sum(p[i] for i in right),
        "log_probability": lambda: math.log(sum(p[i] for i in right)),
        "accuracy": lambda: float(all(best > x for x in others)),
        "preference": lambda: float(best > max(row[i] for i in wrong)),
        "rank": lambda: float(sum(x >= best for x in others)),
    }[name]()


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]], list[list[int]]]:
    rows = draw(st.integers(1, 5))
    level = st.integers(-24, 24).map(lambda x: x / 8)  # coarse, so that ties happen
    logits = [draw(st.lists(level, min_size=V, max_size=V)) for _ in range(rows)]
    order = [draw(st.permutations(range(V))) for _ in range(rows)]
    right = [o[: draw(st.integers(1, 4))] for o in order]
    wrong = [o[5 : 5 + draw(st.integers(1, 4))] for o in order]
    return logits, right, wrong


@pytest.mark.parametrize("name", metrics.METRICS)
@given(case=cases())
def test_each_metric_is_its_formula(
    name: str, case: tuple[list[list[float]], list[list[int]], list[list[int]]]
) -> None:
    rows, right, wrong = case
    batch = batch_of(right, wrong)
    logits = torch.randn(len(rows), 7, V)
    logits[torch.arange(len(rows)), batch.last] = torch.tensor(rows)
    found = metrics.metric(name)(logits, batch, "none")
    expected = torch.tensor([loops(name, *each) for each in zip(rows, right, wrong, strict=True)])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(metrics.metric(name)(logits, batch), expected.mean(), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(metrics.metric(name)(torch.tensor(rows), batch, "none"), found)


def test_greater_than_is_eap_igs_prob_diff() -> None:
    # github.com/hannamw/EAP-IG: probs[year_indices]; sum above the year minus sum up to it
    torch.manual_seed(3)
    logits, years = torch.randn(5, 131), torch.tensor([2, 17, 50, 97, 98])
    probs = logits.softmax(-1)[:, :100]
    reference = [probs[i, year + 1 :].sum() - probs[i, : year + 1].sum() for i, year in enumerate(years)]
    right = [list(range(int(year) + 1, 100)) for year in years]
    wrong = [list(range(int(year) + 1)) for year in years]
    found = metrics.mass_difference(logits, batch_of(right, wrong), "none")
    torch.testing.assert_close(found, torch.stack(reference))


def test_logit_difference_is_auto_circuits() -> None:
    # github.com/UFO-101/auto-circuit: gather, mean over the answers, subtract
    torch.manual_seed(4)
    logits = torch.randn(6, V)
    answers, wrong = torch.randint(5, (6, 2)), torch.randint(5, V, (6, 3))
    reference = logits.gather(-1, answers).mean(-1) - logits.gather(-1, wrong).mean(-1)
    found = metrics.logit_difference(logits, batch_of(answers.tolist(), wrong.tolist()), "none")
    torch.testing.assert_close(found, reference)


def test_a_model_that_knows_nothing_is_never_right() -> None:
    batch = batch_of([[3], [5, 6]], [[4], [7]])
    flat = torch.zeros(2, V)
    assert metrics.accuracy(flat, batch) == 0
    assert metrics.preference(flat, batch) == 0
    assert metrics.rank(flat, batch, "none").tolist() == [V - 1, V - 2]
    assert metrics.logit_difference(flat, batch) == 0


def test_shifting_all_logits_changes_nothing() -> None:
    torch.manual_seed(5)
    batch, logits = batch_of([[3], [5, 6]], [[4], [7]]), torch.randn(2, V, dtype=torch.float64)
    for name, metric in metrics.METRICS.items():
        torch.testing.assert_close(metric(logits + 3, batch), metric(logits, batch), msg=name)


@pytest.mark.parametrize(
    "name", ["logit_difference", "probability_difference", "mass_difference", "log_probability"]
)
def test_gradients_are_exact_also_where_answers_are_padded(name: str) -> None:
    batch = batch_of([[3, 2], [5]], [[4], [7, 8]])
    logits = torch.randn(2, V, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: metrics.metric(name)(x, batch), logits)


NEEDS = {
    "logit_difference": "distractor",
    "preference": "distractor",
    "accuracy": "answer",
    "log_probability": "answer",
}


@pytest.mark.parametrize(("name", "what"), NEEDS.items())
def test_missing_answers_are_named_not_averaged_away(name: str, what: str) -> None:
    answers, wrong = ([[3], []], [[4], [5]]) if what == "answer" else ([[3], [2]], [[4], []])
    with pytest.raises(ConfigError, match=rf"(?s)1 of 2 prompts have no {what}.*prompt 1"):
        metrics.metric(name)(torch.zeros(2, V), batch_of(answers, wrong))
    empty = batch_of([[3], [2]], [[], []]) if what == "distractor" else batch_of([[], []], [[1]] * 2)
    with pytest.raises(ConfigError, match=rf"2 of 2 prompts have no {what}"):
        metrics.metric(name)(torch.zeros(2, V), empty)


def test_unknown_names_are_helped() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rank'"):
        metrics.metric("ranks")


# --- sentences ------------------------------------------------------------------------------------


def test_a_sentence_has_the_probability_of_its_tokens() -> None:
    model = bigram({("cat", "sleeps"): 1.5, ("the", "cat"): 0.7})
    batch = model.tokenize(["the cat sleeps near the cat", "the dog"])
    logits = model(batch)
    found = metrics.sentence_log_probability(logits, batch)
    for row, ids in enumerate(batch):
        losses = F.cross_entropy(logits[row, : len(ids) - 1], ids[1:], reduction="none")
        torch.testing.assert_close(found[row], -losses.sum())
    alone = model.tokenize("the dog")
    torch.testing.assert_close(
        metrics.sentence_log_probability(model(alone), alone), found[1:], msg="padding counts"
    )


def test_one_token_is_no_sentence() -> None:
    model = bigram({})
    batch = model.tokenize(["the"], prepend_bos=False)
    with pytest.raises(ConfigError, match="one token"):
        metrics.sentence_log_probability(model(batch), batch)
    with pytest.raises(ShapeError, match="not of these tokens"):
        metrics.sentence_log_probability(torch.zeros(1, 3, 5), batch)
