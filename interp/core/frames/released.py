"""Result types that were saved once and are another type now: which one, and where their fields went.

Standard library only; `Result.load` reads it, and one golden folder per row holds it true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Fields = dict[str, Any]


def renamed(fields: Fields, names: dict[str, str]) -> Fields:
    """The fields under their new names."""
    return {names.get(name, name): value for name, value in fields.items()}


def relabelled(fields: Fields, axes: dict[str, str]) -> Fields:
    """The fields with the labels of axes under the axes' new names."""
    return fields | {"labels": renamed(fields["labels"], axes)}


def _amnesic(fields: Fields) -> Fields:
    return renamed(fields, {"erased": "ablated"}) | {"neurons": (), "replacement": "projection"}


def _neurons(fields: Fields) -> Fields:
    return relabelled(fields, {"group": "text"}) | {"rank": len(fields["neurons"])}


RELEASED: dict[str, tuple[str, Callable[[Fields], Fields]]] = {
    "AmnesicResult": ("Ablation", _amnesic),
    "NeuronAblation": ("Ablation", _neurons),
}
"""Name of the type that was saved -> name of today's, and today's fields from those saved."""
