"""Proofs wait for whoever needs them: of sites the first who names one, of padding the first who pads.
They find the same wherever that happens."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from interp import wrap
from interp.core.errors import TokenError
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


@pytest.mark.parametrize("how", ["NaN", "no values"])
def test_a_model_without_numbers_teaches_nothing(how: str) -> None:
    model = wrap(zoo.make("gpt2"))
    weight = model.module.transformer.wte.weight.data
    kept = weight.clone()
    if how == "NaN":
        weight.fill_(float("nan"))
    with FakeTensorMode(allow_non_fake_inputs=True) if how == "no values" else nullcontext():
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
    model = wrap(zoo.make("gpt2"))
    weight = model.module.transformer.wte.weight.data
    kept = weight.clone()
    weight.fill_(float("nan"))
    proof: Any = model._adapter.proof
    assert len(model.sites) and proof.open
    weight.copy_(kept)
    assert len(model.sites) and not proof.open


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
