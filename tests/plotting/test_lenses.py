"""The lens picture: rows upward, cell text, colour choices, outlines, hover."""

from __future__ import annotations

import numpy as np
import pytest

from interp.core.errors import ConfigError
from interp.plotting.config import LensConfig
from interp.plotting.rooms.lenses.stream import lens_heatmap
from tests.plotting.samples import NASTY, lens_result

CHOICES = ("target_prob", "top_prob", "entropy", "kl", "target_rank")


@pytest.mark.parametrize("colour", CHOICES)
def test_exactly_the_chosen_colouring_is_visible(colour: str) -> None:
    result = lens_result()
    fig = lens_heatmap(result, colour=colour)
    shown = [trace for trace in fig.data[:5] if trace.visible]
    assert len(shown) == 1
    expected = {
        "target_prob": result.target_prob,
        "top_prob": result.probs_top[..., 0],
        "entropy": result.entropy,
        "kl": result.kl,
        "target_rank": np.log10(result.target_rank.numpy() + 1),
    }[colour]
    np.testing.assert_allclose(shown[0].z, expected, rtol=1e-6)
    assert fig.layout.updatemenus[0].active == CHOICES.index(colour)


def test_row_zero_is_at_the_bottom_and_the_axis_is_not_reversed() -> None:
    fig = lens_heatmap(lens_result())
    assert fig.layout.yaxis.ticktext == ("embed", "L0 post", "L1 post")
    assert fig.layout.yaxis.range == (-0.5, 2.5)


def test_outlines_mark_the_row_from_which_the_top_1_stays() -> None:
    result = lens_result()
    outline = lens_heatmap(result).data[-1]
    lows = [y for i, y in enumerate(outline.y) if i % 6 == 0]
    np.testing.assert_allclose(np.array(lows) + 0.47, [0, 1, 2, 0, 1])
    bare = lens_heatmap(result, mark_first=False)
    assert all(trace.name != "emergence" for trace in bare.data)
    assert "orange" not in bare.layout.title.subtitle.text


def test_hover_names_position_token_component_and_all_numbers() -> None:
    hover = lens_heatmap(lens_result()).data[5].customdata[1][2]
    assert hover.startswith("2 · c · L0 post<br>")
    for part in ("entropy 0.7 nats", "KL 0.7 nats", "answer c", "rank 8", "0.5 · c"):
        assert part in hover


def test_without_a_target_the_answers_colours_are_not_offered() -> None:
    from dataclasses import replace

    result = replace(lens_result(), target_prob=None, target_rank=None, targets=None)
    fig = lens_heatmap(result)
    assert [b.label for b in fig.layout.updatemenus[0].buttons] == ["P(top-1)", "entropy", "KL to output"]
    with pytest.raises(ConfigError, match="target_rank"):
        lens_heatmap(result, LensConfig(colour="target_rank"))


def test_buttons_switch_colour_and_sentence_and_keep_hover_and_outlines() -> None:
    fig = lens_heatmap(lens_result())
    for index, button in enumerate(fig.layout.updatemenus[0].buttons):
        visible = button.args[0]["visible"]
        assert [i for i, on in enumerate(visible[:5]) if on] == [index]
        assert visible[5:] == [True, True]
        assert "higher:" in button.args[1]["title.subtitle.text"]


def test_cells_are_wide_enough_for_their_text() -> None:
    tokens = tuple(f"unbelievably{i}" for i in range(29))
    fig = lens_heatmap(lens_result(tokens))
    font = fig.data[0].textfont.size
    longest = max(len(line) for row in fig.data[0].text for c in row for line in c.split("<br>"))
    cells = (fig.layout.width - 24 - 96) / len(tokens)
    assert cells >= longest * font * 0.6


def test_hostile_tokens_leave_no_markup_but_line_breaks() -> None:
    fig = lens_heatmap(lens_result(NASTY))
    texts = [*fig.layout.xaxis.ticktext, *np.ravel(fig.data[5].customdata), *np.ravel(fig.data[0].text)]
    assert all("<" not in str(text).replace("<br>", "") for text in texts)


def test_a_result_plots_itself_through_the_registry() -> None:
    fig = lens_result().plot(colour="kl")
    assert "KL" in fig.layout.title.subtitle.text
