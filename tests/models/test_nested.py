"""Forwards inside forwards, views of parts, threads that train: whose pass is it?"""

from __future__ import annotations

import copy
import gc
import io
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.core.errors import EditError, HookNotFired, ModelError, NonFiniteError
from interp.models.hooks import modes, passes
from tests.models import zoo

IDS = torch.arange(5, 12)[None]
SITE = "blocks.1.hook_resid_post"


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def gpt2() -> interp.HookedModel:
    return interp.wrap(zoo.make("gpt2", dtype=torch.float64).requires_grad_(False))


# --- forwards inside one of our hooks ---


@pytest.mark.parametrize("outside", ["one run", "a block"])
def test_a_block_inside_an_edit_edits_every_forward_of_it(outside: str) -> None:
    module = net()
    model, x = interp.wrap(module), torch.randn(2, 4)
    edit = interp.zero("0.hook_out")
    expected, seen = model.run_with_hooks(x, [edit]), []

    def inside(value: Tensor, hook: object) -> None:
        with model.hooks([edit]):
            seen.extend([module(x), model(x), module(x)])

    hooks = [("1.hook_out", inside)]
    if outside == "one run":
        model.run_with_hooks(x, hooks)
    else:
        with model.hooks(hooks):
            module(x)
    assert len(seen) == 3 and all(torch.equal(y, expected) for y in seen)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_generate_inside_an_edit_is_generate(family: str) -> None:
    model = interp.wrap(zoo.make(family, dtype=torch.float64).requires_grad_(False))
    site = next(n for n in model.sites if n.endswith("blocks.1.hook_resid_post"))
    steps: list[int] = []

    def edit(value: Tensor, hook: Any) -> Tensor:
        steps.append(hook.step)
        return value * 1.5

    def told() -> tuple[list[int], list[list[int]]]:
        steps.clear()
        ids = model.generate(IDS, 4, fwd_hooks=[(site, edit)], return_ids=True)
        return list(steps), ids.tolist()

    expected, found = told(), []
    model.run_with_hooks(IDS, [(next(iter(model.sites)), lambda value, hook: found.append(told()) and None)])
    assert found == [expected]


# --- forwards inside a torch hook, and inside the module's own code ---


@pytest.mark.parametrize("inner", ["the module", "its base", "the view"])
@pytest.mark.parametrize("outer", ["capture", "run_with_cache", "hooks", "generate"])
def test_a_torch_hook_that_runs_the_model_is_refused(outer: str, inner: str) -> None:
    """Whose activations these are could not be told; they used to be the inner text's."""
    model = gpt2()
    module: Any = model.module
    other, busy = torch.arange(5, 14)[None], []
    call: Callable[[Tensor], Any] = {"the module": module, "its base": module.transformer, "the view": model}[
        inner
    ]

    def hook(*_: object) -> None:
        if not busy:
            busy.append(1)
            call(other)
            busy.clear()

    handle = module.transformer.h[0].register_forward_hook(hook)
    with pytest.raises(ModelError, match="torch hook runs the model"), torch.no_grad():
        if outer == "hooks":
            with model.hooks([interp.zero(SITE)]):
                module(IDS)
        elif outer == "generate":
            model.generate(IDS, 2, fwd_hooks=[interp.zero(SITE)], return_ids=True)
        else:
            getattr(model, outer)(IDS, SITE)
    handle.remove()
    assert not passes.active()
    assert model.capture(IDS, SITE)[SITE].shape[1] == IDS.shape[1]


