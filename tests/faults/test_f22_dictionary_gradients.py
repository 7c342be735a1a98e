"""F22: the written-out gradients of training steps pass `torch.autograd.gradcheck` in float64.

gradcheck compares with finite differences of the loss alone, so it shares nothing with the steps
but the loss itself. Two parts are no slope of any function and are held against their formulas in
tests/dictionaries/test_steps.py: JumpReLU's threshold, and Gated's decoder and skip path, which the
loss of the gates holds fixed.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.dictionaries import Dictionary, DictionaryConfig
from interp.dictionaries.steps import sparse
from interp.dictionaries.steps.table import TrainLoss, make_step

FULL = os.environ.get("INTERP_FULL") == "1"
CASES: dict[str, dict[str, Any]] = {
    "topk": {"k": 3},
    "abstopk": {"k": 3},
    "batchtopk": {"k": 2.5},
    "relu": {},
    "jumprelu": {"bandwidth": 1e-12},
    "gated": {},
    "matching_pursuit": {"max_iterations": 3, "residual_threshold": 0.0},
}
NO_SLOPE = {"jumprelu": ("threshold",), "gated": ("W_dec", "b_dec", "W_skip")}


class StepLoss(torch.autograd.Function):
    """The loss of a step as a function of the parameters, with the step's own gradients."""

    @staticmethod
    def forward(ctx: Any, d: Dictionary, weight: float, x: Tensor, y: Tensor, *given: Tensor) -> Any:
        names = [name for name, p in d.named_parameters() if p.requires_grad]
        state = d.state_dict() | dict(zip(names, given, strict=True))
        copy = Dictionary.from_state(d.config, state)
        dead = torch.zeros(d.config.d_sae, dtype=torch.bool)
        losses = TrainLoss(coefficient=torch.tensor(weight).double(), dead=dead, auxk_alpha=0.0)
        loss, _ = make_step(copy, losses)(x, y)
        ctx.grads = [dict(copy.named_parameters())[name].grad for name in names]
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        return None, None, None, None, *[grad * g for g in ctx.grads]


@settings(max_examples=100 if FULL else 2)
@given(
    sizes=st.sampled_from([(3, 7, 2), (2, 7, 5), (5, 7, 3)]),
    kind=st.sampled_from(["sae", "transcoder", "skip", "groups"]),
    is_dense=st.booleans(),
    seed=st.integers(0, 10**6),
)
@pytest.mark.parametrize("activation", CASES)
def test_gradcheck(
    activation: str, sizes: tuple[int, int, int], kind: str, is_dense: bool, seed: int
) -> None:
    d_in, d_sae, d_out = sizes
    about: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, "dtype": "float64"} | CASES[activation]
    is_pursuit = activation == "matching_pursuit"
    if kind in ("transcoder", "skip") and not is_pursuit:
        about |= {"d_out": d_out, "skip": kind == "skip", "apply_b_dec_to_input": False}
    if kind == "groups" and not is_pursuit:
        about["groups"] = (2, 3, d_sae)
    d = Dictionary(DictionaryConfig(activation=activation, **about))
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in d.named_parameters():
            p.copy_(torch.randn(p.shape, generator=source, dtype=torch.float64))
            if name == "threshold" or name in NO_SLOPE.get(activation, ()):
                p.abs_().requires_grad_(False)
        if is_pursuit:
            d.W_dec /= d.decoder_norms[:, None]
    x = torch.randn(5, d_in, generator=source, dtype=torch.float64)
    y = x
    if d.config.is_transcoder:
        y = torch.randn(5, d_out, generator=source, dtype=torch.float64)
    given_ = [p.detach().clone().requires_grad_() for p in d.parameters() if p.requires_grad]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "CROSSOVER", 0.0 if is_dense else 1.0)
        assert torch.autograd.gradcheck(
            lambda *p: StepLoss.apply(d, 0.3, x, y, *p), given_, eps=1e-7, atol=1e-5, rtol=1e-4
        )


def test_gradcheck_refuses_a_wrong_gradient() -> None:
    """The null: one gradient off by a percent."""
    d = Dictionary(DictionaryConfig(d_in=3, d_sae=11, activation="relu", dtype="float64"))
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Wrong(StepLoss):
        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            found = StepLoss.backward(ctx, *grads)
            return *found[:4], found[4] * 1.01, *found[5:]

    given_ = [p.detach().clone().requires_grad_() for p in d.parameters()]
    with pytest.raises(Exception, match="Jacobian mismatch"):
        torch.autograd.gradcheck(
            lambda *p: Wrong.apply(d, 0.3, x, x, *p), given_, eps=1e-7, atol=1e-5, rtol=1e-4
        )
