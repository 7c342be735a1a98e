"""One example in the form that a model reads, and as many copies of it as a batch needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ShapeError
from interp.models.hooked import HookedModel
from interp.models.text.batch import TokenBatch
from interp.models.text.forms import is_text, numbers, read_value, unpack


class Rows:
    """One input, and as many copies of it as a batch needs.

    Raises:
        ShapeError: More than one example.
    """

    def __init__(self, model: HookedModel, inputs: Any, prepend_bos: bool | None = None) -> None:
        inputs = _map(_one_form(model, inputs, prepend_bos), _strided)
        self.one: Any = inputs
        sizes = {len(t) for t in tensors(inputs)}
        if sizes != {1}:
            raise ShapeError(
                "one example is attributed at a time",
                got=f"batches of {sorted(sizes)}",
                expected="a text, ids [pos] or [1, pos], or tensors with a batch axis of 1",
                fix="[attribute(model, text, ...) for text in texts]",
            )

    @property
    def ids(self) -> Tensor | None:
        """Token ids [pos], where the input is tokens."""
        one = self.one
        if isinstance(one, Mapping):
            one = one.get("input_ids")
        if isinstance(one, Tensor) and not one.is_floating_point() and one.dim() == 2:
            return one[0]
        return None

    def times(self, n: int) -> Any:
        """The input with a batch of `n` equal rows."""
        return _map(self.one, lambda t: t.expand(n, *t.shape[1:]))

    def with_ids(self, ids: Tensor) -> Any:
        """The same input with other token ids [pos]."""
        if isinstance(self.one, Mapping):
            return {**self.one, "input_ids": ids[None]}
        return ids[None]


def _one_form(model: HookedModel, inputs: Any, prepend_bos: bool | None) -> Any:
    """Token ids [row, pos] without padding where the input is tokens; otherwise tensors.

    Padding is cut away rather than masked: a target at -1 is the last real token's.
    """
    if isinstance(inputs, Mapping):
        rest = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        if "input_ids" not in inputs:
            given = {k: read_value(v, None, model.device) for k, v in inputs.items()}
            return _unpadded(_unpadded(given, "inputs_embeds", ""), "decoder_input_ids", "decoder_")
        batch = model.read({k: v for k, v in inputs.items() if k not in rest})
        if not rest or len(batch) != 1:
            return batch.ids[batch.mask][None] if len(batch) == 1 else batch.ids
        columns, length = batch.mask[0], batch.ids.shape[1]
        given = {k: read_value(v, None, batch.ids.device) for k, v in rest.items()}
        for k, v in given.items():
            if not k.startswith("decoder_") and isinstance(v, Tensor) and v.shape == (1, length):
                given[k] = v[:, columns]
        given["input_ids"] = batch.ids[:, columns]
        return _unpadded(given, "decoder_input_ids", "decoder_")
    reads_ids = model.reads in ("tokens", "encoder_decoder")
    numeric = isinstance(inputs, tuple) or (isinstance(inputs, Tensor) and inputs.is_floating_point())
    if isinstance(inputs, TokenBatch) or is_text(inputs) or (reads_ids and not numeric):
        batch = model.read(inputs, prepend_bos=prepend_bos)
        return batch.ids if len(batch) != 1 else batch.ids[batch.mask][None]
    if isinstance(inputs, Tensor) and not inputs.is_floating_point() and inputs.dim() == 1:
        return inputs[None]
    return numbers(unpack(inputs), getattr(torch, model.cfg.dtype or "float32"), model.device)


def _unpadded(given: dict[str, Any], sequence: str, side: str) -> dict[str, Any]:
    """The same without the columns that follow the last real one of a padded sequence.

    Args:
        given: Arguments of the model, tensors with one row.
        sequence: The argument whose columns count.
        side: What the arguments of its side begin with: "decoder_", or nothing.
    """
    mask, values = given.get(f"{side}attention_mask"), given.get(sequence)
    if not isinstance(mask, Tensor) or not isinstance(values, Tensor) or mask.shape != values.shape[:2]:
        return given
    if len(mask) != 1 or not bool(mask.any()):
        return given
    length, last = mask.shape[1], int(mask[0].nonzero().max()) + 1

    def cut(name: str, value: Any) -> Any:
        mine = name.startswith("decoder_") == bool(side)
        fits = isinstance(value, Tensor) and value.shape[:2] == (1, length)
        return value[:, :last] if mine and fits else value

    return {name: cut(name, value) for name, value in given.items()}


def tensors(inputs: Any) -> list[Tensor]:
    """The tensors among a model's arguments."""
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, Mapping):
        return [t for t in inputs.values() if isinstance(t, Tensor)]
    return [t for t in inputs if isinstance(t, Tensor)] if isinstance(inputs, tuple) else []


def _strided(x: Tensor) -> Tensor:
    """Sparse layouts filled in, as everywhere: a zero is a value that can be attributed to."""
    return x if x.layout == torch.strided else x.to_dense()


def _map(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {k: change(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    return tuple(change(v) if isinstance(v, Tensor) else v for v in inputs)
