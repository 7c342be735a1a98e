"""A small random language model with a word-level tokenizer, and stories for it."""

from __future__ import annotations

import random
from typing import Any

import torch

from interp.models import SmallConfig, SmallTransformer, wrap
from tests.models.tokenizers import WORDS, word_level

N_CTX, D_MODEL, N_HEADS, D_HEAD = 13, 14, 3, 5


def small_model(bos: int | None = 0, **changes: Any) -> Any:
    """2 layers, random weights; `bos` is the id of the BOS or None for a tokenizer without."""
    tokenizer = word_level(bos)
    fields: dict[str, Any] = {
        "n_layers": 2,
        "d_model": D_MODEL,
        "n_heads": N_HEADS,
        "d_head": D_HEAD,
        "d_mlp": 11,
        "d_vocab": len(tokenizer),
        "n_ctx": N_CTX,
        "act_fn": "relu",
        "normalization_type": "LN",
    }
    module = SmallTransformer(SmallConfig.from_dict({**fields, **changes}))
    source = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=source))
    return wrap(module.eval(), tokenizer)


def stories(n: int, seed: int = 0, longest: int = 29) -> list[str]:
    """`n` documents of 1 to `longest` words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, longest))) for _ in range(n)]
