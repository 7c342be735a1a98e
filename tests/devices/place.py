"""Models, rows and texts of one device: what the calls in these tables are made with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import interp
from interp.dictionaries import Dictionary, DictionaryConfig
from tests.models import zoo

Call = Callable[["Place"], Any]
SITE, MIDDLE = "blocks.1.hook_resid_post", "blocks.1.hook_resid_pre"
D_SAE = 61


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """The same numbers on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Place:
    """One device, "cpu" or "cuda"."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def put(self, value: Tensor) -> Tensor:
        """A tensor here."""
        return value.to(self.device)

    def rows(self, n: int = 97, d: int = 11, seed: int = 0) -> Tensor:
        """Rows here, [n, d]."""
        return self.put(drawn(n, d, seed=seed))

    def ids(self, batch: int = 3, pos: int = 9, seed: int = 0) -> Tensor:
        """Token ids here, [batch, pos]."""
        draw = torch.Generator().manual_seed(seed)
        return self.put(torch.randint(5, zoo.V, (batch, pos), generator=draw))

    def make(self, family: str) -> Any:
        """A tiny model of a family, here."""
        return interp.wrap(zoo.make(family).to(self.device))

    @cached_property
    def model(self) -> Any:
        """GPT-2, tiny and random."""
        return self.make("gpt2")

    @cached_property
    def encoder(self) -> Any:
        """A text encoder without a head."""
        return interp.wrap(zoo.make("bert").to(self.device).bert)

    @cached_property
    def net(self) -> Any:
        """A small network of vectors."""
        torch.manual_seed(2)
        parts = torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 2)
        return interp.wrap(torch.nn.Sequential(*parts).to(self.device).eval())

    @cached_property
    def t5(self) -> Any:
        """An encoder-decoder."""
        return self.make("t5")

    @cached_property
    def grammar(self) -> Any:
        """A bundled model, with words."""
        return interp.load_model("tiny-grammar", device=self.device)

    def dictionary(self, activation: str = "topk", **more: Any) -> Dictionary:
        """A dictionary of `model`'s stream, here, with random numbers in it."""
        shape = {"d_in": zoo.D, "d_sae": D_SAE, "activation": activation, "site_in": SITE}
        made = Dictionary(DictionaryConfig(**{**shape, "k": 5, **more}))
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
            if hasattr(made, "threshold"):
                made.threshold.abs_().add_(0.1)
        return made.to(self.device)
