"""Two languages with words of their own, and a tiny language model that reads both."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import interp
from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.randomness import generator
from tests.probing.rows import small

WORDS = 12
"""Of each language."""


def texts(n: int, seed: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """Chains of one language's words, ids [n, 16], and which language, [n]."""
    table = generator(0, "grammars")
    after = torch.stack([torch.randperm(WORDS, generator=table)[:3] for _ in range(2 * WORDS)])
    draw = generator(seed, "two languages", step)
    language = torch.randint(2, (n,), generator=draw)
    word, ids = torch.randint(WORDS, (n,), generator=draw), [torch.full((n,), 2 * WORDS)]
    for _ in range(15):
        ids.append(word + WORDS * language)
        word = after[ids[-1], torch.randint(3, (n,), generator=draw)]
    return torch.stack(ids, 1), language


def trained(seed: int) -> interp.HookedModel:
    """One layer, thirteen neurons."""
    module = small(d_vocab=2 * WORDS + 1, n_layers=1, d_mlp=13)

    def step(model: nn.Module, ids: Tensor, t: int) -> Tensor:
        return cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    schedule = FitConfig(steps=300, lr=1e-2, lr_schedule="cosine", grad_clip=1.0, log_every=100)
    fit(module, step, lambda t: texts(64, seed, t)[0], schedule)
    return interp.wrap(module)
