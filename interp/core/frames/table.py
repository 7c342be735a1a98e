"""A result as rows and columns, and as the small table a notebook shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import ConfigError
from interp.core.escape import esc, visible
from interp.core.frames.fields import distinct
from interp.core.names import did_you_mean

HTML_ROWS = 10


def group(result: Any, field: str | None) -> list[str]:
    """The array fields of a result that share the axes of `field` (default the first array).

    Raises:
        ConfigError: There is no such array.
    """
    axes: dict[str, tuple[str, ...]] = result.axes
    kind = type(result).__name__
    if not axes:
        raise ConfigError(f"{kind} holds no arrays")
    field = next(iter(axes)) if field is None else field
    if field not in axes:
        raise ConfigError(
            f"{kind} has no array {field!r}", expected=", ".join(axes), fix=did_you_mean(field, axes)
        )
    return [name for name in axes if axes[name] == axes[field]]


def columns(result: Any, fields: list[str], flat: np.ndarray | None = None) -> dict[str, Any]:
    """Axis columns and value columns of fields with the same axes.

    Args:
        result: A Result.
        fields: The value columns.
        flat: Row-major indices of the wanted rows; default all.
    """
    shape = tuple(getattr(result, fields[0]).shape)
    if flat is None:
        flat = np.arange(int(np.prod(shape)))
    found: dict[str, Any] = {}
    indices = np.unravel_index(flat, shape) if shape else ()
    for axis, index in zip(result.axes[fields[0]], indices, strict=True):
        ticks = result.labels.get(axis)
        column = distinct(axis, [*found, *fields])
        found[column] = index if ticks is None else np.array(ticks, dtype=object)[index]
    return found | {name: as_array(getattr(result, name)).reshape(-1)[flat] for name in fields}


def order(result: Any, field: str, absolute: bool) -> np.ndarray:
    """Row-major indices by falling value; ties keep their order, NaN comes last."""
    keys = as_array(getattr(result, field)).reshape(-1).astype(np.float64)
    keys = np.abs(keys) if absolute else keys
    return np.argsort(np.where(np.isnan(keys), np.inf, -keys), kind="stable")


def as_array(tensor: Tensor) -> np.ndarray:
    """The values as numpy knows them: it has no bfloat16 and no float8."""
    values = tensor.detach().cpu()
    if values.is_floating_point() and values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    return values.numpy()


def html(result: Any) -> str:
    """The first rows and the checks as an HTML fragment; every text in it is escaped."""
    title, checks = repr(result).split("\n", 1)
    parts = [_element("p", esc(title))]
    if result.axes:
        fields = group(result, None)
        total = getattr(result, fields[0]).numel()
        shown = columns(result, fields, np.arange(min(total, HTML_ROWS)))
        head = _element("tr", *(_element("th", esc(name)) for name in shown))
        rows = [
            _element("tr", *(_element("td", esc(_short(value))) for value in row))
            for row in zip(*shown.values(), strict=True)
        ]
        parts.append(_element("table", _element("thead", head), _element("tbody", *rows)))
        if total > HTML_ROWS:
            parts.append(_element("p", esc(f"first {HTML_ROWS} of {total:,} rows")))
    return _element("div", *parts, _element("p", esc(checks)))


def _short(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return visible(value) if isinstance(value, str) else str(value)


def _element(tag: str, *children: str) -> str:
    """An HTML element around markup that is already safe."""
    return "".join(("<", tag, ">", *children, "</", tag, ">"))
