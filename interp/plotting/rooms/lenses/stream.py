"""The residual-stream lens: layers upward, positions across, the top-1 token in every cell.

Source of the picture: nostalgebraist, "interpreting GPT: the logit lens" (2020); entropy and KL
colourings after Belrose et al., "Eliciting Latent Predictions with the Tuned Lens" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.core.frames.quantity import Quantity
from interp.core.result import renders
from interp.core.settings import check_choice
from interp.lenses.result import LensResult
from interp.plotting import labels, theme
from interp.plotting.config import LensConfig

CELL_HEIGHT = 34
MARK_SENTENCE = "; orange: from this row up the top-1 stays the final one"


@dataclass(frozen=True)
class _Colouring:
    """One choice in the picture's menu."""

    key: str
    """Field of the result it shows."""
    button: str
    """Text of its menu entry."""
    quantity: Quantity
    """What the colour means."""
    values: np.ndarray
    """Shape [layer pos], as drawn (ranks as log10)."""


class _Fit:
    """Pixels and characters: short prompts get roomy cells, long ones narrower cells and smaller
    text, and no line of text is wider than its cell."""

    def __init__(self, result: LensResult) -> None:
        n_layers, n_positions = result.entropy.shape
        self.line, self.font = next(
            fit for most, fit in ((12, (9, 11)), (24, (7, 10)), (10**9, (5, 8))) if n_positions <= most
        )
        chars = max(labels.cell_chars(tops[0], self.line) for row in result.top_tokens for tops in row)
        self.cell = max(30, round(chars * 0.6 * self.font + 6))
        names = 24 + theme.CHAR * max(len(labels.prose(name, 40)) for name in result.components)
        self.width = max(600, round(names) + 96 + self.cell * n_positions)
        self.height = theme.HEADER + 136 + CELL_HEIGHT * n_layers


@renders(LensResult)
def lens_heatmap(result: LensResult, config: LensConfig | None = None, **options: Any) -> go.Figure:
    """Draw a lens: cell text = top-1 prediction for the *next* position, colour by choice.

    Layer 0 is at the bottom, the output on top. Orange outlines mark, per position, the row
    from which up the top-1 is the final top-1 (`LensResult.emergence`). The menu recolours by the
    answer's probability, top-1 probability, entropy (nats), KL from the output (nats) or the
    answer's rank (log scale).

    Args:
        result: A lens result; arrays [layer pos] and [layer pos k].
        config: How to draw it.
        **options: Fields of `LensConfig` to change, e.g. `colour="kl"`.

    Raises:
        ConfigError: a colour that the result does not have.
    """
    config = (config or LensConfig()).changed(options, "this picture")
    choices = _colourings(result)
    opening = _index_of(config.colour, choices)
    n_layers, n_positions = result.entropy.shape
    fit = _Fit(result)
    text = [[labels.cell(tops[0], fit.line) for tops in row] for row in result.top_tokens]
    mark = MARK_SENTENCE if config.mark_first else ""
    title = config.title or f"{result.kind.replace('_', ' ').capitalize()} lens"
    fig = theme.figure(title, None, fit.width, fit.height)
    for index, choice in enumerate(choices):
        fig.add_trace(_colour_trace(choice, text if config.cell_text else None, fit))
        fig.data[index].visible = index == opening
    fig.add_trace(_hover_trace(result))
    if config.mark_first:
        fig.add_trace(_outlines(result.emergence()))
    _label_axes(fig, result)
    sentences = [theme.subtitle(choice.quantity.sentence + mark, fit.width) for choice in choices]
    fig.update_layout(
        title_subtitle_text=sentences[opening],
        updatemenus=[_menu(choices, sentences, opening, 1 + config.mark_first)],
    )
    fig.update_xaxes(range=[-0.5, n_positions - 0.5], constrain="domain")
    fig.update_yaxes(range=[-0.5, n_layers - 0.5])
    return fig


def _colourings(result: LensResult) -> list[_Colouring]:
    def array(values: Any) -> np.ndarray:
        return theme.as_array(values, 2, "lens")

    choices = []
    if result.target_prob is not None:
        quantity = Quantity("probability of the answer", higher="the row already says the answer")
        choices.append(_Colouring("target_prob", "P(answer)", quantity, array(result.target_prob)))
    quantity = Quantity("probability of the top-1 token", higher="the row is surer of its guess")
    choices.append(_Colouring("top_prob", "P(top-1)", quantity, array(result.probs_top[..., 0])))
    quantity = Quantity("entropy", "nats", "the row's prediction is more spread out", False)
    choices.append(_Colouring("entropy", "entropy", quantity, array(result.entropy)))
    quantity = Quantity("KL(output ‖ row)", "nats", "the row is farther from the output", False)
    choices.append(_Colouring("kl", "KL to output", quantity, array(result.kl)))
    if result.target_rank is not None:
        quantity = Quantity(
            "rank of the answer", "1 = top, log scale", "more tokens are preferred to it", False
        )
        ranks = np.log10(array(result.target_rank) + 1)
        choices.append(_Colouring("target_rank", "rank of answer", quantity, ranks))
    return choices


