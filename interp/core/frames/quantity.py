"""What the numbers of a field are, declared once beside its axes; every picture reads it there.

```python
@dataclass(frozen=True, kw_only=True, eq=False)
class Scores(Result):
    score: Float[Tensor, "site target"] = measured(
        "test accuracy", "", "more is readable", along="site", band=("low", "high"), null="shuffled"
    )
    low: Float[Tensor, "site target"]
    high: Float[Tensor, "site target"]
    shuffled: Float[Tensor, "site target"] | None = called("shuffled labels")
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from dataclasses import fields as dataclass_fields
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from interp.core.errors import ConfigError
from interp.core.frames.fields import declaration, declared_array
from interp.core.names import did_you_mean

KEY = "drawn"
"""Where a dataclass field, and the function of a property, keep their declaration."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Quantity:
    """What the numbers of a picture are; it becomes the subtitle and the colour bar's title."""

    name: str
    """The metric, e.g. "logit difference"."""
    unit: str = ""
    """Unit of the quantity, e.g. "nats"; empty for a pure number."""
    higher: str = ""
    """What a higher value means, as a clause: "the head attends to the previous token"."""
    signed: bool | None = None
    """True: symmetric blue/red scale around 0; False: one sequential scale; None: by the data."""

    @property
    def axis(self) -> str:
        """The short form for an axis or a colour bar: `name (unit)`."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def sentence(self) -> str:
        """The subtitle: metric, unit and what higher means."""
        return f"{self.axis} · higher: {self.higher}" if self.higher else self.axis


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a field says of its own picture."""

    quantity: Quantity | None = None
    """What it measures; None for a field that is drawn beside another one only."""
    name: str = ""
    """The name in a legend; empty for the field's own."""
    along: str = ""
    """The axis that has an order, along which it is a line."""
    axis_title: str = ""
    """Title of that axis; empty for its name."""
    several: Literal["lines", "map", "bars"] = "lines"
    """What becomes of a second axis: a line each, the rows of a map, or groups of bars."""
    log: Literal["", "x", "y"] = ""
    """Which axis of the lines is logarithmic."""
    band: tuple[str, ...] = ()
    """The fields with the lower and the upper end of its interval."""
    beside: tuple[str, ...] = ()
    """Fields of the same quantity that belong into the same picture."""
    null: tuple[str, ...] = ()
    """Fields that say what chance gives; an axis that only they have counts draws."""
    ticks: str = ""
    """The axis whose places this field holds: numbers of an array, or names of a tuple."""


def measured(
    name: str,
    unit: str,
    higher: str,
    *,
    signed: bool | None = None,
    legend: str = "",
    along: str = "",
    axis_title: str = "",
    several: Literal["lines", "map", "bars"] = "lines",
    log: Literal["", "x", "y"] = "",
    band: tuple[str, str] | tuple[()] = (),
    beside: str | tuple[str, ...] = (),
    null: str | tuple[str, ...] = (),
    default: Any = MISSING,
) -> Any:
    """A dataclass field that says what its numbers are; the generic picture needs no more.

    Args:
        name: The metric.
        unit: Its unit; empty says that it is a pure number.
        higher: What a higher value means; empty says that it means neither good nor bad.
        signed: As in `Quantity`.
        legend: The field's name in a legend.
        along: An axis of the field that has an order (layers, steps): it becomes the horizontal one.
        axis_title: Title of that axis.
        several: What becomes of a second axis.
        log: Which axis of the lines is logarithmic.
        band: Names of the fields with its lower and upper end.
        beside: Names of fields of the same quantity, drawn in the same picture.
        null: Names of fields that say what chance gives.
        default: The field's default, if it has one.
    """
    drawn = Drawn(
        quantity=Quantity(name, unit, higher, signed),
        name=legend,
        along=along,
        axis_title=axis_title,
        several=several,
        log=log,
        band=band,
        beside=_words(beside),
        null=_words(null),
    )
    return field(default=default, metadata={KEY: drawn})


