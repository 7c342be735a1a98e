"""Heads from weights while a model learns: the memories of Bietti et al. appear in their order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.activations import FitConfig, fit
from interp.core.randomness import generator
from interp.lenses import find_heads
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer

V, D, T, TRIGGERS = 32, 128, 64, 3


def sequences(n: int, t: int) -> tuple[Tensor, Tensor]:
    """Bigram texts [n 65] in which three tokens always have the same successor, drawn per text, and
    where that successor can be known: from its second time on [n 64]."""
    world = generator(0, "bigram")
    table = (1.5 * torch.randn(V, V, generator=world)).softmax(-1)
    draw = generator(0, "birth", t)
    outputs = torch.randint(0, V, (n, TRIGGERS), generator=draw)
    rows = torch.empty(n, T + 1, dtype=torch.long)
    rows[:, 0] = torch.randint(0, V, (n,), generator=draw)
    times, known = torch.zeros(n, V), torch.zeros(n, T, dtype=torch.bool)
    every = torch.arange(n)
    for i in range(T):
        now = rows[:, i]
        free = torch.multinomial(table[now], 1, generator=draw)[:, 0]
        bound = outputs[every, now.clamp(max=TRIGGERS - 1)]
        rows[:, i + 1] = torch.where(now < TRIGGERS, bound, free)
        known[:, i] = (now < TRIGGERS) & (times[every, now] > 0)
        times[every, now] += 1
    return rows, known


def two_layers(seed: int = 0) -> SmallTransformer:
    """One head per layer, no norms, queries = states; only W_K and the last W_O are trained."""
    sizes = {"n_layers": 2, "d_model": D, "d_head": D, "n_heads": 1, "n_ctx": T, "d_vocab": V}
    module: Any = SmallTransformer(
        SmallConfig(**sizes, attn_only=True, normalization_type=None, default_prepend_bos=False)
    )
    draw = generator(seed, "birth weights")

    def even(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=draw) - 1) / D**0.5

    with torch.no_grad():
        module.embed.W_E.copy_(torch.randn(V, D, generator=draw))
        module.pos_embed.W_pos.copy_(torch.randn(T, D, generator=draw))
        module.unembed.W_U.copy_(even(D, V))
        for block in module.blocks:
            block.attn.W_Q[0].copy_(torch.eye(D))
            for name in ("W_K", "W_V", "W_O"):
                getattr(block.attn, name)[0].copy_(even(D, D))
    module.requires_grad_(False)
    first, second = (block.attn for block in module.blocks)
    for weight in (first.W_K, second.W_K, second.W_O):
        weight.requires_grad_(True)
    return module


def probes(module: SmallTransformer) -> dict[str, float]:
    """Recall of the three memories."""
    found = find_heads(interp.wrap(module, check=False))
    assert found.previous is not None and found.matching is not None and found.copying is not None
    return {
        "W_K^0": float(found.previous[0, 0]),
        "W_K^1": float(found.matching[1, 0, 0, 0]),
        "W_O^1": float(found.copying[1, 0]),
    }


@pytest.mark.full
def test_memories_are_born_in_the_order_of_the_paper() -> None:
    """After 600 steps of SGD: accuracy 1, W_O^1 recalled, then W_K^0; W_K^1 for the triggers.

    The page's figures at its learning rate of .03 are reached here at .1 (at .03 450 steps give
    .59 and .81): 450 steps gave accuracy .991, W_K^0 .825, W_O^1 1, W_K^1 3 of 3 triggers.
    """
    module = two_layers()
    begin = probes(module)
    assert max(begin.values()) <= 0.1, begin  # all 32 tokens stand for W_K^1's triggers
    history = [begin]

    def loss(module: SmallTransformer, batch: tuple[Tensor, Tensor], t: int) -> Tensor:
        rows, known = batch
        if t % 10 == 0:
            history.append(probes(module))
        logits = module(rows[:, :-1])
        return torch.nn.functional.cross_entropy(logits[known], rows[:, 1:][known])

    sgd = FitConfig(steps=600, lr=0.1, optimizer="sgd", betas=(0.9, 0.999), weight_decay=1e-4)
    fit(module, loss, lambda t: sequences(128, t), sgd)
    rows, known = sequences(256, 10**6)
    right = (module(rows[:, :-1]).argmax(-1) == rows[:, 1:])[known].float().mean()
    end = probes(module)
    first = {name: next((i for i, h in enumerate(history) if h[name] > 0.5), 10**6) for name in end}
    figures = f"accuracy {float(right)}, probes {end}, above .5 at measurement {first}"
    assert float(right) >= 0.99 and end["W_O^1"] >= 0.95, figures
    assert end["W_K^0"] >= 0.8 and end["W_K^1"] >= TRIGGERS / V, figures
    assert first["W_O^1"] <= first["W_K^0"], figures
