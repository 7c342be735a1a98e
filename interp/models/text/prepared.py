"""One forward pass, ready for the raw module, and what padding does to a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from interp.models.adapters.once import Once


@dataclass
class Prepared:
    """One forward pass.

    Attributes:
        args, kwargs: For the raw module.
        tokens: [batch, pos] ids, None for inputs that are not tokens.
        mask: [batch, pos], True = real; None when nothing is padding.
        decoder_tokens, decoder_mask: The same for an encoder-decoder's second side.
        cached: How many keys a cache holds already; `tokens` and `mask` leave them out.
        given_positions, given_decoder: Position ids, the decoder's ids came from the user.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    tokens: Tensor | None = None
    mask: Tensor | None = None
    decoder_tokens: Tensor | None = None
    decoder_mask: Tensor | None = None
    cached: int = 0
    given_positions: bool = False
    given_decoder: bool = False


@dataclass
class Padding:
    """What padding does to one model, found by running it (see `padding.py`).

    Attributes:
        refused: Sides on which padding changes the real tokens' numbers ("left", "right", "holes",
            "decoder left", ...), with the reason.
        fill: The id that must stand in padding, for heads that look for it; None: any does.
        placed: Whether to give the model position ids that count real tokens; False where it counts
            them by itself.
        alone: Why only one row at a time can be run; empty where any number can.
        proof: Finds out all but `alone`; None where nobody asks.
    """

    refused: dict[str, str] = field(default_factory=dict)
    fill: int | None = None
    placed: bool = True
    alone: str = ""
    proof: Once | None = None