def called(name: str, *, band: tuple[str, str] | tuple[()] = (), default: Any = MISSING) -> Any:
    """A dataclass field that others name as `beside` or `null`, with its name in the legend."""
    return field(default=default, metadata={KEY: Drawn(name=name, band=band)})


def places(axis: str, name: str = "", unit: str = "", *, default: Any = MISSING) -> Any:
    """A dataclass field that says where an axis's entries lie: an array of numbers, or names."""
    return field(default=default, metadata={KEY: Drawn(quantity=Quantity(name or axis, unit), ticks=axis)})


def computed(declared: Any) -> Callable[[Function], Function]:
    """Say with `measured` or `called` what a property's numbers are; their axes stand in what it returns.

    ```python
    @property
    @computed(measured("rise of the loss", "nats", "it was used", null="random_effect"))
    def effect(self) -> Float[Tensor, "group"]: ...
    ```
    """

    def declare(function: Function) -> Function:
        setattr(function, KEY, declared.metadata[KEY])
        return function

    return declare


@cache
def drawn_fields(cls: type) -> dict[str, Drawn]:
    """The declarations of a result type, those of fields first.

    Raises:
        ConfigError: A declaration names what the type does not have, or what has other axes.
    """
    found = {f.name: f.metadata[KEY] for f in dataclass_fields(cls) if KEY in f.metadata}
    found |= {name: getattr(function, KEY) for name, function in _computed(cls).items()}
    axes = {name: set(own) for name, own in drawn_axes(cls).items()}
    for name, drawn in found.items():
        _check(cls, name, drawn, axes)
    return found


@cache
def drawn_axes(cls: type) -> dict[str, tuple[str, ...]]:
    """Everything of a result type that holds numbers, with its axes; none for a plain number."""
    axes = {name: array.axes for name, array in declaration(cls).items()}
    hints = get_type_hints(cls)
    axes |= {name: () for name in hints if {float, int} & {hints[name], *get_args(hints[name])}}
    for name, function in _computed(cls).items():
        array = declared_array(cls, name, get_type_hints(function)["return"])
        axes[name] = () if array is None else array.axes
    return axes


def _computed(cls: type) -> dict[str, Any]:
    """The functions of the properties that say what they measure."""
    found = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    return {n: p.fget for n, p in found.items() if isinstance(p, property) and hasattr(p.fget, KEY)}


def _check(cls: type, name: str, drawn: Drawn, axes: dict[str, set[str]]) -> None:
    where, every = f"{cls.__name__}.{name}", set().union(*axes.values())
    if drawn.ticks:
        if drawn.ticks not in every or axes.get(name, {drawn.ticks}) != {drawn.ticks}:
            raise _wrong(where, "gives the places of an axis that it does not have", drawn.ticks, every)
        return
    if name not in axes:
        raise ConfigError(f"{where} is declared as measured, and holds no numbers")
    own = axes[name]
    if drawn.along and drawn.along not in own:
        raise _wrong(where, "runs along an axis that it does not have", drawn.along, own)
    for other in (*drawn.band, *drawn.beside, *drawn.null):
        if other not in axes:
            raise _wrong(where, "names a field that is none of numbers", other, axes)
    for other in (*drawn.band, *drawn.beside):
        if axes[other] != own:
            raise _wrong(where, f"is drawn with {other}, which has other axes", " ".join(axes[other]), own)
    for other in drawn.null:
        if len(axes[other] - own) > 1:
            raise _wrong(where, f"has the null {other}, with other axes", " ".join(axes[other]), own)


def _wrong(where: str, what: str, got: str, known: Any) -> ConfigError:
    near = did_you_mean(got, known) or None
    return ConfigError(f"{where} {what}", got=got, expected=", ".join(sorted(known)) or "no axes", fix=near)


def _words(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names
