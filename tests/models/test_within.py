"""Inside before out: a norm's scale and a head's result come before their module's output, always."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp import wrap
from interp.models.hooked import HookedModel
from tests.models import zoo

INSIDE = ("scale", "normalized", "result")


def pairs(model: HookedModel) -> list[tuple[str, str]]:
    """(a site inside a module, that module's output), for each norm's and each head's sites."""
    paths = {module: path for path, module in model.module.named_modules()}
    inside = [name for name in model.sites if model.sites[name].kind in INSIDE]
    return [(name, f"{paths[model.sites[name].module]}.hook_out") for name in inside]


def bent(value: Tensor, **_: Any) -> Tensor:
    return value * 1.5 + 0.3


def halved(value: Tensor, **_: Any) -> Tensor:
    return value.tanh() * 0.5


@pytest.mark.thin(3)
@pytest.mark.parametrize("family", [*zoo.MAKERS])
def test_the_order_of_two_edits_at_one_module_is_its_own(family: str) -> None:
    model = wrap(zoo.make(family, dtype=torch.float64))
    given = zoo.inputs(model.module)
    found = pairs(model)
    assert found
    plain = model(given)
    for name, output in found:
        edits = [(name, bent), (output, halved)]
        one, other = (model.run_with_hooks(given, fwd_hooks=e) for e in (edits, edits[::-1]))
        assert torch.equal(one, other), (name, output)
        assert not torch.equal(one, plain)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bloom"])
def test_a_hook_of_the_users_own_sees_the_edited_output(family: str) -> None:
    model = wrap(zoo.make(family, dtype=torch.float64))
    given = zoo.inputs(model.module)
    for name, output in pairs(model):
        expected = model.run_with_hooks(given, fwd_hooks=[(name, bent), (output, halved)])
        handle = model.sites[name].module.register_forward_hook(lambda _, args, out: out.tanh() * 0.5)
        try:
            theirs = model.run_with_hooks(given, fwd_hooks=[(name, bent)])
        finally:
            handle.remove()
        assert torch.equal(theirs, expected), name
