"""Take the neurons that a sparse probe names away, in the model (Gurnee et al. 2023, section 5).

"Finding Neurons in a Haystack": a neuron that tells a feature need not serve it. Here the loss on
texts that have the feature, and on texts that have not, is measured with the neurons ablated, and
with as many random ones of the same site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from interp.core.errors import ConfigError
from interp.core.randomness import permutation
from interp.core.settings import check_choice
from interp.models.hooked import HookedModel
from interp.models.hooks.interventions import Intervention, mean, zero
from interp.models.losses import text_losses
from interp.models.text.batch import TokenBatch
from interp.probing.findings import NeuronAblation

Replacement = Literal["zero", "mean"]


def ablate_neurons(
    model: HookedModel,
    texts: Mapping[str, Any],
    site: str,
    neurons: Sequence[int],
    *,
    replacement: Replacement = "zero",
    n_random: int = 5,
    seed: int = 0,
) -> NeuronAblation:
    """Loss of each group of texts without some neurons, and without random others.

    Args:
        model: A causal language model.
        texts: Groups by name, e.g. with the feature and without: texts, ids, a `TokenBatch`, ...
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
    if not texts or len(names) != 1:
        raise ConfigError("an ablation needs texts and one site", got=f"{len(texts)} groups, sites {names}")
    batches = {name: model.read(group) for name, group in texts.items()}
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
        return torch.stack([text_losses(model, batch, edits).mean() for batch in batches.values()])

    draws = [permutation(len(rest), seed, "other neurons", i).tolist() for i in range(n_random)]
    others = [[rest[i] for i in draw[: len(chosen)]] for draw in draws]
    return NeuronAblation(
        intact=loss(),
        ablated=loss([edit(chosen)]),
        random=torch.stack([loss([edit(held)]) for held in others])
        if others
        else torch.zeros(0, len(batches), dtype=torch.float64),
        neurons=tuple(chosen),
        site=names[0],
        replacement=replacement,
        labels={"group": list(batches)},
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
