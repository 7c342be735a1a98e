"""What was observed: arrays that declare their axes once, with checks, a frame, a picture, a file.

```python
@dataclass(frozen=True, kw_only=True, eq=False)
class HeadScores(Result):
    scores: Float[Tensor, "layer head"]
    total: Float[Tensor, ""]

result = HeadScores(scores=scores, total=total)   # shapes, dtypes and finiteness are checked here
result.to_frame()                                 # columns layer, head, scores
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

import torch
from torch import Tensor

from interp.core import store
from interp.core.checks import Check, Checks
from interp.core.errors import (
    ConfigError,
    InterpError,
    MissingDependency,
    ShapeError,
    StorageError,
    out_of_memory,
)
from interp.core.finite import are_finite, check_finite
from interp.core.foreign import LINE, one_line, show
from interp.core.frames import fields as _fields
from interp.core.frames import table as _table
from interp.core.frames.loaders import LOADERS, set_renderer_loader, set_type_loader
from interp.core.frames.quantity import Quantity, drawn_fields
from interp.core.frames.released import RELEASED
from interp.core.names import did_you_mean
from interp.core.provenance import Provenance
from interp.core.settings import check_call, check_flags

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RENDERERS", "Check", "Checks", "Result", "renders", "set_renderer_loader", "set_type_loader"]

TENSORS, VALUES = "tensors.safetensors", "result.json"
SCHEMA = "result/"

Renderer = TypeVar("Renderer", bound=Callable[..., Any])

RENDERERS: dict[type, Callable[..., Any]] = {}
"""Result type -> function(result, **options) that draws it; the plotting room fills it."""

_TYPES: dict[str, type[Result]] = {}


def renders(result_type: type) -> Callable[[Renderer], Renderer]:
    """Register the decorated function as what draws `result_type` and its subclasses.

    Options that it does not have, and choices (`Literal`) that are none, raise ConfigError.
    """

    def register(function: Renderer) -> Renderer:
        @wraps(function)
        def drawn(*args: Any, **options: Any) -> Any:
            check_call(function, args, options)
            return function(*args, **options)

        RENDERERS[result_type] = drawn
        return cast(Renderer, drawn)

    return register


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Base of all results; subclasses are decorated the same way.

    Array fields are annotated with jaxtyping (`Float[Tensor, "layer pos"]`, `| None` allowed); an
    axis name stands for one size in the whole result. Other fields hold JSON values (tuples stay
    tuples) or a Provenance. `class CodeLengths(Result, headline="Code length of {target}")` names the
    picture, and `caption` says more below it; fields and properties stand in braces.

    Raises:
        ShapeError: An array contradicts its declaration or another array of the same result.
        NonFiniteError: A number is NaN or infinite and its field is not in `allow_nonfinite`.
    """

    allow_nonfinite: ClassVar[frozenset[str]] = frozenset()
    """Fields in which NaN or infinity mean something."""

    _headline: ClassVar[str] = ""
    _caption: ClassVar[str] = ""

    labels: dict[str, list[str]] = field(default_factory=dict)
    """Axis name -> the names of its ticks."""
    provenance: Provenance | None = None
    """Where the numbers came from."""

    def __init_subclass__(cls, headline: str = "", caption: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._headline, cls._caption = headline or cls._headline, caption or cls._caption
        for name in ("__repr__", "__eq__", "__hash__"):  # the decorator would replace what it finds
            if name not in cls.__dict__:  # only in a base: tensors have no single truth value
                setattr(cls, name, getattr(cls, name))
        known = _TYPES.get(cls.__name__)
        if (
            known is not None
            and known.__module__.startswith("interp.")
            and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__)
        ):
            raise ConfigError(
                f"there is a result type {cls.__name__} already, in {known.__module__}",
                fix="choose another name: files are loaded by it",
            )
        _TYPES[cls.__name__] = cls

    def __post_init__(self) -> None:
        declared = _fields.declaration(type(self))
        drawn_fields(type(self))
        sizes: dict[str, tuple[int, str]] = {}
        numbers: dict[str, Tensor] = {}
        for name in (f.name for f in dataclass_fields(self)):
            value = getattr(self, name)
            _fields.bind(type(self).__name__, name, value, declared.get(name), sizes)
            if name not in self.allow_nonfinite and isinstance(value, Tensor | float):
                numbers[name] = value if isinstance(value, Tensor) else torch.tensor(value)
        for (name, number), fine in zip(numbers.items(), are_finite([*numbers.values()]), strict=True):
            if not fine:
                check_finite(number, f"{type(self).__name__}.{name}")
        for axis, ticks in self.labels.items():
            if axis not in sizes or len(ticks) != sizes[axis][0]:
                raise ShapeError(
                    f"{type(self).__name__}.labels[{axis!r}] names no ticks of this result",
                    got=f"{len(ticks)} labels",
                    expected=", ".join(f"{a}: {n} ({of})" for a, (n, of) in sizes.items()),
                    fix=None if axis in sizes else did_you_mean(axis, sizes) or None,
                )

    # -------------------------------------------------------------- what it knows

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Array field -> its axis names, in order of declaration; absent (None) fields left out."""
        declared = _fields.declaration(type(self))
        return {k: a.axes for k, a in declared.items() if getattr(self, k) is not None}

    def quantity(self, field: str) -> Quantity:
        """What the numbers of a field are; its own name where it does not say."""
        drawn = drawn_fields(type(self)).get(field)
        return (drawn and drawn.quantity) or Quantity(field.replace("_", " "))

    def ticks(self, axis: str) -> list[str] | None:
        """The names of an axis's places: its labels, or what a field of names says; None without."""
        if axis in self.labels:
            return self.labels[axis]
        for name, drawn in drawn_fields(type(self)).items():
            if drawn.ticks == axis and not isinstance(getattr(self, name), Tensor):
                return list(getattr(self, name))
        return None

    @property
    def headline(self) -> str:
        """The title of its picture."""
        return self._headline.format_map(_Named(self)) or type(self).__name__

    @property
    def caption(self) -> str:
        """What its picture says below the title, beside what is measured."""
        return self._caption.format_map(_Named(self))

    def check(self) -> Checks:
        """Named numbers with bounds that say how far to trust the result. None by default."""
        return Checks()

    # -------------------------------------------------------------- as a table

    def to_frame(self, field: str | None = None) -> pd.DataFrame:
        """Long form: one row per entry, one column per axis, one per field with these axes.

        Args:
            field: Any field of the wanted group; default the first array. Scalars form one row.

        Raises:
            ConfigError: No such array field.
            MissingDependency: pandas is not installed.
        """
        group = _table.group(self, field)
        return _frame(_table.columns(self, group))

    def top(self, n: int = 10, field: str | None = None, *, absolute: bool = False) -> pd.DataFrame:
        """The `n` rows of `to_frame(field)` with the largest `field`, largest first.

        Args:
            n: How many rows.
            field: The field to sort by; default the first array.
            absolute: Sort by magnitude. Ties keep their order; NaN comes last.
        """
        check_flags(absolute=absolute)
        group = _table.group(self, field)
        rows = _table.order(self, field or group[0], absolute)[:n]
        return _frame(_table.columns(self, group, rows))

    # -------------------------------------------------------------- as a picture

    def plot(self, **options: Any) -> Any:
        """The result's plotly Figure; options are its renderer's.

        Raises:
            MissingDependency: No renderer is known for this type.
        """
        if type(self) not in RENDERERS and "renderer" in LOADERS:
            LOADERS["renderer"](type(self))
        for kind in type(self).__mro__:
            if kind in RENDERERS:
                return RENDERERS[kind](self, **options)
        raise MissingDependency(
            f"nothing is known that draws a {type(self).__name__}",
            fix=f"import interp.plotting, or register a function with @renders({type(self).__name__})",
        )

    def __repr__(self) -> str:
        name = type(self).__name__
        for key, axes in self.axes.items():
            shape = "x".join(map(str, getattr(self, key).shape)) or "scalar"
            name += f" {shape} ({' '.join(axes)})" if axes else f" {shape} {key}"
            break
        source = "" if self.provenance is None else f" on {one_line(self.provenance.model, 120)}"
        checks = one_line(self.check(), LINE)
        return f"{name}{source}; fields {', '.join(self.axes) or 'none'}\nchecks: {checks}"

    def _repr_html_(self) -> str:
        return _table.html(self)

    # -------------------------------------------------------------- on disk

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write a folder: arrays as safetensors, the rest as JSON, a manifest; never pickle.

        Raises:
            ConfigError: A field holds what no file can.
            StorageError: The folder exists and `overwrite` is False, or the disk refuses.
        """
        present = {f.name: getattr(self, f.name) for f in dataclass_fields(self)}
        arrays = {k: v for k, v in present.items() if isinstance(v, Tensor)}
        name = type(self).__name__
        rest = {k: _fields.to_json(v, f"{name}.{k}") for k, v in present.items() if k not in arrays}
        values = {"type": name, "module": type(self).__module__, "fields": rest}
        files = {VALUES: values, TENSORS: arrays}
        return store.commit(directory, files, overwrite=overwrite, schema=SCHEMA + name)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """What `save` wrote, bit for bit; called on a subclass, only that type is accepted.

        Raises:
            CorruptArtefact: The files were changed since.
            StorageError: No folder, not a result, or a result of another or unknown type.
        """
        artefact = store.open_artefact(directory)
        schema = str(artefact.manifest["schema"])
        name, converted = RELEASED.get(schema.removeprefix(SCHEMA), (schema.removeprefix(SCHEMA), dict))
        if name not in _TYPES and "type" in LOADERS:
            LOADERS["type"](name)
        kind = _TYPES.get(name)
        if not schema.startswith(SCHEMA) or (kind is not None and not issubclass(kind, cls)):
            raise StorageError(
                f"{artefact.directory} holds something else",
                got=schema,
                expected="a result" if cls is Result else SCHEMA + cls.__name__,
            )
        values = artefact.json(VALUES)
        if kind is None:
            where = values.get("module") if isinstance(values, dict) else None
            raise StorageError(
                f"{artefact.directory} holds a {show(name, 120)}, a type not imported yet",
                fix=f"import {show(where, 120)}" if isinstance(where, str) else None,
            )
        content: dict[str, Any] = {**artefact.tensors(TENSORS)}
        try:
            content |= {k: _fields.from_json(v) for k, v in values["fields"].items()}
            content = converted(content)
            _fields.require_types(kind, content)
            return kind(**content)
        except InterpError:
            raise
        except Exception as error:  # values of other types, of another version or forged
            raise out_of_memory(error, artefact.directory) or StorageError(
                f"{artefact.directory} does not fit this interp's {name}",
                got=f"fields {', '.join(content)}, of versions {artefact.manifest['versions']}",
                expected=f"fields {', '.join(f.name for f in dataclass_fields(kind))}",
                fix="load it with the version that wrote it",
            ) from error


class _Named:
    """A result's fields and properties, for the braces of a text."""

    def __init__(self, result: Result) -> None:
        self.result = result

    def __getitem__(self, name: str) -> Any:
        return getattr(self.result, name)


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    """The columns as a data frame; pandas is imported here and nowhere else in core."""
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependency("a data frame needs pandas", fix="pip install pandas") from error
    return pd.DataFrame(columns)
