"""Clamp a neuron and see what the model says: the causal test of a decoded neuron (Davies 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.result import Result
from interp.core.settings import check_flags
from interp.lenses.weights.tokens import token_pieces
from interp.models.hooked import HookedModel
from interp.models.hooks.interventions import clamp

PLACES = ("post", "pre", "pre_linear")
BATCH = 16
"""Contexts in one forward pass."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ClampEffect(Result):
    """Next-token probabilities at the end of every context, without and with a clamped neuron."""

    before: Float[Tensor, "context token"]
    """The model as it is."""
    after: Float[Tensor, "context token"]
    """With the neuron held at `value` at every position."""
    natural: Float[Tensor, " context"]
    """What the neuron did on its own at the last position."""
    value: float
    """What it was held at."""
    site: str
    """Site of the clamped neuron."""
    neuron: int
    """Which entry of the site."""
    pieces: dict[int, str]
    """Text of the tokens that move most."""

    @property
    def change(self) -> Float[Tensor, " token"]:
        """Mean change of every token's probability."""
        return (self.after - self.before).mean(0)

    def moved(self, n: int = 10, *, down: bool = False) -> list[tuple[str, float]]:
        """The tokens that gain (lose) most probability on average, with the change."""
        check_flags(down=down)
        found = self.change.topk(min(n, len(self.pieces), self.change.numel()), largest=not down)
        pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [(self.pieces.get(i, str(i)), change) for i, change in pairs]

    def raised(self, ids: Sequence[int]) -> float:
        """Share of contexts in which the clamp raises the probability of `ids` together."""
        index = list(ids)
        gain = self.after[:, index].sum(-1) - self.before[:, index].sum(-1)
        return float((gain > 0).float().mean())

    def check(self) -> Checks:
        """Both sides are distributions."""
        worst = torch.stack([self.before, self.after]).sum(-1).sub(1).abs().max()
        return Checks([Check.at_most("probabilities sum to 1", worst, 1e-3)])


@torch.no_grad()
def clamp_neuron(
    model: HookedModel,
    inputs: Any,
    neuron: tuple[int, int],
    value: float,
    *,
    point: str = "post",
    k: int = 25,
) -> ClampEffect:
    """Hold one MLP neuron at a value and compare what the model says next.

    `model.generate(text, fwd_hooks=[interp.clamp(effect.site, neuron, value)])` goes on from there.

    Args:
        inputs: A text, texts, ids [batch pos] or a TokenBatch: the contexts.
        neuron: (layer, index).
        value: What it is held at.
        point: "post" (the activation that W_out reads), "pre", or "pre_linear" (the up projection of
            a gated MLP).
        k: Tokens named, of those that gain and of those that lose.

    Raises:
        ConfigError: No such place, layer or neuron.
    """
    layer, index = neuron
    cfg = model.cfg
    site = f"blocks.{layer}.mlp.hook_{point}"
    if point not in PLACES or site not in model.sites or not 0 <= index < cfg.d_mlp:
        raise ConfigError(
            "no such neuron",
            got=f"layer {layer}, neuron {index}, at {point!r}",
            expected=f"layers below {cfg.n_layers}, neurons below {cfg.d_mlp}, at {PLACES}",
        )
    batch = model.read(inputs)
    before, after, natural = [], [], []
    for part in batch.batches(BATCH):
        last = part.last
        logits, acts = model.run_with_cache(part, [site])
        held = model.run_with_hooks(part, [clamp(site, index, value)])
        before.append(_at(logits, last).softmax(-1))
        after.append(_at(held, last).softmax(-1))
        natural.append(_at(acts[site], last)[:, index])
    change = (torch.cat(after) - torch.cat(before)).mean(0)
    k = min(k, change.numel())
    named = torch.cat([change.topk(k).indices, change.topk(k, largest=False).indices])
    return ClampEffect(
        before=torch.cat(before),
        after=torch.cat(after),
        natural=torch.cat(natural),
        value=float(value),
        site=site,
        neuron=int(index),
        pieces=token_pieces(model, named),
        provenance=model.provenance([site]),
    )


def _at(values: Tensor, last: Tensor) -> Tensor:
    """The row at each context's last token, [context ...], in at least single precision."""
    found = values[torch.arange(len(last)), last.to(values.device)].cpu()
    return found if found.dtype == torch.float64 else found.float()
