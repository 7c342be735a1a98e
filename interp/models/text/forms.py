"""The forms in which people hold inputs, read into three: texts, a batch of ids, numbers.

Lists, tuples, numpy arrays, pandas columns, tensors, a tokenizer's encoding. What has no order
(sets), no length (generators) or is no number is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import TokenError
from interp.models.text.batch import TokenBatch, short

EXPECTED = "text, a list of texts, token ids [pos] or [batch, pos], a TokenBatch, or a dict of them"


def unpack(inputs: Any) -> Any:
    """Columns and arrays of objects as lists; strings as strings; everything else as it is.

    Raises:
        TokenError: A set, a generator or bytes.
    """
    if isinstance(inputs, Tensor | str):  # before the abstract classes, which take longer to ask
        return str(inputs) if isinstance(inputs, np.str_) else inputs
    if isinstance(inputs, bytes | bytearray):
        raise TokenError("bytes are no text", got=short(inputs), fix="text.decode('utf-8')")
    if isinstance(inputs, set | frozenset):
        raise TokenError(
            "a set has no order, so its rows could not be told apart afterwards",
            got=short(inputs),
            fix="sorted(texts), or a list",
        )
    if isinstance(inputs, Mapping | TokenBatch | Sequence):
        return inputs
    if _is_pandas(inputs):
        inputs = inputs.to_numpy()
    if isinstance(inputs, np.ndarray):
        return inputs.tolist() if inputs.dtype.kind in "OUST" else inputs
    if isinstance(inputs, Iterable) and not hasattr(inputs, "__array__"):
        raise TokenError(
            f"inputs must have a length and an order; this is a {type(inputs).__name__}",
            got=short(inputs),
            expected=EXPECTED,
            fix="list(inputs)",
        )
    return inputs


def is_text(inputs: Any) -> bool:
    """Whether `unpack`ed inputs are a text, texts, or a conversation."""
    if isinstance(inputs, str):
        return True
    if isinstance(inputs, Tensor) or not isinstance(inputs, Sequence) or not inputs:
        return False
    first = inputs[0]
    if isinstance(first, Sequence) and not isinstance(first, str) and first:
        first = first[0]  # a list of conversations
        return isinstance(first, Mapping)
    return isinstance(first, str | Mapping)


def holds_ids(inputs: Any) -> bool:
    """Whether inputs are numbers in rows: token ids, not texts, paths or documents."""
    if isinstance(inputs, Tensor | TokenBatch):
        return True
    if _is_pandas(inputs):
        inputs = inputs.tolist()
    if isinstance(inputs, np.ndarray):
        return inputs.dtype.kind not in "OUST"
    if not isinstance(inputs, list | tuple) or not inputs:
        return False
    first = inputs[0]
    if isinstance(first, list | tuple) and first:
        first = first[0]
    return isinstance(first, int | float | np.number | np.ndarray | Tensor)


def ids_of(inputs: Any, mask: Any = None) -> tuple[Tensor, Any]:
    """Ids [batch, pos] and their mask (None where it is not needed) from anything but text.

    Rows of different length are padded on the right; a mask of the same rows is padded with them.

    Raises:
        TokenError: Floats, booleans, objects, more than two axes.
    """
    if isinstance(inputs, Tensor):
        return inputs[None] if inputs.dim() == 1 else inputs, mask
    if isinstance(inputs, np.ndarray):
        _integers(inputs, inputs)
        ids = torch.from_numpy(inputs.astype(np.int64))
        return ids[None] if ids.dim() == 1 else ids, mask
    if not isinstance(inputs, Sequence) or len(inputs) == 0:
        raise TokenError(
            "no token ids given" if isinstance(inputs, Sequence) else "this is no input",
            got=short(inputs),
            expected=EXPECTED,
        )
    if all(_ndim(item) == 0 for item in inputs):
        return _row(inputs)[None], mask
    if not all(_ndim(item) == 1 for item in inputs):
        raise TokenError("this is no batch of ids", got=short(inputs), expected=EXPECTED)
    rows = [_row(item) for item in inputs]
    lengths = [len(row) for row in rows]
    if min(lengths) == 0:
        raise TokenError(f"row {lengths.index(0)} has no token ids", got="an empty row")
    if len(set(lengths)) == 1:
        return torch.stack(rows), mask
    given = None if mask is None else [_flags(m, row) for m, row in zip_rows(mask, rows)]
    batch = padded(rows)
    if given is None:
        return batch.ids, batch.mask
    return batch.ids, padded(given).ids.bool()


def zip_rows(mask: Any, rows: Sequence[Tensor]) -> list[tuple[Any, Tensor]]:
    """The rows of a ragged mask beside the rows of ids that they belong to."""
    shape = tuple(getattr(mask, "shape", ()))
    if not isinstance(mask, Sequence) or [_length(m) for m in mask] != [len(r) for r in rows]:
        raise TokenError(
            "attention_mask must have the shape of the token ids",
            got=shape or short(mask),
            expected=f"rows of {short([len(r) for r in rows])} values",
        )
    return list(zip(mask, rows, strict=True))


def padded(rows: Sequence[Tensor], fill: int = 0, left: bool = False) -> TokenBatch:
    """Rows of ids side by side."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), fill, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        at = slice(longest - len(row), None) if left else slice(len(row))
        ids[i, at], mask[i, at] = row.to(ids), True
    return TokenBatch(ids, mask)


