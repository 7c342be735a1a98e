"""The picture of a task report: what it shows, what it leaves out, and that names stay text."""

from __future__ import annotations

import torch

from interp.core.frames.intervals import wilson
from interp.plotting import theme
from interp.plotting.rooms.tasks import MOST, accuracy_bars
from interp.tasks.behaviour import TaskReport


def report(right: list[float], bar: float, names: list[str]) -> TaskReport:
    share, n = torch.tensor(right), torch.full((len(right),), 37)
    low, high = (end.float() for end in wilson(share, n))
    return TaskReport(
        right=share,
        low=low,
        high=high,
        top1=share,
        preferred=torch.full_like(share, torch.nan),
        logit_difference=torch.full_like(share, torch.nan),
        probability=share / 2,
        n=n,
        bar=torch.full_like(share, bar),
        name="pets",
        grouped_by="template",
        criteria=("accuracy",) * len(right),
        labels={"group": names},
    )


def test_bars_carry_shares_intervals_and_the_bar() -> None:
    made = report([0.9, 0.25, 1.0], 0.5, ["one", "<b>two</b>", "three"])
    figure = accuracy_bars(made)
    (trace,) = figure.data
    assert torch.equal(torch.tensor(list(trace.x)), made.right)
    reach = torch.tensor(list(trace.x)) + torch.tensor(list(trace.error_x.array))
    torch.testing.assert_close(reach, made.high)
    below = torch.tensor(list(trace.x)) - torch.tensor(list(trace.error_x.arrayminus))
    torch.testing.assert_close(below, made.low)
    assert [color == theme.MARK for color in trace.marker.color] == [False, True, False]
    assert [shape.x0 for shape in figure.layout.shapes] == [0.5]
    assert list(figure.layout.yaxis.ticktext)[1] == "&lt;b&gt;two&lt;/b&gt;"
    assert "of 37" in trace.customdata[0] and "logit difference" not in trace.customdata[0]


def test_without_a_bar_nothing_is_marked() -> None:
    figure = accuracy_bars(report([0.9, 0.0], float("nan"), ["one", "two"]))
    assert not figure.layout.shapes
    assert theme.MARK not in figure.data[0].marker.color


def test_many_groups_show_the_lowest_in_their_order() -> None:
    shares = [i % 50 / 50 for i in range(60)]
    figure = accuracy_bars(report(shares, 0.5, [f"t{i}" for i in range(60)]))
    assert len(figure.data[0].x) == MOST
    kept = [int(name[1:]) for name in figure.layout.yaxis.ticktext]
    assert kept == sorted(kept)
    dropped = set(range(60)) - set(kept)
    assert max(shares[i] for i in kept) <= min(shares[i] for i in dropped)
    assert "40 lowest of 60" in figure.layout.title.subtitle.text.replace("<br>", " ")