class Recursive(nn.Module):
    """A module that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, x: Tensor, n: int = 2) -> Tensor:
        y = torch.tanh(self.a(x))
        return self.drop(self.b(self(y, n=n - 1) if n else y))


def test_a_module_that_calls_itself_is_one_pass() -> None:
    torch.manual_seed(0)
    module, x = Recursive(), torch.randn(2, 4)
    model = interp.wrap(module)
    every = [("b.hook_out#*", lambda value, hook: value * 0)]
    assert not model.run_with_hooks(x, every).any()
    with model.hooks(every):
        assert not model(x).any() and not module(x).any()
    with model.hooks([]):
        assert torch.equal(model(x), model(x))
    third = model.capture(x, "b.hook_out#2")["b.hook_out#2"]
    assert torch.equal(model(x), third)
    assert all(m.training for m in module.modules())


# --- views of one module and of its parts ---


def test_hooks_on_a_part_act_whatever_runs_the_whole() -> None:
    model = gpt2()
    part = interp.wrap(model.module.transformer)  # type: ignore[arg-type]
    edit = interp.zero("blocks.0.hook_mlp_out")
    expected = model.run_with_hooks(IDS, [edit])
    written = model.generate(IDS, 3, fwd_hooks=[edit], return_ids=True)
    with part.hooks([edit]):
        assert torch.equal(model(IDS), expected)
        assert torch.equal(model.module(IDS).logits, expected)
        assert not model.capture(IDS, edit.site)[edit.site].any()
        assert torch.equal(model.generate(IDS, 3, return_ids=True), written)


def test_sites_of_one_name_in_two_views_stay_apart() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    outer = nn.Sequential(nn.Linear(4, 4), inner)
    whole, part, x = interp.wrap(outer), interp.wrap(inner), torch.randn(2, 4)
    with part.hooks([interp.zero("0.hook_out")]):
        acts = whole.capture(x, ["0.hook_out", "1.0.hook_out"])
    assert acts["0.hook_out"].any() and not acts["1.0.hook_out"].any()


def test_a_module_that_catches_errors_cannot_hide_ours() -> None:
    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                y = self.a(x)
            except Exception:
                y = x
            return self.b(y)

    model, x = interp.wrap(Catching()), torch.randn(2, 4)
    edits: list[tuple[Callable[..., Any], type[Exception]]] = [
        (lambda v, hook: v[:1], EditError),
        (lambda v, hook: v * float("nan"), NonFiniteError),
        (lambda v, hook: 1 / 0, ZeroDivisionError),
    ]
    for edit, kind in edits:
        with pytest.raises(kind):
            model.run_with_hooks(x, [("a.hook_out", edit)])
        with pytest.raises(kind), model.hooks([("a.hook_out", edit)]):
            model.module(x)
    with pytest.raises(HookNotFired):
        model.capture(x, "a.hook_out.3")
    assert not passes.active()


def test_wrapping_inside_a_block_is_wrapping() -> None:
    model = gpt2()
    seen: list[int] = []
    with model.hooks([(SITE, lambda v, hook: seen.append(v.shape[1]))]):
        again = interp.wrap(model.module)
        assert not seen
        again(IDS)
    assert seen == [IDS.shape[1]]


# --- evaluation mode is a thread's own ---


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.line(x))


def test_another_thread_goes_on_training_while_this_one_looks() -> None:
    module, x = Counting().train(), torch.randn(8, 16)
    model = interp.wrap(module)
    inside, go_on = threading.Event(), threading.Event()

    def look(value: Tensor, hook: object) -> None:
        assert not module.training and not module.norm.training
        inside.set()
        assert go_on.wait(60)

    thread = threading.Thread(target=lambda: model.run_with_hooks(x, [("line.hook_out", look)]))
    thread.start()
    assert inside.wait(60)
    try:
        assert module.training and module.norm.training
        before = int(module.norm.num_batches_tracked)
        module(x)
        with model.in_training_mode():
            model(x)
        assert int(module.norm.num_batches_tracked) == before + 2
        model(x)
        assert int(module.norm.num_batches_tracked) == before + 2
    finally:
        go_on.set()
        thread.join()
    assert type(module) is Counting and module.norm.training


def test_training_mode_inside_a_pass_that_evaluates() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).train()
    model, x, found = interp.wrap(module), torch.randn(4, 8), []

    def inside(value: Tensor, hook: object) -> None:
        with model.in_training_mode():
            found.append(torch.equal(model(x), model(x)))
        found.append(torch.equal(model(x), model(x)))

    model.run_with_hooks(x, [("0.hook_out", inside)])
    assert found == [False, True]


def test_copies_made_inside_a_pass_are_the_authors_classes() -> None:
    module = Counting().train()
    model, x, made = interp.wrap(module), torch.randn(4, 16), []

    def inside(value: Tensor, hook: object) -> None:
        assert modes.original(type(module)) is Counting is not type(module)
        made.extend([copy.deepcopy(model).module, copy.deepcopy(module)])

    model.run_with_hooks(x, [("line.hook_out", inside)])
    assert [type(m) for m in made] == [Counting, Counting]
    assert all(m.training and m.norm.training for m in made)
    buffer = io.BytesIO()
    torch.save(made[0], buffer)


def test_a_compiled_module_rests_by_its_own_flag() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(x)

    module = nn.Sequential(nn.Linear(4, 4), torch.jit.script(Part())).train()
    model, x = interp.wrap(module), torch.randn(3, 4)
    assert torch.equal(model(x), model(x))
    assert all(m.training for m in module.modules())


# --- what stays behind ---


@pytest.mark.parametrize("way", ["nothing", "a run", "a block", "randomised", "a copy"])
def test_a_model_that_is_let_go_goes(way: str) -> None:
    model = gpt2()
    gone = weakref.ref(model.module)
    if way == "a run":
        model.run_with_cache(IDS)
    elif way == "a block":
        with model.hooks([interp.zero(SITE)]):
            model(IDS)
    elif way == "randomised":
        model = model.randomised(1)
    elif way == "a copy":
        model = copy.deepcopy(model)
    if way in ("nothing", "a run", "a block"):
        del model
    gc.collect()
    assert gone() is None


def test_many_threads_capture_at_once(full_count: bool) -> None:
    model, wrong = gpt2(), []
    sites = ["blocks.0.hook_resid_pre", "blocks.0.attn.hook_z", "blocks.1.mlp.hook_post"]
    expected = model.capture(IDS, sites)

    def go() -> None:
        for _ in range(400 if full_count else 60):
            try:
                acts = model.capture(IDS, sites)
                if not all(torch.equal(acts[s], expected[s]) for s in sites):
                    wrong.append("other numbers")
            except BaseException as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
