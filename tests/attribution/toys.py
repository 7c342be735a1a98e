"""Small functions whose attributions are known by hand, and naive loops to compare with."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import interp
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer

IDS = torch.tensor([11, 7, 23, 5, 42, 17, 3])


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any, **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def wrapped(function: Any, **parts: nn.Module) -> interp.HookedModel:
    return interp.wrap(Call(function, **parts).eval())


def mlp(sizes: tuple[int, ...] = (5, 11, 7, 1), bias: bool = True, **more: Any) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(a, b, bias=bias, **more))
        if i < len(sizes) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def gated(d: int = 7, dtype: torch.dtype = torch.float32, seed: int = 3) -> interp.HookedModel:
    """silu(a x) * (b x), as in every modern MLP."""
    torch.manual_seed(seed)
    return wrapped(
        lambda m, x: m.out(F.silu(m.a(x)) * m.b(x)),
        a=nn.Linear(d, 13, dtype=dtype),
        b=nn.Linear(d, 13, dtype=dtype),
        out=nn.Linear(13, 1, dtype=dtype),
    )


def normed(d: int = 7, dtype: torch.dtype = torch.float32, seed: int = 4) -> interp.HookedModel:
    """LayerNorm and GELU."""
    torch.manual_seed(seed)
    return wrapped(
        lambda m, x: m.out(F.gelu(m.up(m.norm(x)))),
        norm=nn.LayerNorm(d, dtype=dtype),
        up=nn.Linear(d, 13, dtype=dtype),
        out=nn.Linear(13, 1, dtype=dtype),
    )


def small(seed: int = 1, dtype: torch.dtype = torch.float32, **more: Any) -> interp.HookedModel:
    sizes = {"n_layers": 2, "d_model": 15, "n_ctx": 13, "d_head": 5, "n_heads": 3, "d_mlp": 11}
    return interp.wrap(SmallTransformer(SmallConfig(**{**sizes, "d_vocab": 61, **more}), seed=seed).to(dtype))


def first(out: Tensor) -> Tensor:
    """The only output of a toy."""
    return out.reshape(len(out), -1)[:, 0]


def exact_shapley(game: Any) -> Tensor:
    """Shapley values from all coalitions, by the definition."""
    n = game.who.n
    subsets = list(itertools.product([0.0, 1.0], repeat=n))
    worth = dict(zip(subsets, game.coalition(torch.tensor(subsets)).tolist(), strict=True))
    found = torch.zeros(n, dtype=torch.float64)
    for z in subsets:
        size = int(sum(z))
        for i in range(n):
            if z[i] == 0:
                bigger = (*z[:i], 1.0, *z[i + 1 :])
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                found[i] += weight * (worth[bigger] - worth[z])
    return found