def numbers(value: Any, dtype: torch.dtype | None, device: torch.device) -> Any:
    """Numbers for a model of numbers: tensors as they are, arrays and lists in the model's type.

    What is no array of numbers comes back unchanged, for modules that take other things.
    """
    if isinstance(value, Tensor):
        if value.is_meta and device.type != "meta":
            raise TokenError("the inputs hold no values", got="a tensor on the meta device")
        return value.to(device)
    if _is_pandas(value):
        value = value.to_numpy()
    if isinstance(value, list) and isinstance(_first(value), str):
        raise TokenError("this model reads numbers", got=short(value), expected="numbers")
    if isinstance(value, list) and value and not _holds_tensors(value):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise TokenError("rows of different length are no array", got=short(value)) from error
    if not isinstance(value, np.ndarray | np.generic):
        return value
    if value.dtype.kind not in "biufc":
        raise TokenError(
            "this model reads numbers",
            got=f"{short(value.tolist())} ({value.dtype})",
            fix="wrap(module, tokenizer=...) for text",
        )
    tensor = torch.from_numpy(np.array(value))
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def read_value(value: Any, dtype: torch.dtype | None, device: torch.device) -> Any:
    """One value of a dict: arrays and lists of numbers as tensors, anything else as it is."""
    if isinstance(value, list | np.ndarray | Tensor) or _is_pandas(value):
        return numbers(value, dtype, device)
    return value


def _row(values: Any) -> Tensor:
    """One row of ids as a tensor, its numbers checked before they are converted."""
    if isinstance(values, Tensor):
        _integers(values, values)
        return values
    items = [v.item() if isinstance(v, Tensor | np.generic) else v for v in values]
    bad = [v for v in items if isinstance(v, bool) or not isinstance(v, int)]
    if bad:
        raise TokenError(
            "token ids must be integers",
            got=f"{short(bad[0])} ({type(bad[0]).__name__}) in {short(items)}",
            expected=EXPECTED,
        )
    try:
        return torch.tensor(items, dtype=torch.long)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise TokenError("a token id beyond 64 bits", got=short(items)) from error


def _flags(mask: Any, row: Tensor) -> Tensor:
    return torch.as_tensor(mask).bool().long()


def _integers(values: Tensor | np.ndarray[Any, Any], shown: Any) -> None:
    if isinstance(values, np.ndarray):
        good = values.dtype.kind in "iu"
    else:
        good = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if not good:
        raise TokenError(
            "token ids must be integers, int64 or int32",
            got=f"{values.dtype} {short(shown.tolist())}",
            fix="ids.astype(int), if these are ids and not embeddings",
        )


def _ndim(value: Any) -> int:
    """0 for a number, 1 for a row of numbers, 2 for anything deeper; strings count as deeper."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim
    if isinstance(value, Sequence) and not isinstance(value, str):
        return 1 + max((_ndim(v) for v in value), default=0)
    return 0 if isinstance(value, int | float | np.generic) else 2


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else -1


def _first(value: Any) -> Any:
    """The first thing inside nested lists."""
    return _first(value[0]) if isinstance(value, list | tuple) and value else value


def _holds_tensors(value: Any) -> bool:
    return not isinstance(_first(value), int | float | bool | np.generic | np.ndarray)


def _is_pandas(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "pandas" and hasattr(value, "to_numpy")
