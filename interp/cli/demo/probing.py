"""Section: what is readable where, beside its controls."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.cli.demo.scene import Scene
from interp.core.randomness import generator
from interp.models.hooked import HookedModel
from interp.probing import ProbeConfig, ProbeSweep, probe_sweep
from interp.reports import Item, Section

ALPHABET, SEQUENCES, MOST_LAYERS = 8, 120, 12


def probing(scene: Scene) -> Section | None:
    """Is the previous token readable at a position? Only attention can bring it there."""
    if "blocks.0.hook_resid_post" not in scene.model.sites or scene.block < ALPHABET:
        return None
    sweep = previous_token(scene)
    best = int(sweep.score[:, 0].argmax())
    prose = (
        f"Random sequences of {ALPHABET} tokens; a linear probe at every position is asked for the "
        "token before. Where a position has not looked back yet it can only guess; after the "
        f"layers it reads {float(sweep.score[best, 0]):.0%} at best. The controls: the same model "
        "with random weights (attention that looks everywhere a little is readable, too) and "
        "shuffled labels. The dotted line always guesses the most frequent token."
    )
    return Section("What a probe can read", [Item(sweep)], prose)


def previous_token(scene: Scene) -> ProbeSweep:
    """Probe all layers for the token before, over random sequences of a small alphabet."""
    model, seed = scene.model, scene.seed
    tokens = scene.repeated[0, : scene.block].sort().values[:ALPHABET]
    draws = generator(seed, "probing section")
    length = min(2 * ALPHABET, 2 * scene.block)
    ids = tokens[torch.randint(ALPHABET, (SEQUENCES, length), generator=draws)]
    n = model.cfg.n_layers
    layers = range(n) if n <= MOST_LAYERS else range(0, n, -(-n // MOST_LAYERS))
    sites = [f"blocks.{layer}.hook_resid_post" for layer in layers]
    if "blocks.0.hook_resid_pre" in model.sites:
        sites.insert(0, "blocks.0.hook_resid_pre")

    def rows(source: HookedModel) -> dict[str, Tensor]:
        acts = source.capture(ids, sites)
        return {site: acts[site][:, 1:].flatten(0, 1).float() for site in sites}

    return probe_sweep(
        rows(model),
        {"previous token": ids[:, :-1].flatten().tolist()},
        ProbeConfig(n_shuffles=2, tolerance=1e-2, seed=seed),
        groups=torch.arange(SEQUENCES).repeat_interleave(length - 1),
        random_init=rows(model.randomised(seed)),
        provenance=model.provenance(sites),
    )
