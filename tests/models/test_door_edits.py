"""The door for edits: vectors in any form, and what is no edit refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import add, clamp, load_model, mean, patch, project_out, resample, zero
from interp.core.errors import EditError
from interp.models.hooked import HookedModel

N = "blocks.1.hook_resid_post"
TEXT = "The cat sat"


@cache
def tiny() -> HookedModel:
    return load_model("tiny-grammar")


@cache
def held() -> Tensor:
    return tiny().capture("When Mary and", N)[N]


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "float32 array": lambda v: v.numpy(),
    "float64 array": lambda v: v.numpy().astype(np.float64),
    "lists": lambda v: v.tolist(),
    "parameter": lambda v: torch.nn.Parameter(v.clone()),
}
MAKERS: dict[str, Callable[[Any], Any]] = {
    "add": lambda v: add(N, v, 2.0),
    "mean": lambda v: mean(N, v),
    "patch": lambda v: patch(N, v),
    "project_out": lambda v: project_out(N, v),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("verb", MAKERS)
def test_a_vector_is_the_same_in_every_form(verb: str, form: str) -> None:
    model, vector = tiny(), held()[0, -1]
    with torch.no_grad():
        expected = model.run_with_hooks(TEXT, MAKERS[verb](vector))
        given = model.run_with_hooks(TEXT, MAKERS[verb](FORMS[form](vector)))
    assert torch.equal(given, expected)
    assert not torch.equal(given, model(TEXT))


def test_arrays_by_site_and_rows_to_resample_from() -> None:
    model = tiny()
    same = model.run_with_hooks("When Mary and", patch(N, {N: held().numpy() * 2}))
    assert torch.equal(same, model.run_with_hooks("When Mary and", patch(N, held() * 2)))
    rows = torch.cat([held(), held() * 2])
    same = model.run_with_hooks("When Mary and", resample(N, rows.numpy()))
    assert torch.equal(same, model.run_with_hooks("When Mary and", resample(N, rows)))
    scale = torch.tensor(2.0, requires_grad=True)  # a strength that is learned stays on its graph
    model.run_with_hooks(TEXT, add(N, held()[0, 0], scale)).sum().backward()
    assert scale.grad is not None and scale.grad.abs() > 0


BAD: dict[str, Callable[[], Any]] = {
    "text as a vector": lambda: add(N, "x"),  # type: ignore[arg-type]
    "nothing as a vector": lambda: patch(N, None),  # type: ignore[arg-type]
    "ragged rows": lambda: mean(N, [[1.0], [1.0, 2.0]]),  # type: ignore[arg-type]
    "no values": lambda: add(N, torch.ones(128, device="meta")),
    "sparse": lambda: add(N, torch.ones(128).to_sparse()),
    "complex": lambda: add(N, torch.ones(128, dtype=torch.complex64)),
    "text as a value": lambda: clamp(N, 3, "a"),  # type: ignore[arg-type]
    "text as a bound": lambda: clamp(N, 3, low="a"),  # type: ignore[arg-type]
    "several values": lambda: clamp(N, 3, torch.ones(2)),  # type: ignore[arg-type]
    "NaN as a value": lambda: clamp(N, 3, float("nan")),
    "text as a scale": lambda: add(N, [0.0] * 128, "2"),  # type: ignore[arg-type]
    "directions of NaN": lambda: project_out(N, torch.full((128,), float("nan"))),
    "no direction": lambda: project_out(N, torch.ones(0, 128)),
    "a number as directions": lambda: project_out(N, 3.0),  # type: ignore[arg-type]
    "a step of zero": lambda: zero(N, positions=slice(0, 3, 0)),
    "a step back": lambda: zero(N, index=slice(None, None, -1)),
    "a slice of text": lambda: zero("blocks.0.attn.hook_z", head=slice("a", None)),
    "a function without hook": lambda: (N, lambda value: value * 0),
    "a function of nothing": lambda: (N, lambda: 0),
    "a function of three": lambda: (N, lambda value, hook, more: value),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_edit_is_refused(kind: str) -> None:
    model, ran = tiny(), []
    handle = model.module.register_forward_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(EditError) as caught:
            model.run_with_hooks(TEXT, BAD[kind]())
    finally:
        handle.remove()
    assert not ran and (caught.value.got or caught.value.fix)


@pytest.mark.parametrize("positions", [slice(0, 3, 0), slice(None, None, -1), slice("a", None)])
def test_a_capture_of_no_slice_is_refused(positions: Any) -> None:
    with pytest.raises(EditError, match="slice"):
        tiny().capture(TEXT, N, positions=positions)


def test_functions_that_can_be_called_as_hooks_are_taken() -> None:
    class Callee:
        def method(self, value: Tensor, hook: Any) -> Tensor:
            return value * 0

    expected = tiny().run_with_hooks(TEXT, zero(N))
    taken: list[Any] = [
        lambda value, hook, scale=0: value * scale,
        lambda value, *, hook: value * 0,
        lambda value, **kwargs: value * 0,
        Callee().method,
    ]
    for function in taken:
        assert torch.equal(tiny().run_with_hooks(TEXT, (N, function)), expected)


def test_hooks_remember_by_ctx_while_their_block_lasts() -> None:
    seen: list[int] = []

    def count(value: Tensor, hook: Any) -> None:
        hook.ctx["times"] = hook.ctx.get("times", 0) + 1
        seen.append(hook.ctx["times"])

    model = tiny()
    for _ in range(2):
        with model.hooks([(N, count), ("blocks.0.hook_resid_post", count)]):
            model(TEXT)
            model(TEXT)
    assert seen == [1, 1, 2, 2] * 2
    model.run_with_hooks(TEXT, (N, count))
    assert seen[-1] == 1
