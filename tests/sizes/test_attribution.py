"""A target at one position needs that position's logits: no table of every token's, for any method."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.core.errors import MemoryBudgetError
from tests.attribution import toys
from tests.models import zoo
from tests.sizes.test_logit_blocks import ids_of, model_of
from tests.support.allocations import peak_bytes

IDS = torch.randint(5, zoo.V, (9,), generator=torch.Generator().manual_seed(0))
SITES = ("hook_embed", "blocks.1.hook_resid_post", "ln_final.hook_normalized")


@pytest.mark.thin(3)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "small"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "feature_ablation", "attn_lrp"])
def test_scores_are_those_of_every_positions_logits(family: str, site: str, method: str) -> None:
    """A position that is said by its number is read from the whole table; the last one is not."""
    model = interp.load_model("tiny-grammar") if family == "small" else interp.wrap(zoo.make(family))
    by_number = interp.models.token_logit(model, 7, position=len(IDS) - 1)
    whole = interp.attribute(model, IDS, by_number, method=method, site=site)
    last = interp.attribute(model, IDS, 7, method=method, site=site)
    torch.testing.assert_close(last.scores, whole.scores, rtol=1e-5, atol=1e-6)
    assert float(last.scores.abs().max()) > 0


def test_no_method_makes_the_logits_of_positions_nobody_reads() -> None:
    model = model_of(20_000)
    ids = ids_of(model, 1, 128)[0]
    table, row = 32 * 128 * 20_000 * 4, 32 * 20_000 * 4
    for method in ("integrated_gradients", "occlusion", "gradient_x_input"):
        interp.attribute(model, ids[:8], 7, method=method)
        used = peak_bytes(lambda m=method: interp.attribute(model, ids, 7, method=m))
        assert used < 4 * row + table / 10, method


@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "occlusion", "shapley"])
def test_memory_that_runs_out_is_said_by_name(method: str) -> None:
    """Where no estimate was made before, the allocator's own words are still no answer."""
    greedy = 2**46

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        if x.shape[0] > 1:  # what reads one row fits
            torch.empty(greedy)
        return m.out(x)

    model = toys.wrapped(forward, out=nn.Linear(5, 1))
    with pytest.raises(MemoryBudgetError, match=rf"(?s){method} needs more memory.*rows=16, a shorter input"):
        interp.attribute(model, torch.ones(1, 5), toys.first, method=method)

    def broken(m: nn.Module, x: Tensor) -> Tensor:
        if x.shape[0] > 1:
            raise RuntimeError("something else")
        return m.out(x)

    with pytest.raises(RuntimeError, match="something else"):
        interp.attribute(
            toys.wrapped(broken, out=nn.Linear(5, 1)), torch.ones(1, 5), toys.first, method=method
        )


def test_what_was_refused_below_keeps_its_words() -> None:
    def refusing(m: nn.Module, x: Tensor) -> Tensor:
        if x.shape[0] > 1:
            raise MemoryBudgetError("a budget of its own", fix="a cure of its own")
        return m.out(x)

    model = toys.wrapped(refusing, out=nn.Linear(5, 1))
    with pytest.raises(MemoryBudgetError, match=r"(?s)^a budget of its own.*a cure of its own"):
        interp.attribute(model, torch.ones(1, 5), toys.first)
