"""What a result declares of one of its fields, cut and named, as the generic picture needs it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp.core.errors import ConfigError
from interp.core.frames.quantity import Drawn, drawn_axes, drawn_fields
from interp.core.names import did_you_mean
from interp.core.result import Result
from interp.plotting import labels


class View:
    """The fields of a result, each cut where the caller asked, and the names of their places."""

    def __init__(self, result: Result, cut: dict[str, int | str]) -> None:
        self.result = result
        self.declared = drawn_fields(type(result))
        self.notes: list[str] = []
        self.cut_at: list[str] = []
        self._axes = {n: a for n, a in drawn_axes(type(result)).items() if getattr(result, n) is not None}
        known = sorted({axis for axes in self._axes.values() for axis in axes})
        self.cut = {axis: self._index(axis, place, known) for axis, place in cut.items()}

    def _index(self, axis: str, place: int | str, known: list[str]) -> int:
        if axis not in known:
            fix = did_you_mean(axis, [*known, "field", "quantity", "title"]) or None
            name = type(self.result).__name__
            raise ConfigError(f"{name} has no option {axis!r}", got=axis, expected=", ".join(known), fix=fix)
        names = self.names(axis)
        if isinstance(place, str):
            if place not in names:
                near = did_you_mean(place, names) or None
                raise ConfigError(f"no such {axis}", got=place, expected=", ".join(names), fix=near)
            place = names.index(place)
        if not -len(names) <= place < len(names):
            raise ConfigError(f"no such {axis}", got=place, expected=f"below {len(names)}")
        self.cut_at.append(names[place])
        return place

    def choose(self, field: str | None) -> str:
        """The field to draw.

        Raises:
            ConfigError: There is none, or not this one.
        """
        left = {name: self.axes(name) for name in self._axes}
        beside = {other for d in self.declared.values() for other in (*d.band, *d.beside, *d.null)}
        first = [n for n, d in self.declared.items() if d.quantity and not d.ticks and n in left]
        rest = [name for name, axes in left.items() if len(axes) in (1, 2) and name not in beside]
        numbers = [name for name in first if not left[name]]
        usable = [name for name in first if len(left[name]) in (1, 2)] or numbers or rest
        field = field or next(iter(usable), None)
        if field not in left or len(left[field]) > 2 or (not left[field] and field not in first):
            raise ConfigError(
                f"{type(self.result).__name__} has no field to draw",
                got=field and f"{field} with axes {self._axes.get(field, '(unknown)')}",
                expected="a field with one or two axes",
                fix=did_you_mean(field, left) if field else "cut an axis: plot(layer=0)",
            )
        if field in self.declared:  # an axis with one place is none
            single = [axis for axis in left[field] if self.size(axis) == 1]
            self.cut |= dict.fromkeys(single if len(single) < len(left[field]) else single[1:], 0)
        return field

    def axes(self, field: str) -> tuple[str, ...]:
        """The axes that are left of a field; none for a plain number."""
        return tuple(axis for axis in self._axes.get(field, ()) if axis not in self.cut)

    def values(self, field: str) -> Tensor:
        """A field's numbers over `axes(field)`."""
        whole = getattr(self.result, field)
        if not isinstance(whole, Tensor):
            return torch.tensor(float(whole))
        at = tuple(self.cut.get(axis, slice(None)) for axis in self._axes[field])
        return whole[at].double()

    def size(self, axis: str) -> int:
        """How many places an axis has."""
        field = next(name for name, axes in self._axes.items() if axis in axes)
        return getattr(self.result, field).shape[self._axes[field].index(axis)]

    def names(self, axis: str) -> list[str]:
        """The places of an axis, "layer 0", "layer 1", ... where nothing names them."""
        return self.result.ticks(axis) or [f"{axis} {i}" for i in range(self.size(axis))]

    def places(self, axis: str, title: str) -> tuple[Sequence[float | int | str], str]:
        """Where the places of an ordered axis lie, and the axis's title."""
        for name, drawn in self.declared.items():
            where = getattr(self.result, name)
            if drawn.ticks == axis and drawn.quantity is not None and isinstance(where, Tensor):
                return where.tolist(), drawn.quantity.axis
        given, title = self.result.ticks(axis), title or axis.replace("_", " ")
        if given is None:
            return range(self.size(axis)), title
        if all(name.lstrip("-").isdecimal() for name in given):
            return [int(name) for name in given], title
        return labels.sites(given), title

    def legend(self, field: str) -> str:
        """What a field is called beside others."""
        drawn = self.declared.get(field)
        return (drawn and drawn.name) or field.replace("_", " ")

    def present(self, fields: Sequence[str]) -> list[str]:
        """Those of the fields that the result has, and that hold something."""
        values = {field: getattr(self.result, field) for field in fields}
        empty = {field for field, v in values.items() if isinstance(v, Tensor) and not v.numel()}
        return [field for field, value in values.items() if value is not None and field not in empty]

    def band(self, field: str) -> tuple[Tensor, Tensor] | None:
        """The lower and the upper end of a field, where it has both."""
        ends = self.declared.get(field, Drawn()).band
        low, high = (*self.present(ends), "", "")[:2]
        return (self.values(low), self.values(high)) if high else None
