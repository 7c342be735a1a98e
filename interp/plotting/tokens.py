"""Token strips: text with one number per token, in HTML and CSS alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from interp.core.errors import ShapeError
from interp.core.frames.quantity import Quantity
from interp.plotting import labels, theme
from interp.plotting.html import render

MAX_ALPHA = 0.62
POSITIVE, NEGATIVE = (46, 124, 214), (219, 68, 55)


@dataclass(frozen=True, eq=False)
class TokenStrip:
    """A token sequence coloured by one value per token.

    Signed values: blue positive, red negative, opacity proportional to |value| / largest |value|.
    Unsigned: blue from 0. The opacity stops at 0.62, so that black and white ink both stay legible.

    Raises:
        ShapeError: not one value per token, or no tokens.
    """

    tokens: tuple[str, ...]
    """The sequence."""
    values: Any
    """One number per token, shape [token]; NaN is left uncoloured. Kept as a tuple of floats."""
    title: str
    """Heading."""
    quantity: Quantity
    """What the values are."""
    note: str = ""
    """One line beside the heading; empty says what the quantity is."""

    def __post_init__(self) -> None:
        array = theme.as_array(self.values, 1, f"token strip {labels.prose(self.title, 40)!r}")
        if len(array) != len(self.tokens):
            raise ShapeError(
                "token strip needs one value per token",
                got=f"{len(array)} values",
                expected=f"{len(self.tokens)} tokens",
            )
        object.__setattr__(self, "tokens", tuple(self.tokens))
        object.__setattr__(self, "values", tuple(array.tolist()))

    @property
    def signed(self) -> bool:
        """Whether the blue/red scale applies."""
        return theme.is_signed(np.array(self.values), self.quantity)

    @property
    def reach(self) -> float:
        """The |value| that takes full colour."""
        return max((abs(v) for v in self.values if math.isfinite(v)), default=0.0)

    def html(self) -> Markup:
        """The strip with its legend; every token escaped, with its value in a tooltip."""
        cells = [
            {
                "text": labels.shown(token, 40),
                "about": self._about(index, token, value),
                "color": self._color(value),
                "breaks": "\n" in token,
            }
            for index, (token, value) in enumerate(zip(self.tokens, self.values, strict=True))
        ]
        ends = [-self.reach, 0.0, self.reach] if self.signed else [0.0, self.reach]
        return render(
            Path(__file__).parent / "templates",
            "token_strip.html",
            title=labels.prose(self.title),
            sentence=labels.prose(self.note or self.quantity.sentence, 240),
            cells=cells,
            ends=[{"text": labels.number(v, self.signed), "color": self._color(v)} for v in ends],
        )

    def _repr_html_(self) -> str:
        return str(self.html())

    def _about(self, index: int, token: str, value: float) -> str:
        amount = labels.number(value, self.signed)
        return f"{index} · {labels.full(token)} · {labels.prose(self.quantity.name)} {amount}"

    def _color(self, value: float) -> str:
        if not math.isfinite(value) or not self.reach:
            return "transparent"
        red, green, blue = POSITIVE if value >= 0 else NEGATIVE
        return f"rgba({red},{green},{blue},{MAX_ALPHA * abs(value) / self.reach:.3f})"
