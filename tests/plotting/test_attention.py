"""Attention patterns: orientation, blank future, head choice, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from interp.core.errors import ConfigError, ShapeError
from interp.plotting.attention import attention_patterns
from interp.plotting.config import AttentionConfig

TOKENS = ["<bos>", " a", " a", "\n", " b"]


def patterns(n_heads: int = 3) -> np.ndarray:
    scores = np.random.default_rng(0).normal(size=(n_heads, 5, 5))
    scores = np.where(np.tril(np.ones((5, 5))), scores, -np.inf)
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True)


def test_thumbnails_come_first_then_one_large_map_per_head() -> None:
    values = patterns()
    fig = attention_patterns(values, TOKENS, config=AttentionConfig(selected=2))
    assert len(fig.data) == 6 and fig.layout.meta == {"thumbnails": 3}
    assert [trace.visible for trace in fig.data[3:]] == [False, False, True]
    for head in range(3):
        np.testing.assert_allclose(np.nan_to_num(fig.data[3 + head].z), values[head], rtol=1e-6, atol=1e-9)


def test_the_future_is_blank_not_zero_unless_the_model_looks_both_ways() -> None:
    causal = attention_patterns(patterns(), TOKENS).data[-1].z
    assert np.isnan(causal[0, 1:]).all() and np.isfinite(causal[4]).all()
    both = attention_patterns(patterns(), TOKENS, config=AttentionConfig(causal=False)).data[-1].z
    assert np.isfinite(both).all()


def test_queries_run_downward_and_labels_keep_repeated_tokens() -> None:
    fig = attention_patterns(patterns(), TOKENS)
    assert fig.layout.yaxis999.autorange == "reversed"
    assert fig.layout.xaxis999.ticktext == ("&lt;bos&gt;", "·a", "·a", "⏎", "·b")
    assert fig.data[-1].y[4] == "4 ·b" and fig.data[-1].x[1] == "1 ·a"
    assert "%{y}" in fig.data[-1].hovertemplate and "%{x}" in fig.data[-1].hovertemplate


def test_a_cell_costs_its_number_and_no_text() -> None:
    """29 bytes a cell, two strings each, were most of a page."""
    n = 128
    fig = attention_patterns(np.full((4, n, n), 1 / n), [f"tok{i}" for i in range(n)])
    assert len(fig.to_json()) < 4 * n * n * 8


def test_a_thumbnail_keeps_every_stripe() -> None:
    n = 200
    maps = np.zeros((1, n, n))
    maps[0, np.arange(1, n), np.arange(n - 1)] = 1.0
    small = attention_patterns(maps, ["a"] * n).data[0].z
    assert small.shape == (50, 50) and np.diagonal(small).min() == 1.0
    assert np.isnan(small[0, 1:]).all()


def test_the_menu_shows_one_head_and_all_thumbnails() -> None:
    menu = attention_patterns(patterns(), TOKENS, names=["A", "B", "C"]).layout.updatemenus[0]
    assert [button.label for button in menu.buttons] == ["A large", "B large", "C large"]
    assert list(menu.buttons[1].args[1]) == [True, True, True, False, True, False]


def test_rescaling_leaves_out_the_first_key() -> None:
    values = patterns()
    button = attention_patterns(values, TOKENS).layout.updatemenus[1].buttons[1]
    assert button.args[1] == pytest.approx(values[:, 1:, 1:].max())


def test_maps_do_not_overlap() -> None:
    fig = attention_patterns(patterns(7), TOKENS)
    main = fig.layout.xaxis999.domain[0]
    axes = [fig.layout[f"xaxis{i or ''}"] for i in (0, 2, 3, 4)]
    assert all(axis.domain[1] < main for axis in axes)
    assert axes[0].domain[1] < axes[1].domain[0]
    low = [fig.layout[f"yaxis{i or ''}"].domain for i in (0, 5)]
    assert low[1][1] < low[0][0] and low[1][0] >= 0


@pytest.mark.parametrize(
    ("values", "tokens", "names"),
    [
        (patterns()[0], TOKENS, None),
        (patterns(), TOKENS[:4], None),
        (patterns(), TOKENS, ["only one"]),
        (patterns()[:, :4], TOKENS, None),
    ],
)
def test_what_does_not_fit_is_refused(values: object, tokens: list[str], names: object) -> None:
    with pytest.raises(ShapeError, match="expected:"):
        attention_patterns(values, tokens, names=names)  # type: ignore[arg-type]


def test_a_head_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 to 2"):
        attention_patterns(patterns(), TOKENS, config=AttentionConfig(selected=3))
