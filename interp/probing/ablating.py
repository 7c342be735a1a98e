"""Take the neurons that a sparse probe names away, in the model (Gurnee et al. 2023, section 5).

"Finding Neurons in a Haystack": a neuron that tells a feature need not serve it. Here the loss on
texts that have the feature, and on texts that have not, is measured with the neurons ablated, and
with as many random ones of the same site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import ConfigError
from interp.core.frames.quantity import called, computed, measured
from interp.core.randomness import permutation
from interp.core.result import Result
from interp.core.settings import check_choice
from interp.models.hooked import HookedModel
from interp.models.hooks.interventions import Intervention, mean, zero
from interp.models.losses import text_losses
from interp.models.text.batch import TokenBatch

Replacement = Literal["zero", "mean"]
NAMED = 6
"""Neurons that a title names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ablation(Result):
    """Loss of texts with something taken out of the model at one site, and with as much else.

    `labels["text"]` names the group of each text; without it all are one group.
    """

    intact: Float[Tensor, "text"]
    """Mean loss of each text, nats per token, nothing taken."""
    ablated: Float[Tensor, "text"]
    """Mean loss of each text without what was taken."""
    random: Float[Tensor, "draw text"]
    """Mean loss of each text without as much else: other neurons, a random subspace."""
    site: str
    """Site at which it was taken."""
    neurons: tuple[int, ...]
    """Neurons that were taken; none where it was a subspace."""
    rank: int
    """Directions that were taken."""
    replacement: str
    """What stood in for them: zero, mean, or projection of a subspace."""

    @property
    def groups(self) -> list[str]:
        """Names of the groups of texts."""
        return list(dict.fromkeys(self.labels.get("text", ["all texts"])))

    @property
    @computed(
        measured(
            "rise of the loss",
            "nats per token",
            "the model used what was taken",
            signed=False,
            legend="what was taken",
            null="random_effects",
        )
    )
    def effect(self) -> Float[Tensor, "group"]:
        """Rise of each group's mean loss."""
        return self._by_group(self.ablated - self.intact)

    @property
    @computed(called("as much else, lowest to highest"))
    def random_effects(self) -> Float[Tensor, "draw group"]:
        """Rise of each group's mean loss without as much else."""
        return self._by_group(self.random - self.intact)

    def ticks(self, axis: str) -> list[str] | None:
        """The groups have names, too."""
        return self.groups if axis == "group" else super().ticks(axis)

    @property
    def headline(self) -> str:
        """What was taken, and where."""
        more = "…" if len(self.neurons) > NAMED else ""
        named = f"Without {', '.join(map(str, self.neurons[:NAMED]))}{more} of {self.site}"
        return named if self.neurons else f"Erased at {self.site}, rank {self.rank}"

    def _by_group(self, values: Tensor) -> Tensor:
        names = self.labels.get("text", ["all texts"] * values.shape[-1])
        chosen = [[i for i, name in enumerate(names) if name == group] for group in self.groups]
        return torch.stack([values[..., places].mean(-1) for places in chosen], -1)


def ablate_neurons(
    model: HookedModel,
    inputs: Mapping[str, Any],
    site: str,
    neurons: Sequence[int],
    *,
    replacement: Replacement = "zero",
    n_random: int = 5,
    seed: int = 0,
) -> Ablation:
    """Loss of each group of texts without some neurons, and without random others.

    Args:
        model: A causal language model.
        inputs: Groups by name, e.g. with the feature and without: texts, ids, a `TokenBatch`, ...
        site: Where the neurons are, e.g. `blocks.2.mlp.hook_post`.
        neurons: Which, e.g. of `SparseSweep.best(k)`.
        replacement: What stands in for them: "zero", or the "mean" of each over all real tokens.
        n_random: Sets of as many other neurons of the site, for comparison.
        seed: Draws them.

    Raises:
        SiteError: No such site.
        ConfigError: No texts, no such neurons, too few others, or an unknown replacement.
    """
    names = model.sites.resolve(site)
    if not inputs or len(names) != 1:
        raise ConfigError("an ablation needs texts and one site", got=f"{len(inputs)} groups, sites {names}")
    batches = {name: model.read(group) for name, group in inputs.items()}
    averages = _averages(model, list(batches.values()), names[0])
    chosen, d = list(dict.fromkeys(neurons)), len(averages)
    rest = sorted(set(range(d)) - set(chosen))
    if not chosen or len(chosen) + len(rest) != d or (n_random and len(rest) < len(chosen)):
        raise ConfigError(
            "neurons to ablate", got=chosen, expected=f"below {d}, and as many others beside them"
        )
    check_choice("replacement", replacement, Replacement)

    def edit(held: list[int]) -> Intervention:
        if replacement == "zero":
            return zero(names[0], index=held)
        return mean(names[0], averages, index=held)

    def loss(edits: Sequence[Intervention] = ()) -> Tensor:
        return torch.cat([text_losses(model, batch, edits) for batch in batches.values()])

    draws = [permutation(len(rest), seed, "other neurons", i).tolist() for i in range(n_random)]
    others = [[rest[i] for i in draw[: len(chosen)]] for draw in draws]
    return Ablation(
        intact=loss(),
        ablated=loss([edit(chosen)]),
        random=torch.stack([loss([edit(held)]) for held in others])
        if others
        else torch.zeros(0, sum(map(len, batches.values())), dtype=torch.float64),
        neurons=tuple(chosen),
        rank=len(chosen),
        site=names[0],
        replacement=replacement,
        labels={"text": [name for name, batch in batches.items() for _ in range(len(batch))]},
        provenance=model.provenance(names),
    )


def _averages(model: HookedModel, batches: Sequence[TokenBatch], site: str) -> Tensor:
    """Mean of every neuron over all real tokens, [d]."""
    total, count = torch.zeros(0), 0
    for batch in batches:
        for part in batch.batches(32):
            acts = model.capture(part.to(model.device), site, to="cpu", dtype=torch.float32)
            rows = acts.flat(site)
            total = rows.sum(0) + (total if count else 0)
            count += len(rows)
    return total / max(count, 1)
