"""What an edge carries in place of the clean value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.circuits.config import Ablation
from interp.circuits.pairs import Pairs
from interp.circuits.wires import Wiring
from interp.core.errors import ConfigError
from interp.core.settings import check_choice
from interp.models.text.batch import TokenBatch

SAID = {"resample": "the corrupted prompt's values", "zero": "zeros", "mean": "means"}


class Replacement:
    """The contributions that stand for ablated ones, batch by batch.

    Args:
        kind: "resample": the corrupted prompt's own. "zero": nothing. "mean": over a set of
            prompts; position by position where they all have one length, else over all tokens.
        over: The prompts of the mean; the corrupted ones where there are, else the clean ones.

    Raises:
        ConfigError: No such kind, no corrupted prompts, or a set that nobody asked for.
    """

    def __init__(self, wires: Wiring, pairs: Pairs, kind: Ablation, over: Any = None) -> None:
        check_choice("ablation", kind, Ablation)
        if over is not None and kind != "mean":
            raise ConfigError(
                "only a mean is taken over prompts", got=f'over=..., ablation="{kind}"', fix='ablation="mean"'
            )
        if kind == "resample":
            pairs.both()
        self.wires, self.kind = wires, kind
        self._mean, self.said = None, SAID[kind]
        if kind == "mean":
            given = None if over is None else wires.model.read(over).to(wires.model.device)
            batch = given or pairs.corrupted or pairs.clean
            whose = "given" if given else "corrupted" if pairs.corrupted is not None else "clean"
            self._mean, per = _mean(wires, batch)
            self.said = f"mean over {len(batch)} {whose} prompts, {per}"
            width = self._mean.shape[2]
            if width not in (1, pairs.clean.ids.shape[1]):
                raise ConfigError(
                    "the mean is of prompts of another length",
                    got=f"{width} tokens",
                    expected=f"{pairs.clean.ids.shape[1]}",
                )

    def __call__(self, pairs: Pairs, clean: Tensor) -> Tensor:
        """[writer batch pos d_model] for these prompts, whose clean contributions are given."""
        if self._mean is not None:
            return self._mean.expand_as(clean)
        if self.kind == "zero":
            return torch.zeros_like(clean)
        return contributions(self.wires, pairs.both())


@torch.no_grad()
def contributions(wires: Wiring, batch: TokenBatch) -> Tensor:
    """What each writer adds to the stream on these prompts, [writer batch pos d_model]."""
    return wires.contributions(wires.model.capture(batch, wires.sites))


def _mean(wires: Wiring, batch: TokenBatch) -> tuple[Tensor, str]:
    """[writer 1 pos d_model], or [writer 1 1 d_model] over prompts of several lengths."""
    total: Tensor | float = 0.0
    if not batch.padded:
        for part in batch.batches(32):
            total = total + contributions(wires, part).sum(1, keepdim=True)
        return torch.as_tensor(total) / len(batch), "by position"
    for part in batch.batches(32):
        found = contributions(wires, part) * part.mask[None, :, :, None]
        total = total + found.sum((1, 2), keepdim=True)
    return torch.as_tensor(total) / int(batch.mask.sum()), "over positions"
