"""Edits as plain data, and what they mean: worked out row by row and token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOKEN_AXIS = {"d": 1, "h": 1, "1": 1, "a": 2, "p": 1}
HEAD_AXIS = {"h": 2, "k": 2, "a": 1}


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit at one site.

    Attributes:
        site: The name, with its call index where it has one.
        axes: As in `Place`.
        verb: zero, mean, patch, add, project_out, clamp, bounds (interventions), dent (functions),
            nothing, raise, call.
        style: intervention; or what a function does: whole (returns another tensor), copy (edits a
            copy, returns it), idiom (edits what it got, returns it), silent (edits what it got,
            returns nothing), data (the same through `.data`).
        vector: What mean, patch, add and project_out need.
        positions, head, index: As the user gives them.
        column: For functions: the column of the token axis to touch, None for all.
    """

    site: str
    axes: str
    verb: str
    style: str = "intervention"
    vector: Tensor | None = None
    positions: Any = None
    head: Any = None
    index: Any = None
    column: int | None = None

    def __repr__(self) -> str:
        names = ("style", "positions", "head", "index", "column")
        shown = [f"{n}={getattr(self, n)!r}" for n in names if getattr(self, n) is not None]
        return f"{self.verb}({self.site!r}, {', '.join(shown)})"


@dataclass(frozen=True)
class Layout:
    """The rows of one tensor.

    Attributes:
        rows: Which rows of the user's batch they are.
        here: Per row, the columns of this tensor that hold real tokens, in order.
        given: Per row, the columns of the user's batch that the prompt's tokens had.
        length: Columns of the user's batch.
    """

    rows: list[int]
    here: list[list[int]]
    given: list[list[int]]
    length: int


def dented(value: Tensor, axes: str) -> Tensor:
    """What edits by function make of a value: half of it, and off zero where that is allowed."""
    return value * 0.5 if axes in "a1" else value * 0.5 + 0.1


class _Unseen(torch.autograd.Function):
    """Autograd does not see what is written through `.data`: the gradient passes as if unedited."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, written: Tensor) -> Tensor:
        return written.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def by_hand(edit: Edit, value: Tensor, layout: Layout) -> Tensor:
    """The value after one edit."""
    if edit.verb in ("nothing", "raise", "call"):
        return value
    new = _transformed(edit, value)
    chosen = torch.zeros(value.shape, dtype=torch.bool)
    token_axis, head_axis = TOKEN_AXIS.get(edit.axes), HEAD_AXIS.get(edit.axes)
    for row in range(len(value)):
        where: list[Any] = [slice(None)] * value.dim()
        where[0] = row
        if edit.head is not None:
            where[head_axis or 0] = numbers(edit.head, value.shape[head_axis or 0])
        at = 1 if edit.axes == "c" else value.dim() - 1
        entries = range(value.shape[at]) if edit.index is None else numbers(edit.index, value.shape[at])
        tokens = _tokens(edit, layout, row)
        for token in [slice(None)] if tokens is None else tokens:
            for entry in entries:
                spot = list(where)
                if token_axis is not None or edit.column is not None:
                    spot[token_axis or 1] = token
                spot[at] = entry
                chosen[tuple(spot)] = True
    if edit.style == "data":
        return _Unseen.apply(value, torch.where(chosen, new, value).detach())
    return torch.where(chosen, new, value)


def _tokens(edit: Edit, layout: Layout, row: int) -> list[int] | None:
    """Columns of the tensor that are touched in a row; None for all."""
    here, given = layout.here[row], layout.given[row]
    if edit.style != "intervention":
        if edit.column is None:
            return None
        column = edit.column % layout.length
        return [here[k] for k in range(len(given)) if given[k] == column]
    if edit.positions is None:
        return None
    return [here[k] for k in ranks(edit.positions, layout.rows[row], given)]


def ranks(positions: Any, row: int, given: list[int]) -> list[int]:
    """Which of a row's real tokens are meant, counted from 0."""
    n = len(given)
    if isinstance(positions, slice):
        return list(range(n))[positions]
    if isinstance(positions, Tensor) and positions.dim() == 2:
        if positions.dtype == torch.bool:
            mine = positions[row if len(positions) > 1 else 0].tolist()
            return [k for k in range(n) if mine[given[k]]]
        positions = positions[row].tolist()
    if isinstance(positions, Tensor):
        positions = positions.tolist()
    return numbers(positions, n)


def numbers(choice: Any, n: int) -> list[int]:
    """An int, a list of ints, a slice, or a mask, as non-negative ints."""
    if isinstance(choice, Tensor):
        choice = choice.tolist()
    if isinstance(choice, slice):
        return list(range(n))[choice]
    if isinstance(choice, int):
        choice = [choice]
    if choice and isinstance(choice[0], bool):
        return [i for i, wanted in enumerate(choice) if wanted]
    return [int(i) % n for i in choice]


def _transformed(edit: Edit, value: Tensor) -> Tensor:
    if edit.style != "intervention":
        return dented(value, edit.axes)
    vector = None if edit.vector is None else edit.vector.to(value.dtype)
    if edit.verb == "zero":
        return torch.zeros_like(value)
    if edit.verb == "clamp":
        return torch.full_like(value, 0.3)
    if edit.verb == "bounds":
        return torch.minimum(torch.maximum(value, value.new_tensor(-0.2)), value.new_tensor(0.4))
    assert vector is not None
    if edit.verb == "add":
        return value + 0.7 * vector
    if edit.verb == "project_out":
        rest = value
        for direction in torch.linalg.qr(vector.T)[0].T:
            rest = rest - (rest @ direction)[..., None] * direction
        return rest
    return vector.expand(value.shape)  # mean, patch
