"""The numbers that people give to edits: vectors in any form they are held in, and single numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import EditError

Source = Tensor | Mapping[str, Any]
"""What an edit takes its values from, once read: a tensor, or Activations by site."""


def read_vector(value: Any, what: str) -> Tensor:
    """A tensor, array, number or list of numbers as a tensor; tensors as they are, on their graph.

    Raises:
        EditError: No numbers, rows of different length, or a tensor without values of its own.
    """
    found = value
    if not isinstance(value, Tensor):
        try:
            found = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise EditError(
                f"{what} cannot be read as numbers",
                got=repr(value)[:80],
                expected="a tensor, an array or a list of numbers",
            ) from error
    if found.is_meta:
        raise EditError(f"{what} has no values", got="a tensor on the meta device")
    if found.layout != torch.strided:
        raise EditError(f"{what} must be a dense tensor", got=found.layout, fix="vector.to_dense()")
    return found


def read_source(value: Any, what: str) -> Source:
    """A vector as `read_vector` has it, or a mapping from site names to such.

    Raises:
        EditError: As for `read_vector`.
    """
    return value if isinstance(value, Mapping) else read_vector(value, what)


def read_number(value: Any, what: str) -> float:
    """One real number, also out of a tensor or array of one entry.

    Raises:
        EditError: Text, a truth value, several numbers, NaN.
    """
    found = None
    if not isinstance(value, str | bytes | bool):
        with suppress(TypeError, ValueError, RuntimeError):  # no number; an array of several
            found = float(value)
    if found is None or math.isnan(found):
        raise EditError(f"{what} is one number", got=repr(value)[:80], fix="a float, such as 2.0")
    return found
