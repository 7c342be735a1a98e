"""Two threads on one model: one edits and captures, the other runs it plainly, bit for bit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.models.hooks import passes
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from tests.conftest import FULL
from tests.models import zoo
from tests.models.program.state import state

IDS = torch.tensor([[11, 7, 23, 5, 42], [9, 31, 6, 77, 50]])
FORWARDS = 10_000 if FULL else 400
"""Plain forwards, over all models of the test."""
NAMES = ("llama", "gpt2", "gemma2", "neox", "small")


@contextmanager
def _impatient() -> Iterator[None]:
    """Threads change places every 20 microseconds, so that they meet inside a forward."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _model(name: str) -> nn.Module:
    if name != "small":
        return zoo.make(name)
    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 12, "n_ctx": 31, "d_head": 4, "d_vocab": zoo.V}
    return SmallTransformer(SmallConfig(**sizes, n_heads=3, d_mlp=11), seed=1).eval()


def _busy(model: interp.HookedModel, stop: threading.Event, errors: list[str]) -> None:
    """Blocks, captures and single runs, sites inside attention among them."""
    post, pattern = "blocks.0.hook_resid_post", "blocks.1.attn.hook_pattern"
    mid, scores = "blocks.1.hook_resid_mid", "blocks.0.attn.hook_attn_scores"
    own = [s for s in (post, pattern, mid, scores) if s in model.sites]
    try:
        with torch.no_grad():
            edited = model.run_with_hooks(IDS, [interp.zero(post), interp.zero(pattern, head=0)])
            kept = model.capture(IDS, own)
            while not stop.is_set():
                with model.hooks([interp.zero(post)]), model.hooks([interp.zero(pattern, head=0)]):
                    if not torch.equal(model(IDS), edited):
                        errors.append("an edit was lost")
                again = model.capture(IDS, own)
                if not all(torch.equal(again[s], kept[s]) for s in own):
                    errors.append("a capture saw something else")
    except BaseException as error:
        errors.append(repr(error))


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_forward_in_another_thread_is_never_touched(name: str) -> None:
    raw = _model(name)
    model = interp.wrap(raw)
    before = state(raw)
    errors: list[str] = []
    wrong: list[float] = []
    stop = threading.Event()

    def logits() -> Tensor:
        out = raw(IDS)
        return out if isinstance(out, Tensor) else out.logits

    with torch.no_grad(), _impatient():
        right = logits()
        other = threading.Thread(target=_busy, args=(model, stop, errors))
        other.start()
        try:
            for _ in range(FORWARDS // len(NAMES)):
                found = logits()
                if not torch.equal(found, right):
                    wrong.append(float((found - right).abs().max()))
        finally:
            stop.set()
            other.join()
    assert not errors
    assert not wrong, f"{len(wrong)} plain forwards were edited, by up to {max(wrong):.3g}"
    assert state(raw) == before
    assert not passes.active()


def test_two_threads_edit_one_model_each_in_its_own_way() -> None:
    model = interp.wrap(zoo.make("llama"))
    site, pattern = "blocks.1.hook_resid_post", "blocks.0.attn.hook_pattern"
    hooks = (
        [interp.zero(site, positions=0)],
        [interp.zero(site, positions=-1), interp.zero(pattern, head=[1, 2])],
    )
    with torch.no_grad():
        right = [model.run_with_hooks(IDS, h) for h in hooks]
    errors: list[str] = []

    def work(which: int) -> None:
        with torch.no_grad(), model.hooks(hooks[which]):
            for _ in range(FORWARDS // 8):
                if not torch.equal(model(IDS), right[which]):
                    errors.append(f"thread {which}")

    with _impatient():
        threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


def test_modules_in_training_mode_are_given_back_whatever_thread_ends_last() -> None:
    raw = zoo.make("gpt2").train()
    model = interp.wrap(raw)
    site = "blocks.0.hook_resid_post"
    started, release = threading.Event(), threading.Event()

    def wait(value: Tensor, hook: object) -> None:
        started.set()
        release.wait(10)

    slow = threading.Thread(target=lambda: model.run_with_hooks(IDS, [(site, wait)]))
    slow.start()
    assert started.wait(10)
    with torch.no_grad():
        first, second = model(IDS), model(IDS)
    assert torch.equal(first, second)
    release.set()
    slow.join()
    assert all(module.training for module in raw.modules())