def _index_of(colour: str | None, choices: list[_Colouring]) -> int:
    keys = [choice.key for choice in choices]
    if colour is None:
        return 0
    check_choice("colour", colour, keys)
    return keys.index(colour)


def _colour_trace(choice: _Colouring, text: list[list[str]] | None, fit: _Fit) -> go.Heatmap:
    probability = choice.key in ("target_prob", "top_prob")
    settings = theme.scale(choice.values, choice.quantity)
    if probability:
        settings |= {"zmin": 0, "zmax": 1}
    bar = theme.colorbar(choice.quantity, CELL_HEIGHT * len(choice.values))
    if choice.key == "target_rank":
        decades = list(range(int(settings["zmax"]) + 1))
        bar |= {"tickmode": "array", "tickvals": decades, "ticktext": [f"{10**d:,}" for d in decades]}
    trace = go.Heatmap(
        z=theme.packed(choice.values),
        xgap=1,
        ygap=1,
        hoverinfo="skip",
        colorbar=bar,
        name=labels.plain(choice.quantity.axis),
        **settings,
    )
    if text is not None:
        trace.update(text=text, texttemplate="%{text}", textfont={"size": fit.font})
    return trace


def _hover_trace(result: LensResult) -> go.Heatmap:
    """An invisible trace on top that holds the hover texts once for all colourings."""
    n_layers, n_positions = result.entropy.shape
    texts = [[_cell_hover(result, layer, pos) for pos in range(n_positions)] for layer in range(n_layers)]
    return go.Heatmap(
        z=np.zeros((n_layers, n_positions), np.uint8),
        opacity=0,
        showscale=False,
        customdata=texts,
        hovertemplate="%{customdata}" + labels.NO_NAME,
        name="lens",
    )


def _cell_hover(result: LensResult, layer: int, pos: int) -> str:
    token = labels.escape_label(labels.full(result.tokens[pos]))
    where = f"{pos} · {token} · {labels.plain(result.components[layer])}"
    tops = zip(result.top_tokens[layer][pos], result.probs_top[layer, pos].tolist(), strict=True)
    lines = [f"{labels.number(prob)} · {labels.escape_label(labels.full(top))}" for top, prob in tops]
    numbers = [
        f"entropy {labels.number(float(result.entropy[layer, pos]))} nats",
        f"KL {labels.number(float(result.kl[layer, pos]))} nats",
    ]
    answer = ""
    if result.targets is not None:
        answer = f"answer {labels.escape_label(labels.full(result.targets[pos]))}"
        if result.target_prob is not None:
            answer += f" · P {labels.number(float(result.target_prob[layer, pos]))}"
        if result.target_rank is not None:
            answer += f" · rank {int(result.target_rank[layer, pos]) + 1:,}"
    return labels.hover(where, "predicts next:", *lines, " · ".join(numbers), answer)


def _outlines(rows: Sequence[int]) -> go.Scatter:
    """One open rectangle per position, drawn as a single interrupted line."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for pos, row in enumerate(rows):
        left, right, low, high = pos - 0.47, pos + 0.47, row - 0.47, row + 0.47
        xs += [left, right, right, left, left, None]
        ys += [low, low, high, high, low, None]
    return go.Scatter(
        x=xs,
        y=ys,
        mode="lines",
        hoverinfo="skip",
        line={"color": theme.MARK, "width": 2},
        name="emergence",
        showlegend=False,
    )


def _label_axes(fig: go.Figure, result: LensResult) -> None:
    rows = labels.numbered(result.components)
    fig.update_xaxes(
        title_text="input token (cells predict the token after it)",
        tickangle=-45,
        **labels.ticks(result.tokens),
    )
    fig.update_yaxes(tickmode="array", tickvals=list(range(len(rows))), ticktext=rows)
    fig.update_layout(margin_t=theme.HEADER + 38)


def _menu(choices: list[_Colouring], sentences: list[str], opening: int, n_fixed: int) -> dict[str, Any]:
    """Buttons that show one colouring and leave hover and outlines on."""
    buttons = []
    for index, choice in enumerate(choices):
        seen = [i == index for i in range(len(choices))] + [True] * n_fixed
        below = {"title.subtitle.text": sentences[index]}
        buttons.append({"label": choice.button, "method": "update", "args": [{"visible": seen}, below]})
    return theme.menu(buttons, opening)
