"""Fresh weights from a seed: the null model, as its own family initialises itself."""

from __future__ import annotations

import copy

import torch
from torch import nn

from interp.core.errors import ModelError
from interp.core.randomness import generator
from interp.models.adapters.effective import packed_parts
from interp.models.adapters.huggingface import is_huggingface
from interp.models.budget import refuse_copy
from interp.models.small.model import SmallTransformer


def randomised_module(module: nn.Module, seed: int) -> nn.Module:
    """A new module of the same architecture, weights drawn from `seed`; `module` is untouched.

    Hugging Face models initialise from their config, the small transformer by its own rule, other
    modules through `reset_parameters`; parameters that nothing resets are redrawn with the mean and
    deviation they had. A Hugging Face model comes without adapters: they are no part of its config.

    Raises:
        ModelError: Quantised weights, which nothing can redraw.
        MemoryBudgetError: A second set of weights is more than what is free.
    """
    packed = packed_parts(module)
    if packed:
        raise ModelError(
            f"cannot draw fresh weights for {type(module).__name__}: its weights are quantised",
            got=", ".join(packed[:3]),
            expected="floating-point weights",
            fix="randomise the unquantised model; quantise its module afterwards",
        )
    refuse_copy(module, f"a {type(module).__name__} with fresh weights")
    first = next(module.parameters(), torch.zeros(()))
    # Never the weights that the same seed gave the model itself before training.
    draw = int(torch.randint(2**31, (1,), generator=generator(seed, "randomised model")))
    if isinstance(module, SmallTransformer):
        twin = copy.deepcopy(module)
        twin.init_weights(draw)
        return twin
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw)
        if is_huggingface(module):
            fresh: nn.Module = type(module)(copy.deepcopy(module.config))
        else:
            fresh = copy.deepcopy(module).cpu()
            _reset(fresh)
    fresh = fresh.to(device=first.device, dtype=first.dtype).requires_grad_(first.requires_grad)
    return fresh.train(module.training)


@torch.no_grad()
def _reset(module: nn.Module) -> None:
    done: set[int] = set()
    for part in module.modules():
        if callable(getattr(part, "reset_parameters", None)):
            part.reset_parameters()  # type: ignore[operator]
            done.update(id(p) for p in part.parameters())
    for parameter in module.parameters():
        if id(parameter) not in done and parameter.is_floating_point():
            std = parameter.std(correction=0) if parameter.numel() > 1 else 1.0
            parameter.copy_(torch.randn_like(parameter) * std + parameter.mean())
