"""Rows of numbers in the forms in which people hold them, read into one dense tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import ShapeError

EXPECTED = "a tensor, an array, a data frame or nested lists of numbers"


def dense_numbers(x: Any, what: str) -> Tensor:
    """Tensors, arrays, data frames and nested lists as one dense tensor.

    Sparse layouts are filled in; floats of one byte, which torch cannot compute with, become
    float32. Both keep every value. Whatever torch computes with stays as it is.

    Args:
        x: The numbers.
        what: Who reads them, for the error.

    Raises:
        ShapeError: No numbers, complex ones, rows of different length, or a tensor without values.
    """
    found = x if isinstance(x, Tensor) else _tensor(x, what)
    if found.is_meta:
        raise _refused(what, "a tensor on the meta device, which has no values")
    if found.layout != torch.strided:
        found = found.to_dense()
    if found.is_quantized:
        found = found.dequantize()
    if found.is_complex():
        raise _refused(what, f"{found.dtype} of shape {list(found.shape)}", "x.real, or x.abs()")
    narrow = found.is_floating_point() and found.element_size() < 2
    return found.float() if narrow else found


def holds_floats(x: Any) -> bool:
    """Whether something is rows of real numbers and neither text nor token ids: nothing is read."""
    if isinstance(x, Tensor):
        return x.is_floating_point() or x.is_complex() or x.is_quantized
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "fc"
    if hasattr(x, "to_numpy") and hasattr(x, "dtypes"):  # a data frame, without importing pandas
        kinds = x.dtypes if hasattr(x.dtypes, "__iter__") else [x.dtypes]
        return all(getattr(kind, "kind", "O") == "f" for kind in kinds)
    if hasattr(x, "toarray") and hasattr(x, "dtype"):  # scipy's sparse matrices
        return x.dtype.kind in "fc"
    if not isinstance(x, list | tuple) or not x:
        return False
    first = x[0]
    if isinstance(first, list | tuple):
        return any(isinstance(value, float | np.floating) for value in first)
    return isinstance(first, Tensor | np.ndarray) and first.ndim == 1 and holds_floats(first)


def _tensor(x: Any, what: str) -> Tensor:
    """What is no tensor yet; integers stay integers."""
    if x is None or isinstance(x, str | bytes | Mapping | set | frozenset):
        raise _refused(what, repr(x)[:80])
    try:
        if isinstance(x, list | tuple) and x and all(isinstance(row, Tensor) for row in x):
            return torch.stack([row.detach() for row in x])
        if isinstance(x, list | tuple):
            return torch.as_tensor(x)
        array = np.asarray(x.toarray() if hasattr(x, "toarray") else x)
        if array.dtype.kind == "O":  # a frame whose columns differ in their dtypes
            array = array.astype(np.float64)
        if array.dtype.kind not in "biufc":
            raise TypeError(f"an array of {array.dtype}")
        # Foreign byte orders, negative strides and long doubles are unknown to torch.
        plain = array.astype(np.float64) if array.dtype == np.longdouble else array
        return torch.from_numpy(np.array(plain, dtype=plain.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _refused(what, repr(x)[:80]) from error


def _refused(what: str, got: str, fix: str | None = None) -> ShapeError:
    return ShapeError(f"{what}: these are no rows of numbers", got=got, expected=EXPECTED, fix=fix)
