"""Proofs wait for whoever needs them: of sites the first who names one, of padding the first who pads.
They find the same wherever that happens."""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from interp import load_model, wrap
from interp.core.errors import AdapterError, ModelError, TokenError
from interp.models import HookedModel
from tests.models import zoo

IDS = torch.tensor([[40, 33, 7, 12], [90, 91, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def waiting(model: HookedModel) -> bool:
    proof = model._intake.padding.proof
    return proof is not None and proof.open


def found(model: HookedModel) -> tuple[Any, ...]:
    told = model._intake.padding
    assert told.proof is not None and not told.proof.open
    return told.refused, told.fill, told.placed, told.alone


@contextmanager
def counted(module: Any) -> Iterator[list[int]]:
    runs = [0]
    handle = module.register_forward_pre_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
    yield runs
    handle.remove()


def test_it_waits_for_padding_and_runs_once() -> None:
    model = wrap(zoo.make("gpt2"))
    view = copy.copy(model)
    assert len(model.sites)
    with counted(model.module) as runs:
        model(IDS[:1])
        model(IDS, attention_mask=torch.ones_like(IDS))
        model.capture(IDS, "blocks.0.hook_resid_post")
        assert waiting(model) and waiting(view) and runs == [3]
        view(IDS, attention_mask=MASK)
        assert not waiting(model), "a view learns for all"
        model(IDS, attention_mask=MASK)
        assert runs == [5], "others' hooks see nothing of the proof"
    assert waiting(copy.deepcopy(model)) and waiting(model.randomised(1)), "other weights, another proof"
    assert not waiting(wrap(zoo.make("gpt2"), check=False))


def test_a_model_that_was_loaded_waits_too() -> None:
    model = load_model("tiny-grammar")
    assert waiting(model) and model._adapter.proof is not None and model._adapter.proof.open


def first_site(model: HookedModel) -> str:
    return next(name for name in model.sites if name.endswith("hook_resid_pre"))


def zeroed(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return value * 0


def inside(model: HookedModel) -> Any:
    """From within a hook of another forward."""
    done: list[int] = []

    def run(value: torch.Tensor, hook: Any) -> None:
        if not done:
            done.append(1)
            model(IDS, attention_mask=MASK)

    return model.hooks([(first_site(model), run)])


WHERE: dict[str, Any] = {
    "under an edit": lambda model: model.hooks([(first_site(model), zeroed)]),
    "in a hook": inside,
    "under autocast": lambda model: torch.autocast("cpu", torch.bfloat16),
    "with gradients": lambda model: torch.enable_grad(),
    "in inference mode": lambda model: torch.inference_mode(),
    "in training mode": lambda model: model.in_training_mode(),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", ["gpt2", "mistral", "t5"])
def test_it_finds_the_same_wherever_it_runs(name: str, where: str) -> None:
    plain, model = wrap(zoo.make(name)), wrap(zoo.make(name))
    plain._intake.padding_proved()
    model.module.train()
    with WHERE[where](model):
        if where == "in a hook":
            model(IDS[:1])
        else:
            model(IDS, attention_mask=MASK)
    assert found(model) == found(plain)
    assert all(part.training for part in model.module.modules())


def test_two_threads_prove_once() -> None:
    model = wrap(zoo.make("gpt2"))
    proof: Any = model._intake.padding.proof
    find, calls = proof._find, []

    def counting(intake: Any) -> bool:
        calls.append(1)
        return find(intake)

    proof._find = counting
    threads = [threading.Thread(target=model, args=(IDS,), kwargs={"attention_mask": MASK}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1] and not waiting(model)


def test_a_model_without_numbers_teaches_nothing_about_padding() -> None:
    model = wrap(zoo.make("gpt2"))
    weight = model.module.transformer.wte.weight.data
    kept = weight.clone()
    weight.fill_(float("nan"))
    model._intake.padding_proved()
    assert waiting(model)
    weight.copy_(kept)
    model(IDS, attention_mask=MASK)
    assert found(model) == ({}, None, True, "")


def test_null_a_model_that_counts_columns_is_refused_by_the_first_who_pads() -> None:
    module: Any = zoo.make("bert")
    encoder = module.bert.encoder.forward
    module.bert.encoder.forward = lambda x, attention_mask=None, **rest: encoder(x, **rest)
    model = wrap(module)
    model(IDS)
    for _ in range(2):
        with pytest.raises(TokenError, match="real tokens"):
            model(IDS, attention_mask=MASK)


def test_sites_are_proved_when_somebody_names_one() -> None:
    model = wrap(zoo.make("gpt2"))
    proof: Any = model._adapter.proof
    with counted(model.module) as runs:
        model(IDS)
        assert proof.open and model.cfg.n_layers == 3 and model.fingerprint()
        view = copy.copy(model)
        assert "blocks.0.hook_resid_post" in view.sites
        assert not proof.open and list(model.sites) == list(view.sites)
        assert runs == [1]


@pytest.mark.parametrize("where", [w for w in WHERE if w != "in a hook"])
@pytest.mark.parametrize("name", ["gpt2", "falcon", "t5", "llama"])
def test_sites_are_the_same_wherever_they_are_proved(name: str, where: str) -> None:
    plain, model = wrap(zoo.make(name)), wrap(zoo.make(name))
    other = wrap(zoo.make("gpt2"))
    plain.module.train()
    model.module.train()
    with WHERE[where](model if where == "in training mode" else other):
        names = list(model.sites)
    assert names == list(plain.sites) and model.sites.refused == plain.sites.refused
    assert model.has_head == plain.has_head
    assert all(part.training for part in model.module.modules())


def test_two_threads_see_sites_only_when_they_are_proved() -> None:
    model = wrap(zoo.make("falcon"))
    plain = list(wrap(zoo.make("falcon")).sites)
    seen: list[list[str]] = []
    threads = [threading.Thread(target=lambda: seen.append(list(model.sites))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [plain] * 4


def test_sites_of_a_model_without_numbers_are_proved_once_it_has_some() -> None:
    model, plain = wrap(zoo.make("falcon")), wrap(zoo.make("falcon"))
    view, weight = copy.copy(model), model.module.lm_head.weight.data
    kept = weight.clone()
    weight.fill_(float("nan"))
    proof: Any = model._adapter.proof
    assert len(view.sites) > len(plain.sites) and proof.open
    weight.copy_(kept)
    assert list(model.sites) == list(view.sites) == list(plain.sites) and not proof.open


def test_ids_that_never_occur_may_have_no_logit() -> None:
    module: Any = zoo.make("gpt2")
    honest = module.lm_head.forward
    module.lm_head.forward = lambda x: honest(x).index_fill(-1, torch.tensor([3]), -torch.inf)
    model, plain = wrap(module), wrap(zoo.make("gpt2"))
    assert list(model.sites) == list(plain.sites) and model._intake.padding_proved().refused == {}


def test_hooks_that_others_put_on_see_nothing_of_it_and_change_nothing() -> None:
    model, plain = wrap(zoo.make("llama")), wrap(zoo.make("llama"))
    block, seen = model.module.model.layers[1], []
    before = block.register_forward_pre_hook(lambda m, args, kwargs: seen.append("pre"), with_kwargs=True)
    after = block.register_forward_hook(lambda m, args, output: seen.append("post") or output + 0.5)
    assert list(model.sites) == list(plain.sites) and model.sites.refused == plain.sites.refused
    model._intake.padding_proved()
    assert found(model) == ({}, None, True, "") and seen == []
    out = model(IDS)
    assert seen == ["pre", "post"] and not torch.equal(out, plain(IDS))
    before.remove()
    after.remove()
    assert torch.equal(model(IDS), plain(IDS)) and seen == ["pre", "post"]


def test_null_hooks_that_a_model_came_with_are_part_of_it() -> None:
    module: Any = zoo.make("llama")
    module.model.layers[1].register_forward_hook(lambda m, args, output: output + 0.5)
    assert "blocks.1.hook_mlp_out" in wrap(module).sites.refused


# --- what strangers found: a proof that begins in the middle of something else -------------------------

SITE = "blocks.2.hook_resid_post"


def touched(model: HookedModel) -> Any:
    """A torch hook that asks for sites, and for what padding does."""
    return lambda *_: (model.has_head, model.estimate(IDS, SITE, attention_mask=MASK), None)[2]


@pytest.mark.parametrize("same", [True, False], ids=["the model", "another wrap of its module"])
def test_a_torch_hook_that_asks_disturbs_no_pass(same: bool) -> None:
    module = zoo.make("gpt2")
    model = wrap(module)
    zero = lambda value, hook: value * 0  # noqa: E731
    kept, edited = model.capture(IDS[:1], SITE)[SITE], model.run_with_hooks(IDS[:1], [(SITE, zero)])
    model = wrap(module)
    other = model if same else wrap(module)
    assert model.sites
    module.transformer.h[0].mlp.register_forward_hook(touched(other))
    for _ in range(2):
        torch.testing.assert_close(model.capture(IDS[:1], SITE)[SITE], kept)
        torch.testing.assert_close(model.run_with_hooks(IDS[:1], [(SITE, zero)]), edited)
    assert list(other.sites) == list(wrap(zoo.make("gpt2")).sites) and found(other)[0] == {}


def test_a_model_wrapped_or_first_asked_inside_a_hook_has_its_sites() -> None:
    module, made = zoo.make("gpt2"), []
    model, other = wrap(module), wrap(module)
    ask = lambda value, hook: (made.append(wrap(module)), other.sites, None)[2]  # noqa: E731
    model.run_with_hooks(IDS[:1], [(SITE, ask)])
    assert list(made[0].sites) == list(other.sites) == list(model.sites)


def test_other_threads_that_run_the_model_spoil_nothing() -> None:
    module = zoo.make("gpt2")
    plain, model, stop = wrap(zoo.make("gpt2")), wrap(module), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            module(torch.arange(14).reshape(2, 7))

    threads = [threading.Thread(target=serve) for _ in range(2)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        for thread in threads:
            thread.start()
        assert list(model.sites) == list(plain.sites) and model.sites.refused == plain.sites.refused
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(switch)


def test_both_proofs_at_once_are_seen_by_nobody() -> None:
    module, seen = zoo.make("gpt2"), []
    for _ in range(3):
        model = wrap(module)
        look = lambda m, args, output: seen.append(output)  # noqa: E731
        handle = module.transformer.h[1].register_forward_hook(look)
        asked = [lambda model=model: len(model.sites), lambda model=model: model._intake.padding_proved()]
        threads = [threading.Thread(target=one) for one in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [] and list(module.transformer.h[1]._forward_hooks.values()) == [look]
        handle.remove()


PLACES: dict[str, Any] = {
    "fake": FakeTensorMode,
    "meta": lambda: torch.device("meta"),
    "counting": lambda: FlopCounterMode(display=False),
}


@pytest.mark.parametrize("place", PLACES)
def test_modes_of_a_thread_do_not_reach_a_proof(place: str) -> None:
    model, plain = wrap(zoo.make("falcon")), wrap(zoo.make("falcon"))
    with PLACES[place]() as mode:
        assert list(model.sites) == list(plain.sites)
        model._intake.padding_proved()
    assert found(model) == (plain._intake.padding_proved().refused, None, True, "")
    assert place != "counting" or mode.get_total_flops() == 0


def test_a_passing_failure_is_no_verdict() -> None:
    module: Any = zoo.make("gpt2")
    model, mlp = wrap(module), module.transformer.h[1].mlp
    honest = mlp.forward

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    mlp.forward = full
    for ask in (lambda: model.sites, lambda: model(IDS, attention_mask=MASK)):
        with pytest.raises(torch.OutOfMemoryError):
            ask()
    mlp.forward = honest
    assert list(model.sites) == list(wrap(zoo.make("gpt2")).sites)
    model(IDS, attention_mask=MASK)
    assert found(model) == ({}, None, True, "")


def test_little_memory_for_two_rows_says_nothing_about_rows() -> None:
    module: Any = zoo.make("gpt2")
    model, mlp = wrap(module), module.transformer.h[1].mlp
    honest = mlp.forward

    def full(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return honest(x)

    mlp.forward = full
    for ask in (lambda: model.sites, lambda: wrap(module)):
        with pytest.raises(torch.OutOfMemoryError):
            ask()
    mlp.forward = honest
    assert model._intake.padding.alone == "" and len(model(IDS)) == 2


def test_modules_exchanged_meanwhile_are_named_and_change_nothing() -> None:
    module: Any = zoo.make("gpt2")
    model, block = wrap(module), module.transformer.h[0]
    block.mlp, mlp = torch.nn.Identity(), block.mlp
    with pytest.raises(ModelError, match="replaced"):
        _ = model.sites
    block.mlp = mlp
    assert list(model.sites) == list(wrap(zoo.make("gpt2")).sites)


def test_a_head_is_proved_in_evaluation_mode_whatever_its_modules_say() -> None:
    class Drop(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.nn.functional.dropout(input, 0.5, self.training))

    module: Any = zoo.make("gpt2")
    module.lm_head, weight = Drop(24, 101, bias=False), module.lm_head.weight
    module.lm_head.weight = weight
    model = wrap(module.eval())
    module.train()
    assert model.has_head and module.lm_head.training


def test_draws_go_on_as_if_nobody_had_asked() -> None:
    module: Any = zoo.make("gpt2")
    honest = module.transformer.h[0].mlp.forward
    module.transformer.h[0].mlp.forward = lambda x: honest(x) + 1e-7 * torch.randn_like(x)
    model, drawn = wrap(module), []
    for _ in range(2):
        torch.manual_seed(1)
        model.capture(IDS[:1], SITE)
        drawn.append(float(torch.rand(1)))
    assert drawn[0] == drawn[1]


def test_the_weights_of_a_transform_are_nobodys() -> None:
    module: Any = zoo.make("gpt2")
    model = wrap(module)
    stacked = {name: torch.stack([weight, weight]) for name, weight in module.named_parameters()}

    def total(weights: Any) -> Any:
        with torch.nn.utils.stateless._reparametrize_module(module, weights):
            return model(IDS, attention_mask=MASK).sum()

    assert torch.vmap(total)(stacked).shape == (2,) and waiting(model)


def test_a_compiled_module_is_proved_as_it_was_written() -> None:
    module: Any = zoo.make("gpt2")
    model = wrap(module)
    module.compile(backend="eager")
    assert list(model.sites) == list(wrap(zoo.make("gpt2")).sites)


def test_a_refusal_keeps_nothing_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.models.hooks import attention

    honest = attention._softmax
    monkeypatch.setattr(attention, "_softmax", lambda s, d, f: honest(s * 1.5, d, f))
    model = wrap(zoo.make("llama"))
    with pytest.raises(AdapterError):
        _ = model.sites
    refusal: Any = model._adapter.proof
    assert refusal._refusal.__traceback__ is None
    assert copy.deepcopy(model._adapter).proof is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked child")
def test_a_child_forked_while_somebody_proves_proves_for_itself() -> None:
    module: Any = zoo.make("gpt2")
    model, block = wrap(module), module.transformer.h[1]
    honest, begun = block.forward, threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        time.sleep(0.1)
        return honest(*args, **kwargs)

    block.forward = slow
    thread = threading.Thread(target=lambda: model.sites)
    thread.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if len(model.sites) else 1)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
