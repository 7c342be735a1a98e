"""How often the host waits for the device: not once more for another site, layer, edit or step.

What is asked per pass or per step is asked together. Where a loop must know something to go on (the
places of active latents, whether a text has ended), the bound says how often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers

import interp
from interp import dictionaries, models
from interp.activations import FitConfig, fit
from interp.core import check_finite
from interp.core.errors import EditError, NonFiniteError
from interp.dictionaries import EvaluationConfig, FinetuneConfig
from interp.lenses import TunedLensConfig, train_tuned_lens
from interp.models import TokenBatch
from tests.devices.calls_dictionaries import ACTIVATIONS, setting
from tests.devices.calls_models import MASK
from tests.devices.elsewhere import Elsewhere
from tests.devices.place import SITE, Place
from tests.models import zoo

THERE = Place("cuda")
Growing = Callable[[int], Any]


@cache
def model(n_layers: int) -> Any:
    """A GPT-2 of some depth that has told who it is."""
    config = transformers.GPT2Config(
        vocab_size=zoo.V, n_embd=zoo.D, n_layer=n_layers, n_head=zoo.H, n_inner=zoo.M, n_positions=zoo.C
    )
    torch.manual_seed(0)
    made = interp.wrap(transformers.GPT2LMHeadModel(config).eval().to(THERE.device))
    made.provenance()
    return made


def padded() -> TokenBatch:
    return TokenBatch(THERE.ids(), THERE.put(MASK))


def _edits(n: int) -> Any:
    sites = [f"blocks.{i}.attn.hook_z" for i in range(n)]
    edits = [models.zero(site, head=[0, 2], positions=[0, -1]) for site in sites]
    return model(5).run_with_hooks(padded(), edits)


def _functions(n: int) -> Any:
    hooks = [(f"blocks.{i}.hook_resid_post", lambda value, hook: value * 2) for i in range(n)]
    return model(5).run_with_hooks(THERE.ids(), hooks)


def _fit(n: int) -> Any:
    module, x = torch.nn.Linear(11, 3).to(THERE.device), THERE.rows()
    config = FitConfig(steps=n, lr=0.01, log_every=99, grad_clip=1.0)
    return fit(module, lambda m, batch, t: m(batch).square().mean(), lambda t: x, config)


def _tuned(n: int) -> Any:
    config = TunedLensConfig(steps=n, batch_tokens=16, n_ctx=9)
    return train_tuned_lens(model(2), THERE.ids(12), config)


def _finetuned(n: int) -> Any:
    config = FinetuneConfig(steps=n, batch_sequences=2, n_ctx=9, log_every=99)
    return dictionaries.finetune(THERE.dictionary("batchtopk"), model(2), THERE.ids(7), config)


def _evaluated(n: int) -> Any:
    return dictionaries.evaluate(
        THERE.dictionary(), model(2), THERE.ids(n), EvaluationConfig(batch_sequences=2)
    )


def _generated(n: int) -> Any:
    edit = models.zero("blocks.0.hook_resid_post", positions=[1])
    return model(2).generate(THERE.ids(), n, fwd_hooks=[edit], return_ids=True)


def _pursued(n: int) -> Any:
    coder = THERE.dictionary("matching_pursuit", k=None, max_iterations=n)
    return coder.encode(THERE.rows(50, zoo.D))


def _trained(activation: str) -> Growing:
    return lambda n: dictionaries.train(setting(activation, steps=n, log_every=99), THERE.rows(211, 13))


LOOKS = {
    "topk": 1.2,
    "abstopk": 1.2,
    "batchtopk": 4,
    "jumprelu": 2,
    "gated": 2,
    "relu": 2,
    "matching_pursuit": 2,
}
"""Per training step: which latents are dead, and where some are active, must be known to go on."""
CASES: dict[str, tuple[Growing, int, int, float]] = {
    "sites of a cache": (lambda n: model(n).run_with_cache(THERE.ids()), 2, 5, 0),
    "sites of a padded cache": (lambda n: model(n).run_with_cache(padded()), 2, 5, 0),
    "sites at some positions": (
        lambda n: model(n).capture(padded(), "blocks.*.hook_resid_post", positions=[0, -1]),
        2,
        5,
        0,
    ),
    "edits": (_edits, 1, 5, 0),
    "functions as edits": (_functions, 1, 5, 0),
    "parameters of a model": (lambda n: model(n).provenance(), 2, 5, 0),
    "layers under an attribution": (lambda n: interp.attribute(model(n), THERE.ids()[0], 7), 2, 5, 0),
    "layers under a lens": (lambda n: interp.logit_lens(model(n), THERE.ids()[0]), 2, 5, 0),
    "layers of a decomposition": (
        lambda n: interp.direct_logit_attribution(model(n), THERE.ids()[0], 7),
        2,
        5,
        0,
    ),
    "steps of a training": (_fit, 4, 24, 0),
    "steps of a tuned lens": (_tuned, 4, 14, 2),
    "steps of a finetune": (_finetuned, 2, 6, 11),
    "batches of an evaluation": (_evaluated, 4, 8, 12),
    "tokens of a text": (_generated, 4, 10, 1),
    "steps of a pursuit": (_pursued, 8, 24, 1 / 8),
    **{f"steps of {a}": (_trained(a), 4, 14, LOOKS[a]) for a in ACTIVATIONS},
}


def waits(call: Growing, n: int) -> Counter[str]:
    """Which lines of the package waited, and how often."""
    with Elsewhere() as device:
        call(n)
    return device.in_package()


@pytest.mark.thin(3)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_another_one_costs_no_further_wait(name: str) -> None:
    call, small, large, each = CASES[name]
    with Elsewhere():
        call(small), call(large)  # what is asked once of a model or a file
    more = waits(call, large) - waits(call, small)
    assert more.total() <= each * (large - small), more


def test_a_wait_for_every_site_is_seen() -> None:
    """The bounds above can fail: this is how sites were checked before."""

    def one_by_one(n: int) -> None:
        for value in model(n).capture(THERE.ids(), "blocks.*.hook_resid_post").values():
            check_finite(value, "a site")

    with Elsewhere():
        one_by_one(5), one_by_one(2)  # what is asked once of a model
    more = waits(one_by_one, 5) - waits(one_by_one, 2)
    assert more.total() == 3


# ---- what is told later is told all the same -----------------------------------------------------


def test_an_edit_that_is_no_number_is_refused_when_the_pass_ends() -> None:
    broken = torch.zeros(zoo.D)
    broken[5] = torch.nan
    hooks = [(SITE, lambda value, hook: value + broken.to(value.device))]
    told: list[str] = []
    for place in (Place("cpu"), THERE):
        runs: list[Callable[[], Any]] = [
            lambda p=place: p.model.run_with_hooks(p.ids(), hooks),
            lambda p=place: p.model.capture(p.ids(), SITE, fwd_hooks=hooks),
        ]
        with Elsewhere():
            for run in runs:
                with pytest.raises(NonFiniteError, match="the hook at") as refused:
                    run()
                told.append(str(refused.value))
            with place.model.hooks(hooks), pytest.raises(NonFiniteError):
                place.model(place.ids())
    assert len(set(told)) == 1 and "nan at index (0, 0, 5)" in told[0] and "27 of 648" in told[0]


def test_an_edit_on_another_device_is_refused_at_once() -> None:
    with Elsewhere(), pytest.raises(EditError, match="device"):
        THERE.model.run_with_hooks(THERE.ids(), [(SITE, lambda value, hook: value.cpu())])


def test_scores_that_are_masked_are_finite_and_others_are_named() -> None:
    with Elsewhere():
        made = THERE.make("gpt2")
        acts = made.capture(THERE.ids(), "blocks.*.attn.hook_attn_scores")
        assert bool((acts["attn_scores", 0] < -1e30).any())
        with torch.no_grad():
            made.module.transformer.h[1].mlp.c_proj.bias[3] = torch.nan
        with pytest.raises(NonFiniteError, match=r"blocks\.2\.hook_resid_pre"):
            made.capture(THERE.ids(), ["blocks.*.hook_resid_pre", "blocks.*.hook_mlp_out"])
